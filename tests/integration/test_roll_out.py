"""The store that version 0.1.0 left behind, and processes of that version beside those of this one.

`recorded/0.1.0` holds what such a store contained, and the scripts with which that version reads
and writes.
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from service.events import Observation, Status
from service.store import connect
from service.store.keys import Keys
from tests.support.api import Api
from tests.support.former import RECORDED, Former
from tests.support.observations import ALL_GOOD
from tests.support.settings import READ, WRITE, bearer

KEYS = Keys("default")
LIST = "/v0/cluster/events"
FOREVER = {"retention_hours": "36500d"}
"""The recorded events are of one day, and tests run on others."""

STORE: dict[str, Any] = json.loads((RECORDED / "store.json").read_text(encoding="utf-8"))
TOKENS: dict[str, str] = STORE["api_keys"]


def recorded_events() -> list[dict[str, Any]]:
    """The full events of the recorded store, newest first."""
    ids = [event_id for event_id, _ in reversed(STORE["keys"][KEYS.timeline]["value"])]
    return [json.loads(STORE["keys"][KEYS.event(event_id)]["value"]["all"]) for event_id in ids]


@pytest.fixture
async def client(valkey: str) -> AsyncIterator[Redis]:
    """A client of a Valkey that holds the recorded store."""
    client = connect(valkey, 2.0)
    for name, one in STORE["keys"].items():
        if one["type"] == "zset":
            await client.zadd(name, dict(one["value"]))
        else:
            await client.hset(name, mapping=one["value"])
    yield client
    await client.aclose()


async def test_what_was_recorded_is_read(make_api: Callable[..., Any], client: Redis) -> None:
    """All events are served under both selectors, in lists, pages and by id; the verdict follows
    from the latest."""
    api: Api = await make_api(**FOREVER)
    events = recorded_events()
    full = await api.get(f"{LIST}?selector=all")
    assert full.json == events
    assert [event["id"] for event in (await api.get(LIST)).json] == [
        event["id"] for event in events
    ]
    for event in events:
        assert (await api.get(f"{LIST}/{event['id']}?selector=all")).json == event
    latest = (await api.get(f"{LIST}/latest?selector=all")).json
    assert {name: value for name, value in latest.items() if name != "stale"} == events[0]
    assert (await api.get("/v0/cluster_healthz")).json["runner"]["healthy"] is True


async def test_keys_that_were_made_are_accepted(
    make_api: Callable[..., Any], client: Redis
) -> None:
    """API keys keep their roles and their ends, and are listed."""
    api: Api = await make_api(**FOREVER)
    body = {f"{name}_status": "Healthy" for name in ALL_GOOD}
    statuses = {
        name: (
            (await api.request("GET", LIST, bearer(token))).status,
            (await api.request("POST", LIST, bearer(token), json=body)).status,
        )
        for name, token in TOKENS.items()
    }
    assert statuses == {"agents": (200, 403), "writer": (200, 201), "old": (401, 401)}
    listed = (await api.request("GET", "/v0/api_keys", WRITE)).json
    assert [key["name"] for key in listed] == ["agents", "old", "writer"]
    assert listed[0]["last_used_on"] == "2024-10-04"


async def test_events_of_both_versions_follow_each_other(
    make_api: Callable[..., Any], client: Redis
) -> None:
    """While both versions write and read, each sees all events, in one order, and none is lost."""
    api: Api = await make_api(**FOREVER)
    former, expected = Former(client), [event["id"] for event in recorded_events()]
    for number in range(6):
        if number % 2:
            event = (await api.context.replica.append(ALL_GOOD)).event
        else:
            event = await former.append({"api": Observation(Status.UNHEALTHY, f"number {number}")})
        expected.insert(0, event.id)
        await api.settle()
        assert [one["id"] for one in (await api.get(LIST)).json] == expected
        assert [one["id"] for one in (await api.get(f"{LIST}?selector=all")).json] == expected
        version, bodies = await former.read()
        assert [orjson.loads(body)["id"] for body in bodies] == expected
        assert version == api.context.replica.snapshot.version  # type: ignore[union-attr]
    divergences = api.context.metrics.registry.get_sample_value(
        "cluster_events_history_divergence_total"
    )
    assert divergences == 0


async def test_key_that_the_former_version_revokes_is_refused(
    make_api: Callable[..., Any], client: Redis
) -> None:
    """A deletion by a process of the former version ends the key here as well."""
    api: Api = await make_api(**FOREVER)
    assert (await api.request("GET", LIST, bearer(TOKENS["agents"]))).status == 200
    await Former(client).delete_key("agents")
    await api.settle()
    assert (await api.request("GET", LIST, bearer(TOKENS["agents"]))).status == 401


async def test_roll_back_reads_what_this_version_wrote(
    make_api: Callable[..., Any], client: Redis
) -> None:
    """After a roll-back the former version reads all that this one recorded, and its own events
    follow."""
    api: Api = await make_api(**FOREVER)
    ids = [(await api.context.replica.append(ALL_GOOD)).event.id for _ in range(3)]
    former = Former(client)
    event = await former.append(ALL_GOOD)
    _, bodies = await former.read()
    assert [orjson.loads(body)["id"] for body in bodies][:4] == [event.id, *reversed(ids)]
    assert (await api.request("GET", LIST, READ)).status == 200
