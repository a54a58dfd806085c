"""The listening side: sockets, the framework's settings for hostile networks, draining."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage

from service import errors
from service.api import front as fronts
from service.api.app import make_app, make_metrics_app
from service.api.endpoint import FIELD_LIMIT, FIELDS, TARGET_LIMIT, error_response, internal_error
from service.api.front import Deadlines, Front
from service.api.state import State
from service.errors import (
    ApiError,
    BadMessage,
    HeadersTooLarge,
    MethodNotAllowed,
    UriTooLong,
)
from service.sockets import BACKLOG
from service.tasks import background, end

log = logging.getLogger(__name__)

# The parsers count differently (one the target, one the whole request line; one the fields, one all lines), so they let a little
# more through than the limits, which `check_sizes` then applies exactly.
LINE_LIMIT = TARGET_LIMIT + 64
PARSED_FIELD_LIMIT = FIELD_LIMIT + 8
PARSED_FIELDS = FIELDS + 2
SHUTDOWN_S = 10.0
"""Seconds for requests under way after the drain; a reply takes milliseconds."""

NEVER_S = 86_400.0
HANDLER_SETTINGS: dict[str, Any] = {
    "max_line_size": LINE_LIMIT,
    "max_field_size": PARSED_FIELD_LIMIT,
    "max_headers": PARSED_FIELDS,
    "lingering_time": 2.0,
    "auto_decompress": False,
    "access_log": None,
}


_CODINGS = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE)
_CODING = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RequestHandler(fronts.RequestHandler):
    """The handler of one connection: our error body for bytes that are not HTTP, and requests after which it must end."""

    __slots__ = ("_body", "_rejection", "_upgrade")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._body: StreamReader | None = None
        """Of the last request."""
        self._rejection: ApiError | None = None
        self._upgrade: _Upgrade | None = None

    def data_received(self, data: bytes) -> None:
        """Parses what was received, and ends the connection after requests behind which bytes are not what they seem."""
        parsed = self._request_count
        super().data_received(data)
        count = self._request_count - parsed
        for index in range(-count, 0):
            self._look_at(index, data, count)
        if self._upgrade is not None and not count and not self._upgrade.ends_with(data):
            self.close()

    def finish(self) -> None:
        """The client sends no more: what it has sent is answered, then the connection ends."""
        if self._messages:
            fronts.end_after(self, -1)
        else:
            self.close()
        if self._body is not None and not self._body.is_eof():
            self._body.set_exception(web.RequestPayloadError("the client sends no more of the body"))
            self._body.feed_eof()

    def _look_at(self, index: int, data: bytes, count: int) -> None:
        message, payload = self._messages[index]
        self._body, self._upgrade = payload, None
        if not isinstance(message, RawRequestMessage):
            self._rejection = self._rejection or rejection(message.exc, data)  # What comes behind it fails in its turn.
        elif message.method == hdrs.METH_CONNECT or (
            message.version == HttpVersion10 and hdrs.TRANSFER_ENCODING in message.headers
        ):  # The first would become a tunnel, the second has no certain end (RFC 9112, section 6.1).
            fronts.end_after(self, index)
        elif message.upgrade:
            # The C parser stops at the end of a request that offers another protocol, and the framework drops what follows in
            # the same bytes: it would go on in the middle of another request.
            if data.count(HEAD_END) != count or not data.endswith(HEAD_END):
                fronts.end_after(self, index)
            elif not payload.is_eof():
                self._upgrade = _Upgrade(message, payload)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The one error body, in the server's own version (RFC 9110, section 6.2); the framework's would repeat the bytes."""
        del message
        request._cache["version"] = HttpVersion11  # noqa: SLF001  # For want of a request the framework assumes HTTP/1.0.
        if status != BadMessage.status:
            return internal_error(request, exc)
        error = self._rejection or BadMessage()
        self.connection.reject(error)
        return error_response(error)

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """The framework's last step. A target that is no path (`OPTIONS *`, CONNECT) has come past all our routes."""
        if isinstance(resp, web.HTTPException):
            resp = error_response(MethodNotAllowed(request.method, ()))
        return super().finish_response(request, resp, start_time)


HEAD_END = b"\r\n\r\n"


class _Upgrade:
    """A request that offers another protocol and whose body is still to come; what follows that in the same bytes is lost."""

    __slots__ = ("_left", "_payload")

    def __init__(self, message: RawRequestMessage, payload: StreamReader) -> None:
        length = message.headers.get(hdrs.CONTENT_LENGTH)
        self._left = int(length) if length is not None else None
        self._payload = payload

    def ends_with(self, data: bytes) -> bool:
        """Whether the bytes go no further than the body; where that is not certain, they count as going further."""
        if self._left is not None:
            self._left -= len(data)
            return self._left >= 0
        return not self._payload.is_eof() or (data.endswith(HEAD_END) and data.count(HEAD_END) == 1)


def rejection(error: BaseException, data: bytes) -> ApiError:
    """What to answer to bytes that the parser does not take; `data` are the last of them."""
    if isinstance(error, LineTooLong):
        return UriTooLong(TARGET_LIMIT) if error.args[1] == LINE_LIMIT else HeadersTooLarge.one_field(FIELD_LIMIT)
    if isinstance(error, HttpProcessingError) and error.message.startswith("Too many headers"):
        return HeadersTooLarge.too_many(FIELDS)
    codings = [coding.strip(b" \t") for value in _CODINGS.findall(data) for coding in value.split(b",")]
    if codings and all(map(_CODING.fullmatch, codings)) and any(coding.lower() != b"chunked" for coding in codings):
        return errors.NotImplemented()
    return BadMessage()


@asynccontextmanager
async def serving(state: State, sock: socket.socket, deadlines: Deadlines | None = None) -> AsyncIterator[Front]:
    """Serves the API on a listening socket while it is entered.

    On leaving, requests under way are finished first. Without `deadlines` they are those of the
    settings.
    """
    async with _serving(state, make_app(state), sock, deadlines, memoise=state.settings.poll_path) as front:
        yield front


@asynccontextmanager
async def serving_metrics(state: State, sock: socket.socket, deadlines: Deadlines | None = None) -> AsyncIterator[None]:
    """Serves the metrics on a listening socket, with the limits and deadlines of the API."""
    async with _serving(state, make_metrics_app(state), sock, deadlines, memoise=False):
        host, port = sock.getsockname()[:2]
        log.info("serving metrics", extra={"host": host, "port": port})
        yield


@asynccontextmanager
async def _serving(
    state: State, app: web.Application, sock: socket.socket, deadlines: Deadlines | None, *, memoise: bool
) -> AsyncIterator[Front]:
    settings = state.settings
    deadlines = deadlines or Deadlines(idle=settings.idle_timeout, reply=settings.reply_timeout)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    assert runner.server is not None  # noqa: S101  # After the setup it is there.
    loop = asyncio.get_running_loop()
    fits = fronts.fits_framework()
    # The front ends idle connections: it knows of polls that the handler never sees.
    keepalive_timeout = NEVER_S if fits else deadlines.idle
    make_handler = partial(
        RequestHandler, runner.server, loop=loop, keepalive_timeout=keepalive_timeout, **HANDLER_SETTINGS
    )
    front = Front(state, make_handler, memoise=memoise, fits=fits, deadlines=deadlines)
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
