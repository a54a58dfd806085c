"""Which of the retained events a page or a stream selects: pure functions of their `status`
projections."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from service.events import Selector
from service.store import Entry

PATH = "/v0/cluster/events"
MOST = 1_000
"""Events of a page, ..."""
MOST_FULL = 100
"""... and of one with full events: 5 MB of the longest, and 200 KB of the usual ones."""
PER_TURN = 2_000
"""Events that are looked at in one turn of the loop, about 1 ms: there may be a hundred thousand,
and none that is selected."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a page and a stream have in common: which events, by the statuses in them, and which
    fields of each.

    An event is selected if one of `patterns` is in its `status` projection, or if there are none.
    Selections that mean the same are equal.
    """

    selector: Selector = Selector.STATUS
    patterns: tuple[bytes, ...] = ()

    def selects(self, entry: Entry) -> bool:
        """Whether the event is one of them."""
        return not self.patterns or any(pattern in entry.status for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A page: at most `limit` of the selected events, older than the event `before`, recorded at or
    after `since` and before `until` (µs). `query` is what the link to the next page repeats."""

    selection: Selection = Selection()
    limit: int = MOST
    before: str | None = None
    since: int | None = None
    until: int | None = None
    query: tuple[tuple[str, str], ...] = ()

    async def apply(
        self, entries: Sequence[Entry], before: Entry | None
    ) -> tuple[list[Entry], bool]:
        """The events of a page, newest first, and whether there are more. `before` is the entry of
        that id.

        `entries` are all events, newest first. The window is found by bisection; only what is in it
        is looked at, some events at a turn of the loop.
        """
        start, stop = 0, len(entries)
        if before is not None:
            mark = before.recorded_at, before.id
            start = _first_index(entries, lambda entry: (entry.recorded_at, entry.id) < mark)
        if (until := self.until) is not None:
            start = max(start, _first_index(entries, lambda entry: entry.recorded_at < until))
        if (since := self.since) is not None:
            stop = _first_index(entries, lambda entry: entry.recorded_at < since)
        page: list[Entry] = []
        for looked_at, index in enumerate(range(start, stop), 1):
            if looked_at % PER_TURN == 0:
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


def position(entries: Sequence[Entry], entry: Entry) -> int:
    """How many of the entries, which are newest first, are newer than one. It need not be among
    them."""
    mark = entry.recorded_at, entry.id
    return _first_index(entries, lambda other: (other.recorded_at, other.id) <= mark)


def _first_index(entries: Sequence[Entry], holds: Callable[[Entry], bool]) -> int:
    """The index of the first entry from which on a condition holds."""
    return bisect_left(entries, True, key=holds)
