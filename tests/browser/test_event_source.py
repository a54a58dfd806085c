"""A browser's `EventSource`, `fetch` and cache, and its rules for other origins."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Page

from service.api.live import event_frames
from tests.support.api import Api
from tests.support.observations import ALL_GOOD
from tests.support.streams import LIST, record

pytestmark = pytest.mark.slow

WATCH = """(url) => {
    window.seen = []; window.kinds = []; window.opened = 0; window.states = [];
    window.source = new EventSource(url);
    source.onopen = () => opened++;
    source.onerror = () => states.push(source.readyState);
    source.onmessage = (event) => {
        seen.push(event.lastEventId); kinds.push(event.type + (JSON.parse(event.data).id === event.lastEventId));
    };
    source.addEventListener("reset", (event) => { seen.push("reset"); kinds.push(event.type); });
}"""  # noqa: E501
FETCH = """async (url) => {
    const answer = await fetch(url, {cache: "no-cache"});
    return [answer.status, answer.headers.get("ETag"), (await answer.json()).id];
}"""
FETCH_FAILS = """async (url) => {
    try { const answer = await fetch(url); return answer.status; } catch (error) { return error.name; }
}"""  # noqa: E501


@pytest.fixture
async def make_open_api(make_api: Callable[..., Any]) -> Callable[..., Any]:
    """Starts API processes that take no credential, as a browser's `EventSource` has none to
    send."""

    async def make(**values: Any) -> Api:
        api: Api = await make_api(auth="none", jwt_secret=None, **values)
        return api

    return make


async def seen(page: Page, count: int, seconds: float = 10) -> list[str]:
    """What the page's source has seen, once it is so much or the time is up."""
    found: list[str] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            found = await page.evaluate("seen")
            await asyncio.sleep(0.02)
    return found


async def watch(page: Page, api: Api, url: str = LIST) -> None:
    """Makes a source and waits until it is open."""
    await page.evaluate(WATCH, url)
    async with asyncio.timeout(10):
        while not await page.evaluate("opened") or not len(api.context.watchers):
            await asyncio.sleep(0.02)


async def test_event_source_gets_events_as_they_are_recorded(
    page: Page, make_open_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event comes once, in order; when the stream ends the browser comes back by itself, and
    misses nothing."""
    monkeypatch.setattr(event_frames, "RETRY_MS", (100, 300))
    api: Api = await make_open_api()
    ids = await record(api, 2)
    await api.settle()
    await page.goto(f"{api.url}/healthz")
    await watch(page, api)
    ids = await record(api, 3)
    assert await seen(page, 3) == ids
    for round_ in (1, 2):
        api.context.watchers.end_all()
        ids += await record(api, 2)
        assert await seen(page, len(ids)) == ids
        assert await page.evaluate("opened") == 1 + round_
    ids += await record(api, 1)
    assert await seen(page, len(ids)) == ids
    assert set(await page.evaluate("kinds")) == {"messagetrue"}
    assert set(await page.evaluate("states")) == {0}, "it was connecting again, never closed"


async def test_event_source_hears_of_a_lost_place(
    page: Page, make_open_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser that was away for longer than its last event was retained gets `reset`, then all
    that is retained."""
    monkeypatch.setattr(event_frames, "RETRY_MS", (300, 400))
    api: Api = await make_open_api(retention_events=3)
    await page.goto(f"{api.url}/healthz")
    await watch(page, api)
    first = await record(api, 1)
    assert await seen(page, 1) == first
    api.context.watchers.end_all()
    ids = await record(api, 5)
    assert await seen(page, 5) == [*first, "reset", *ids[-3:]]


async def test_fetch_revalidates_by_itself(page: Page, make_open_api: Callable[..., Any]) -> None:
    """The browser's cache asks with the ETag that it has: what has not changed is 304 on the wire
    and 200 for the page."""
    api: Api = await make_open_api()
    await record(api, 1)
    await api.settle()
    await page.goto(f"{api.url}/healthz")
    answers = [await page.evaluate(FETCH, f"{LIST}/latest") for _ in range(4)]
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 200
    assert requests(api, 304) == 3
    (changed,) = await record(api, 1)
    await api.settle()
    assert (await page.evaluate(FETCH, f"{LIST}/latest"))[2] == changed
    assert requests(api, 304) == 3


def requests(api: Api, code: int) -> float:
    """How many requests for an event were answered with this code."""
    api.context.responses.count_all_hits()
    labels = {"route": "/v0/cluster/events/{event_id}", "method": "GET", "code": str(code)}
    return (
        api.context.metrics.registry.get_sample_value("cluster_events_http_requests_total", labels)
        or 0.0
    )


async def test_another_origin_is_shut_out(page: Page, make_open_api: Callable[..., Any]) -> None:
    """A page of another origin reads neither answers nor the stream."""
    page_api, api = await make_open_api(), await make_open_api()
    await api.context.replica.append(ALL_GOOD)
    await page.goto(f"{page_api.url}/healthz")
    assert await page.evaluate(FETCH_FAILS, f"{api.url}{LIST}/latest") == "TypeError"
    await page.evaluate(WATCH, api.url + LIST)
    async with asyncio.timeout(10):
        while not await page.evaluate("states.length"):
            await asyncio.sleep(0.02)
    assert await page.evaluate("[opened, states[0]]") == [0, 2], "closed, for good"


async def test_a_named_origin_reads_and_watches(
    page: Page, make_open_api: Callable[..., Any]
) -> None:
    """A page of an origin that is named reads answers with their ETags, asks with a preflight, and
    watches."""
    page_api: Api = await make_open_api()
    api: Api = await make_open_api(cors_origins=page_api.url)
    await api.context.replica.append(ALL_GOOD)
    await page.goto(f"{page_api.url}/healthz")
    status, etag, event_id = await page.evaluate(FETCH, f"{api.url}{LIST}/latest")
    assert (status, etag[0]) == (200, '"')
    preflighted = (
        'async ([url, etag]) => (await fetch(url, {headers: {"If-None-Match": etag}})).status'
    )
    assert await page.evaluate(preflighted, [f"{api.url}{LIST}/latest", etag]) == 304
    await watch(page, api, api.url + LIST)
    ids = await record(api, 2)
    assert await seen(page, 2) == ids
    assert event_id not in ids
