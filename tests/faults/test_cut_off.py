"""What a replica says that is cut off from the store, or whose store lost or mixed up what it
had."""

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from service.auth import Role, mint
from service.events import Selector, uuid7
from service.replica import Replica
from service.store import Store, StoredKey, connect
from tests.support.api import Api, Got
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.proxy import Mode, Proxy
from tests.support.settings import READ, WRITE, bearer
from tests.support.stores import UnreadableStore
from tests.support.waiting import until

LIST = "/v0/cluster/events"
VERDICT = "/v0/cluster_healthz"
QUICK = {
    "heartbeat": "50ms",
    "max_staleness": "300ms",
    "stale_if_error": "60s",
    "redis_timeout": "200ms",
}


@dataclass
class Pair:
    """Two replicas on one store; `b` can be cut off."""

    a: Api
    b: Api
    proxy: Proxy
    client: Redis

    async def cut(self) -> None:
        """Cuts `b` off, and returns when it no longer counts as current."""
        await self.proxy.set(Mode.REFUSE)
        await until(lambda: self.b.context.replica.current() is None)

    async def mend(self) -> None:
        """Lets `b` reach the store, and returns when it is current again."""
        await self.proxy.set(Mode.PASS)
        await until(lambda: self.b.context.replica.current() is not None)


@pytest.fixture
async def client(valkey: str) -> AsyncIterator[Redis]:
    """A client of the empty Valkey, for doing harm."""
    client = connect(valkey, 2.0)
    yield client
    await client.aclose()


@pytest.fixture
async def pair(make_api: Callable[..., Any], proxy: Proxy, client: Redis) -> Pair:
    """Two replicas on an empty store."""
    return Pair(
        await make_api(**QUICK), await make_api(redis_url=proxy.url, **QUICK), proxy, client
    )


def marked(answer: Got) -> bool:
    """Whether an answer says that it is not the current state."""
    return (
        answer.headers.get("Cluster-Stale") == "store-unreachable"
        and answer.headers.get("Age", "").isdecimal()
    )


# -- what is not known is not denied ---------------------------------------------------------------


async def test_a_stale_replica_denies_no_event(pair: Pair) -> None:
    """An event that was recorded after the cut is not known there: 503 by id and as `before`,
    marked, never 404."""
    known = (await pair.a.context.replica.append(ALL_GOOD)).event.id
    await pair.b.settle()
    await pair.cut()
    new = (await pair.a.context.replica.append(ALL_GOOD)).event.id
    for path in (f"{LIST}/{new}", f"{LIST}/{new}?selector=all", f"{LIST}?before={new}"):
        answer = await pair.b.get(path)
        assert (answer.status, answer.json["error_code"]) == (503, "StoreUnavailable"), path
        assert marked(answer), path
        assert "Retry-After" in answer.headers
    for path in (f"{LIST}/latest", f"{LIST}/{known}", f"{LIST}?before={known}", LIST):
        answer = await pair.b.get(path)
        assert answer.status == 200, path
        assert marked(answer), path
    await pair.mend()
    assert (await pair.b.get(f"{LIST}/{new}")).status == 200
    unknown = await pair.b.get(f"{LIST}/{uuid7(1)}")
    assert unknown.status == 404
    assert "Cluster-Checked-At" in unknown.headers


async def test_a_stale_replica_denies_no_first_event(pair: Pair) -> None:
    """Before the first event a stale replica knows an empty list, but not that there is no latest
    event."""
    await pair.b.settle()
    await pair.cut()
    for path in (f"{LIST}/latest", f"{LIST}/latest?selector=all", VERDICT):
        answer = await pair.b.get(path)
        assert (answer.status, answer.json["error_code"]) == (503, "StoreUnavailable"), path
        assert marked(answer)
    for path in (LIST, f"{LIST}?limit=5", f"{LIST}?selector=all"):
        answer = await pair.b.get(path)
        assert (answer.status, answer.json) == (200, [])
        assert marked(answer)
    await pair.mend()
    for path in (f"{LIST}/latest", VERDICT):
        assert (await pair.b.get(path)).json["error_code"] == "NoClusterMonitorEventsAvailable"


