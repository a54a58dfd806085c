"""The query parameters of the event list (deploy/API.md)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from multidict import MultiMapping

from service.errors import InvalidQueryParam
from service.events import Selector, Status, canonical_uuid, microseconds
from service.replica.event_filter import MOST, MOST_FULL, EventFilter, Selection
from service.settings import SERVICE_NAME

T = TypeVar("T")

PAGING = ("limit", "before", "since", "until")
"""The parameters that apply to the list only, not to an event stream."""
PARAMETERS = (*PAGING, "selector", "service", "status")
"""All parameters of the list; others are ignored."""

_LIMIT = re.compile(r"[0-9]{1,4}", re.ASCII)


def parse(query: "MultiMapping[str]") -> EventFilter | None:
    """The requested page; `None` for all events with their `status` fields.

    Raises `InvalidQueryParam`.
    """
    given = _given(query, PARAMETERS)
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
    """The events that a stream sends, and their fields.

    Raises `InvalidQueryParam`, also for the parameters that apply to the list only.
    """
    for name in PAGING:
        if name in query:
            raise InvalidQueryParam(
                name,
                query[name],
                "an event stream does not support it: it begins after `Last-Event-ID`",
            )
    return _selection(_given(query, PARAMETERS))


def parse_selector(query: "MultiMapping[str]") -> Selector:
    """The selector of a route that has no other parameter. Raises `InvalidQueryParam`."""
    return _selector(_given(query, ("selector",)))


def _given(query: "MultiMapping[str]", names: Sequence[str]) -> dict[str, str]:
    """The parameters with these names that the query has. Raises `InvalidQueryParam`."""
    given = {name: _one(query, name) for name in names if name in query}
    # Repeated statuses are removed: they would make the search and the link longer.
    if "status" in given:
        given["status"] = ",".join(dict.fromkeys(given["status"].split(",")))
    return given


def _parsed(given: Mapping[str, str], name: str, parser: Callable[[str], T]) -> T | None:
    """The parsed value of a parameter; `None` without it. Raises `InvalidQueryParam`."""
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
        raise InvalidQueryParam("service", service, "it requires the parameter `status`")
    # The `status` projection has no text from outside, so these bytes can only be that field.
    field = f'"{service}_status":' if service is not None else '_status":'
    return Selection(
        _selector(given),
        tuple(f'{field}"{status}"'.encode() for status in statuses or ()),
    )


def _selector(given: Mapping[str, str]) -> Selector:
    return _parsed(given, "selector", _parse_selector) or Selector.STATUS


def _parse_selector(text: str) -> Selector:
    try:
        return Selector(text)
    except ValueError:
        raise ValueError("expected one of: status, all") from None


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
    """The name of a service. It need not be configured: events may have former services."""
    if not SERVICE_NAME.fullmatch(text):
        raise ValueError("expected the name of a service, such as api")
    return text


def _statuses(text: str) -> tuple[Status, ...]:
    """The statuses, each once and in a fixed order, so that equal selections compare equal."""
    names = set(text.split(","))
    if not names <= set(Status):
        raise ValueError(f"expected some of: {','.join(Status)}")
    return tuple(status for status in Status if status in names)
