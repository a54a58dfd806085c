"""The event routes, as agents use them."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from tests.support.api import Api
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.settings import WRITE


async def test_latest_is_the_newest_event(api: Api) -> None:
    """`latest` gives the newest event, in the contract's field order, without infos."""
    await api.store.append(ALL_GOOD)
    newest = (await api.store.append(ONE_BAD)).event
    await api.settle()
    answer = await api.get("/v0/cluster/events/latest")
    assert answer.status == 200
    fields = answer.json
    assert list(fields) == [
        "id",
        "recorded_at",
        "all_healthy",
        "api_status",
        "compiler_status",
        "runner_status",
    ]
    assert fields["id"] == newest.id
    assert fields["all_healthy"] is False
    assert fields["compiler_status"] == "Unhealthy"


async def test_a_service_that_no_event_knows_is_not_healthy(make_api: Callable[..., Any]) -> None:
    """A verdict is about the configured services: one that the latest event says nothing of makes
    it 503."""
    api: Api = await make_api(services="api,compiler,runner,fourth")
    await api.store.append(ALL_GOOD)
    await api.settle()
    got = await api.get("/v0/cluster_healthz")
    assert (got.status, got.json["all_healthy"], got.json["fourth"]["healthy"]) == (
        503,
        False,
        False,
    )
    assert got.json["api"]["healthy"] is True


async def test_a_check_of_the_future_proves_nothing(make_api: Callable[..., Any]) -> None:
    """Where the store's clock has gone back, the last check seems to be yet to come: the monitor
    counts as silent."""
    api: Api = await make_api(stale_after="1s")
    await api.store.append(ALL_GOOD)
    await api.store._client.hset(
        api.store.keys.meta, "checked_at", int((time.time() + 3_600) * 1_000_000)
    )
    await api.settle()
    got = await api.get("/v0/cluster_healthz")
    assert (got.status, got.json["stale"], got.json["all_healthy"]) == (503, True, False)


async def test_a_reading_that_came_late_is_not_current(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was held up with the store's reply in its hands does not pass it off as the
    current state."""
    api: Api = await make_api(heartbeat="10s", max_staleness="11s")
    await api.store.append(ALL_GOOD)
    await api.settle()
    replica = api.context.replica
    real, offset = replica.monotonic, [0.0]
    replica.monotonic = lambda: real() + offset[0]
    reading = replica._store.read

    async def held_up(*known: Any) -> Any:
        rows = await reading(*known)
        offset[0] += 15
        return rows

    monkeypatch.setattr(replica._store, "read", held_up)
    offset[0] = 20
    assert (await replica.read()).age is not None


async def test_an_event_that_was_posted_has_its_tag(api: Api) -> None:
    """The reply to a POST carries the entity tag under which the full event is read."""
    fields = {f"{name}_status": "Healthy" for name in ALL_GOOD}
    posted = await api.request("POST", "/v0/cluster/events", WRITE, json=fields)
    read = await api.get("/v0/cluster/events/latest?selector=all")
    assert posted.headers["ETag"] == read.headers["ETag"]


async def test_a_page_of_another_site_may_not_write(make_api: Callable[..., Any]) -> None:
    """A service that asks for no credential does not lend its openness to every site that its
    user's browser visits."""
    api: Api = await make_api(auth="none")
    fields = {f"{name}_status": "Healthy" for name in ALL_GOOD}
    foreign = {"Origin": "http://evil.example"}
    got = await api.request("POST", "/v0/cluster/events", foreign, json=fields)
    assert (got.status, got.json["error_code"]) == (403, "InsufficientPermissions")
    for own in ({}, {"Origin": api.url}):
        assert (await api.request("POST", "/v0/cluster/events", own, json=fields)).status == 201


@pytest.mark.slow
async def test_posts_do_not_queue_before_a_dead_store(
    make_api: Callable[..., Any], valkey: str
) -> None:
    """However many want to record while the store is silent, each hears of it in time."""
    api: Api = await make_api(redis_timeout="200ms")
    await api.store.append(ALL_GOOD)
    await api.settle()
    fields = {f"{name}_status": "Healthy" for name in ALL_GOOD}
    with Redis.from_url(valkey) as client:
        client.execute_command("CLIENT", "PAUSE", 3_000, "ALL")
    began = time.monotonic()
    posts = [api.request("POST", "/v0/cluster/events", WRITE, json=fields) for _ in range(20)]
    assert {got.status for got in await asyncio.gather(*posts)} == {503}
    assert time.monotonic() - began < 2.5
    await asyncio.sleep(max(0, 3 - (time.monotonic() - began)))
