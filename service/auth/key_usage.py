"""The day on which each API key was last used.

It is recorded in memory. A flush at most once a minute writes it to the store, once a day for each
key. A day is precise enough to find unused keys, and neither the poll path nor the store needs a
write for each request. The poll path authenticates each API key again at the end of the day, so
that keys used only through the poll path are recorded too.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from service.errors import StoreUnavailable
from service.tasks import cancel_and_wait, jittered, spawn_guarded

FLUSH_S = 60.0
"""Seconds between two flushes."""
DAY_S = 86_400

Write = Callable[[Mapping[str, int]], Awaitable[None]]
"""Writes days of last use (days since 1970) by key id. Raises `StoreUnavailable`."""


class KeyUsage:
    """The days of last use by key id, as days since 1970 (UTC), as far as this process knows."""

    def __init__(self) -> None:
        self._days: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}

    def note(self, key_id: str, now: float) -> None:
        """Record the use of a key at a time in seconds since 1970."""
        day = int(now // DAY_S)
        if self._days.get(key_id) != day:
            self._days[key_id] = self._unwritten[key_id] = day

    @staticmethod
    def end_of_day(now: float) -> float:
        """The next midnight (UTC), in seconds since 1970."""
        return (now // DAY_S + 1) * DAY_S

    @asynccontextmanager
    async def written(self, write: Write) -> AsyncIterator[None]:
        """Flush to `write` regularly, and once more at the end."""
        task = spawn_guarded(self._keep_writing(write), "key-usage")
        try:
            yield
        finally:
            await cancel_and_wait(task)
            await self.flush(write)

    async def flush(self, write: Write) -> None:
        """Pass new days to `write`. If the write fails, they are kept for the next flush."""
        unwritten, self._unwritten = self._unwritten, {}
        if not unwritten:
            return
        try:
            await write(unwritten)
        except StoreUnavailable:
            # Days recorded during the write are newer, so they replace the failed ones.
            self._unwritten = unwritten | self._unwritten

    async def _keep_writing(self, write: Write) -> None:
        while True:
            await asyncio.sleep(jittered(FLUSH_S))
            await self.flush(write)
