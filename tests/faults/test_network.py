"""What a network does to the store's connections: nothing lost, nothing twice, nobody waits for
long."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from service.errors import StoreUnavailable
from service.events import Selector, uuid7
from service.metrics import Metrics
from service.replica import CurrentOrStale, Replica
from service.store import Entry, Store, connect
from tests.faults.resp import answering
from tests.support.clocks import put_forward
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.proxy import Mode, Proxy
from tests.support.stores import entry_of
from tests.support.waiting import PATIENCE_S, until

OpenAt = Callable[..., Store]

FAULTS = [Mode.BLACKHOLE, Mode.REFUSE, Mode.RST, Mode.MUTE, Mode.TRUNCATE]


async def ids(store: Store) -> list[str]:
    """The ids of the events in the store, oldest first."""
    return [entry.id for entry in reversed((await store.read()).entries or ())]


async def test_a_lost_reply_makes_no_duplicate(proxy: Proxy, valkey: str, open_at: OpenAt) -> None:
    """Of 100 appends whose first reply is lost after execution, each is recorded exactly once."""
    store = open_at(proxy.url)
    kept = True

    def every_first(reply: bytes) -> bool:
        nonlocal kept
        if b"APPENDED" in reply or b"EXISTS" in reply:
            kept = not kept
            return not kept
        return False

    proxy.cut = every_first
    appended = [await store.append(ALL_GOOD if n % 2 else ONE_BAD) for n in range(100)]
    assert proxy.accepted > 100, "each lost reply took its connection with it"
    assert all(done.created for done in appended)
    assert await ids(open_at(valkey)) == [done.event.id for done in appended]


async def test_the_driver_sends_nothing_twice(proxy: Proxy, valkey: str) -> None:
    """A command whose reply was lost is executed once: whether it may be sent again is for its
    sender to know."""
    client, direct = connect(proxy.url, 0.5), connect(valkey, 0.5)
    await client.ping()
    proxy.cut = lambda reply: reply.startswith(b":")
    with pytest.raises(RedisConnectionError):
        await client.incr("counter")
    assert await direct.get("counter") == b"1"
    await client.aclose()
    await direct.aclose()


async def test_a_stray_reply_is_never_taken_for_an_answer(open_at: OpenAt) -> None:
    """A connection on which an unasked-for reply arrived is not used again."""
    entry = Entry("x", 1, b'{"id":"x"}')
    first = b'{"id":"x","all":1}'
    reply = b"*2\r\n" + b"".join(
        b"$%d\r\n%s\r\n" % (len(part), part) for part in (entry.status, first)
    )
    async with answering(reply + b"$5\r\nstray\r\n") as address:
        store = open_at(f"redis://{address}/0")
        for _ in range(3):
            assert await store.full(entry) == first
            await asyncio.sleep(0.01)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent subscription is asked soon whether it lives."""
    monkeypatch.setattr("service.store.subscription._SUBSCRIPTION_PROBE_S", 0.1)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_dead_subscription_is_found(
    fault: Mode, proxy: Proxy, valkey: str, open_at: OpenAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscription whose network is gone ends with `StoreUnavailable` within the interval of its
    probes and one timeout, also where nothing tells that it is gone."""
    monkeypatch.setattr("service.store.subscription._SUBSCRIPTION_PROBE_S", 600)
    store, direct = open_at(proxy.url, timeout=600), open_at(valkey, timeout=600)
    async with store.subscribe() as changes:
        heard = asyncio.create_task(changes.wait_for_change())
        await direct.read()
        await proxy.set(fault)
        for _ in range(2):
            for _ in range(20):  # Until the subscription has come to where it waits.
                await direct.read()
            put_forward(monkeypatch, 600)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(StoreUnavailable):
                await heard


@pytest.mark.usefixtures("watchful")
async def test_a_silent_subscription_lives_on(proxy: Proxy, valkey: str, open_at: OpenAt) -> None:
    """A subscription on which nothing happens for long is kept, and hears the next change."""
    store = open_at(proxy.url, timeout=PATIENCE_S)
    pongs = 0

    def count(reply: bytes) -> bool:
        nonlocal pongs
        pongs += b"pong" in reply.lower()
        return False

    proxy.cut = count
    async with store.subscribe() as changes:
        heard = asyncio.create_task(changes.wait_for_change())
        await until(lambda: pongs >= 3)
        assert proxy.accepted == 1
        assert not heard.done()
        await open_at(valkey).append(ALL_GOOD)
        await asyncio.wait_for(heard, PATIENCE_S)


@pytest.mark.slow
async def test_writers_on_a_bad_line_lose_nothing(
    proxy: Proxy, valkey: str, open_at: OpenAt
) -> None:
    """Writers that send the same event again until it is acknowledged record each exactly once, on
    any loss of replies."""
    dice = random.Random(7)
    proxy.cut = lambda _: dice.random() < 0.3

    async def write(store: Store, number: int) -> str:
        event_id = uuid7(number + 1)
        while True:
            try:
                assert (await store.append(ALL_GOOD, event_id)).event.id == event_id
            except StoreUnavailable:
                continue
            return event_id

    stores = [open_at(proxy.url) for _ in range(4)]
    sent = await asyncio.gather(*(write(stores[n % 4], n) for n in range(40)))
    assert sorted(await ids(open_at(valkey))) == sorted(sent)


async def test_an_append_that_cannot_be_acknowledged_is_an_error(
    proxy: Proxy, valkey: str, open_at: OpenAt
) -> None:
    """Where every reply is lost the writer hears `StoreUnavailable`; sent again, the event is there
    once."""
    store, event_id = open_at(proxy.url), uuid7(1)
    proxy.cut = lambda reply: b"APPENDED" in reply or b"EXISTS" in reply
    with pytest.raises(StoreUnavailable):
        await store.append(ALL_GOOD, event_id)
    proxy.cut = lambda _: False
    assert (await store.append(ALL_GOOD, event_id)).event.id == event_id
    assert await ids(open_at(valkey)) == [event_id]


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_request_fails_soon(
    fault: Mode, proxy: Proxy, valkey: str, open_at: OpenAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the network does, a reading fails within twice the time-out, also where 20 are under
    way at once."""
    store, direct = open_at(proxy.url, timeout=600), open_at(valkey, timeout=600)
    await store.read()
    await proxy.set(fault)

    async def attempt() -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await store.read()
        assert "127.0.0.1" not in str(caught.value)

    attempts = [asyncio.create_task(attempt()) for _ in range(20)]
    for _ in range(2):
        for _ in range(20):  # Until the attempts have come to where they wait.
            await direct.read()
        put_forward(monkeypatch, 600)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*attempts)
    await proxy.set(Mode.PASS)
    assert (await store.read()).version == 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
