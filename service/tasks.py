"""Background tasks that cannot die unnoticed."""

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)

ended_early: list[str] = []
"""The names of the background tasks that ended, which makes the process' end a failure."""


def spawn_guarded(work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    """Starts work that is to go on until it is cancelled. If it ends otherwise, that is logged and
    stops the process."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_ended)
    return task


async def cancel_and_wait(*tasks: "asyncio.Task[None]") -> None:
    """Cancels tasks and waits for their ends."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _ended(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        ended_early.append(task.get_name())
        log.critical("a background task ended: %s", task.get_name(), exc_info=task.exception())
        signal.raise_signal(signal.SIGTERM)  # An orderly end: whoever runs us starts us again.
