"""The query parameters of the event list (deploy/API.md)."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from multidict import MultiMapping

from service.errors import InvalidQueryParam
from service.events import Selector, Status, canonical_uuid, microseconds
from service.replica.event_filter import MOST, MOST_FULL, EventFilter, Selection
from service.settings import SERVICE_NAME

T = TypeVar("T")

PAGING = ("limit", "before", "since", "until")
"""The parameters that a list has and a stream has not."""
PARAMETERS = (*PAGING, "selector", "service", "status")
"""Those that are looked at; all others are ignored."""

_LIMIT = re.compile(r"[0-9]{1,4}", re.ASCII)


def parse(query: "MultiMapping[str]") -> EventFilter | None:
    """The page that a query asks for, or `None` if it asks for all events with their `status`
    fields.

    Raises `InvalidQueryParam`.
    """
    given = _given(query)
    selection = _selection(given)
    if given.keys() <= {"selector"} and selection == Selection():
        return None
    limit = _parsed(given, "limit", _limit) or MOST
    return EventFilter(
        selection=selection,
        limit=min(limit, MOST_FULL) if selection.selector is Selector.ALL else limit,
        before=_parsed(given, "before", _uuid),
        since=_parsed(given, "since", _time),
        until=_parsed(given, "until", _time),
        query=tuple((name, value) for name, value in given.items() if name != "before"),
    )


def parse_stream(query: "MultiMapping[str]") -> Selection:
    """What a stream sends. Raises `InvalidQueryParam`, also for the parameters that only a page
    has."""
    for name in PAGING:
        if name in query:
            raise InvalidQueryParam(
                name, query[name], "a stream does not take it: it begins after `Last-Event-ID`"
            )
    return _selection(_given(query))


def _given(query: "MultiMapping[str]") -> dict[str, str]:
    """The parameters of a query that are looked at, each given once. Raises `InvalidQueryParam`."""
    given = {name: _one(query, name) for name in PARAMETERS if name in query}
    if (
        "status" in given
    ):  # A status that is named again adds nothing, neither to the work nor to the link.
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
    # The `status` projection has no text of a service in it: a field's bytes cannot stand for
    # anything else.
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
