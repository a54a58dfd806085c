"""The day on which each API key was last used: noted in memory, written once a day for each key,
and no more than once a minute.

A day is all that an operator needs to find keys that nobody uses, and it costs neither the poll
path nor the store a write for each request. The poll path takes part by asking again at the end of
each day.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from service.errors import StoreUnavailable
from service.tasks import cancel_and_wait, jittered, spawn_guarded

FLUSH_S = 60.0
DAY_S = 86_400

Write = Callable[[Mapping[str, int]], Awaitable[None]]


class KeyUsage:
    """The last days of use by key id, as days since 1970 (UTC), as far as this process knows."""

    def __init__(self) -> None:
        self._days: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}

    def note(self, key_id: str, now: float) -> None:
        """A key is used at a time in seconds since 1970."""
        day = int(now // DAY_S)
        if self._days.get(key_id) != day:
            self._days[key_id] = self._unwritten[key_id] = day

    @staticmethod
    def end_of_day(now: float) -> float:
        """The next midnight (UTC), in seconds since 1970."""
        return (now // DAY_S + 1) * DAY_S

    @asynccontextmanager
    async def written(self, write: Write) -> AsyncIterator[None]:
        """Hands what is new to `write` inside it, and what is left at its end."""
        task = spawn_guarded(self._keep_writing(write), "key-usage")
        try:
            yield
        finally:
            await cancel_and_wait(task)
            await self.flush(write)

    async def flush(self, write: Write) -> None:
        """Hands what is new to `write`; what could not be written is kept for the next time."""
        unwritten, self._unwritten = self._unwritten, {}
        if not unwritten:
            return
        try:
            await write(unwritten)
        except StoreUnavailable:
            self._unwritten = unwritten | self._unwritten

    async def _keep_writing(self, write: Write) -> None:
        while True:
            await asyncio.sleep(jittered(FLUSH_S))
            await self.flush(write)
