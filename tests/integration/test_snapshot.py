"""A replica's snapshot on a real Valkey: current, or it says so."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from service.api.poll_path.timeouts import Timeouts
from service.errors import EventConflict
from service.events import Selector, uuid7
from service.metrics import Metrics
from service.replica import Replica
from service.replica.snapshot import Change
from service.settings import Settings
from service.store import Cursor, Store, StoreState, connect, open_store
from tests.support.api import Api
from tests.support.clocks import set_monotonic
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.proxy import Mode, Proxy
from tests.support.settings import make_settings
from tests.support.stores import HOUR_US, RETENTION_US, UnreadableStore, planted
from tests.support.waiting import until

MakeReplica = Callable[..., Any]


class Deaf:
    """A subscription on which nothing is ever heard."""

    async def wait_for_change(self) -> None:
        """Waits for ever."""
        await asyncio.Event().wait()


class DeafStore(Store):
    """A store whose publications do not arrive."""

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Any]:
        """A subscription that stays silent."""
        yield Deaf()


class Clock:
    """A clock that a test can put forward."""

    def __init__(self, clock: Callable[[], float], ahead: float = 0.0) -> None:
        self._clock = clock
        self.ahead = ahead

    def __call__(self) -> float:
        """Seconds."""
        return self._clock() + self.ahead


@pytest.fixture
async def client(valkey: str) -> AsyncIterator[Redis]:
    """A client of the empty Valkey, for looking and for doing harm."""
    client = connect(valkey, 2.0)
    yield client
    await client.aclose()


@pytest.fixture
async def store(valkey: str) -> AsyncIterator[Store]:
    """Another writer's store on the same Valkey."""
    store = open_store(make_settings(redis_url=valkey, redis_timeout="2s"))
    yield store
    await store.aclose()


@pytest.fixture
async def make_replica(valkey: str) -> AsyncIterator[MakeReplica]:
    """Makes replicas, each with a store client of its own, that keep themselves current unless
    `running=False`."""
    async with AsyncExitStack() as stack:

        async def make(
            *,
            running: bool = True,
            kind: type[Store] = Store,
            url: str = valkey,
            retention_events: int = 1_000,
            retention_us: int = RETENTION_US,
            **settings: Any,
        ) -> Replica:
            store = kind(
                connect(url, 2.0),
                "default",
                retention_events=retention_events,
                retention_us=retention_us,
                timeout=2.0,
            )
            replica = Replica(store, Metrics(), **({"max_staleness": 10.0} | settings))
            stack.push_async_callback(replica.aclose)
            if running:
                await stack.enter_async_context(replica.running())
            return replica

        yield make


def metric(replica: Replica, name: str, **labels: str) -> float:
    """A metric's value."""
    return replica.metrics.registry.get_sample_value(f"cluster_events_{name}", labels) or 0.0


def ids(replica: Replica) -> list[str]:
    """The ids that the replica would list."""
    assert replica.snapshot is not None
    return [entry.id for entry in replica.retained(replica.snapshot)]


async def subscribers(client: Redis, store: Store, count: int) -> bool:
    """Whether that many subscriptions to the store's changes have begun."""
    ((_, found),) = await client.pubsub_numsub(store.keys.changes)
    return bool(found == count)


async def commands(client: Redis, *names: str) -> int:
    """How often Valkey has executed these commands."""
    stats = await client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names)


# -- becoming current ------------------------------------------------------------------------------


async def test_a_replica_reads_its_own_writes(make_replica: MakeReplica) -> None:
    """The process that recorded an event answers with it from then on, without a heartbeat or a
    notice."""
    replica = await make_replica(running=False)
    for services in (ALL_GOOD, ONE_BAD, ALL_GOOD):
        appended = await replica.append(services)
        reading = await replica.read()
        assert reading.age is None
        assert reading.snapshot.latest.id == appended.event.id
        assert reading.snapshot.latest_all == appended.event.to_bytes(Selector.ALL)


