"""The bytes of an event stream (WHATWG HTML, "Server-sent events")."""

import random
from collections.abc import Sequence
from email.utils import formatdate

from service.api.http.headers import CACHE_CONTROL, COMMON_HEADERS, CONTENT_TYPE, VARY
from service.events import Selector
from service.replica import Replica, Snapshot
from service.replica.event_filter import Selection
from service.store import Entry

RETRY_MS = (1_000, 5_000)
"""The range of the random times to reconnect, so that not all clients reconnect at once."""

RESET = b"event: reset\ndata: {}\n\n"
# Without the empty line that ends an event: some clients would dispatch an event without data.
COMMENT = b":\n"


def head(wall: float, more: bytes = b"") -> bytes:
    """The head of the response, and the first `retry` field. The stream ends with the connection.

    `more` are further header fields, each preceded by its line break.
    """
    fields = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
        (VARY, "Accept, Accept-Encoding, Authorization"),
        ("X-Accel-Buffering", "no"),  # nginx would keep frames until its buffer is full.
        *COMMON_HEADERS,
        ("Date", formatdate(wall, usegmt=True)),
        ("Connection", "close"),
    ]
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join(lines).encode() + more + b"\r\n\r\n" + retry()


def frame(event_id: str, body: bytes) -> bytes:
    """One event. `body` is JSON without line feeds, so its data is one line."""
    return b"id: %s\ndata: %s\n\n" % (event_id.encode(), body)


def retry() -> bytes:
    """A `retry` field with a random time to reconnect."""
    return b"retry: %d\n" % random.randint(*RETRY_MS)  # noqa: S311  # Spreading, not secrecy.


class ChangeFrames:
    """The frames of one change, made once for all watchers that select the same events."""

    def __init__(
        self, replica: Replica, snapshot: Snapshot, entries: Sequence[Entry] | None
    ) -> None:
        """`entries` are the new events, oldest first; `None` if some may be missing."""
        self._replica = replica
        self._snapshot = snapshot
        self._entries = entries
        self._by_selection: dict[Selection, bytes | None] = {}
        self._by_events: dict[tuple[Selector, tuple[Entry, ...]], bytes | None] = {}

    def frames(self, selection: Selection) -> bytes | None:
        """The frames of the selected events.

        `None` if events may be missing, or if one must be read from the store first.
        """
        if self._entries is None:
            return None
        if selection not in self._by_selection:
            # Different selections often select the same events: the bytes are shared.
            key = selection.selector, tuple(filter(selection.selects, self._entries))
            if key not in self._by_events:
                self._by_events[key] = self._make(*key)
            self._by_selection[selection] = self._by_events[key]
        return self._by_selection[selection]

    def _make(self, selector: Selector, entries: Sequence[Entry]) -> bytes | None:
        frames = []
        for entry in entries:
            body: bytes | None = entry.status
            if selector is Selector.ALL:
                body = self._replica.full_in_memory(self._snapshot, entry)
            if body is None:
                return None
            frames.append(frame(entry.id, body))
        return b"".join(frames)