async def test_an_error_of_a_silent_monitor_says_so(make_api: Callable[..., Any]) -> None:
    """Errors carry the freshness of the state that they follow from, as all responses do."""
    api: Api = await make_api(stale_after="1ms", **QUICK)
    await api.context.replica.append(ALL_GOOD)
    await until(lambda: api.context.replica.monitor_silent(api.context.replica.snapshot))  # type: ignore[arg-type]
    answer = await api.get(f"{LIST}/{uuid7(1)}")
    assert (answer.status, answer.headers["Cluster-Stale"]) == (404, "monitor-silent")


async def create_key(store: Store, name: str) -> tuple[str, StoredKey]:
    """A new API key, straight in the store."""
    key, stored = mint(name, Role.READ, await store.now())
    await store.create_api_key(stored)
    return key, stored


async def test_a_stale_replica_refuses_no_new_key(pair: Pair) -> None:
    """A key that was made after the cut gets 503 there, not the final 401; known keys and bad ones
    are judged as ever."""
    known, _ = await create_key(pair.a.store, "known")
    await pair.b.settle()
    await pair.cut()
    new, _ = await create_key(pair.a.store, "new")
    answer = await pair.b.request("GET", f"{LIST}?limit=1", bearer(new))
    assert (answer.status, answer.json["error_code"]) == (503, "StoreUnavailable")
    assert (await pair.b.request("GET", LIST, bearer(known))).status == 200
    assert (await pair.b.request("GET", LIST, bearer(new[:-1] + "!"))).status == 401
    assert (await pair.b.request("GET", LIST, bearer("not a token"))).status == 401
    await pair.mend()
    assert (await pair.b.request("GET", LIST, bearer(new))).status == 200
    await pair.a.store.delete_api_key("new")
    await pair.b.settle()
    assert (await pair.b.request("GET", LIST, bearer(new))).status == 401


# -- ids that are used again -----------------------------------------------------------------------


@pytest.mark.parametrize("of", ["b", "a"])
async def test_one_id_is_one_event(make_api: Callable[..., Any], of: str) -> None:
    """An id that retention took and that is recorded again with other content is the new event
    under both selectors, by id, in pages and for the process that recorded it, whatever was kept of
    the old one."""
    a, b = [await make_api(retention_events=2, **QUICK) for _ in range(2)]
    asked: Api = {"a": a, "b": b}[of]
    again = uuid7(1)
    await a.context.replica.append(ALL_GOOD, again)
    await a.context.replica.append(ALL_GOOD)
    await asked.settle()
    assert (await asked.get(f"{LIST}/{again}?selector=all")).status == 200
    for _ in range(2):
        await a.context.replica.append(ALL_GOOD)
    second = (await a.context.replica.append(ONE_BAD, again)).event
    await a.context.replica.append(ALL_GOOD)
    await asked.settle()
    assert (await asked.get(f"{LIST}/{again}")).body == second.to_bytes(Selector.STATUS)
    assert (await asked.get(f"{LIST}/{again}?selector=all")).body == second.to_bytes(Selector.ALL)
    page = await asked.get(f"{LIST}?selector=all&limit=2")
    assert orjson.dumps(page.json[1]) == second.to_bytes(Selector.ALL)


async def test_an_id_in_use_again_that_is_not_known_yet(make_api: Callable[..., Any]) -> None:
    """A replica that knows only the old event of an id asks the store before it says what the id is
    now."""
    a = await make_api(retention_events=2, **QUICK)
    b = await make_api(retention_events=2, events_memory=0, heartbeat="30s", max_staleness="60s")
    again = uuid7(1)
    await a.context.replica.append(ALL_GOOD, again)
    await a.context.replica.append(ALL_GOOD)
    await b.settle()
    known = b.context.replica.snapshot
    for _ in range(2):
        await a.context.replica.append(ALL_GOOD)
    second = (await a.context.replica.append(ONE_BAD, again)).event
    await b.settle()
    b.context.replica.snapshot = known  # As if no notice of it had arrived.
    assert (await b.get(f"{LIST}/{again}?selector=all")).body == second.to_bytes(Selector.ALL)


# -- losses ----------------------------------------------------------------------------------------


def losses(api: Api) -> float:
    """How often a replica found that the store had lost data."""
    return (
        api.context.metrics.registry.get_sample_value("cluster_events_history_divergence_total")
        or 0.0
    )


async def meta(client: Redis, store: Store) -> dict[Any, Any]:
    """What the store says of itself."""
    return dict(await client.hgetall(store.keys.meta))


