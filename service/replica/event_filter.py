"""Which retained events a page or an event stream selects, by their `status` projections."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from service.events import Selector
from service.store import Entry

PATH = "/v0/cluster/events"
MOST = 1_000
"""The maximum number of events on a page (contract: `limit`)."""
MOST_FULL = 100
"""The maximum on a page of full events: 5 MB of the longest, 200 KB of usual ones."""
PER_TURN = 2_000
"""Events that are compared before other tasks run, about 1 ms. There may be 100,000 events of which
none is selected."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a page or a stream contains, and which of their fields.

    An event is selected if one of `patterns` is in its `status` projection, or if there are none.
    Selections with the same meaning are equal.
    """

    selector: Selector = Selector.STATUS
    patterns: tuple[bytes, ...] = ()

    def selects(self, entry: Entry) -> bool:
        """Whether the event is selected."""
        return not self.patterns or any(pattern in entry.status for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A page of the list.

    At most `limit` selected events that are older than the event `before`, and recorded at or after
    `since` and before `until` (µs). `query` is repeated in the link to the next page.
    """

    selection: Selection = Selection()
    limit: int = MOST
    before: str | None = None
    since: int | None = None
    until: int | None = None
    query: tuple[tuple[str, str], ...] = ()

    async def apply(
        self, entries: Sequence[Entry], before: Entry | None
    ) -> tuple[list[Entry], bool]:
        """The events of the page, newest first, and whether there are more.

        `entries` are all events, newest first; `before` is the entry with that id. The range of
        times is found by bisection. Only events in it are compared, `PER_TURN` at a time.
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
        for compared, index in enumerate(range(start, stop), 1):
            if compared % PER_TURN == 0:
                await asyncio.sleep(0)
            entry = entries[index]
            if not self.selection.selects(entry):
                continue
            if len(page) == self.limit:
                return page, True
            page.append(entry)
        return page, False

    def next_page(self, last: Entry) -> str:
        """The `Link` to the next page, after the `last` event of this one (RFC 8288)."""
        return f'<{PATH}?{urlencode([*self.query, ("before", last.id)])}>; rel="next"'


def position(entries: Sequence[Entry], entry: Entry) -> int:
    """How many of the entries are newer than `entry`, which need not be among them.

    `entries` is newest first.
    """
    mark = entry.recorded_at, entry.id
    return _first_index(entries, lambda other: (other.recorded_at, other.id) <= mark)


def _first_index(entries: Sequence[Entry], condition: Callable[[Entry], bool]) -> int:
    """The index of the first entry for which a condition is true, as for all after it."""
    return bisect_left(entries, True, key=condition)
