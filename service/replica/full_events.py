"""A cache of full events (`selector=all`), bounded in bytes."""

from collections import OrderedDict
from collections.abc import Sequence

from service.store import Entry, Store
from service.tasks import SingleFlight


class FullEventCache:
    """Full events other than the latest, at most `limit_bytes` in total.

    The least recently used one is dropped first. An id can be recorded again after retention has
    trimmed it. Cache entries therefore have the id *and* the time of the event as their key.
    """

    def __init__(self, store: Store, limit_bytes: int) -> None:
        self._store = store
        self._limit = limit_bytes
        self._bytes = 0
        self._cached: OrderedDict[_Key, bytes] = OrderedDict()
        self._reads: SingleFlight[bytes | None] = SingleFlight("full-event-reading")

    def cached(self, entry: Entry) -> bytes | None:
        """The event, if it is in the cache."""
        full = self._cached.get(_key(entry))
        if full is not None:
            self._cached.move_to_end(_key(entry))
        return full

    async def get(self, entry: Entry) -> bytes | None:
        """The event from the store; callers at the same time share one request.

        Raises `StoreUnavailable`.
        """
        full = await self._reads.run(lambda: self._store.full(entry), _key(entry))
        if full is not None:
            self.put(entry, full)
        return full

    async def get_many(self, entries: Sequence[Entry]) -> dict[str, bytes | None]:
        """Several events from the store, by id; they are cached as far as there is room.

        Raises `StoreUnavailable`.
        """
        found = await self._store.fulls(entries)
        for entry in entries:
            if (full := found[entry.id]) is not None:
                self.put(entry, full)
        return found

    def put(self, entry: Entry, full: bytes) -> None:
        """Cache an event as the most recently used."""
        key = _key(entry)
        self._bytes += len(full) - len(self._cached.pop(key, b""))
        self._cached[key] = full
        while self._bytes > self._limit:
            _, dropped = self._cached.popitem(last=False)
            self._bytes -= len(dropped)

    def clear(self) -> None:
        """Drop all cached events."""
        self._cached.clear()
        self._bytes = 0


_Key = tuple[str, int]


def _key(entry: Entry) -> _Key:
    return entry.id, entry.recorded_at
