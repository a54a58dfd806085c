"""What falls between: replicas that are ahead of others, writes that could not be read back,
failures that are over."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from service.errors import StoreUnavailable
from service.replica import Replica
from tests.support.api import Api
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.stores import UnreadableStore
from tests.support.streams import listening, record


@pytest.fixture
def deaf(valkey_server: str) -> Any:
    """The store's URL for a user who hears no notices."""
    with Redis.from_url(valkey_server) as client:
        client.execute_command(
            "ACL", "SETUSER", "deaf", "on", ">deaf", "~*", "+@all", "resetchannels"
        )
        yield valkey_server.replace("unix://", "unix://deaf:deaf@")
        client.execute_command("ACL", "DELUSER", "deaf")


async def test_a_watcher_may_move_to_a_replica_that_is_behind(
    make_api: Callable[..., Any], deaf: str
) -> None:
    """A place that this replica has not heard of yet is not lost: it asks the store before it says
    `reset`."""
    ahead: Api = await make_api()
    behind: Api = await make_api(redis_url=deaf, heartbeat="10s", max_staleness="20s")
    await record(ahead, 2)
    await behind.settle()
    ids = await record(ahead, 2)
    assert ids[0] not in behind.context.replica.snapshot.by_id  # type: ignore[union-attr]
    async with listening(behind, last=ids[0]) as listener:
        assert (await listener.next())[:2] == ("message", ids[1])


@asynccontextmanager
async def unreadable(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """While it is entered the replica's own store cannot be read."""
    monkeypatch.setattr(replica._store, "__class__", UnreadableStore)
    monkeypatch.setattr(UnreadableStore, "readable", False)
    yield
    monkeypatch.setattr(UnreadableStore, "readable", True)


async def hidden_write(api: Api, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two ids: of an event of another writer, that the process does not hear of, and of one of its
    own after it."""
    replica = api.context.replica
    async with unreadable(replica, monkeypatch):
        other = (await api.store.append(ONE_BAD)).event
        own = (await replica.append(ALL_GOOD)).event
        assert replica.snapshot is not None
        assert replica.snapshot.entries[0].id == own.id
        assert other.id not in replica.snapshot.by_id
    return other.id, own.id


@pytest.mark.parametrize("selector", ["status", "all"])
async def test_who_is_up_to_date_is_not_reset_by_retention(
    make_api: Callable[..., Any], selector: str
) -> None:
    """A watcher that has the latest event gets the next one and no `reset`, though retention has
    taken the one before it."""
    api: Api = await make_api(retention_events=1)
    await record(api, 1)
    await api.settle()
    async with listening(api, f"?selector={selector}") as listener:
        for _ in range(5):
            recorded = await record(api, 1)
            assert (await listener.next())[:2] == ("message", recorded[0])
            await api.settle()


async def test_who_is_up_to_date_is_not_reset_after_a_quiet_time(
    make_api: Callable[..., Any],
) -> None:
    """The same where the latest event is older than the age limit when the next one comes."""
    api: Api = await make_api(retention_hours="50ms")
    await record(api, 1)
    await api.settle()
    async with listening(api) as listener:
        for _ in range(3):
            latest = api.context.replica.snapshot.latest  # type: ignore[union-attr]
            while await api.store.now() <= latest.recorded_at + api.store.retention_us:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
            recorded = await record(api, 1)
            assert (await listener.next())[:2] == ("message", recorded[0])
            await api.settle()


async def test_a_place_whose_id_is_used_again_is_lost(make_api: Callable[..., Any]) -> None:
    """A watcher whose last event is trimmed, and whose id is recorded again, is reset: it may have
    missed what lies between."""
    api: Api = await make_api(retention_events=3)
    await record(api, 1)
    await api.settle()
    async with listening(api) as listener:
        await record(api, 1)
        assert (await listener.next())[0] == "message"
        (watcher,) = api.context.watchers._all
        replica = api.context.replica
        watcher._resuming = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]  # It is behind.
        place = watcher.last_sent_id
        between = await record(api, 3)
        await api.store.append(ALL_GOOD, place)
        await api.settle()
        assert place in replica.snapshot.by_id  # type: ignore[union-attr]
        watcher.stop()
        watcher._resuming = None
        watcher.resume()
        assert (await listener.next())[0] == "reset"
        assert await listener.ids(3) == [*between[1:], place]


async def test_an_own_write_hides_no_other(
    make_api: Callable[..., Any], deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another wrote just before an own write that could not be read back is in the list once
    the store is back."""
    api: Api = await make_api(redis_url=deaf, heartbeat="10s", max_staleness="20s")
    first = (await api.context.replica.append(ALL_GOOD)).event.id
    other, own = await hidden_write(api, monkeypatch)
    await api.settle()
    assert [event["id"] for event in (await api.get("/v0/cluster/events")).json] == [
        own,
        other,
        first,
    ]
    assert (await api.get(f"/v0/cluster/events/{other}")).status == 200


async def test_a_stream_waits_for_what_lies_between(
    make_api: Callable[..., Any], deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watcher gets an own write that could not be read back only after what was recorded before
    it."""
    api: Api = await make_api(redis_url=deaf, heartbeat="10s", max_staleness="20s")
    await api.context.replica.append(ALL_GOOD)
    async with listening(api) as listener:
        other, own = await hidden_write(api, monkeypatch)
        await api.settle()
        assert await listener.ids(2) == [other, own]


async def test_an_own_write_found_again_keeps_its_place(
    make_api: Callable[..., Any], deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that had been recorded before, and is sent again while the store cannot be read,
    does not become the latest."""
    api: Api = await make_api(redis_url=deaf, heartbeat="10s", max_staleness="20s")
    replica = api.context.replica
    again = (await api.store.append(ALL_GOOD)).event
    latest = (await api.store.append(ONE_BAD)).event
    await api.settle()
    hidden = replica.snapshot
    assert hidden is not None
    entries = hidden.entries[:1]
    by_id = {entry.id: entry for entry in entries}
    replica.snapshot = replace(hidden, entries=entries, by_id=by_id)
    async with unreadable(replica, monkeypatch):
        assert not (await replica.append(ALL_GOOD, again.id)).created
        assert (await api.get("/v0/cluster/events/latest?selector=all")).json["id"] == latest.id
        assert [entry.id for entry in replica.snapshot.entries] == [latest.id, again.id]


async def test_a_failure_that_is_over_is_forgotten(
    make_api: Callable[..., Any], deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure and a recovery, a read of a snapshot that is too old asks the store again."""
    api: Api = await make_api(redis_url=deaf, heartbeat="10s", max_staleness="20s")
    replica = api.context.replica
    async with unreadable(replica, monkeypatch):
        with pytest.raises(StoreUnavailable):
            await replica.refresh()
    ids = await record(api, 1)
    await replica.refresh()
    ids = await record(api, 1)
    monkeypatch.setattr(replica, "monotonic", lambda: time.monotonic() + 30)
    reading = await replica.read()
    assert reading.age is None
    assert reading.snapshot.latest is not None
    assert reading.snapshot.latest.id == ids[0]
