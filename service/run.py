"""Runs the API and the monitor until a signal, with an orderly end."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, closing
from functools import partial
from typing import Any

from service import tasks
from service.api.app import make_context
from service.api.context import ApiContext
from service.api.handlers.metrics import metrics_fingerprint, render_metrics
from service.api.server import SHUTDOWN_S, serving, serving_metrics
from service.api.worker_metrics import WorkerMetrics
from service.settings import Settings
from service.sockets import for_workers
from service.workers import Supervisor

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""Seconds after the drain and the requests in progress before a worker is killed."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a command to its end, on uvloop where it is installed.

    The exit code is 1 if a guarded background task ended.
    """
    try:
        import uvloop  # noqa: PLC0415  # Not on every platform.
    except ImportError:  # pragma: no cover
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    if tasks.ended_early:
        sys.exit(1)


async def serve(
    settings: Settings, sock: socket.socket, metrics_sock: socket.socket | None
) -> None:
    """Serves the API on a listening socket until a signal, and for `DRAIN` seconds after it.

    `metrics_sock` is where the metrics are served, if not with the API.
    """
    await _serve(make_context(settings), sock, metrics_sock, stop_signal())


async def _serve(
    context: ApiContext,
    sock: socket.socket,
    metrics_sock: socket.socket | None,
    stop: asyncio.Event,
    ready: Callable[[], None] = lambda: None,
) -> None:
    settings = context.settings
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(context, sock))
        host, port = sock.getsockname()[:2]
        log.info("serving", extra={"host": host, "port": port, "auth": settings.auth.value})
        if metrics_sock is not None:
            await stack.enter_async_context(serving_metrics(context, metrics_sock))
        ready()
        if context.authenticator.open_to_all:
            log.warning(
                "AUTH=none: every client that reaches this address may read and write everything"
            )
        await stop.wait()
        await context.drain()
        log.info("draining", extra={"seconds": settings.drain})
        await asyncio.sleep(settings.drain)


def serve_with_workers(
    settings: Settings, sock: socket.socket, metrics_sock: socket.socket | None, workers: int
) -> None:
    """Serves the API in several processes on the port of a listening socket, until a signal.

    All workers accept from `metrics_sock`, and each of them serves the metrics of all. Exits with 1
    if the workers keep ending.
    """
    # Only for its `SettingsError`: invalid keys are reported once here, not by each worker.
    make_context(settings)
    sockets = for_workers(sock, workers)

    def work(index: int, lifeline: int, ready: Callable[[], None]) -> None:
        own = sockets[index]
        _close(*(other for other in sockets if other is not own))
        run(
            _serve_worker(
                settings,
                own,
                metrics_sock,
                worker_metrics,
                index=index,
                lifeline=lifeline,
                ready=ready,
            )
        )

    def stopping() -> None:
        # Without this, the port would still accept connections that no worker serves.
        _close(*sockets, *([metrics_sock] if metrics_sock else []))

    stop_within = settings.drain + SHUTDOWN_S + PATIENCE_S
    with closing(WorkerMetrics(workers)) as worker_metrics:
        ended_by_signal = Supervisor(
            workers, work, stop_within=stop_within, stopping=stopping
        ).run()
    if not ended_by_signal:
        sys.exit(1)


def _close(*sockets: socket.socket) -> None:
    for sock in sockets:
        sock.close()


async def _serve_worker(
    settings: Settings,
    sock: socket.socket,
    metrics_sock: socket.socket | None,
    worker_metrics: WorkerMetrics,
    *,
    index: int,
    lifeline: int,
    ready: Callable[[], None],
) -> None:
    """Runs one worker until a signal or the end of its parent."""
    stop, loop = stop_signal(), asyncio.get_running_loop()

    def parent_gone() -> None:
        loop.remove_reader(lifeline)
        stop.set()

    loop.add_reader(lifeline, parent_gone)
    context = make_context(settings)
    joined = worker_metrics.serve(
        index, partial(render_metrics, context), partial(metrics_fingerprint, context)
    )
    async with joined as (context.exposition, changed):
        context.replica.listeners.append(lambda _: changed())
        await _serve(context, sock, metrics_sock, stop, ready)


async def monitor(settings: Settings) -> None:
    """Runs the monitor until a signal, and releases its lease for a standby.

    With a services file, SIGHUP reads it again instead of ending the process.
    """
    # Imported here, so that the API starts faster.
    from service.monitor.process import monitoring  # noqa: PLC0415

    stop = stop_signal()
    async with monitoring(settings) as reload:
        if settings.services_file is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        await stop.wait()


def stop_signal() -> asyncio.Event:
    """An event that is set at SIGTERM, SIGINT or SIGHUP."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop
