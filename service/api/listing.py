"""The list's parameters: which of the retained events are returned, and how much of each (DESIGN, section 3)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

from multidict import MultiMapping

from service.errors import InvalidQueryParam
from service.events import Selector, Status, canonical_uuid, microseconds
from service.store import Entry

T = TypeVar("T")

PATH = "/v0/cluster/events"
MOST = 1_000
PARAMETERS = ("limit", "before", "since", "until", "selector", "service", "status")
"""Those that are looked at; all others are ignored."""

_LIMIT = re.compile(r"[0-9]{1,4}", re.ASCII)
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:[Zz]|[ +-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events: at most `limit`, older than the event `before`, recorded at or after `since` and before `until` (µs), with
    one of `patterns` in their `status` projection (any, if there are none)."""

    limit: int = MOST
    before: str | None = None
    since: int | None = None
    until: int | None = None
    selector: Selector = Selector.STATUS
    patterns: tuple[bytes, ...] = ()
    given: Mapping[str, str] | None = None

    def apply(self, entries: Sequence[Entry], before: Entry | None) -> tuple[list[Entry], bool]:
        """The events of a page, newest first, and whether there are more. `before` is the entry of that id."""
        page: list[Entry] = []
        for entry in entries:
            if before is not None and (entry.recorded_at, entry.id) >= (before.recorded_at, before.id):
                continue
            if self.until is not None and entry.recorded_at >= self.until:
                continue
            if self.since is not None and entry.recorded_at < self.since:
                break
            if self.patterns and not any(pattern in entry.status for pattern in self.patterns):
                continue
            if len(page) == self.limit:
                return page, True
            page.append(entry)
        return page, False

    def next_page(self, page: Sequence[Entry]) -> str:
        """The `Link` to what follows a page that was cut (RFC 8288)."""
        query = urlencode({**(self.given or {}), "limit": self.limit, "before": page[-1].id})
        return f'<{PATH}?{query}>; rel="next"'


def parse(query: "MultiMapping[str]", services: Sequence[str]) -> Filter | None:
    """The filter that a query asks for, or `None` if it has no parameter of the list. Raises `InvalidQueryParam`."""
    given = {name: _one(query, name) for name in PARAMETERS if name in query}
    if not given:
        return None

    def parsed(name: str, parser: Callable[[str], T]) -> T | None:
        if name not in given:
            return None
        try:
            return parser(given[name])
        except ValueError as error:
            raise InvalidQueryParam(name, given[name], str(error)) from None

    service = parsed("service", lambda text: _service(text, services))
    statuses = parsed("status", _statuses) or ()
    if service and not statuses:
        raise InvalidQueryParam("service", service, "it goes with `status`")
    watched = [service] if service else services
    return Filter(
        limit=parsed("limit", _limit) or MOST,
        before=parsed("before", _uuid),
        since=parsed("since", time_of),
        until=parsed("until", time_of),
        selector=parsed("selector", selector) or Selector.STATUS,
        # The `status` projection holds no text of anybody's: in its bytes a field cannot be mistaken.
        patterns=tuple(f'"{name}_status":"{status}"'.encode() for name in watched for status in statuses),
        given={name: value for name, value in given.items() if name not in {"limit", "before"}},
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


def time_of(text: str) -> int:
    """An RFC 3339 time in µs. A `+` that was not percent-encoded arrives as a space."""
    if not _TIME.fullmatch(text):
        raise ValueError("expected a time as in RFC 3339, such as 2026-01-31T08:00:00Z")
    return microseconds(text.upper().replace(" ", "+"))


def _service(text: str, services: Sequence[str]) -> str:
    if text not in services:
        raise ValueError(f"expected one of: {', '.join(services)}")
    return text


def _statuses(text: str) -> tuple[Status, ...]:
    try:
        return tuple(Status(name) for name in text.split(","))
    except ValueError:
        raise ValueError(f"expected some of: {','.join(Status)}") from None
