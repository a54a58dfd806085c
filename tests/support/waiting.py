"""Waiting for a condition: the one deadline is for a test that hangs, not a measure of speed."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE_S = 30.0
"""Seconds after which a condition counts as never fulfilled: far more than a loaded machine needs,
and less than the time limit of a test."""
_PAUSE_S = 0.005
_BLOCKING_PAUSE_S = 0.02


async def until(condition: Callable[[], Any | Awaitable[Any]]) -> Any:
    """Returns what the condition gives, once that is true. An awaitable that it gives is awaited.

    Fails if the condition is not fulfilled in `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, "the condition was never fulfilled"
        await asyncio.sleep(_PAUSE_S)


def until_blocking(condition: Callable[[], Any]) -> Any:
    """The same for tests without an event loop."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition was never fulfilled"
        time.sleep(_BLOCKING_PAUSE_S)
    return found
