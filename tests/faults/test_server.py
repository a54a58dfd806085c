"""What happens to the store itself: killed, paused, out of memory, refusing."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from service.errors import StoreUnavailable
from service.events import Event, Observation, Status
from service.metrics import Metrics
from service.replica import Replica
from service.store import Entry, Fenced, Store, StoredKey, StoreState, connect
from tests.faults.resp import GREETING, answering
from tests.support.clocks import put_forward
from tests.support.durable import Server
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.waiting import PATIENCE_S, until

OpenAt = Callable[..., Store]


async def eventually_reads(replica: Replica, event_id: str) -> None:
    """Waits until the replica is current and has the event."""

    async def reads() -> bool:
        with contextlib.suppress(StoreUnavailable):
            reading = await replica.read()
            return reading.age is None and event_id in reading.snapshot.by_id
        return False

    await until(reads)


@pytest.mark.slow
async def test_a_killed_store_comes_back_with_everything(server: Server, open_at: OpenAt) -> None:
    """After SIGKILL under load and a restart, every acknowledged event is there once, and replicas
    are current again."""
    store = open_at(server.url)
    replica = Replica(open_at(server.url), Metrics(), heartbeat=0.1, max_staleness=0.3)
    acknowledged: list[str] = []

    async def write() -> None:
        while True:
            acknowledged.append((await store.append(ALL_GOOD)).event.id)

    async with replica.running():
        writers = [asyncio.create_task(write()) for _ in range(2)]
        await until(lambda: len(acknowledged) > 20)
        server.kill()
        assert [
            type(error) for error in await asyncio.gather(*writers, return_exceptions=True)
        ] == [
            StoreUnavailable,
            StoreUnavailable,
        ]
        await until(lambda: replica.current() is None)
        assert (await replica.read()).age is not None
        await asyncio.to_thread(server.start)
        newest = (await store.append(ONE_BAD)).event.id
        await eventually_reads(replica, newest)
        listed = [entry.id for entry in (await store.read()).entries or ()]
        assert set(acknowledged[-900:]) <= set(listed)
        assert len(listed) == len(set(listed))
        assert [entry.id for entry in (await replica.read()).snapshot.entries] == listed
        assert (
            replica.metrics.registry.get_sample_value("cluster_events_history_divergence_total")
            == 0
        )


async def test_a_paused_store_delays_nobody(
    server: Server, open_at: OpenAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store's process stands still, requests fail in time; when it goes on, all is
    current again."""
    store = open_at(server.url, timeout=600)
    replica = Replica(
        open_at(server.url, timeout=0.15), Metrics(), heartbeat=0.1, max_staleness=0.3
    )
    async with replica.running():
        await store.append(ALL_GOOD)
        server.signal(signal.SIGSTOP)
        request = asyncio.create_task(store.read())
        for _ in range(100):  # Until it waits: it has a connection already.
            await asyncio.sleep(0)
        assert not request.done()
        put_forward(monkeypatch, 600)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(StoreUnavailable):
                await request
        await until(lambda: replica.current() is None)
        assert (await replica.read()).age is not None
        server.signal(signal.SIGCONT)
        newest = (await store.append(ONE_BAD)).event.id
        await eventually_reads(replica, newest)


async def test_an_append_across_a_pause_is_recorded_once(server: Server, open_at: OpenAt) -> None:
    """A writer that gives up on a paused store and sends the event again later records it exactly
    once."""
    store = open_at(server.url, timeout=0.1)
    event_id = (await store.append(ALL_GOOD)).event.id
    retried = "0190b7c2-0000-7000-8000-000000000001"
    build = store._build

    async def pause_after_building(
        services: dict[str, Observation], event_id: str | None
    ) -> tuple[Event, StoreState]:
        built = await build(services, event_id)
        server.signal(signal.SIGSTOP)
        return built

    store._build = pause_after_building  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreUnavailable):
        await store.append(ONE_BAD, retried)
    server.signal(signal.SIGCONT)
    store._build = build  # type: ignore[method-assign]
    assert (await store.append(ONE_BAD, retried)).event.id == retried
    assert [entry.id for entry in (await store.read()).entries or ()] == [retried, event_id]


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Redis]:
    """A client for doing harm."""
    client = connect(server.url, 2.0)
    yield client
    await client.aclose()


