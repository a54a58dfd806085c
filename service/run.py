"""Running the API and the monitor until a signal says stop, with an orderly end."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from service import tasks
from service.api.app import make_state
from service.api.health import metrics_of
from service.api.server import SHUTDOWN_S, bind, serving
from service.api.siblings import Siblings
from service.api.state import State
from service.settings import Settings
from service.workers import Supervisor

log = logging.getLogger(__name__)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a command to its end, on uvloop where it is installed. If a background task ended it, the exit code is 1."""
    try:
        import uvloop  # noqa: PLC0415  # Not on every platform.
    except ImportError:  # pragma: no cover
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    if tasks.ended_early:
        sys.exit(1)


async def serve(settings: Settings, sock: socket.socket) -> None:
    """The API on a bound socket, until a signal; then `DRAIN` seconds more."""
    await _serve(make_state(settings), sock, stop_signal())


async def _serve(state: State, sock: socket.socket, stop: asyncio.Event) -> None:
    settings = state.settings
    async with serving(state, sock):
        host, port = sock.getsockname()[:2]
        log.info("serving", extra={"host": host, "port": port, "auth": settings.auth.value})
        if state.authenticator.open_to_all:
            log.warning("no credential is asked for: whoever reaches this address may read and write everything")
        await stop.wait()
        await state.drain()
        log.info("draining", extra={"seconds": settings.drain})
        await asyncio.sleep(settings.drain)


def serve_with_workers(settings: Settings, sock: socket.socket, workers: int) -> None:
    """The API in several processes on the port of `sock`, until a signal. `sock` only holds the port."""
    host, port = sock.getsockname()[:2]
    make_state(settings)  # Key material that is unfit is told once, here, rather than by every worker.

    def work(index: int, lifeline: int, folder: Path) -> None:
        sock.close()
        run(_work(settings, bind(host, port, shared=True), Siblings(folder, index, workers), lifeline))

    Supervisor(workers, work, stop_within=settings.drain + SHUTDOWN_S).run()


async def _work(settings: Settings, sock: socket.socket, siblings: Siblings, lifeline: int) -> None:
    """One worker, until a signal or the end of its parent."""
    stop, loop = stop_signal(), asyncio.get_running_loop()

    def parent_gone() -> None:
        loop.remove_reader(lifeline)
        stop.set()

    loop.add_reader(lifeline, parent_gone)
    state = make_state(settings)
    state.siblings = siblings
    async with siblings.telling(lambda: metrics_of(state)):
        await _serve(state, sock, stop)


async def monitor(settings: Settings) -> None:
    """The monitor, until a signal; then it hands over to another, if one stands by.

    With a services file, SIGHUP reads it again instead of ending the process.
    """
    from service.monitor.process import monitoring  # noqa: PLC0415  # The API starts sooner without it.

    stop = stop_signal()
    async with monitoring(settings) as reload:
        if settings.services_file is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        await stop.wait()


def stop_signal() -> asyncio.Event:
    """Set at SIGTERM, SIGINT or SIGHUP."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop
