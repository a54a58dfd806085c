"""Events of other times: what a store holds that has been in use for long."""

from typing import Any

from service.events import Event, Selector, uuid7
from service.store import Store
from tests.conftest import ALL_GOOD


async def planted(client: Any, store: Store, recorded_at: int) -> Event:
    """An event of that time as the latest, as if Redis' clock had said so when it was recorded."""
    event, keys = Event(uuid7(recorded_at), recorded_at, ALL_GOOD), store.keys
    bodies = {"status": event.to_bytes(Selector.STATUS), "all": event.to_bytes(Selector.ALL)}
    await client.zadd(keys.timeline, {event.id: recorded_at})
    await client.hset(keys.event(event.id), mapping=bodies)
    await client.hset(keys.meta, "latest", event.id)
    await client.hincrby(keys.meta, "version", 1)
    return event
