"""The listening side of the API: protocols, timeouts, and an orderly end."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from aiohttp import web

from service.api.aiohttp_internals import matches_aiohttp
from service.api.app import make_app, make_metrics_app
from service.api.context import ApiContext
from service.api.poll_path.poll_server import PollServer
from service.api.poll_path.request_handler import HANDLER_SETTINGS, RequestHandler
from service.api.poll_path.timeouts import Timeouts
from service.sockets import BACKLOG
from service.tasks import cancel_and_wait, spawn_guarded

log = logging.getLogger(__name__)

SHUTDOWN_S = 10.0
"""Seconds for requests in progress after the drain; a response takes milliseconds."""
_NEVER_S = 10 * 365 * 86_400.0
"""aiohttp's own idle timeout: longer than any `IDLE_TIMEOUT`."""


@asynccontextmanager
async def serving(
    context: ApiContext, sock: socket.socket, timeouts: Timeouts | None = None
) -> AsyncIterator[PollServer]:
    """Serves the API on a listening socket inside the context.

    On leaving, requests in progress are finished first. The default timeouts are those of the
    settings.
    """
    app, poll_path = make_app(context), context.settings.poll_path
    async with _serving(context, app, sock, timeouts, poll_path=poll_path) as poll_server:
        yield poll_server


@asynccontextmanager
async def serving_metrics(
    context: ApiContext, sock: socket.socket, timeouts: Timeouts | None = None
) -> AsyncIterator[None]:
    """Serves the metrics on a listening socket, with the limits and timeouts of the API."""
    async with _serving(context, make_metrics_app(context), sock, timeouts, poll_path=False):
        host, port = sock.getsockname()[:2]
        log.info("serving metrics", extra={"host": host, "port": port})
        yield


@asynccontextmanager
async def _serving(
    context: ApiContext,
    app: web.Application,
    sock: socket.socket,
    timeouts: Timeouts | None,
    *,
    poll_path: bool,
) -> AsyncIterator[PollServer]:
    settings = context.settings
    timeouts = timeouts or Timeouts(idle=settings.idle_timeout, response=settings.reply_timeout)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    assert runner.server is not None  # noqa: S101  # Set by `setup`.
    loop = asyncio.get_running_loop()
    matches = matches_aiohttp()
    make_handler = partial(
        RequestHandler,
        runner.server,
        loop=loop,
        matches_aiohttp=matches,
        # Only our protocol knows of the polls on a connection, so it closes idle ones.
        keepalive_timeout=_NEVER_S if matches else timeouts.idle,
        **HANDLER_SETTINGS,
    )
    poll_server = PollServer(
        context, make_handler, poll_path=poll_path, matches_aiohttp=matches, timeouts=timeouts
    )
    server = await loop.create_server(poll_server, sock=sock, backlog=BACKLOG)
    sweep = spawn_guarded(poll_server.sweep(), "connection-timeouts")
    try:
        yield poll_server
    finally:
        await context.drain()
        server.close()
        poll_server.close_idle()
        await cancel_and_wait(sweep)
        await runner.cleanup()
