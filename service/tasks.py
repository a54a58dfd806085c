"""Helpers for background work: guarded tasks, shared work, outage logs and jitter."""

import asyncio
import logging
import random
import signal
import time
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

ended_early: list[str] = []
"""The names of guarded tasks that ended by themselves. If there are any, the process fails."""


def spawn_guarded(work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    """Start a task that must run until it is cancelled.

    If it ends in another way, the end is logged and the process is stopped with SIGTERM.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_stop_process)
    return task


async def cancel_and_wait(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and wait until they have ended. Their exceptions are ignored."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _stop_process(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        ended_early.append(task.get_name())
        log.critical("a background task ended: %s", task.get_name(), exc_info=task.exception())
        # An orderly shutdown: the supervisor (Kubernetes, systemd) starts the process again.
        signal.raise_signal(signal.SIGTERM)


class SingleFlight(Generic[T]):
    """Work that callers at the same time share: at most one task for each key runs at a time.

    The cancellation of one caller does not cancel the task. An exception that no caller retrieves,
    because all of them were cancelled, is dropped without asyncio's "never retrieved" message.
    """

    def __init__(self, name: str) -> None:
        """`name` is the name of the tasks."""
        self._name = name
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    def in_progress(self, key: Hashable = None) -> "asyncio.Task[T] | None":
        """The running task of a key."""
        task = self._tasks.get(key)
        return None if task is None or task.done() else task

    def start(
        self, work: Callable[[], Coroutine[Any, Any, T]], key: Hashable = None
    ) -> "asyncio.Task[T]":
        """The running task of a key, or a new one that runs `work`."""
        if (running := self.in_progress(key)) is not None:
            return running
        task = self._tasks[key] = asyncio.create_task(work(), name=self._name)

        def finish(ended: "asyncio.Task[T]") -> None:
            # Another task may have been started between the end of this one and this callback.
            if self._tasks.get(key) is ended:
                del self._tasks[key]
            if not ended.cancelled():
                ended.exception()  # Marks the exception as retrieved.

        task.add_done_callback(finish)
        return task

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]], key: Hashable = None) -> T:
        """The result of the running task of a key, or of a new one. Raises what `work` raises."""
        return await asyncio.shield(self.start(work, key))


class OutageLog:
    """Logs an outage: a warning at its begin and at each change of its reason, an info at its end.

    A reason that comes back is logged again after `REPEAT_S` only, and there are at most
    `MOST_REASONS` of an outage: reasons that alternate must not fill the log.
    """

    REPEAT_S = 60.0
    MOST_REASONS = 10

    def __init__(
        self,
        logger: logging.Logger,
        begins: str,
        ends: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`begins` and `ends` are the messages. Without `ends`, the end is not logged."""
        self._log = logger
        self._begins = begins
        self._ends = ends
        self._monotonic = monotonic
        self._failing = False
        self._reason = ""
        """The reason that was given last."""
        self._logged: dict[str, float] = {}
        """When the reasons of this outage were logged (monotonic seconds)."""

    def failed(self, *, reason: str = "", quiet: bool = False, **fields: object) -> None:
        """Record a failure. The first one, and each new reason, is logged unless it is `quiet`."""
        if (not self._failing or reason != self._reason) and not quiet and self._is_new(reason):
            self._logged[reason] = self._monotonic()
            self._log.warning(self._begins, extra={**fields, "reason": reason}, stacklevel=2)
        self._failing, self._reason = True, reason

    def succeeded(self, **fields: object) -> None:
        """Record a success. The first one after a failure is logged with `fields`."""
        if self._failing and self._ends:
            self._log.info(self._ends, extra=fields, stacklevel=2)
        self._failing, self._reason = False, ""
        self._logged.clear()

    def _is_new(self, reason: str) -> bool:
        logged_at = self._logged.get(reason)
        if logged_at is None:
            return len(self._logged) < self.MOST_REASONS
        return self._monotonic() - logged_at >= self.REPEAT_S


def jittered(seconds: float, low: float = 0.9, high: float = 1.1) -> float:
    """A random duration between `low` and `high` times `seconds`.

    It spreads the load: clients and processes that began together do not stay in step.
    """
    return seconds * random.uniform(low, high)  # noqa: S311  # It is not a secret.
