"""The list's parameters: pages, times, filters, selectors."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from service.api.handlers import event_query as listing
from service.api.responses import pages as page_bodies
from service.events import Status, rfc3339, uuid7
from service.replica.event_filter import EventFilter, Selection
from service.store import AppendResult, Entry
from tests.support.api import Api, Got
from tests.support.observations import ALL_GOOD, BAD, GOOD, LONG, ONE_BAD

LIST = "/v0/cluster/events"


async def record(api: Api, count: int) -> list[AppendResult]:
    """Events, oldest first: every third has the compiler broken."""
    events = [
        await api.store.append(ONE_BAD if number % 3 == 2 else ALL_GOOD) for number in range(count)
    ]
    await api.settle()
    return events


async def ids(api: Api, query: str) -> list[str]:
    """The ids of the events that a query lets through."""
    got = await api.get(f"{LIST}?{query}")
    assert got.status == 200, got.body
    return [event["id"] for event in got.json]


async def test_without_parameters_it_is_the_plain_list(api: Api) -> None:
    """All events, newest first; parameters that are not the list's change nothing, not even the
    entity tag."""
    events = await record(api, 5)
    plain = await api.get(LIST)
    assert [event["id"] for event in plain.json] == [
        appended.event.id for appended in reversed(events)
    ]
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
    assert [event["id"] for event in collected] == [
        appended.event.id for appended in reversed(events)
    ]
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


@pytest.mark.parametrize("form", ["{}456Z", "{}999Z", "{}Z", "{}z"])
async def test_finer_times_than_ours_are_cut(api: Api, form: str) -> None:
    """Nine digits of fraction name the same microsecond as six, in either case."""
    events = [appended.event for appended in await record(api, 4)]
    middle = form.format(rfc3339(events[2].recorded_at)[:-1].replace("T", "t"))
    assert await ids(api, f"since={middle}") == [event.id for event in reversed(events[2:])]
    assert await ids(api, f"until={middle}") == [event.id for event in reversed(events[:2])]


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
        ("since=9999-12-31T23:59:59-23:59", "since"),
        ("until=0001-01-01T00:00:00%2B00:01", "until"),
        ("since=2026-01-01+00:00:00Z", "since"),
        ("service=No-Service&status=Healthy", "service"),
        ("service=&status=Healthy", "service"),
        ("service=api&service=api&status=Healthy", "service"),
        ("status=Healthy&status=Healthy", "status"),
        ("status=Healthy,", "status"),
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


@pytest.mark.parametrize(
    ("many", "once"),
    [
        ("status=" + ",".join(["Unhealthy"] * 235), "status=Unhealthy"),
        ("status=" + ",".join(["Unhealthy", "Healthy"] * 120), "status=Unhealthy,Healthy"),
        ("service=api&status=" + ",".join(["Healthy"] * 235), "service=api&status=Healthy"),
        (
            "selector=all&limit=5&status=" + ",".join(["Healthy"] * 235),
            "selector=all&limit=5&status=Healthy",
        ),
    ],
)
async def test_a_status_named_again_costs_nothing(many: str, once: str) -> None:
    """The filter is the very one that names each status once; so are its work, and the link to its
    next page."""
    wanted = listing.parse(MultiDict(parse_qsl(many)))
    assert wanted is not None
    assert wanted == listing.parse(MultiDict(parse_qsl(once)))
    assert len(wanted.selection.patterns) <= len(Status)


def test_the_order_of_statuses_means_nothing() -> None:
    """Two spellings of one wish select by the same patterns: a stream makes its frames once for
    both."""
    one, other = (
        listing.parse_stream(MultiDict(status=text))
        for text in ("Healthy,Unhealthy", "Unhealthy,Healthy")
    )
    assert one == other
    assert hash(one) == hash(other)


def test_any_service_takes_no_more_patterns_than_one() -> None:
    """Without `service` the work does not grow with the number of services."""
    assert len(listing.parse_stream(MultiDict(status="Healthy")).patterns) == 1


class Counted(Sequence[Entry]):
    """Entries that count how often they are looked at."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries, self.looks = entries, 0

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return self.entries[index]


@pytest.mark.slow
@pytest.mark.parametrize(
    "query", ["before={id}&limit=5", "since={time}&until={time}", "until={time}&limit=5"]
)
async def test_a_page_is_found_without_reading_what_is_newer(query: str) -> None:
    """However many events are retained, a page looks at a few of them beyond its own."""
    entries = [Entry(uuid7(us), us, b"{}") for us in range(100_000, 0, -1)]
    middle = entries[50_000]
    wanted = listing.parse(
        MultiDict(parse_qsl(query.format(id=middle.id, time=rfc3339(middle.recorded_at))))
    )
    assert wanted is not None
    counted = Counted(entries)
    page, _ = await wanted.apply(counted, middle if wanted.before else None)
    assert page == ([] if wanted.since else entries[50_001:50_006])
    assert counted.looks < 50


