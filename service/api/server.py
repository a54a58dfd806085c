"""The listening side: sockets, the framework's settings for hostile networks, draining."""

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiohttp import web

from service.api import front as fronts
from service.api.app import make_app
from service.api.endpoint import FIELD_LIMIT, error_response, internal_error
from service.api.front import Deadlines, Front
from service.api.state import State
from service.errors import BadMessage, MethodNotAllowed
from service.tasks import background, end

LINE_LIMIT = 4_096
"""Bytes of a request line: the longest path of this API has 60."""
FIELDS = 64
"""Header fields of one request."""
BACKLOG = 1_024
SHUTDOWN_S = 10.0
"""Seconds for requests under way after the drain; a reply takes milliseconds."""

NEVER_S = 86_400.0
HANDLER_SETTINGS: dict[str, Any] = {
    "max_line_size": LINE_LIMIT,
    "max_field_size": FIELD_LIMIT,
    "max_headers": FIELDS,
    "lingering_time": 2.0,
    "auto_decompress": False,
    "access_log": None,
}


class RequestHandler(fronts.RequestHandler):
    """The handler of one connection, with our error body for bytes that are not HTTP."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The one error body; the framework's own would repeat the offending bytes."""
        del message
        return error_response(BadMessage()) if status == BadMessage.status else internal_error(request, exc)

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """The framework's last step. A target that is no path (`OPTIONS *`, CONNECT) has come past all our routes."""
        if isinstance(resp, web.HTTPException):
            resp = error_response(MethodNotAllowed(request.method, ()))
        return super().finish_response(request, resp, start_time)


@asynccontextmanager
async def serving(state: State, sock: socket.socket, deadlines: Deadlines = Deadlines()) -> AsyncIterator[Front]:  # noqa: B008
    """Serves the API on a bound socket while it is entered; on leaving, requests under way are finished first."""
    runner = web.AppRunner(make_app(state), access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    assert runner.server is not None  # noqa: S101  # After the setup it is there.
    loop = asyncio.get_running_loop()
    fits = fronts.fits_framework()
    # The front ends idle connections: it knows of polls that the handler never sees.
    keepalive_timeout = NEVER_S if fits else deadlines.idle
    make_handler = partial(
        RequestHandler, runner.server, loop=loop, keepalive_timeout=keepalive_timeout, **HANDLER_SETTINGS
    )
    front = Front(state, make_handler, memoise=state.settings.poll_path, fits=fits, deadlines=deadlines)
    server = await loop.create_server(front, sock=sock, backlog=BACKLOG)
    sweep = background(front.sweep(), "connection-deadlines")
    try:
        yield front
    finally:
        await state.drain()
        server.close()
        front.close_idle()
        await end(sweep)
        await runner.cleanup()


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound TCP socket. `shared` lets other processes bind the same port (`SO_REUSEPORT`). Raises `OSError`."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
