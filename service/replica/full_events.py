"""A cache of full events (`selector=all`), bounded in bytes."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from service.store import Entry, Store


class FullEventCache:
    """Full events beyond the latest: read once, kept up to a number of bytes, the least recently
    used dropped first.

    An id may be recorded again once retention has taken it, so what is kept goes by id *and* time.
    """

    def __init__(self, store: Store, limit_bytes: int) -> None:
        self._store = store
        self._limit = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._flights: dict[_Key, asyncio.Task[bytes | None]] = {}

    def known(self, entry: Entry) -> bytes | None:
        """The event, if it is kept."""
        full = self._kept.get(_key(entry))
        if full is not None:
            self._kept.move_to_end(_key(entry))
        return full

    async def get(self, entry: Entry) -> bytes | None:
        """The event from the store; callers at the same time share one request. Raises
        `StoreUnavailable`."""
        key = _key(entry)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._store.full(entry))
            flight.add_done_callback(mark_retrieved)
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        full = await asyncio.shield(flight)
        if full is not None:
            self.keep(entry, full)
        return full

    async def get_many(self, entries: Sequence[Entry]) -> dict[str, bytes | None]:
        """Several events from the store, by id; they are kept as far as there is room. Raises
        `StoreUnavailable`."""
        found = await self._store.fulls(entries)
        for entry in entries:
            if (full := found[entry.id]) is not None:
                self.keep(entry, full)
        return found

    def keep(self, entry: Entry, full: bytes) -> None:
        """Keeps an event as the most recently used."""
        key = _key(entry)
        self._bytes += len(full) - len(self._kept.pop(key, b""))
        self._kept[key] = full
        while self._bytes > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped)

    def clear(self) -> None:
        """Forgets everything."""
        self._kept.clear()
        self._bytes = 0


_Key = tuple[str, int]


def _key(entry: Entry) -> _Key:
    return entry.id, entry.recorded_at


def mark_retrieved(task: "asyncio.Task[object]") -> None:
    """Marks a failed task's exception as seen, where every caller that waited for it has gone."""
    if not task.cancelled():
        task.exception()
