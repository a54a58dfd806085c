"""Scripts of other origins: shut out unless they are named."""

from collections.abc import Callable
from typing import Any

import pytest

from service.api.http import tracing
from tests.support.api import Api
from tests.support.observations import ALL_GOOD
from tests.support.raw import connected, head
from tests.support.settings import READ

LATEST = "/v0/cluster/events/latest"
PAGE = "https://status.example"


@pytest.fixture
async def open_api(make_api: Callable[..., Any]) -> Api:
    """A process that one origin may read."""
    api: Api = await make_api(cors_origins=f"{PAGE}, https://other.example")
    await api.context.replica.append(ALL_GOOD)
    return api


async def test_off_by_default(api: Api) -> None:
    """Without the setting no reply says anything of origins, and a preflight is a method like any
    other."""
    await api.context.replica.append(ALL_GOOD)
    got = await api.get(LATEST, {"Origin": PAGE})
    assert not any(name.startswith("Access-Control") for name in got.headers)
    assert (await api.request("OPTIONS", LATEST, READ | {"Origin": PAGE})).status == 405


@pytest.mark.parametrize(
    "path",
    [
        LATEST,
        "/v0/cluster/events",
        "/v0/cluster_healthz",
        "/v0/nothing",
        "/v0/cluster/events?limit=1",
    ],
)
async def test_a_named_origin_may_read(open_api: Api, path: str) -> None:
    """Every reply, errors included, and however often the head has come, tells the browser that
    this origin may read it."""
    for _ in range(4):
        got = await open_api.get(path, {"Origin": PAGE})
        assert got.headers["Access-Control-Allow-Origin"] == PAGE
        assert "ETag" in got.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in got.headers
    assert (await open_api.request("GET", path, {"Origin": PAGE})).headers[
        "Access-Control-Allow-Origin"
    ] == PAGE


async def test_others_may_not(open_api: Api) -> None:
    """Another origin, or none, is told nothing; the reply varies by origin all the same."""
    for _ in range(4):
        got = await open_api.get(LATEST, {"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in got.headers
        assert "Origin" in got.headers.getall("Vary")  # type: ignore[attr-defined]
        assert "Access-Control-Allow-Origin" not in (await open_api.get(LATEST)).headers


async def test_everyone_may_where_all_are_named(make_api: Callable[..., Any]) -> None:
    """`*` stands for every origin."""
    api: Api = await make_api(cors_origins="*")
    got = await api.get("/healthz", {"Origin": "https://any.example"})
    assert got.headers["Access-Control-Allow-Origin"] == "https://any.example"


async def test_a_preflight_needs_no_credential(open_api: Api) -> None:
    """A browser asks without a credential what it may send."""
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    got = await open_api.request("OPTIONS", LATEST, asked)
    assert (got.status, got.body) == (204, b"")
    assert "GET" in got.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in got.headers["Access-Control-Allow-Headers"]
    assert got.headers["Access-Control-Allow-Origin"] == PAGE


async def test_a_preflight_allows_what_clients_send(open_api: Api) -> None:
    """Scripts may send what the API understands, and every field that the poll path looks past."""
    got = await open_api.request(
        "OPTIONS", LATEST, {"Origin": PAGE, "Access-Control-Request-Method": "GET"}
    )
    allowed = {
        name.strip().lower() for name in got.headers["Access-Control-Allow-Headers"].split(",")
    }
    assert {"authorization", "content-type", "if-none-match", "last-event-id", "prefer"} <= allowed
    assert {
        "baggage",
        "sentry-trace",
        "b3",
        "x-b3-traceid",
        "x-request-id",
        "traceparent",
    } <= allowed
    assert set(tracing.FIELDS) <= allowed


@pytest.mark.parametrize("name", tracing.FIELDS)
async def test_what_a_preflight_allows_the_poll_path_looks_past(open_api: Api, name: str) -> None:
    """The two lists are one: a request that differs in such a field only is answered by the poll
    path."""
    async with await connected(open_api.port) as line:
        for number in range(4):
            line.send(
                head("GET", LATEST, f"Authorization: {READ['Authorization']}", f"{name}: {number}")
            )
            assert (await line.reply()).status == 200
    assert len(open_api.poll_server.memo.entries) == 1


async def test_a_stream_may_be_read(open_api: Api) -> None:
    """The head of a stream says so too."""
    headers = READ | {"Accept": "text/event-stream", "Origin": PAGE}
    async with open_api.client.get(open_api.url + "/v0/cluster/events", headers=headers) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.content_type == "text/event-stream"