async def test_an_equal_version_of_another_history(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """A failover loses the deletion of a key, another change brings the store to the same version:
    the replica that was cut off meanwhile finds out, counts it, and takes the keys as they are."""
    revoked, stored = await create_key(pair.a.store, "revoked")
    _, other = await create_key(pair.a.store, "other")
    before = await meta(pair.client, pair.a.store)
    lost, _ = await create_key(pair.a.store, "lost")
    await pair.b.settle()
    assert (await pair.b.request("GET", LIST, bearer(lost))).status == 200
    await pair.cut()
    # The failover goes back to before the last change, and then comes to the same version in
    # another way.
    await pair.client.hdel(pair.a.store.keys.api_keys, "lost")
    await pair.client.hset(pair.a.store.keys.meta, mapping=before)
    await pair.a.store.delete_api_key("revoked")
    counted = losses(pair.b)
    await pair.mend()
    await until(lambda: losses(pair.b) > counted)
    for key in (revoked, lost):
        assert (await pair.b.request("GET", LIST, bearer(key))).status == 401
    assert "the store lost data" in caplog.text
    assert {stored.name, other.name} & set(pair.b.context.replica.snapshot.api_keys) == {"other"}  # type: ignore[union-attr]


@dataclass
class Half:
    """A replica whose store can be made unreadable, and another writer of the same store."""

    api: Api
    monkeypatch: pytest.MonkeyPatch

    @property
    def replica(self) -> Replica:
        """The replica."""
        return self.api.context.replica

    def readable(self, yes: bool) -> None:
        """Whether the replica can read its store."""
        self.monkeypatch.setattr(UnreadableStore, "readable", yes)


@pytest.fixture
async def half(make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Half:
    """A replica that only reads when it is asked, and whose store can be made unreadable."""
    api: Api = await make_api(heartbeat="30s", max_staleness="60s", stale_if_error="90s")
    monkeypatch.setattr(api.context.replica._store, "__class__", UnreadableStore)
    return Half(api, monkeypatch)


@pytest.mark.parametrize("others", [0, 1])
async def test_a_lost_own_event_is_noticed(
    half: Half, client: Redis, others: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that was acknowledged here and could not be read back is a loss, counted and logged,
    if the store comes back without it; whether others had recorded in between or not."""
    await half.replica.append(ALL_GOOD)
    before = await meta(client, half.api.store)
    half.readable(False)
    lost = [(await half.api.store.append(ALL_GOOD)).event for _ in range(others)]
    own = (await half.replica.append(ONE_BAD)).event
    for event in (own, *lost):
        await client.zrem(half.api.store.keys.timeline, event.id)
        await client.delete(half.api.store.keys.event(event.id))
    await client.hset(half.api.store.keys.meta, mapping=before)
    half.readable(True)
    with caplog.at_level(logging.ERROR):
        await half.replica.refresh()
    assert losses(half.api) == 1
    assert "the store lost data" in caplog.text
    assert (await half.api.get(f"{LIST}/{own.id}")).status == 404


async def test_an_own_event_that_retention_took_is_no_loss(
    make_api: Callable[..., Any], half: Half
) -> None:
    """An own event that could not be read back, and that others' events have pushed out since, is
    not counted as lost."""
    api: Api = await make_api(
        heartbeat="30s", max_staleness="60s", stale_if_error="90s", retention_events=2
    )
    half.monkeypatch.setattr(api.context.replica._store, "__class__", UnreadableStore)
    await api.context.replica.append(ALL_GOOD)
    half.readable(False)
    await api.store.append(ALL_GOOD)
    own = (await api.context.replica.append(ONE_BAD)).event
    for _ in range(3):
        await api.store.append(ALL_GOOD)
    half.readable(True)
    await api.context.replica.refresh()
    assert losses(api) == 0
    assert own.id not in api.context.replica.snapshot.by_id  # type: ignore[union-attr]


# -- an own event that could not be read back ------------------------------------------------------


async def test_a_list_that_never_existed_is_not_passed_off(half: Half) -> None:
    """Where another event may lie before an own one that could not be read back, nothing is passed
    off as the current state: what is known is marked, what is not known is 503. The own event
    itself is there."""
    first = (await half.replica.append(ALL_GOOD)).event
    half.readable(False)
    hidden = (await half.api.store.append(ALL_GOOD)).event
    own = (await half.replica.append(ONE_BAD)).event
    for path in (LIST, f"{LIST}?limit=2", f"{LIST}?selector=all", f"{LIST}/latest", VERDICT):
        answer = await half.api.get(path)
        assert answer.status == (503 if path == VERDICT else 200)
        assert marked(answer), path
    assert [event["id"] for event in (await half.api.get(LIST)).json] == [own.id, first.id]
    assert (await half.api.get(f"{LIST}/{own.id}?selector=all")).body == own.to_bytes(Selector.ALL)
    assert (await half.api.get(f"{LIST}/{hidden.id}")).status == 503
    half.readable(True)
    await half.replica.refresh()
    answer = await half.api.get(LIST)
    assert [event["id"] for event in answer.json] == [own.id, hidden.id, first.id]
    assert not marked(answer)


async def test_an_own_event_that_follows_is_the_current_state(half: Half) -> None:
    """Where the version proves that nothing lies between, an own event makes a whole, current list
    without being read back."""
    first = (await half.replica.append(ALL_GOOD)).event
    half.readable(False)
    own = (await half.replica.append(ONE_BAD)).event
    answer = await half.api.get(LIST)
    assert [event["id"] for event in answer.json] == [own.id, first.id]
    assert not marked(answer)
    assert (await half.api.get(f"{LIST}/{first.id}?selector=all")).body == first.to_bytes(
        Selector.ALL
    )
    assert (await half.api.get(f"{LIST}/{uuid7(1)}")).status == 404
    half.readable(True)
    assert (await half.replica.refresh()).latest_id == own.id
    assert losses(half.api) == 0


# -- records of other versions ---------------------------------------------------------------------

OF_ANOTHER_VERSION = {
    "an unknown status": {"api_status": "Transitioning"},
    "a further service": {"storage_status": "Degraded", "storage_self_info": "new"},
    "a further field": {"schema": 3, "overall_status": {"nested": True}, "score_status": 5},
    "an info that is no text": {"api_self_info": None, "compiler_resources_info": ["a", "list"]},
}


async def rewrite(client: Redis, store: Store, event_id: str, fields: dict[str, Any]) -> bytes:
    """Gives a stored event further or other fields, as another version might have written it;
    returns its full bytes."""
    key = store.keys.event(event_id)
    for projection in ("status", "all"):
        known = orjson.loads(await client.hget(key, projection) or b"{}")
        extra = {
            name: value
            for name, value in fields.items()
            if projection == "all" or not name.endswith("_info")
        }
        await client.hset(key, projection, orjson.dumps(known | extra))
    full = await client.hget(key, "all")
    assert isinstance(full, bytes)
    return full


@pytest.mark.parametrize("fields", OF_ANOTHER_VERSION.values(), ids=OF_ANOTHER_VERSION)
async def test_an_event_of_another_version(
    make_api: Callable[..., Any], client: Redis, fields: dict[str, Any]
) -> None:
    """It is passed through unchanged; a status that is not known counts as not healthy; verdict,
    metrics, filters and a repeated POST work with it as the latest."""
    writer: Api = await make_api(**QUICK)
    event = (await writer.context.replica.append(ALL_GOOD)).event
    full = await rewrite(client, writer.store, event.id, fields)
    api: Api = await make_api(**QUICK)
    assert (await api.get(f"{LIST}/latest?selector=all")).body == full
    assert (await api.get(f"{LIST}/{event.id}?selector=all")).body == full
    healthy = "api_status" not in fields
    verdict = await api.get(VERDICT)
    assert (verdict.status, verdict.json["api"]["healthy"]) == (
        (200, True) if healthy else (503, False)
    )
    metrics = (await api.get("/metrics")).body.decode()
    assert f'cluster_events_service_healthy{{service="api"}} {float(healthy)}' in metrics
    assert 'service="storage"' not in metrics
    assert len((await api.get(f"{LIST}?status=Healthy")).json) == 1
    body = orjson.loads(event.to_bytes(Selector.ALL)) | {"id": event.id}
    body = {
        name: value for name, value in body.items() if name not in {"recorded_at", "all_healthy"}
    }
    again = await api.request("POST", LIST, WRITE, json=body)
    same = not fields.keys() & {"api_status", "api_self_info"}
    assert again.status == (200 if same else 409)
    assert not same or again.body == full


@pytest.mark.parametrize("where", ["status", "all"])
@pytest.mark.parametrize(
    "junk", [b"not JSON", b"[]", b"{}", b'{"id":"another"}', b"\xff"], ids=repr
)
async def test_an_unreadable_latest_event(
    make_api: Callable[..., Any],
    client: Redis,
    where: str,
    junk: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The last readable event stays, marked as not current; the unreadable one is reported once, by
    log and metric; nothing fails, and the next event makes all well."""
    writer: Api = await make_api(**QUICK)
    good = (await writer.context.replica.append(ALL_GOOD)).event
    bad = (await writer.context.replica.append(ONE_BAD)).event
    await client.hset(writer.store.keys.event(bad.id), where, junk)
    caplog.clear()
    api: Api = await make_api(**QUICK)
    latest = await api.get(f"{LIST}/latest")
    assert (latest.status, latest.json["id"]) == (200, good.id)
    assert marked(latest)
    verdict = await api.get(VERDICT)
    assert (verdict.status, verdict.json["stale"]) == (503, True)
    assert (await api.get(f"{LIST}/{bad.id}")).status == 503
    assert (await api.get(LIST)).json == [latest.json]
    await api.settle()
    assert "cluster_events_unreadable_events_total 1.0" in (await api.get("/metrics")).body.decode()
    assert caplog.text.count("cannot be read") == 1
    same = orjson.loads(bad.to_bytes(Selector.ALL))
    same = {
        name: value for name, value in same.items() if name not in {"recorded_at", "all_healthy"}
    }
    assert (await api.request("POST", LIST, WRITE, json=same)).status in {200, 409}
    new = await api.request(
        "POST", LIST, WRITE, json={name: value for name, value in same.items() if name != "id"}
    )
    assert new.status == 201
    latest = await api.get(f"{LIST}/latest")
    assert latest.json["id"] == new.json["id"]
    assert not marked(latest)
    for selector in ("all", "status"):
        assert (await api.get(f"{LIST}/{bad.id}?selector={selector}")).status == 404


async def test_an_event_without_its_full_body_counts_as_trimmed(
    make_api: Callable[..., Any], client: Redis
) -> None:
    """By id, in the list and in pages, under both selectors."""
    writer: Api = await make_api(**QUICK)
    events = [(await writer.context.replica.append(ALL_GOOD)).event for _ in range(3)]
    await client.hdel(writer.store.keys.event(events[1].id), "all")
    api: Api = await make_api(**QUICK)
    for selector in ("status", "all"):
        assert (await api.get(f"{LIST}/{events[1].id}?selector={selector}")).status == 404
        for path in (f"{LIST}?selector={selector}", f"{LIST}?selector={selector}&limit=3"):
            assert [event["id"] for event in (await api.get(path)).json] == [
                events[2].id,
                events[0].id,
            ]


async def test_retention_counts_an_event_that_was_found_without_its_body(
    half: Half, client: Redis
) -> None:
    """The store's retention still counts it, so what an own event pushes out is not known until the
    store is read again."""
    api = half.api
    half.monkeypatch.setattr(half.replica._store, "retention_events", 3)
    oldest, bodiless, _ = [(await half.replica.append(ALL_GOOD)).event for _ in range(3)]
    half.replica._full.clear()
    await client.delete(api.store.keys.event(bodiless.id))
    assert (await api.get(f"{LIST}/{bodiless.id}?selector=all")).status == 404
    half.readable(False)
    await half.replica.append(ONE_BAD)
    assert await client.zscore(api.store.keys.timeline, oldest.id) is None
    assert half.replica.current() is None
    half.readable(True)
    await half.replica.refresh()
    assert (await api.get(f"{LIST}/{oldest.id}")).status == 404


async def test_the_empty_credential_is_no_knowledge(pair: Pair) -> None:
    """Order of checks on a stale replica: credential (401), query (400), id (400), then what is
    known (503)."""
    await pair.b.settle()
    await pair.cut()
    assert (await pair.b.request("GET", f"{LIST}/latest", {})).status == 401
    assert (await pair.b.request("GET", f"{LIST}/latest?selector=x", READ)).status == 400
    assert (await pair.b.request("GET", f"{LIST}/x", READ)).status == 400
    assert (await pair.b.request("GET", f"{LIST}/{uuid7(1)}", READ)).status == 503