async def test_replicas_recover_alone(
    fault: Mode, proxy: Proxy, valkey: str, open_at: OpenAt
) -> None:
    """After any fault a replica is current again with the second attempt after the network's
    recovery: one attempt may be under way when that happens."""
    replica = Replica(open_at(proxy.url, timeout=0.2), Metrics(), max_staleness=0.6)
    writer = open_at(valkey)
    async with replica.running():
        first = (await writer.append(ALL_GOOD)).event.id
        await proxy.set(fault)
        await until(lambda: replica.current() is None)
        assert (await replica.read()).snapshot.by_id.keys() <= {first}
        newest = (await writer.append(ONE_BAD)).event.id
        await proxy.set(Mode.PASS)
        failed = failures(replica)
        await until(lambda: (current := replica.current()) is not None and newest in current.by_id)
        assert failures(replica) - failed <= 1


def at_once(reading: Coroutine[Any, Any, CurrentOrStale]) -> CurrentOrStale:
    """What a reading gives that waits for nothing; fails if it waits."""
    try:
        reading.send(None)
    except StopIteration as ended:
        result: CurrentOrStale = ended.value
        return result
    reading.close()
    pytest.fail("the reading waits")


def failures(replica: Replica) -> float:
    """How many readings of the store have failed."""
    name = "cluster_events_snapshot_refresh_total"
    return replica.metrics.registry.get_sample_value(name, {"result": "failed"}) or 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Mode.BLACKHOLE, Mode.REFUSE])