async def test_concurrent_own_writes_are_read(make_replica: MakeReplica) -> None:
    """Each of many recordings at once is in the snapshot when it returns."""
    replica = await make_replica(heartbeat=0.01)

    async def write_and_look() -> bool:
        appended = await replica.append(ALL_GOOD)
        return appended.event.id in replica.snapshot.by_id

    assert all(await asyncio.gather(*(write_and_look() for _ in range(40))))


async def test_own_write_is_answered_though_it_cannot_be_read_back(
    make_replica: MakeReplica, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is recorded is answered with even where the store fails just after, and nothing
    counts as lost."""
    replica = await make_replica(running=False, kind=UnreadableStore)
    older = (await store.append(ALL_GOOD)).event.id
    await replica.refresh()
    monkeypatch.setattr(UnreadableStore, "readable", False)
    appended = await replica.append(ONE_BAD)
    assert ids(replica) == [appended.event.id, older]
    assert replica.snapshot.latest_all == appended.event.to_bytes(Selector.ALL)
    monkeypatch.setattr(UnreadableStore, "readable", True)
    await replica.refresh()
    assert ids(replica) == [appended.event.id, older]
    assert replica.snapshot.latest_id == appended.event.id
    assert metric(replica, "history_divergence_total") == 0


async def test_a_conflict_is_told_to_the_writer(make_replica: MakeReplica) -> None:
    """Recording an id with other content raises `EventConflict` and changes nothing."""
    replica = await make_replica(running=False)
    event = (await replica.append(ALL_GOOD)).event
    with pytest.raises(EventConflict):
        await replica.append(ONE_BAD, event.id)
    assert ids(replica) == [event.id]


async def test_notices_make_replicas_current(
    make_replica: MakeReplica, client: Redis, store: Store
) -> None:
    """A change is visible on other replicas long before their heartbeat."""
    replicas = [await make_replica(heartbeat=600.0) for _ in range(2)]
    await until(lambda: subscribers(client, store, 2))
    for n in range(1, 6):
        await store.append(ALL_GOOD)
        for replica in replicas:
            await until(lambda r=replica, n=n: r.snapshot.version == n)  # type: ignore[misc]
    assert metric(replicas[0], "lost_notices_total") == 0


async def test_the_heartbeat_makes_replicas_current(
    make_replica: MakeReplica, store: Store
) -> None:
    """Without any notice, a change is visible within about a heartbeat, and the lost notice is
    counted."""
    replica = await make_replica(heartbeat=0.1, kind=DeafStore)
    # It reads once more when the subscription stands.
    await until(lambda: metric(replica, "snapshot_refresh_total", result="unchanged") >= 1)
    before = metric(replica, "lost_notices_total")
    event = (await store.append(ALL_GOOD)).event
    await until(lambda: event.id in replica.snapshot.by_id)
    await until(lambda: metric(replica, "lost_notices_total") == before + 1)


async def test_notices_that_are_forbidden_do_not_matter(
    make_replica: MakeReplica, client: Redis, valkey: str, store: Store
) -> None:
    """A Redis user without access to the channel leaves the heartbeat, which is enough."""
    rights = ["on", ">secret", "allkeys", "resetchannels", "+@all"]
    await client.execute_command("ACL", "SETUSER", "deaf", *rights)  # type: ignore[no-untyped-call]
    try:
        url = valkey.replace("unix://", "unix://deaf:secret@")
        replica = await make_replica(heartbeat=0.05, url=url)
        await store.append(ALL_GOOD)
        await until(lambda: len(ids(replica)) == 1)
    finally:
        await client.acl_deluser("deaf")


class LateStore(Store):
    """A store whose subscription takes its time to begin."""

    begin = asyncio.Event()

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Any]:
        """The subscription, once it may begin."""
        await self.begin.wait()
        async with super().subscribe() as changes:
            yield changes


async def test_what_was_published_before_the_subscription_is_not_missed(
    make_replica: MakeReplica, client: Redis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change between the first reading and the subscription is read when the subscription
    stands."""
    monkeypatch.setattr(LateStore, "begin", asyncio.Event())
    replica = await make_replica(heartbeat=600.0, kind=LateStore)
    subscribed = await make_replica(heartbeat=600.0)
    await until(lambda: subscribers(client, store, 1))
    event = (await store.append(ALL_GOOD)).event
    await until(lambda: event.id in subscribed.snapshot.by_id)
    assert event.id not in replica.snapshot.by_id
    LateStore.begin.set()
    await until(lambda: event.id in replica.snapshot.by_id)


class SlowStore(Store):
    """A store whose readings take a minute to arrive, by a clock that otherwise stands still."""

    monotonic = Clock(lambda: 0.0)

    async def read(self, known: Cursor | None = None) -> StoreState:
        """The state as it was a while ago."""
        rows = await super().read(known)
        self.monotonic.ahead += 60.0
        return rows


async def test_a_snapshot_is_as_old_as_its_reading(
    make_replica: MakeReplica, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot's age counts from the sending of its reading, however long the reply took, changed
    or not."""
    clock = Clock(lambda: 100.0)
    monkeypatch.setattr(SlowStore, "monotonic", clock)
    replica = await make_replica(running=False, kind=SlowStore, monotonic=clock)
    await store.append(ALL_GOOD)
    for _ in range(2):
        sent = clock()
        assert (await replica.refresh()).confirmed == sent
        assert clock() == sent + 60.0


async def test_the_snapshot_is_current_while_heartbeats_are_good(make_replica: MakeReplica) -> None:
    """The snapshot may be passed off as current for `MAX_STALENESS` from the sending of its last
    reading."""
    clock = Clock(time.monotonic)
    replica = await make_replica(running=False, max_staleness=2.0, monotonic=clock)
    assert replica.current() is None
    assert not replica.ready()
    snapshot = await replica.refresh()
    clock.ahead = 1.9
    assert replica.current() is snapshot
    clock.ahead = 2.1
    assert replica.current() is None
    assert replica.ready()
    assert (await replica.read()).age is None, "a read asks the store itself"


async def test_readings_are_shared(make_replica: MakeReplica, client: Redis) -> None:
    """Fifty reads of a snapshot that is no longer current ask Redis once."""
    clock = Clock(time.monotonic)
    replica = await make_replica(running=False, monotonic=clock)
    await replica.refresh()
    clock.ahead = 60.0
    before = await commands(client, "evalsha", "eval")
    readings = await asyncio.gather(*(replica.read() for _ in range(50)))
    assert await commands(client, "evalsha", "eval") - before == 1
    assert {reading.age for reading in readings} == {None}
    assert len({id(reading.snapshot) for reading in readings}) == 1


async def test_unchanged_readings_keep_what_was_made(
    make_replica: MakeReplica, store: Store
) -> None:
    """A heartbeat that finds nothing new keeps the very entries, and moves only what it learnt."""
    replica = await make_replica(running=False)
    await store.append(ALL_GOOD)
    first = await replica.refresh()
    await store.record_check()
    second = await replica.refresh()
    assert second.entries is first.entries
    assert second.by_id is first.by_id
    assert second.checked_at > first.checked_at
    assert second.confirmed > first.confirmed


async def test_changes_are_added_to_what_is_known(make_replica: MakeReplica, store: Store) -> None:
    """Readings after the first transfer only what is new, and the order stays right."""
    replica = await make_replica(running=False)
    events = [(await store.append(ALL_GOOD)).event.id for _ in range(5)]
    old = (await replica.refresh()).by_id[events[0]]
    events += [(await store.append(ALL_GOOD)).event.id for _ in range(3)]
    snapshot = await replica.refresh()
    assert ids(replica) == events[::-1]
    assert snapshot.by_id[events[0]] is old
    assert set(snapshot.by_id) == set(events)


async def test_replicas_agree_with_the_store_on_the_count(
    make_replica: MakeReplica, store: Store
) -> None:
    """A replica that reads increments keeps no more events than are retained."""
    replica = await make_replica(running=False, retention_events=3)
    events = []
    for _ in range(6):
        events.append((await replica.append(ALL_GOOD)).event.id)
        assert ids(replica) == events[:-4:-1]
    assert set(replica.snapshot.by_id) == set(events[-3:])


async def test_a_replica_may_retain_less_than_the_writer(
    make_replica: MakeReplica, store: Store
) -> None:
    """The retention of the replica that answers holds, whichever way it read what a writer with a
    higher one recorded."""
    events = [(await store.append(ALL_GOOD)).event.id for _ in range(5)]
    replica = await make_replica(running=False, retention_events=3)
    for _ in range(3):
        await replica.refresh()
        assert ids(replica) == events[:-4:-1]
        assert set(replica.snapshot.by_id) == set(events[-3:])
        events.append((await store.append(ALL_GOOD)).event.id)
    assert metric(replica, "history_divergence_total") == 0


async def test_a_replica_that_missed_many_changes_is_not_alarmed(
    make_replica: MakeReplica, caplog: pytest.LogCaptureFixture
) -> None:
    """Where all that a replica knew was trimmed meanwhile, it reads everything anew, and no data
    counts as lost."""
    replica, writer = [await make_replica(running=False, retention_events=3) for _ in range(2)]
    await replica.append(ALL_GOOD)
    events = [(await writer.append(ALL_GOOD)).event.id for _ in range(5)]
    await replica.refresh()
    assert ids(replica) == events[:-4:-1]
    assert metric(replica, "history_divergence_total") == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# -- a store that lost data ------------------------------------------------------------------------


async def lose_everything(client: Redis, store: Store) -> list[str]:
    """The store is empty, as after a restart without persistence."""
    await client.flushall()
    return []


async def go_back(client: Redis, store: Store) -> list[str]:
    """The store is that of some changes ago, as after a failover to a replica that lagged."""
    ids = [entry.id for entry in (await store.read()).entries or ()]
    await client.zrem(store.keys.timeline, ids[0])
    await client.delete(store.keys.event(ids[0]))
    await client.hset(store.keys.meta, mapping={"latest": ids[1], "version": 2})
    return ids[1:]


async def go_another_way(client: Redis, store: Store) -> list[str]:
    """The store has as many changes as before, but others, as after a split brain."""
    kept = await go_back(client, store)
    return [(await store.append(ONE_BAD)).event.id, *kept]


async def run_ahead(client: Redis, store: Store) -> list[str]:
    """The store was emptied and has had more changes since than it had before."""
    await client.flushall()
    return [(await store.append(ONE_BAD)).event.id for _ in range(6)][::-1]


async def begin_again(client: Redis, store: Store) -> list[str]:
    """The store was emptied, and its writers have sent the same events again, which have other
    times now."""
    ids = [entry.id for entry in (await store.read()).entries or ()]
    await client.flushall()
    for event_id in reversed(ids):
        await store.append(ONE_BAD, event_id)
    return ids


@pytest.mark.parametrize("lose", [lose_everything, go_back, go_another_way, run_ahead, begin_again])
async def test_lost_data_is_found(
    lose: Any,
    make_replica: MakeReplica,
    client: Redis,
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A store that lost data is read anew at the next heartbeat, an error is logged, and it is
    counted once."""
    replica = await make_replica(heartbeat=0.05, kind=DeafStore)
    events = [(await store.append(ALL_GOOD)).event.id for _ in range(3)]
    await replica.refresh_after_now()
    assert ids(replica) == events[::-1]
    remaining = await lose(client, store)
    await until(lambda: ids(replica) == remaining)
    for _ in range(2):
        await replica.refresh_after_now()
    assert ids(replica) == remaining
    assert metric(replica, "history_divergence_total") == 1
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "the store lost data"
    ]


async def test_lost_api_keys_are_found(
    make_replica: MakeReplica, client: Redis, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A version that went back is lost data also where there was no event yet."""
    replica = await make_replica(running=False)
    await client.hset(store.keys.meta, "version", 3)
    await replica.refresh()
    await client.flushall()
    assert (await replica.refresh()).version == 0
    assert metric(replica, "history_divergence_total") == 1
    assert "the store lost data" in caplog.text


async def test_listeners_are_told_of_another_history_that_looks_the_same(
    make_replica: MakeReplica, client: Redis, store: Store
) -> None:
    """Where only the stamp of the last change differs, something that no event shows may have
    changed, such as API keys."""
    replica = await make_replica(running=False)
    await store.append(ALL_GOOD)
    await replica.refresh()
    changes: list[Change] = []
    replica.listeners.append(changes.append)
    await replica.refresh()
    assert changes == []
    await client.hset(store.keys.meta, "stamp", "another")
    after = await replica.refresh()
    assert [(change.after, change.continuous) for change in changes] == [(after, False)]


async def test_full_events_do_not_outlive_the_store(
    make_replica: MakeReplica, client: Redis, store: Store
) -> None:
    """What was kept of full events is forgotten when the store lost its data."""
    replica = await make_replica(running=False)
    events = [(await store.append(ALL_GOOD, uuid7(n))).event for n in (1, 2)]
    snapshot = await replica.refresh()
    assert await replica.full(snapshot, snapshot.by_id[events[0].id]) == events[0].to_bytes(
        Selector.ALL
    )
    await client.flushall()
    again = [(await store.append(ONE_BAD, event.id)).event for event in events]
    snapshot = await replica.refresh()
    assert await replica.full(snapshot, snapshot.by_id[again[0].id]) == again[0].to_bytes(
        Selector.ALL
    )


# -- retention at the moment of a read -------------------------------------------------------------


async def test_events_age_without_a_write(make_replica: MakeReplica, store: Store) -> None:
    """An event past the age limit is gone at that moment, though nothing was written or read; the
    latest stays."""
    monotonic, wall = Clock(time.monotonic), Clock(time.time)
    replica = await make_replica(running=False, monotonic=monotonic, wall=wall, max_staleness=1e9)
    old, latest = [(await store.append(ALL_GOOD)).event.id for _ in range(2)]
    snapshot = await replica.refresh()
    for ahead, expected in (
        (RETENTION_US / 1e6 - 5, [latest, old]),
        (RETENTION_US / 1e6 + 1, [latest]),
    ):
        monotonic.ahead = wall.ahead = ahead
        assert ids(replica) == expected
        assert (replica.entry(snapshot, old) is not None) == (old in expected)
        assert replica.entry(snapshot, latest) is snapshot.latest


async def test_a_clock_that_jumps_hides_nothing(
    make_replica: MakeReplica, client: Redis, store: Store
) -> None:
    """Where our clock and Redis' disagree by more than 5 s, the earlier one decides what is too
    old."""
    wall = Clock(time.time)
    replica = await make_replica(running=False, wall=wall)
    now = await store.now()
    beyond = await planted(client, store, now - RETENTION_US - HOUR_US)
    within = await planted(client, store, now - RETENTION_US + HOUR_US)
    latest = await planted(client, store, now)
    await replica.refresh()
    assert ids(replica) == [latest.id, within.id]
    wall.ahead = -7_200  # Redis' clock seems to have jumped ahead.
    await replica._store.append(ALL_GOOD)
    replica.snapshot = None
    await replica.refresh()
    assert beyond.id not in ids(replica), (
        "the append, whose writer's clock is right, has trimmed it"
    )
    assert within.id in ids(replica)
    wall.ahead = 7_200  # Our own clock has jumped ahead: Redis' is the earlier one.
    assert within.id in ids(replica)


async def test_the_earlier_clock_decides(
    make_replica: MakeReplica, client: Redis, store: Store
) -> None:
    """While Redis' clock is far ahead of ours, an event stays that is too old by Redis' clock
    only."""
    replica = await make_replica(running=False, wall=Clock(time.time, ahead=-7_200))
    now = await store.now()
    beyond = await planted(client, store, now - RETENTION_US - HOUR_US)
    latest = await planted(client, store, now)
    await replica.refresh()
    assert ids(replica) == [latest.id, beyond.id]


async def test_retention_over_http(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing written, an event leaves the list and becomes 404 when it reaches its age; the
    latest stays."""
    api: Api = await make_api(retention_hours="1h", heartbeat="5h", max_staleness="10h")
    api.poll_server.timeouts = Timeouts(head=1e9, idle=1e9)
    old, latest = [(await api.context.replica.append(ALL_GOOD)).event.id for _ in range(2)]
    for _ in range(2):
        assert [event["id"] for event in (await api.get("/v0/cluster/events")).json] == [
            latest,
            old,
        ]
        assert (await api.get(f"/v0/cluster/events/{old}")).status == 200
    now = api.context.replica.monotonic() + 3_601
    set_monotonic(monkeypatch, api, now)
    monkeypatch.setattr(api.context.replica, "wall", Clock(time.time, ahead=3_601))
    for _ in range(2):
        assert [event["id"] for event in (await api.get("/v0/cluster/events")).json] == [latest]
        assert (await api.get(f"/v0/cluster/events/{old}")).json[
            "error_code"
        ] == "UnknownClusterMonitorEvent"
        assert (await api.get(f"/v0/cluster/events/{latest}")).status == 200
        assert (await api.get("/v0/cluster/events/latest")).json["id"] == latest


# -- full events -----------------------------------------------------------------------------------


async def test_full_events_are_read_once(
    make_replica: MakeReplica, client: Redis, store: Store
) -> None:
    """Fifty requests at once for one full event, and those after them, ask Redis once."""
    replica = await make_replica(running=False)
    event = (await store.append(ALL_GOOD)).event
    await store.append(ALL_GOOD)
    snapshot = await replica.refresh()
    entry, before = snapshot.by_id[event.id], await commands(client, "hmget")
    for _ in range(2):
        bodies = await asyncio.gather(*(replica.full(snapshot, entry) for _ in range(50)))
        assert set(bodies) == {event.to_bytes(Selector.ALL)}
    assert await commands(client, "hmget") - before == 1


async def test_the_full_latest_is_at_hand(
    make_replica: MakeReplica, client: Redis, store: Store
) -> None:
    """The full latest came with the snapshot, and stays at hand when it is no longer the latest."""
    replica = await make_replica(running=False)
    for _ in range(3):
        event = (await store.append(ALL_GOOD)).event
        snapshot = await replica.refresh()
        assert replica.full_in_memory(snapshot, snapshot.latest) == event.to_bytes(Selector.ALL)
    snapshot, before = await replica.refresh(), await commands(client, "hmget")
    for entry in snapshot.entries:
        assert (await replica.full(snapshot, entry)).startswith(b'{"id":"' + entry.id.encode())
    assert await commands(client, "hmget") == before


async def test_memory_for_full_events_is_bounded(
    make_replica: MakeReplica, client: Redis, store: Store
) -> None:
    """No more bytes of full events are kept than set, and the longest unused goes first."""
    events = [(await store.append(ALL_GOOD)).event for _ in range(6)]
    size = len(events[0].to_bytes(Selector.ALL))
    replica = await make_replica(running=False, events_memory=3 * size)
    snapshot = await replica.refresh()
    for n in (0, 1, 2, 0, 3):
        assert await replica.full(snapshot, snapshot.by_id[events[n].id]) == events[n].to_bytes(
            Selector.ALL
        )
    kept = [n for n in range(5) if replica.full_in_memory(snapshot, snapshot.by_id[events[n].id])]
    assert kept == [0, 2, 3]
    assert replica._full._bytes == sum(map(len, replica._full._cached.values())) == 3 * size


async def test_full_events_larger_than_the_memory_are_served(make_api: Callable[..., Any]) -> None:
    """With no memory for full events each is read from Redis and answered all the same."""
    api: Api = await make_api(events_memory=0)
    events = [(await api.context.replica.append(ALL_GOOD)).event for _ in range(2)]
    for _ in range(2):
        for event in events:
            answer = await api.get(f"/v0/cluster/events/{event.id}?selector=all")
            assert answer.body == event.to_bytes(Selector.ALL)


async def test_a_full_event_that_expired_in_redis_is_unknown(
    make_api: Callable[..., Any], client: Redis, store: Store
) -> None:
    """An event whose body Redis has expired a moment ahead of the snapshot counts as trimmed, on
    every route from then on."""
    event = (await store.append(ALL_GOOD)).event
    await store.append(ALL_GOOD)
    api: Api = await make_api()
    await client.delete(store.keys.event(event.id))
    assert (await api.get(f"/v0/cluster/events/{event.id}?selector=all")).status == 404
    assert (await api.get(f"/v0/cluster/events/{event.id}")).status == 404
    for selector in ("status", "all"):
        assert len((await api.get(f"/v0/cluster/events?selector={selector}")).json) == 1


async def test_event_that_is_gone_stays_gone(
    make_replica: MakeReplica, client: Redis, store: Store
) -> None:
    """A reading that was in progress when an event was found to be gone does not bring it back."""
    replica = await make_replica(running=False)
    events = [(await store.append(ALL_GOOD)).event for _ in range(3)]
    snapshot = await replica.refresh()
    await client.delete(store.keys.event(events[0].id))
    read = replica._store.read

    async def and_meanwhile(cursor: Cursor | None = None) -> StoreState:
        state: StoreState = await read(cursor)
        assert await replica.full(snapshot, snapshot.by_id[events[0].id]) is None
        return state

    replica._store.read = and_meanwhile
    await replica.refresh()
    assert ids(replica) == [events[2].id, events[1].id]


async def test_unknown_ids_do_not_reach_redis(
    make_api: Callable[..., Any], client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id that the snapshot does not know is 404 without a command to Redis, and so are known
    events without infos."""

    async def nothing(_: Replica) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Replica, "_listen", nothing)  # Each notice is a reading, too.
    api: Api = await make_api(heartbeat="5h", max_staleness="10h")
    event = (await api.context.replica.append(ALL_GOOD)).event
    names = ("evalsha", "eval", "hget", "hmget", "exists", "zscore")
    before = await commands(client, *names)
    for selector in Selector:
        assert (await api.get(f"/v0/cluster/events/{uuid7(1)}?selector={selector}")).status == 404
        assert (await api.get(f"/v0/cluster/events/{event.id}?selector={selector}")).status == 200
    assert await commands(client, *names) == before


# -- an unreachable store, over HTTP ---------------------------------------------------------------


@pytest.fixture
async def proxy(valkey: str) -> AsyncIterator[Proxy]:
    """A proxy before the empty Valkey."""
    async with Proxy(valkey).running() as proxy:
        yield proxy


QUICK = {
    "heartbeat": "50ms",
    "max_staleness": "10m",
    "redis_timeout": "2s",
    "stale_after": "10h",
}
MAX_STALENESS_S = 600
READS = (
    "/v0/cluster/events",
    "/v0/cluster/events/latest",
    "/v0/cluster/events/latest?selector=all",
)


async def lost(api: Api, proxy: Proxy) -> float:
    """Takes the store away. Returns when the last reading was sent, by the monotonic clock."""
    await proxy.set(Mode.REFUSE)
    await until(lambda: metric(api.context.replica, "snapshot_refresh_total", result="failed") > 0)
    snapshot = api.context.replica.snapshot
    assert snapshot is not None
    return snapshot.confirmed


async def test_an_unreachable_store_is_told(
    make_api: Callable[..., Any], proxy: Proxy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the store, reads are marked as stale, then 503; readiness follows; all recovers
    alone."""
    await store.append(ALL_GOOD)
    api: Api = await make_api(redis_url=proxy.url, stale_if_error="20m", **QUICK)
    api.poll_server.timeouts = Timeouts(head=1e9, idle=1e9)
    fresh = {path: await api.get(path) for path in READS}
    for answer in fresh.values():
        assert answer.status == 200
        assert "Cluster-Stale" not in answer.headers
        assert "Age" not in answer.headers
    assert (await api.get("/v0/cluster_healthz")).status == 200

    confirmed = await lost(api, proxy)
    set_monotonic(monkeypatch, api, confirmed + MAX_STALENESS_S + 0.5)
    for path in READS:
        stale = await api.get(path)
        assert (stale.status, stale.body) == (200, fresh[path].body)
        assert stale.headers["Cluster-Stale"] == "store-unreachable"
        assert stale.headers["Age"] == str(MAX_STALENESS_S)
    verdict = await api.get("/v0/cluster_healthz")
    assert verdict.status == 503
    assert (verdict.json["stale"], verdict.json["all_healthy"]) == (True, False)
    assert "store" in verdict.json["api"]["message"]
    assert "Retry-After" not in verdict.headers
    assert (await api.get("/readyz")).status == 200

    set_monotonic(monkeypatch, api, confirmed + 1_199.5)
    assert (await api.get(READS[1])).headers["Age"] == "1199"
    set_monotonic(monkeypatch, api, confirmed + 1_200.5)
    for path in (*READS, "/v0/cluster_healthz"):
        unknown = await api.get(path)
        assert (unknown.status, unknown.json["error_code"]) == (503, "StoreUnavailable")
        assert int(unknown.headers["Retry-After"]) >= 1
        assert "127.0.0.1" not in unknown.body.decode()
    assert (await api.get("/readyz")).status == 503
    assert (await api.get("/healthz")).status == 200

    newest = (await store.append(ONE_BAD)).event.id
    await proxy.set(Mode.PASS)
    await until(api.context.replica.ready)
    healed = await api.get("/v0/cluster/events/latest")
    assert (healed.status, healed.json["id"]) == (200, newest)
    assert "Cluster-Stale" not in healed.headers
    assert (await api.get("/readyz")).status == 200


async def test_stale_if_error_zero_serves_nothing_stale(
    make_api: Callable[..., Any], proxy: Proxy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With STALE_IF_ERROR=0 a state that is not known to be current is never answered."""
    await store.append(ALL_GOOD)
    api: Api = await make_api(redis_url=proxy.url, stale_if_error=0, **QUICK)
    api.poll_server.timeouts = Timeouts(head=1e9, idle=1e9)
    assert (await api.get(READS[1])).status == 200
    confirmed = await lost(api, proxy)
    set_monotonic(monkeypatch, api, confirmed + MAX_STALENESS_S + 0.5)
    assert {(await api.get(path)).status for path in READS} == {503}
    assert (await api.get("/readyz")).status == 503


async def test_a_store_that_was_never_reached(
    make_api: Callable[..., Any], proxy: Proxy, store: Store
) -> None:
    """A process that starts without its store says 503, is alive but not ready, and answers once
    the store is there."""
    await store.append(ALL_GOOD)
    await proxy.set(Mode.REFUSE)
    api: Api = await make_api(redis_url=proxy.url, **QUICK)
    assert {
        (await api.get(path)).status for path in (*READS, "/v0/cluster_healthz", "/readyz")
    } == {503}
    assert (await api.get("/healthz")).status == 200
    await proxy.set(Mode.PASS)
    await until(api.context.replica.ready)
    assert {
        (await api.get(path)).status for path in (*READS, "/v0/cluster_healthz", "/readyz")
    } == {200}


async def test_a_silent_monitor_is_told(make_api: Callable[..., Any], store: Store) -> None:
    """Without a completed check for STALE_AFTER the verdict turns 503, and back
    at the next check."""
    api: Api = await make_api(stale_after="300s")
    await store.append(ALL_GOOD)
    await api.context.replica.refresh()
    for _ in range(2):
        assert (await api.get("/v0/cluster_healthz")).json["stale"] is False
        assert "Cluster-Stale" not in (await api.get("/v0/cluster/events/latest")).headers
    replica = api.context.replica
    silent = replica.snapshot.now_us(replica.monotonic()) - 301_000_000  # type: ignore[union-attr]
    await store._client.hset(store.keys.meta, "checked_at", silent)
    await replica.refresh_after_now()
    verdict = await api.get("/v0/cluster_healthz")
    assert verdict.status == 503
    assert (verdict.json["stale"], verdict.json["all_healthy"]) == (True, False)
    assert all("monitor" in verdict.json[name]["message"] for name in ("api", "compiler", "runner"))
    for path in READS:
        event = await api.get(path)
        assert (event.status, event.headers["Cluster-Stale"]) == (200, "monitor-silent")
    await store.record_check()
    await replica.refresh_after_now()
    assert (await api.get("/v0/cluster_healthz")).status == 200
    assert "Cluster-Stale" not in (await api.get("/v0/cluster/events/latest")).headers


def test_the_settings_reach_the_store() -> None:
    """The store that the settings describe has their retention and cluster."""
    settings: Settings = make_settings(retention_events=7, retention_hours="2", cluster_name="west")
    store = open_store(settings)
    assert (store.retention_events, store.retention_us) == (7, 2 * HOUR_US)
    assert store.keys.timeline == "{ce:west}:timeline"
