"""What the tests know of stores: limits, planted events, and a store that fails."""

from typing import Any

from redis import Redis

from service.errors import StoreUnavailable
from service.events import Event, Selector, uuid7
from service.store import Cursor, Entry, Store, StoreState
from tests.support.observations import ALL_GOOD

HOUR_US = 3_600_000_000
RETENTION_US = 72 * HOUR_US


def emptied(url: str) -> str:
    """The same URL, its server emptied."""
    with Redis.from_url(url) as client:
        client.flushall()
    return url


def entry_of(event: Event) -> Entry:
    """The event as a reader of the timeline has it."""
    return Entry(event.id, event.recorded_at, event.to_bytes(Selector.STATUS))


async def planted(client: Any, store: Store, recorded_at: int) -> Event:
    """An event of that time as the latest, as if Redis' clock had said so when it was recorded."""
    event, keys = Event(uuid7(recorded_at), recorded_at, ALL_GOOD), store.keys
    bodies = {"status": event.to_bytes(Selector.STATUS), "all": event.to_bytes(Selector.ALL)}
    await client.zadd(keys.timeline, {event.id: recorded_at})
    await client.hset(keys.event(event.id), mapping=bodies)
    await client.hset(keys.meta, "latest", event.id)
    await client.hincrby(keys.meta, "version", 1)
    return event


class UnreadableStore(Store):
    """A store that takes writes, and cannot be read while `readable` is false."""

    readable = True

    async def read(self, known: Cursor | None = None) -> StoreState:
        """The state, or `StoreUnavailable`."""
        if not self.readable:
            raise StoreUnavailable("just now")
        return await super().read(known)
