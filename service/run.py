"""Running the API and the monitor until a signal says stop, with an orderly end."""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from service.api.app import make_state
from service.api.server import serving
from service.monitor.loop import Monitor
from service.observability import Metrics
from service.settings import Settings
from service.store import open_store
from service.tasks import background, end

log = logging.getLogger(__name__)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a command to its end, on uvloop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415  # Not on every platform.
    except ImportError:  # pragma: no cover
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)


async def serve(settings: Settings, sock: socket.socket) -> None:
    """The API on a bound socket, until a signal; then `DRAIN` seconds more."""
    stop = stop_signal()
    state = make_state(settings)
    async with serving(state, sock):
        host, port = sock.getsockname()[:2]
        log.info("serving", extra={"host": host, "port": port, "auth": settings.auth.value})
        await stop.wait()
        state.draining = True
        log.info("draining", extra={"seconds": settings.drain})
        await asyncio.sleep(settings.drain)


async def monitor(settings: Settings) -> None:
    """The monitor, until a signal."""
    stop = stop_signal()
    async with monitoring(settings):
        await stop.wait()


@asynccontextmanager
async def monitoring(settings: Settings) -> AsyncIterator[None]:
    """The monitor, while it is entered. Raises `SettingsError` for services that cannot be checked."""
    store = open_store(settings)
    try:
        task = background(Monitor(settings, store, Metrics()).run(), "monitor")
        log.info("monitoring", extra={"services": ",".join(settings.service_names)})
        try:
            yield
        finally:
            await end(task)
    finally:
        await store.aclose()


def stop_signal() -> asyncio.Event:
    """Set at SIGTERM, SIGINT or SIGHUP."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop
