"""The list's parameters: which of the retained events are returned, and how much of each (DESIGN, section 3)."""

import asyncio
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

from multidict import MultiMapping

from service.errors import InvalidQueryParam
from service.events import Selector, Status, canonical_uuid, microseconds
from service.settings import SERVICE_NAME
from service.store import Entry

T = TypeVar("T")

PATH = "/v0/cluster/events"
MOST = 1_000
"""Events of a page, ..."""
MOST_FULL = 100
"""... and of one with full events: 5 MB of the longest, and 200 KB of the usual ones."""
AT_A_TURN = 2_000
"""Events that are looked at in one turn of the loop, about 1 ms: there may be a hundred thousand, and none that is selected."""
PAGING = ("limit", "before", "since", "until")
"""The parameters that a list has and a stream has not."""
PARAMETERS = (*PAGING, "selector", "service", "status")
"""Those that are looked at; all others are ignored."""

_LIMIT = re.compile(r"[0-9]{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a page and a stream have in common: which events, by the statuses in them, and which fields of each.

    An event is selected if one of `patterns` is in its `status` projection, or if there are none. Selections that mean the
    same are equal.
    """

    selector: Selector = Selector.STATUS
    patterns: tuple[bytes, ...] = ()

    def selects(self, entry: Entry) -> bool:
        """Whether the event is one of them."""
        return not self.patterns or any(pattern in entry.status for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Filter:
    """A page: at most `limit` of the selected events, older than the event `before`, recorded at or after `since` and before
    `until` (µs). `query` is what the link to the next page repeats."""

    selection: Selection = Selection()
    limit: int = MOST
    before: str | None = None
    since: int | None = None
    until: int | None = None
    query: tuple[tuple[str, str], ...] = ()

    async def apply(self, entries: Sequence[Entry], before: Entry | None) -> tuple[list[Entry], bool]:
        """The events of a page, newest first, and whether there are more. `before` is the entry of that id.

        `entries` are all events, newest first. The window is found by bisection; only what is in it is looked at, some events
        at a turn of the loop.
        """
        start, stop = 0, len(entries)
        if before is not None:
            mark = before.recorded_at, before.id
            start = _first(entries, lambda entry: (entry.recorded_at, entry.id) < mark)
        if (until := self.until) is not None:
            start = max(start, _first(entries, lambda entry: entry.recorded_at < until))
        if (since := self.since) is not None:
            stop = _first(entries, lambda entry: entry.recorded_at < since)
        page: list[Entry] = []
        for looked_at, index in enumerate(range(start, stop), 1):
            if looked_at % AT_A_TURN == 0:
                await asyncio.sleep(0)
            entry = entries[index]
            if not self.selection.selects(entry):
                continue
            if len(page) == self.limit:
                return page, True
            page.append(entry)
        return page, False

    def next_page(self, last: Entry) -> str:
        """The `Link` to what follows a page that was cut after its `last` event (RFC 8288)."""
        return f'<{PATH}?{urlencode([*self.query, ("before", last.id)])}>; rel="next"'


def parse(query: "MultiMapping[str]") -> Filter | None:
    """The page that a query asks for, or `None` if it asks for all events with their `status` fields.

    Raises `InvalidQueryParam`.
    """
    given = _given(query)
    selection = _selection(given)
    if given.keys() <= {"selector"} and selection == Selection():
        return None
    limit = _parsed(given, "limit", _limit) or MOST
    return Filter(
        selection=selection,
        limit=min(limit, MOST_FULL) if selection.selector is Selector.ALL else limit,
        before=_parsed(given, "before", _uuid),
        since=_parsed(given, "since", _time),
        until=_parsed(given, "until", _time),
        query=tuple((name, value) for name, value in given.items() if name != "before"),
    )


def parse_stream(query: "MultiMapping[str]") -> Selection:
    """What a stream sends. Raises `InvalidQueryParam`, also for the parameters that only a page has."""
    for name in PAGING:
        if name in query:
            raise InvalidQueryParam(name, query[name], "a stream does not take it: it begins after `Last-Event-ID`")
    return _selection(_given(query))


def _given(query: "MultiMapping[str]") -> dict[str, str]:
    """The parameters of a query that are looked at, each given once. Raises `InvalidQueryParam`."""
    given = {name: _one(query, name) for name in PARAMETERS if name in query}
    if "status" in given:  # A status that is named again adds nothing, neither to the work nor to the link.
        given["status"] = ",".join(dict.fromkeys(given["status"].split(",")))
    return given


def _parsed(given: Mapping[str, str], name: str, parser: Callable[[str], T]) -> T | None:
    """What a parameter means, `None` if it is not given. Raises `InvalidQueryParam`."""
    if name not in given:
        return None
    try:
        return parser(given[name])
    except ValueError as error:
        raise InvalidQueryParam(name, given[name], str(error)) from None


def _selection(given: Mapping[str, str]) -> Selection:
    service = _parsed(given, "service", _service)
    statuses = _parsed(given, "status", _statuses)
    if service is not None and statuses is None:
        raise InvalidQueryParam("service", service, "it goes with `status`")
    # The `status` projection has no text of a service in it: a field's bytes cannot stand for anything else.
    field = f'"{service}_status":' if service is not None else '_status":'
    return Selection(
        _parsed(given, "selector", selector) or Selector.STATUS,
        tuple(f'{field}"{status}"'.encode() for status in statuses or ()),
    )


def selector(text: str) -> Selector:
    """Raises `ValueError` for a text that is no selector."""
    try:
        return Selector(text)
    except ValueError:
        raise ValueError("expected one of: status, all") from None


def one_selector(query: "MultiMapping[str]") -> Selector:
    """The selector of a route that has no other parameter. Raises `InvalidQueryParam`."""
    if "selector" not in query:
        return Selector.STATUS
    text = _one(query, "selector")
    try:
        return selector(text)
    except ValueError as error:
        raise InvalidQueryParam("selector", text, str(error)) from None


def _one(query: "MultiMapping[str]", name: str) -> str:
    values = query.getall(name)
    if len(values) > 1:
        raise InvalidQueryParam(name, ",".join(values), "it is given more than once")
    return values[0]


def _limit(text: str) -> int:
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= MOST:
        raise ValueError(f"expected a number from 1 to {MOST}")
    return int(text)


def _uuid(text: str) -> str:
    event_id = canonical_uuid(text)
    if event_id is None:
        raise ValueError("expected the id of an event")
    return event_id


def _time(text: str) -> int:
    """A time in µs since 1970. A `+` that was not percent-encoded arrives as a space."""
    return microseconds(f"{text[:-6]}+{text[-5:]}" if text[-6:-5] == " " else text)


def _service(text: str) -> str:
    """Any service may be asked for: events also speak of those that are configured no more."""
    if not SERVICE_NAME.fullmatch(text):
        raise ValueError("expected the name of a service, such as api")
    return text


def _statuses(text: str) -> tuple[Status, ...]:
    """The statuses, each once and in one order, however often they are named."""
    names = set(text.split(","))
    if not names <= set(Status):
        raise ValueError(f"expected some of: {','.join(Status)}")
    return tuple(status for status in Status if status in names)


def position(entries: Sequence[Entry], entry: Entry) -> int:
    """How many of the entries, which are newest first, are newer than one. It need not be among them."""
    mark = entry.recorded_at, entry.id
    return _first(entries, lambda other: (other.recorded_at, other.id) <= mark)


def _first(entries: Sequence[Entry], holds: Callable[[Entry], bool]) -> int:
    """The index of the first entry from which on a condition holds."""
    return bisect_left(entries, True, key=holds)
