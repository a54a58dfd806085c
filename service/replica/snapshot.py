"""An immutable in-memory copy of the store, and what follows from it alone: pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.store import Cursor, Entry, StoredKey, StoreState

PROVISIONAL = "?"
"""The latest id of a snapshot that no reading has given: it is known to no store."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The store as of one reading.

    `stamp` is the random mark of the last change: the same version with another stamp is another
    history. `confirmed` is when the reading that last found it true was sent (monotonic seconds);
    `clock` is Redis' time in µs minus our monotonic time in µs.
    """

    version: int
    stamp: str
    latest_id: str
    entries: tuple[Entry, ...]
    latest_all: bytes
    api_keys: Mapping[str, StoredKey]
    checked_at: int | None
    clock: int
    confirmed: float
    by_id: Mapping[str, Entry] = field(default_factory=dict)
    left_out: int = 0
    """At most so many events in the timeline are not in `entries`: beyond this replica's retention,
    gone, or unreadable."""

    def now_us(self, monotonic: float) -> int:
        """Redis' clock at a monotonic time, in µs since 1970."""
        return self.clock + round(monotonic * 1_000_000)

    @property
    def latest(self) -> Entry | None:
        """The newest event."""
        return self.entries[0] if self.entries else None

    @property
    def cursor(self) -> Cursor | None:
        """From where the next reading goes on; `None` if it must read everything."""
        if self.provisional:
            return None
        since = self.entries[0].recorded_at if self.entries else None
        return Cursor(self.version, self.stamp, self.latest_id, since)

    @property
    def provisional(self) -> bool:
        """Whether it has an own event that was not read back: events of other writers may be
        missing."""
        return self.latest_id == PROVISIONAL

    @property
    def flaw(self) -> str:
        """Why it is not the whole state of the store, or nothing. A flawed snapshot is never
        current."""
        if self.provisional:
            return "an event was recorded and could not be read back"
        if self.latest_id and (not self.entries or self.entries[0].id != self.latest_id):
            return "its newest event cannot be read"
        return ""


@dataclass(frozen=True, slots=True)
class Change:
    """What listeners hear: the snapshot has advanced, or (`before is after`) it has begun or ceased
    to be trustworthy.

    `continuous` is whether everything that was recorded since `before` is in `after`.
    """

    before: Snapshot | None
    after: Snapshot
    continuous: bool


def content_identity(snapshot: Snapshot) -> tuple[object, ...]:
    """What differs between two snapshots with different contents."""
    return snapshot.version, snapshot.stamp, snapshot.latest


def diverges(known: Snapshot, state: StoreState) -> bool:
    """Whether the store's history is not the known one with changes added."""
    same = state.latest == known.latest_id and state.stamp == known.stamp
    return state.version < known.version or (state.version == known.version and not same)