async def test_a_long_search_lets_others_in() -> None:
    """Where no event is selected, all are looked at, and the loop turns meanwhile."""
    turns: list[None] = []

    async def others() -> None:
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    wanted = EventFilter(Selection(patterns=(b"nothing",)))
    task = asyncio.create_task(others())
    assert await wanted.apply([Entry("", 0, b"{}")] * 20_000, None) == ([], False)
    task.cancel()
    assert len(turns) >= 9


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12),
    st.integers(0, 12),
    st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)),
    st.integers(1, 5),
    st.booleans(),
)
def test_a_page_is_what_a_plain_reading_gives(
    rows: list[tuple[int, bool]],
    place: int,
    window: tuple[int | None, int | None],
    limit: int,
    only_good: bool,
) -> None:
    """Bisection finds what looking at every event finds, also between events of the same
    microsecond."""
    since, until = window
    entries = [
        Entry(f"{number:02}", us, b"good" if good else b"bad")
        for number, (us, good) in enumerate(rows)
    ]
    entries.sort(key=lambda entry: (entry.recorded_at, entry.id), reverse=True)
    before = entries[place] if place < len(entries) else None
    patterns = (b"good",) if only_good else ()
    wanted = EventFilter(Selection(patterns=patterns), limit, None, since, until)
    expected = [
        entry
        for entry in entries
        if (before is None or (entry.recorded_at, entry.id) < (before.recorded_at, before.id))
        and (since is None or entry.recorded_at >= since)
        and (until is None or entry.recorded_at < until)
        and (not only_good or entry.status == b"good")
    ]
    assert asyncio.run(wanted.apply(entries, before)) == (expected[:limit], len(expected) > limit)


async def test_services_that_are_configured_no_more_can_be_asked_for(make_api: Any) -> None:
    """Events speak of the services of their time: each of them can be filtered by; one that never
    was selects nothing."""
    former: Api = await make_api(services="database")
    event = await former.store.append({"database": BAD})
    api: Api = await make_api()
    await api.store.append(ALL_GOOD)
    await api.settle()
    assert await ids(api, "service=database&status=Unhealthy") == [event.event.id]
    assert await ids(api, "status=Unhealthy") == [event.event.id]
    assert await ids(api, "service=unheard_of&status=Unhealthy") == []


# -- how much a page has ---------------------------------------------------------------------------


async def followed(api: Api, path: str) -> list[Got]:
    """The pages from one on, by their links."""
    pages = []
    while path:
        pages.append(await api.get(path))
        assert pages[-1].status == 200, pages[-1].body
        link = re.fullmatch(r'<(.*)>; rel="next"', pages[-1].headers.get("Link", ""))
        path = link[1] if link else ""
    return pages


@pytest.mark.parametrize(
    "query", ["selector=all", "selector=all&limit=1000", "selector=all&since=2020-01-01T00:00:00Z"]
)
async def test_a_page_has_a_hundred_full_events_at_most(api: Api, query: str) -> None:
    """More are on the pages that follow; without `limit` it is a first page as well. No event is
    missing or twice."""
    events = await record(api, 130)
    pages = await followed(api, f"{LIST}?{query}")
    assert [len(page.json) for page in pages] == [100, 30]
    assert [event["id"] for page in pages for event in page.json] == [
        done.event.id for done in reversed(events)
    ]


async def test_a_page_is_bounded_in_bytes(make_api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends before it has too many bytes, whatever its limit, and has one event at the
    least."""
    monkeypatch.setattr(page_bodies, "PAGE_BYTES", 200_000)
    api: Api = await make_api(events_memory=0)
    recorded = [await api.store.append(LONG) for _ in range(11)]
    await api.settle()
    pages = await followed(api, f"{LIST}?selector=all&limit=10")
    assert [len(page.json) for page in pages] == [4, 4, 3]
    assert all(len(page.body) <= 200_000 for page in pages)
    assert [event["id"] for page in pages for event in page.json] == [
        done.event.id for done in reversed(recorded)
    ]
    monkeypatch.setattr(page_bodies, "PAGE_BYTES", 10)
    assert [len(page.json) for page in await followed(api, f"{LIST}?selector=all")] == [1] * 11
    assert [len(page.json) for page in await followed(api, f"{LIST}?limit=3")] == [1] * 11


async def test_the_longest_pages_have_four_mebibytes(api: Api) -> None:
    """The bound that the contract names holds for the longest events."""
    for _ in range(100):
        await api.store.append(LONG)
    await api.settle()
    pages = await followed(api, f"{LIST}?selector=all")
    assert [len(page.json) for page in pages] == [86, 14]
    assert 4_000_000 < len(pages[0].body) <= 4 * 1024 * 1024


@pytest.mark.slow
async def test_the_whole_list_stays_whole(make_api: Any) -> None:
    """Without parameters, or with `selector=status` alone, all events are on one page, however many
    are retained."""
    api: Api = await make_api(retention_events=1_200)
    for _ in range(1_100):
        await api.store.append(ALL_GOOD)
    await api.settle()
    whole = await api.get(LIST)
    assert len(whole.json) == 1_100
    named = await api.get(f"{LIST}?selector=status")
    assert (named.body, named.headers["ETag"], "Link" in named.headers) == (
        whole.body,
        whole.headers["ETag"],
        False,
    )
    assert [
        len(page.json) for page in await followed(api, f"{LIST}?since=2020-01-01T00:00:00Z")
    ] == [1_000, 100]


async def test_full_events_beyond_the_memory_are_served(make_api: object) -> None:
    """A list of full events is complete even where none of them can be kept in memory."""
    api: Api = await make_api(events_memory=0)  # type: ignore[operator]
    await record(api, 70)
    await api.store.append({"api": GOOD, "compiler": GOOD, "runner": GOOD})
    await api.settle()
    got = await api.get(f"{LIST}?selector=all")
    assert len(got.json) == 71
    assert all(event["compiler_self_info"] in {"fine", "broken"} for event in got.json)
