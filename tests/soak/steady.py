"""Polls at a steady rate from a process of their own, each timed from when it was due: no stall
hides behind another."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.load import wire
from tests.load.measure import percentile

EVERY_S = 0.001


def poll(port: int, request: bytes, seconds: float) -> list[tuple[float, float]]:
    """When each poll was due (monotonic seconds), and how long after that its reply was there."""
    found = []
    with wire.Connection(port) as connection:
        due = time.monotonic()
        until = due + seconds
        while due < until:
            time.sleep(max(0.0, due - time.monotonic()))
            connection.ask(request)
            found.append((due, time.monotonic() - due))
            due += EVERY_S
    return found


def poller() -> ProcessPoolExecutor:
    """A process that polls: `pool.submit(poll, …)`."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def p99_ms(found: Sequence[tuple[float, float]], since: float, until: float) -> float:
    """Of the polls that were due then."""
    return percentile([took for due, took in found if since <= due < until], 99) * 1_000
