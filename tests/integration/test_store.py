"""The store's contract: one suite for fakeredis, a real Valkey and Debian's Redis."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from service.errors import DuplicateName, EventConflict, StoreUnavailable, UnknownApiKey
from service.events import Event, Selector, Status, uuid7
from service.store import (
    AppendResult,
    Cursor,
    Entry,
    Fenced,
    Store,
    StoredKey,
    StoreState,
    open_store,
)
from service.store.keys import Keys
from tests.support import needs
from tests.support.observations import ALL_GOOD, BAD, ONE_BAD
from tests.support.settings import make_settings
from tests.support.stores import HOUR_US, RETENTION_US, entry_of, planted

MakeStore = Callable[..., Store]

SKEWED = {"fast": 60.0, "slow": -60.0}
"""How far a writer's clock is from Redis' clock, in seconds."""


def skewed(by: float) -> Callable[[], float]:
    """A writer's clock that is wrong by so many seconds."""
    return lambda: time.time() + by


def key(name: str = "agents", role: str = "read") -> StoredKey:
    """An API key as it is stored."""
    return StoredKey(name, uuid7(time.time_ns() // 1_000), role, "ab" * 32, 1_700_000_000_000_000)


async def ids(store: Store) -> list[str]:
    """The ids of the events in the store, newest first."""
    return [entry.id for entry in (await store.read()).entries or ()]


# -- appending -------------------------------------------------------------------------------------


async def test_events_are_read_newest_first(make_store: MakeStore) -> None:
    """Events come back newest first, each with the status bytes that its writer made, the latest
    with all of them."""
    store = make_store()
    appended = [(await store.append(services)).event for services in (ALL_GOOD, ONE_BAD, ALL_GOOD)]
    rows = await store.read()
    assert rows.entries is not None
    assert [entry.id for entry in rows.entries] == [event.id for event in reversed(appended)]
    assert [entry.status for entry in rows.entries] == [
        event.to_bytes(Selector.STATUS) for event in reversed(appended)
    ]
    assert rows.latest == appended[-1].id
    assert rows.latest_all == appended[-1].to_bytes(Selector.ALL)


async def test_recorded_at_is_redis_time(make_store: MakeStore) -> None:
    """An event is dated by Redis' clock, whatever the writer's own clock says."""
    store = make_store(clock=skewed(-3_600))
    before = await store.now()
    event = (await store.append(ALL_GOOD)).event
    assert before <= event.recorded_at <= await store.now()


async def test_recorded_at_rises_while_the_clock_does_not(
    make_store: MakeStore, any_client: Any
) -> None:
    """While Redis' clock is behind the latest event, each event is 1 µs after the one before."""
    store = make_store()
    future = await store.now() + HOUR_US
    await planted(any_client, store, future)
    recorded = [(await store.append(ALL_GOOD)).event for _ in range(5)]
    assert [event.recorded_at for event in recorded] == [future + n for n in range(1, 6)]
    assert (await ids(store))[:5] == [event.id for event in reversed(recorded)]


@pytest.mark.slow
async def test_concurrent_writers_lose_nothing(make_store: MakeStore) -> None:
    """200 appends by 8 writers at once make 200 events, each with its own time, in the order of
    their times."""
    writers = [make_store() for _ in range(8)]

    async def write(store: Store) -> list[Event]:
        return [(await store.append(ALL_GOOD)).event for _ in range(25)]

    events = [event for written in await asyncio.gather(*map(write, writers)) for event in written]
    rows = await writers[0].read()
    assert rows.entries is not None
    assert rows.version == 200
    times = [entry.recorded_at for entry in rows.entries]
    assert len(set(times)) == 200
    assert times == sorted(times, reverse=True)
    assert {(entry.id, entry.recorded_at) for entry in rows.entries} == {
        (event.id, event.recorded_at) for event in events
    }


async def test_recording_the_same_event_again_changes_nothing(
    make_store: MakeStore, any_client: Any
) -> None:
    """The same id with the same content again gives the event of the first time, and no new
    version."""
    store = make_store()
    first = await store.append(ALL_GOOD, uuid7(1))
    again = await store.append(ALL_GOOD, first.event.id)
    assert (first.created, again.created) == (True, False)
    assert again.event == first.event
    assert await any_client.hget(store.keys.meta, "version") == b"1"


async def test_an_id_with_other_content_is_a_conflict(make_store: MakeStore) -> None:
    """The same id with other content is refused, and what was recorded stays."""
    store = make_store()
    first = (await store.append(ALL_GOOD)).event
    with pytest.raises(EventConflict):
        await store.append(ONE_BAD, first.id)
    assert await store.full(entry_of(first)) == first.to_bytes(Selector.ALL)
    assert await ids(store) == [first.id]


async def test_sending_identical_bytes_again_is_success(
    make_store: MakeStore, monkeypatch: Any
) -> None:
    """A writer whose reply was lost sends the same bytes again, learns that they are in, and counts
    the event as made."""
    store = make_store()
    send = store._send_once
    lost: list[Any] = []

    async def lose_the_first_reply(keys: list[str], arguments: list[Any]) -> list[Any]:
        reply = await send(keys, arguments)
        if not lost:
            lost.append(reply)
            raise StoreUnavailable("the reply was lost")
        return reply

    monkeypatch.setattr(store, "_send_once", lose_the_first_reply)
    appended = await store.append(ALL_GOOD)
    assert len(lost) == 1
    assert appended.created
    assert await ids(store) == [appended.event.id]


async def test_resent_event_is_known_after_others_were_recorded(
    make_store: MakeStore, monkeypatch: Any
) -> None:
    """A lost reply stays harmless when another writer was faster than the second sending."""
    store, other = make_store(), make_store()
    send = store._send_once
    lost: list[str] = []

    async def lose_the_first_reply(keys: list[str], arguments: list[Any]) -> list[Any]:
        reply = await send(keys, arguments)
        if not lost:
            lost.append((await other.append(ONE_BAD)).event.id)
            raise StoreUnavailable("the reply was lost")
        return reply

    monkeypatch.setattr(store, "_send_once", lose_the_first_reply)
    appended = await store.append(ALL_GOOD)
    assert appended.created
    assert await ids(store) == [lost[0], appended.event.id]


async def test_an_event_is_built_anew_when_another_was_first(
    make_store: MakeStore, monkeypatch: Any
) -> None:
    """An event that was built after an older latest is not added: its writer builds it again after
    the new latest."""
    store, other = make_store(), make_store()
    build = store._build
    built: list[Event] = []

    async def build_too_soon(services: Any, event_id: str | None) -> tuple[Event, StoreState]:
        event, rows = await build(services, event_id)
        built.append(event)
        if len(built) == 1:
            await other.append(ONE_BAD)
            event = Event(
                event.id, event.recorded_at + HOUR_US, services
            )  # Its time alone would not give it away.
        return event, rows

    monkeypatch.setattr(store, "_build", build_too_soon)
    appended = await store.append(ALL_GOOD)
    assert len(built) == 2
    assert appended.event == built[1]
    assert len(await ids(store)) == 2


async def test_infos_are_stored_as_they_are(make_store: MakeStore) -> None:
    """Texts of any script, quotes and line breaks come back as they were written."""
    store = make_store()
    text = 'πάντα ῥεῖ 🙂 "quoted"\n\tsecond line'
    services = {"api": type(BAD)(Status.UNHEALTHY, text, text * 2)}
    event = (await store.append(services)).event
    full = await store.full(entry_of(event))
    assert full is not None
    assert Event.from_bytes(full).services == services


async def test_replicas_that_do_not_confirm_are_told(
    make_store: MakeStore,
    any_client: Any,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An append that too few Redis replicas confirm in time is recorded all the same, and says
    so."""
    if "fakeredis" in request.node.name:
        needs.absent("WAIT, which fakeredis does not have")
    store = make_store(write_replicas=1, timeout=0.1)
    first = await store.append(ALL_GOOD)
    assert (first.created, first.replicated) == (True, False)
    send = store._send_once

    async def lose_the_first_reply(keys: list[str], arguments: list[Any]) -> list[Any]:
        await send(keys, arguments)
        monkeypatch.setattr(store, "_send_once", send)
        raise StoreUnavailable("the reply was lost")

    monkeypatch.setattr(store, "_send_once", lose_the_first_reply)
    resent = await store.append(ALL_GOOD)
    assert (resent.created, resent.replicated) == (True, False), "nobody knows who has it"
    again = await store.append(ALL_GOOD, first.event.id)
    assert (again.created, again.event) == (False, first.event)
    with pytest.raises(EventConflict):
        await store.append(ONE_BAD, first.event.id)
    await any_client.script_flush()
    assert (await store.append(ONE_BAD)).created
    assert len(await ids(store)) == 3


async def test_full_events_are_read_in_batches(make_store: MakeStore) -> None:
    """The bodies of many events come back under their ids, and those that are not there as
    missing."""
    store = make_store()
    events = [(await store.append(services)).event for services in (ALL_GOOD, ONE_BAD, ALL_GOOD)]
    expected: dict[str, bytes | None] = {event.id: event.to_bytes(Selector.ALL) for event in events}
    gone = uuid7(1)
    entries = [*map(entry_of, events), Entry(gone, 1, b"")]
    assert await store.fulls(entries) == expected | {gone: None}
    assert await store.fulls([]) == {}


# -- retention -------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_count_is_limited(
    make_store: MakeStore, any_client: Any, request: pytest.FixtureRequest
) -> None:
    """Of more events than are retained the newest stay, and the bodies of the others go with
    them."""
    most = 1_000 if "fakeredis" not in request.node.name else 20
    store = make_store(retention_events=most)
    appended = [await store.append(ALL_GOOD) for _ in range(most + 5)]
    assert await ids(store) == [done.event.id for done in reversed(appended)][:most]
    assert [done.trimmed_by_count for done in appended] == [0] * most + [1] * 5
    assert await any_client.zcard(store.keys.timeline) == most
    gone = [store.keys.event(done.event.id) for done in appended[:5]]
    assert await any_client.exists(*gone) == 0
    assert len(await any_client.keys(store.keys.event("*"))) == most


async def test_a_lowered_count_is_applied_at_the_next_append(make_store: MakeStore) -> None:
    """A smaller number of retained events holds at once for readers, and in the store from the next
    append on."""
    wide, narrow = make_store(), make_store(retention_events=3)
    appended = [(await wide.append(ALL_GOOD)).event.id for _ in range(6)]
    assert await ids(narrow) == appended[:-4:-1]
    done = await narrow.append(ALL_GOOD)
    assert done.trimmed_by_count == 4
    assert await ids(wide) == [done.event.id, appended[5], appended[4]]


async def test_retention_of_one_event(make_store: MakeStore) -> None:
    """With room for one event there is always exactly the newest."""
    store = make_store(retention_events=1)
    for _ in range(3):
        newest = (await store.append(ALL_GOOD)).event.id
        assert await ids(store) == [newest]


async def test_the_age_is_limited_at_append(make_store: MakeStore, any_client: Any) -> None:
    """An append removes the events beyond the age limit and their bodies, and no younger one."""
    store = make_store()
    now = await store.now()
    old = [
        await planted(any_client, store, now - RETENTION_US - age) for age in (2 * HOUR_US, HOUR_US)
    ]
    young = await planted(any_client, store, now - RETENTION_US + HOUR_US)
    appended = await store.append(ALL_GOOD)
    assert (appended.trimmed_by_age, appended.trimmed_by_count) == (2, 0)
    assert await ids(store) == [appended.event.id, young.id]
    assert await any_client.exists(*(store.keys.event(event.id) for event in old)) == 0


async def test_an_old_latest_stays_until_it_is_replaced(
    make_store: MakeStore, any_client: Any
) -> None:
    """The latest is there however old it is; the event after it ends its exemption."""
    store = make_store()
    ancient = await planted(any_client, store, await store.now() - 10 * RETENTION_US)
    assert await ids(store) == [ancient.id]
    appended = await store.append(ALL_GOOD)
    assert await ids(store) == [appended.event.id]
    assert await store.full(entry_of(ancient)) is None


async def test_only_events_before_the_latest_expire(make_store: MakeStore, any_client: Any) -> None:
    """The latest has no TTL; the event that it replaced expires at its recorded_at plus the age
    limit."""
    store = make_store()
    first = (await store.append(ALL_GOOD)).event
    assert await any_client.pttl(store.keys.event(first.id)) == -1
    second = (await store.append(ALL_GOOD)).event
    assert await any_client.pttl(store.keys.event(second.id)) == -1
    expires = await any_client.pexpiretime(store.keys.event(first.id))
    assert expires == (first.recorded_at + RETENTION_US) // 1_000


@pytest.mark.parametrize("skew", SKEWED.values(), ids=SKEWED)
async def test_trimming_by_age_waits_while_clocks_disagree(
    make_store: MakeStore, any_client: Any, skew: float
) -> None:
    """Where the writer's clock and Redis' disagree by more than 5 s, no event is removed for its
    age."""
    store = make_store(clock=skewed(skew))
    old = await planted(any_client, store, await store.now() - RETENTION_US - HOUR_US)
    older_latest = await planted(any_client, store, await store.now() - RETENTION_US - HOUR_US // 2)
    appended = await store.append(ALL_GOOD)
    assert appended.trimmed_by_age == 0
    assert await ids(store) == [appended.event.id, older_latest.id, old.id]
    # The replaced latest is bounded all the same: its age starts now.
    assert await any_client.pttl(store.keys.event(older_latest.id)) > RETENTION_US // 1_000 - 60_000
    await make_store().append(ALL_GOOD)
    assert older_latest.id not in await ids(store), "clocks that agree again trim"


async def test_a_small_disagreement_of_clocks_is_tolerated(
    make_store: MakeStore, any_client: Any
) -> None:
    """Up to 5 s of disagreement trimming by age goes on."""
    store = make_store(clock=skewed(4))
    await planted(any_client, store, await store.now() - RETENTION_US - HOUR_US)
    assert (await store.append(ALL_GOOD)).trimmed_by_age == 1


async def test_trimming_by_count_does_not_depend_on_clocks(make_store: MakeStore) -> None:
    """The number of events is bounded however wrong the writer's clock is."""
    store = make_store(clock=skewed(1e6), retention_events=2)
    appended = [(await store.append(ALL_GOOD)).event.id for _ in range(4)]
    assert await ids(store) == [appended[3], appended[2]]


# -- keys and notices ------------------------------------------------------------------------------


async def test_keys_are_those_of_the_design(make_store: MakeStore, any_client: Any) -> None:
    """Every key has the documented name and type, and carries the cluster's hash tag."""
    store = make_store(cluster="west-1")
    events = [(await store.append(ALL_GOOD)).event for _ in range(2)]
    await store.create_api_key(key())
    types = {
        name.decode(): (await any_client.type(name)).decode() for name in await any_client.keys("*")
    }
    assert types == {
        "{ce:west-1}:timeline": "zset",
        "{ce:west-1}:meta": "hash",
        "{ce:west-1}:api_keys": "hash",
        **{f"{{ce:west-1}}:event:{event.id}": "hash" for event in events},
    }
    assert await any_client.zscore("{ce:west-1}:timeline", events[0].id) == events[0].recorded_at
    assert set(await any_client.hkeys("{ce:west-1}:meta")) == {
        *(b"latest", b"version", b"stamp", b"checked_at"),
        *(b"bytes", b"bytes_as_of", b"bytes_exact"),
    }
    assert await any_client.hgetall(f"{{ce:west-1}}:event:{events[0].id}") == {
        b"status": events[0].to_bytes(Selector.STATUS),
        b"all": events[0].to_bytes(Selector.ALL),
    }


async def published(client: Any, channel: str, act: Callable[[], Any]) -> list[int]:
    """The versions published on a channel by what `act` does."""
    async with client.pubsub() as pubsub:
        await pubsub.subscribe(channel)
        assert (await pubsub.get_message(timeout=1))["type"] == "subscribe"
        await act()
        await client.publish(channel, "end")
        versions: list[int] = []
        while (message := await pubsub.get_message(timeout=1))["data"] != b"end":
            versions.append(int(message["data"]))
        return versions


async def test_each_change_raises_the_version_and_publishes_it(
    make_store: MakeStore, any_client: Any
) -> None:
    """Events and API keys raise the version by one each, and each version is published."""
    store = make_store()

    async def change() -> None:
        event = (await store.append(ALL_GOOD)).event
        await store.append(ALL_GOOD, event.id)  # No change.
        await store.create_api_key(key())
        await store.append(ONE_BAD)
        await store.delete_api_key("agents")

    assert await published(any_client, "{ce:default}:changes", change) == [1, 2, 3, 4]
    assert (await store.read()).version == 4


async def test_a_check_moves_checked_at_only(make_store: MakeStore, any_client: Any) -> None:
    """A completed check is noted with Redis' time, without a new version and without a notice."""
    store = make_store()
    await store.append(ALL_GOOD)
    before = await store.read()
    channel = store.keys.changes
    assert await published(any_client, channel, store.record_check) == []
    after = await store.read()
    assert before.checked_at is not None
    assert after.checked_at is not None
    assert before.checked_at < after.checked_at <= after.now
    assert (after.version, after.latest) == (before.version, before.latest)


@pytest.mark.parametrize("how", ["check", "append"])
async def test_a_write_that_was_held_up_makes_no_check_younger(
    make_store: MakeStore, how: str
) -> None:
    """The earlier of the check's own time and Redis' clock counts; a later check is not taken
    back."""
    store = make_store()

    async def write(checked_at: int) -> int:
        if how == "check":
            await store.record_check(checked_at=checked_at)
        else:
            await store.append(ALL_GOOD, checked_at=checked_at)
        noted = (await store.read()).checked_at
        assert noted is not None
        return noted

    held_up = await store.now() - 15_000_000
    assert await write(held_up) == held_up
    assert await write(held_up - 1) == held_up, "a later check had been noted"
    future = await store.now() + HOUR_US
    assert await write(future) <= await store.now()


async def test_a_clock_that_was_ahead_holds_no_check_back(
    make_store: MakeStore, any_client: Any
) -> None:
    """A noted time of the future, from before Redis' clock was set back, gives way to the next
    check."""
    store = make_store()
    await any_client.hset(store.keys.meta, "checked_at", await store.now() + HOUR_US)
    await store.record_check(checked_at=await store.now())
    noted = (await store.read()).checked_at
    assert noted is not None
    assert noted <= await store.now()


async def test_a_key_is_not_half_deleted(make_store: MakeStore, any_client: Any) -> None:
    """Where the deletion of a key cannot be done whole it is not done at all."""
    store = make_store()
    await store.create_api_key(key())
    for name, junk in ((store.keys.api_keys_used, "not a hash"), (store.keys.meta, "not a number")):
        if name == store.keys.meta:
            await any_client.hset(name, "version", junk)
        else:
            await any_client.set(name, junk)
        with pytest.raises(StoreUnavailable):
            await store.delete_api_key(key().name)
        with pytest.raises(StoreUnavailable):
            await store.create_api_key(replace(key(), name="another"))
        assert set(await store.api_keys()) == {key().name}
        await any_client.delete(name)
    await store.delete_api_key(key().name)


async def test_refused_notices_are_reported_not_raised(
    valkey: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where Redis' rights do not allow to publish, events and keys are written all the same, and
    the log says so once."""
    with Redis.from_url(valkey) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "mute", "on", ">mute", "~*", "+@all", "resetchannels"
        )
        store = open_store(
            make_settings(
                redis_url=valkey.replace("unix://", "unix://mute:mute@"), redis_timeout="2s"
            )
        )
        try:
            event = (await store.append(ALL_GOOD)).event
            await store.create_api_key(key())
            await store.delete_api_key(key().name)
            assert await ids(store) == [event.id]
            assert (await store.read()).version == 3
            assert caplog.text.count("refuses to publish") == 1
        finally:
            await store.aclose()
            admin.execute_command("ACL", "DELUSER", "mute")


async def test_an_append_is_whole_or_not_at_all(make_store: MakeStore, any_client: Any) -> None:
    """A version that cannot be counted up is found before anything is written."""
    store = make_store()
    await store.append(ALL_GOOD)
    await any_client.hset(store.keys.meta, "version", "not a number")
    before = await any_client.zrange(store.keys.timeline, 0, -1)
    with pytest.raises(StoreUnavailable):
        await store.append(ALL_GOOD)
    assert await any_client.zrange(store.keys.timeline, 0, -1) == before


async def test_an_append_counts_as_a_check(make_store: MakeStore) -> None:
    """An append moves `checked_at` too."""
    store = make_store()
    assert (await store.read()).checked_at is None
    event = (await store.append(ALL_GOOD)).event
    checked_at = (await store.read()).checked_at
    assert checked_at is not None
    assert event.recorded_at <= checked_at


async def test_subscribers_hear_of_changes(make_store: MakeStore) -> None:
    """A subscription returns at the next change, and not before."""
    store = make_store()
    async with store.subscribe() as changes:
        heard = asyncio.create_task(changes.wait_for_change())
        await store.record_check()
        await asyncio.sleep(0.05)
        assert not heard.done()
        await store.append(ALL_GOOD)
        await asyncio.wait_for(heard, 2)


# -- fencing ---------------------------------------------------------------------------------------


async def test_a_stale_epoch_writes_nothing(make_store: MakeStore, any_client: Any) -> None:
    """A monitor whose epoch is over can neither record an event nor note a check."""
    store = make_store()
    await store.append(ALL_GOOD)
    await any_client.hset(store.keys.meta, "epoch", 5)
    before = await any_client.hgetall(store.keys.meta), await any_client.keys("*")
    with pytest.raises(Fenced):
        await store.append(ONE_BAD, epoch=4)
    with pytest.raises(Fenced):
        await store.record_check(epoch=4)
    assert (await any_client.hgetall(store.keys.meta), await any_client.keys("*")) == before


async def test_epochs_are_compared_as_numbers(make_store: MakeStore, any_client: Any) -> None:
    """Epoch 9 is over once 10 leads, though it sorts after it as text."""
    store = make_store()
    await any_client.hset(store.keys.meta, "epoch", 10)
    with pytest.raises(Fenced):
        await store.append(ALL_GOOD, epoch=9)


@pytest.mark.parametrize("epoch", [5, 6, None])
async def test_the_leader_and_outsiders_write(
    make_store: MakeStore, any_client: Any, epoch: int | None
) -> None:
    """The current epoch, a later one, and a writer that does not lead are not fenced."""
    store = make_store()
    await any_client.hset(store.keys.meta, "epoch", 5)
    assert (await store.append(ALL_GOOD, epoch=epoch)).created
    await store.record_check(epoch=epoch)


# -- API keys --------------------------------------------------------------------------------------


async def test_api_keys_are_created_and_deleted(make_store: MakeStore) -> None:
    """Keys come back as they were created, and are gone when deleted."""
    store, reader, writer = make_store(), key("reader"), key("writer", "write")
    assert await store.api_keys() == {}
    await store.create_api_key(reader)
    await store.create_api_key(writer)
    assert await store.api_keys() == {"reader": reader, "writer": writer}
    assert (await store.read()).api_keys == {"reader": reader, "writer": writer}
    await store.delete_api_key("reader")
    assert await store.api_keys() == {"writer": writer}


async def test_the_name_of_an_api_key_is_unique(make_store: MakeStore) -> None:
    """A second key of the same name is refused, and the first stays as it is."""
    store, first = make_store(), key()
    await store.create_api_key(first)
    with pytest.raises(DuplicateName):
        await store.create_api_key(key(role="write"))
    assert await store.api_keys() == {"agents": first}


async def test_deleting_an_unknown_api_key_is_an_error(make_store: MakeStore) -> None:
    """Only an existing key can be deleted, and a refusal is no change."""
    store = make_store()
    with pytest.raises(UnknownApiKey):
        await store.delete_api_key("nobody")
    assert (await store.read()).version == 0


# -- reading ---------------------------------------------------------------------------------------


async def test_an_empty_store_reads_as_empty(make_store: MakeStore) -> None:
    """Before the first event there is version 0 and nothing else."""
    rows = await make_store().read()
    assert (rows.version, rows.latest, rows.checked_at, rows.entries, rows.latest_all) == (
        0,
        "",
        None,
        (),
        b"",
    )


async def test_a_reader_that_knows_all_gets_no_events(make_store: MakeStore) -> None:
    """With version and latest known, events and keys are not sent again; `checked_at` is."""
    store = make_store()
    event = (await store.append(ALL_GOOD)).event
    await store.record_check()
    rows = await store.read((await store.read()).cursor)
    assert (rows.entries, rows.api_keys, rows.version, rows.latest) == (None, None, 1, event.id)
    assert rows.checked_at is not None


@pytest.mark.parametrize(
    "other", [{"latest": "other"}, {"version": 2}, {"stamp": "other"}], ids=str
)
async def test_version_stamp_and_latest_must_all_be_known(
    make_store: MakeStore, other: dict[str, Any]
) -> None:
    """A reader that knows another version, stamp or latest event gets the events."""
    store = make_store()
    event = (await store.append(ALL_GOOD)).event
    rows = await store.read(replace((await store.read()).cursor, **other))
    assert rows.entries is not None
    assert [entry.id for entry in rows.entries] == [event.id]


async def test_reading_is_incremental(make_store: MakeStore) -> None:
    """A reader gets the events since the one that it knows, that one included."""
    store = make_store()
    events = [(await store.append(ALL_GOOD)).event for _ in range(5)]
    rows = await store.read(Cursor(3, "", events[2].id, events[2].recorded_at))
    assert rows.entries is not None
    assert [entry.id for entry in rows.entries] == [
        event.id for event in (events[4], events[3], events[2])
    ]


async def test_an_event_without_a_body_is_expired(make_store: MakeStore, any_client: Any) -> None:
    """An event whose body expired ahead of its place in the timeline is left out, and is no
    error."""
    store = make_store()
    events = [(await store.append(ALL_GOOD)).event for _ in range(3)]
    await any_client.delete(store.keys.event(events[1].id))
    assert await ids(store) == [events[2].id, events[0].id]
    assert await store.full(entry_of(events[1])) is None
    assert (await store.append(ALL_GOOD)).created


async def test_a_latest_without_a_body_does_not_stop_writers(
    make_store: MakeStore, any_client: Any
) -> None:
    """An evicted latest event is missing for readers, and the next event is recorded after its time
    all the same."""
    store = make_store()
    evicted = await planted(any_client, store, await store.now() + HOUR_US)
    await any_client.delete(store.keys.event(evicted.id))
    assert await ids(store) == []
    appended = await store.append(ALL_GOOD)
    assert appended.event.recorded_at > evicted.recorded_at
    assert await ids(store) == [appended.event.id]


async def test_scripts_are_loaded_again_after_a_flush(
    make_store: MakeStore, any_client: Any
) -> None:
    """A server that forgot its scripts, as after a failover, is taught them again without an
    error."""
    store = make_store()
    await store.append(ALL_GOOD)
    for act in (
        lambda: store.append(ALL_GOOD),
        store.read,
        store.record_check,
        lambda: store.create_api_key(key()),
    ):
        await any_client.script_flush()
        await act()
    assert len(await ids(store)) == 2


async def test_clusters_do_not_mix(make_store: MakeStore) -> None:
    """Clusters of different names on one server have their own events, keys and versions."""
    east, west = make_store(cluster="east"), make_store(cluster="west")
    eastern: list[AppendResult] = [await east.append(ALL_GOOD), await east.append(ALL_GOOD)]
    await west.create_api_key(key())
    western = await west.append(ONE_BAD, eastern[0].event.id)
    assert western.created
    assert await ids(east) == [done.event.id for done in reversed(eastern)]
    assert await ids(west) == [western.event.id]
    assert await east.api_keys() == {}
    assert ((await east.read()).version, (await west.read()).version) == (2, 2)


def test_all_keys_share_the_hash_tag() -> None:
    """All names of one cluster's keys hash to the same slot of a Redis Cluster."""
    keys = Keys("west")
    names = [keys.timeline, keys.meta, keys.api_keys, keys.leader, keys.changes, keys.event("x")]
    assert all(name.startswith("{ce:west}:") for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "value", ["not JSON", "[]", "{}", '{"id": 1, "role": "read", "sha256": "00"}']
)
async def test_an_unreadable_api_key_opens_nothing_and_hides_nothing(
    make_store: MakeStore, any_client: Any, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What somebody else wrote among the API keys is logged and left out; the others hold."""
    store = make_store()
    await store.create_api_key(key())
    await any_client.hset(store.keys.api_keys, "strange", value)
    assert set((await store.read()).api_keys or {}) == {"agents"}
    assert "unreadable" in caplog.text
