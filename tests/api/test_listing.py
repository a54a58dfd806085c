"""The list's parameters: pages, times, filters, selectors."""

import re
from urllib.parse import quote

import pytest

from service.events import rfc3339
from service.store import Appended
from tests.conftest import ALL_GOOD, BAD, GOOD, ONE_BAD, Api

LIST = "/v0/cluster/events"


async def record(api: Api, count: int) -> list[Appended]:
    """Events, oldest first: every third has the compiler broken."""
    events = [await api.store.append(ONE_BAD if number % 3 == 2 else ALL_GOOD) for number in range(count)]
    await api.settle()
    return events


async def ids(api: Api, query: str) -> list[str]:
    """The ids of the events that a query lets through."""
    got = await api.get(f"{LIST}?{query}")
    assert got.status == 200, got.body
    return [event["id"] for event in got.json]


async def test_without_parameters_it_is_the_plain_list(api: Api) -> None:
    """All events, newest first; parameters that are not the list's change nothing, not even the entity tag."""
    events = await record(api, 5)
    plain = await api.get(LIST)
    assert [event["id"] for event in plain.json] == [appended.event.id for appended in reversed(events)]
    other = await api.get(f"{LIST}?whatever=1")
    assert (other.body, other.headers["ETag"]) == (plain.body, plain.headers["ETag"])
    assert "Link" not in plain.headers


@pytest.mark.parametrize("selector", ["status", "all"])
async def test_pages_cover_everything_once(api: Api, selector: str) -> None:
    """Following the links gives every event once, in order, whatever is recorded meanwhile."""
    events = await record(api, 11)
    collected, path, pages = [], f"{LIST}?limit=4&selector={selector}", 0
    while path:
        got = await api.get(path)
        collected += got.json
        link = re.fullmatch(r'<(.*)>; rel="next"', got.headers.get("Link", ""))
        path = link[1] if link else ""
        pages += 1
        await api.store.append(ALL_GOOD)
        await api.settle()
    assert [event["id"] for event in collected] == [appended.event.id for appended in reversed(events)]
    assert pages == 3
    assert all(("api_self_info" in event) == (selector == "all") for event in collected)


async def test_since_is_inclusive_and_until_is_not(api: Api) -> None:
    """Windows that follow each other share no event and lose none."""
    events = [appended.event for appended in await record(api, 6)]
    middle = quote(rfc3339(events[3].recorded_at))
    assert await ids(api, f"since={middle}") == [event.id for event in reversed(events[3:])]
    assert await ids(api, f"until={middle}") == [event.id for event in reversed(events[:3])]


async def test_an_offset_may_come_unencoded(api: Api) -> None:
    """`+02:00` is understood although a query's `+` means a space."""
    await record(api, 2)
    assert len(await ids(api, "since=2020-01-01T00:00:00+02:00")) == 2
    assert await ids(api, "until=2020-01-01t00:00:00z") == []


async def test_filters_by_status(api: Api) -> None:
    """`status` keeps the events in which the service, or any service, had one of the statuses."""
    events = [appended.event for appended in await record(api, 6)]
    bad = [event.id for event in reversed(events) if event.services["compiler"] is BAD]
    assert await ids(api, "status=Unhealthy") == bad
    assert await ids(api, "service=compiler&status=Unhealthy,InitialUnhealthy") == bad
    assert await ids(api, "service=api&status=Unhealthy") == []
    assert len(await ids(api, "service=api&status=Healthy&limit=2")) == 2


async def test_a_filtered_list_that_is_cut_keeps_its_filter(api: Api) -> None:
    """The link to the next page repeats what was asked for."""
    await record(api, 9)
    got = await api.get(f"{LIST}?service=compiler&status=Unhealthy&limit=2")
    (path,) = re.findall(r"<(.*)>", got.headers["Link"])
    rest = await api.get(path)
    assert len(got.json) == 2
    assert len(rest.json) == 1
    assert "Link" not in rest.headers


async def test_a_page_can_be_read_conditionally(api: Api) -> None:
    """A page has an entity tag like any other answer."""
    await record(api, 3)
    got = await api.get(f"{LIST}?limit=2")
    again = await api.get(f"{LIST}?limit=2", {"If-None-Match": got.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


async def test_before_an_unknown_event_is_404(api: Api) -> None:
    """Where paging cannot go on, it says so rather than ending as if all had been seen."""
    await record(api, 2)
    got = await api.get(f"{LIST}?before=01940000-0000-7000-8000-000000000000")
    assert (got.status, got.json["error_code"]) == (404, "UnknownClusterMonitorEvent")


async def test_before_takes_any_spelling(api: Api) -> None:
    """An id may come in upper case and without hyphens."""
    events = await record(api, 3)
    spelled = events[2].event.id.replace("-", "").upper()
    assert len(await ids(api, f"before={spelled}")) == 2


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1_0", "limit"),
        ("limit=%EF%BC%91", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=1", "limit"),
        ("before=x", "before"),
        ("before=latest", "before"),
        ("since=yesterday", "since"),
        ("since=2026-01-01", "since"),
        ("since=2026-01-01T00:00:00", "since"),
        ("since=2026-13-01T00:00:00Z", "since"),
        ("until=20260101T000000Z", "until"),
        ("selector=none", "selector"),
        ("selector=", "selector"),
        ("selector=all&selector=all", "selector"),
        ("service=nothing&status=Healthy", "service"),
        ("service=api", "service"),
        ("status=healthy", "status"),
        ("status=", "status"),
    ],
)
async def test_bad_parameters_are_named(api: Api, query: str, param: str) -> None:
    """A value that is none of those that a parameter takes is 400, with the parameter's name."""
    got = await api.get(f"{LIST}?{query}")
    assert (got.status, got.json["error_code"]) == (400, "InvalidQueryParam")
    assert got.json["details"]["param"] == param


async def test_full_events_beyond_the_memory_are_served(make_api: object) -> None:
    """A list of full events is complete even where none of them can be kept in memory."""
    api: Api = await make_api(events_memory=0)  # type: ignore[operator]
    await record(api, 70)
    await api.store.append({"api": GOOD, "compiler": GOOD, "runner": GOOD})
    await api.settle()
    got = await api.get(f"{LIST}?selector=all")
    assert len(got.json) == 71
    assert all(event["compiler_self_info"] in {"fine", "broken"} for event in got.json)