async def test_a_full_store_keeps_what_it_has(
    server: Server, client: Redis, open_at: OpenAt
) -> None:
    """Out of memory, appends are refused with that reason, reads go on, nothing is lost, and it
    recovers alone."""
    store = open_at(server.url)
    events = [(await store.append(ALL_GOOD)).event.id for _ in range(3)]
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", 1)
    version = (await store.read()).version
    for write in (
        store.append(ONE_BAD),
        store.record_check(),
        store.create_api_key(StoredKey("k", "i", "read", "", 0)),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await write
        assert caught.value.details == {"reason": "it is out of memory"}
    rows = await store.read()
    assert rows.version == version
    assert [entry.id for entry in rows.entries or ()] == events[::-1]
    await client.config_set("maxmemory", 0)
    assert (await store.append(ONE_BAD)).created


async def test_a_read_only_replica_is_named(server: Server, client: Redis, open_at: OpenAt) -> None:
    """A Redis replica answers reads and refuses appends with that reason."""
    store = open_at(server.url)
    await store.append(ALL_GOOD)
    await client.replicaof("127.0.0.1", "1")
    await client.config_set("replica-serve-stale-data", "yes")
    with pytest.raises(StoreUnavailable) as caught:
        await store.append(ONE_BAD)
    assert caught.value.details == {"reason": "it is a read-only replica"}
    await client.replicaof("NO", "ONE")
    assert (await store.append(ONE_BAD)).created


async def test_a_user_with_few_rights(server: Server, client: Redis, open_at: OpenAt) -> None:
    """A user that may only read hears so at an append, without the user's name or password."""
    rights = [
        "on",
        ">hunter2",
        "~*",
        "&*",
        "+@read",
        "+@connection",
        "+@pubsub",
        "+time",
        "+evalsha",
        "+eval",
        "+script",
    ]
    await client.execute_command("ACL", "SETUSER", "auditor", *rights)  # type: ignore[no-untyped-call]
    store = open_at(server.url.replace("unix://", "unix://auditor:hunter2@"))
    assert (await store.read()).version == 0
    with pytest.raises(StoreUnavailable) as caught:
        await store.append(ALL_GOOD)
    assert "auditor" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert (await store.read()).version == 0


ERRORS = {
    "READONLY You can't write against a read only replica.": "it is a read-only replica",
    "NOAUTH Authentication required.": "it refuses this service's credentials",
    "WRONGPASS invalid username-password pair or user is "
    "disabled.": "it refuses this service's credentials",
    "NOPERM User app has no permissions to run the 'evalsha' "
    "command": "its ACL denies this service a command, key or channel",
    "LOADING Redis is loading the dataset in memory": "it is loading its data",
    "OOM command not allowed when used memory > 'maxmemory'.": "it is out of memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": None,
    "CLUSTERDOWN The cluster is down": None,
    "MOVED 3999 10.1.2.3:6381": None,
    "ASK 3999 10.1.2.3:6381": None,
    "TRYAGAIN Multiple keys request during rehashing of slot": None,
    "NOSCRIPT No matching script. Please use EVAL.": None,
    "BUSY Redis is busy running a script.": None,
    "NOREPLICAS Not enough good replicas to write.": None,
    "MISCONF Errors writing to the AOF file: No space left on device": None,
    "WRONGTYPE Operation against a key holding the wrong kind of value": None,
    "ERR max number of clients reached": None,
}
"""What Redis may answer → the reason that clients are told (`None`: any)."""


def requests(store: Store) -> dict[str, Callable[[], object]]:
    """Everything that is asked of a store."""
    key = StoredKey("k", "i", "read", "", 0)
    return {
        "read": store.read,
        "append": lambda: store.append(ALL_GOOD),
        "full": lambda: store.full(Entry("x", 1, b"")),
        "checked": store.record_check,
        "now": store.now,
        "api_keys": store.api_keys,
        "create_api_key": lambda: store.create_api_key(key),
        "delete_api_key": lambda: store.delete_api_key("k"),
    }


async def assert_unavailable(store: Store, reason: str | None) -> None:
    """Everything asked of the store ends in `StoreUnavailable`, whose text gives nothing away."""
    for name, request in requests(store).items():
        with pytest.raises(StoreUnavailable) as caught:
            await request()  # type: ignore[misc]
        told = caught.value.body().decode()
        assert reason is None or caught.value.details == {"reason": reason}, name
        for secret in ("10.1.2.3", "127.0.0.1", "hunter2", "app", "evalsha", "6381"):
            assert secret not in told
    with pytest.raises(StoreUnavailable):
        async with store.subscribe() as changes:
            await changes.wait_for_change()


@pytest.mark.parametrize(
    ("error", "reason"), ERRORS.items(), ids=[text.split()[0] for text in ERRORS]
)
async def test_errors_of_redis_mean_unavailable(
    error: str, reason: str | None, open_at: OpenAt
) -> None:
    """Whatever Redis answers to a command, it is `StoreUnavailable` with a reason that names no
    address and no secret."""
    async with answering(f"-{error}\r\n".encode()) as address:
        await assert_unavailable(open_at(f"redis://app:hunter2@{address}/0"), reason)


@pytest.mark.parametrize(
    "error", ["NOAUTH Authentication required.", "WRONGPASS invalid password", "LOADING loading"]
)
async def test_errors_while_connecting_mean_unavailable(error: str, open_at: OpenAt) -> None:
    """The same holds for what Redis answers while a connection is made."""
    refusal = f"-{error}\r\n".encode()
    async with answering(refusal, dict.fromkeys(GREETING, refusal)) as address:
        await assert_unavailable(open_at(f"redis://app:hunter2@{address}/0"), None)


REPLIES = {
    "a number": b":1\r\n",
    "a text": b"+OK\r\n",
    "nothing": b"_\r\n",
    "an empty array": b"*0\r\n",
    "too short": b"*2\r\n$1\r\n1\r\n$1\r\n2\r\n",
    "not numbers": b"*4\r\n$1\r\nx\r\n$1\r\nx\r\n$1\r\nx\r\n$1\r\nx\r\n",
    "not RESP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_replies_that_make_no_sense_mean_unavailable(reply: bytes, open_at: OpenAt) -> None:
    """A server that is not ours, or a damaged reply, is an unavailable store: no other error, no
    made-up state."""
    async with answering(reply) as address:
        store = open_at(f"redis://{address}/0", timeout=0.2)
        with pytest.raises(StoreUnavailable):
            await store.read()
        with pytest.raises(StoreUnavailable):
            await store.append(ALL_GOOD)


async def swallowed() -> None:
    """Waits for long, and takes its cancellation for an end like any other, as the driver does now
    and then."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(3_600)


async def test_a_request_that_swallows_its_cancellation_is_cancelled(
    server: Server, open_at: OpenAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled request ends as cancelled, even where the driver has lost the cancellation."""
    store = open_at(server.url)
    monkeypatch.setattr(store._client, "time", lambda *_: swallowed())
    request = asyncio.create_task(store.now())
    await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request


async def test_a_replica_ends_though_the_driver_swallows_cancellations(
    server: Server, open_at: OpenAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that is told to stop stops, though its subscription does not notice."""
    monkeypatch.setattr(PubSub, "get_message", lambda *_, **__: swallowed())
    async with asyncio.timeout(PATIENCE_S):
        async with Replica(open_at(server.url), Metrics()).running():
            await asyncio.sleep(0.05)


async def test_nobody_listens(open_at: OpenAt) -> None:
    """A host that refuses connections, or a socket that is not there, is an unavailable store."""
    for url in ("redis://127.0.0.1:1/0", "unix:///nonexistent/socket"):
        await assert_unavailable(open_at(url, timeout=0.5), None)


async def test_a_timeout_says_so(server: Server, open_at: OpenAt) -> None:
    """A store that accepts and stays silent is told apart from one that cannot be reached."""
    store = open_at(server.url, timeout=0.05)
    await store.read()
    server.signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailable) as caught:
        await store.read()
    assert caught.value.details == {"reason": "it did not answer in time"}


async def test_fencing_survives_a_restart(server: Server, client: Redis, open_at: OpenAt) -> None:
    """A restart of the store does not give a writer whose epoch is over its place back."""
    store = open_at(server.url)
    await client.hset(store.keys.meta, "epoch", 2)
    server.kill()
    server.start()
    with pytest.raises(Fenced):
        await store.append({"api": Observation(Status.HEALTHY)}, epoch=1)