async def test_readers_do_not_queue_before_a_dead_store(
    fault: Mode, proxy: Proxy, valkey: str, open_at: OpenAt
) -> None:
    """While the store is away, reads are answered as stale at once, and only the heartbeat goes on
    trying."""
    replica = Replica(open_at(proxy.url, timeout=0.3), Metrics(), heartbeat=0.1, max_staleness=0.25)
    event = (await open_at(valkey).append(ALL_GOOD)).event.id
    async with replica.running():
        await proxy.set(fault)
        await until(lambda: replica.current() is None)
        assert (await replica.read()).age is not None  # From now on it knows of a failure.
        failed, accepted = failures(replica), proxy.accepted
        while failures(replica) < failed + 3:  # The heartbeat goes on trying.
            for _ in range(50):
                reading = at_once(replica.read())
                assert reading.age is not None
                assert reading.snapshot.latest is not None
                assert reading.snapshot.latest.id == event
            assert proxy.open <= 3
            # For each attempt one connection, and one for the subscription.
            attempts = failures(replica) - failed + 1
            assert proxy.accepted - accepted <= 2 * (attempts + 1)
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("mode", [Mode.DELAY, Mode.SLICE])
async def test_slow_lines_change_nothing_but_time(
    mode: Mode, proxy: Proxy, valkey: str, open_at: OpenAt
) -> None:
    """Replies that come late or byte by byte are the same replies."""
    store, direct = open_at(proxy.url, timeout=2.0), open_at(valkey)
    await proxy.set(mode)
    appended = [(await store.append(services)).event for services in (ALL_GOOD, ONE_BAD)]
    through = await store.read()
    assert through.entries == (await direct.read()).entries
    assert through.latest_all == appended[1].to_bytes(Selector.ALL)
    assert await store.full(entry_of(appended[0])) == appended[0].to_bytes(Selector.ALL)


async def test_half_a_reply_is_no_reply(proxy: Proxy, valkey: str, open_at: OpenAt) -> None:
    """Of 50 replies that end in their middle none is taken for an answer, and the connections are
    not used again."""
    store = open_at(proxy.url)
    await open_at(valkey).append(ALL_GOOD)
    expected = await store.read()
    for _ in range(50):
        await proxy.set(Mode.TRUNCATE)
        with pytest.raises(StoreUnavailable):
            await store.read()
        await proxy.set(Mode.PASS)
        rows = await store.read()
        assert (rows.entries, rows.latest_all) == (expected.entries, expected.latest_all)


@pytest.mark.slow
async def test_cancelled_requests_leave_no_reply_behind(
    proxy: Proxy, valkey: str, open_at: OpenAt
) -> None:
    """Requests that are cancelled at any point never give their replies to others, and give their
    connections back."""
    store, direct = open_at(proxy.url, timeout=1.0), open_at(valkey)
    events = [(await direct.append(ALL_GOOD)).event for _ in range(5)]
    dice = random.Random(11)
    answered = 0

    async def ask() -> None:
        nonlocal answered
        event = dice.choice(events)
        request = asyncio.create_task(store.full(entry_of(event)))
        await asyncio.sleep(dice.random() ** 2 * 0.05)
        request.cancel()
        try:
            assert await request == event.to_bytes(Selector.ALL)
            answered += 1
        except asyncio.CancelledError:
            pass

    proxy.delay = 0.0005
    await proxy.set(Mode.DELAY)
    for _ in range(40):
        await asyncio.gather(*(ask() for _ in range(8)))
    assert 0 < answered < 320
    whole = await asyncio.gather(*(store.full(entry_of(event)) for event in events * 4))
    assert whole == [event.to_bytes(Selector.ALL) for event in events * 4]
    assert proxy.open <= 8
