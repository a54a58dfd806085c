"""The immutable in-memory copy of the store, and pure functions of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from service.store import CLOCK_TOLERANCE_US, Cursor, Entry, StoredKey

PROVISIONAL = "?"
"""The latest id of a snapshot that has an own event that was not read back. No store knows it."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What this replica retains: at most `events` events, none older than `age_us` microseconds.

    The latest event is retained whatever its age.
    """

    events: int
    age_us: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The store as of one reading.

    `stamp` is the random mark of the last change: the same version with another stamp is another
    history. `confirmed` is when the reading that last confirmed the snapshot was sent (monotonic
    seconds). `clock` is Redis' time minus our monotonic time, both in µs.
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
    omitted: int = 0
    """Upper bound of the events in the store's timeline that are not in `entries`: beyond this
    replica's retention, without a body, or unreadable."""
    flaw: str = field(init=False, default="")
    """Why it is not the whole state of the store, or `""`. Such a snapshot is never current."""

    def now_us(self, monotonic: float) -> int:
        """Redis' clock at a monotonic time, in µs since 1970."""
        return self.clock + round(monotonic * 1_000_000)

    @property
    def latest(self) -> Entry | None:
        """The newest event."""
        return self.entries[0] if self.entries else None

    @property
    def cursor(self) -> Cursor | None:
        """From where the next reading continues; `None` if it must read everything."""
        if self.provisional:
            return None
        since = self.entries[0].recorded_at if self.entries else None
        return Cursor(self.version, self.stamp, self.latest_id, since)

    @property
    def provisional(self) -> bool:
        """Whether it has an own event that was not read back.

        Events of other writers may then be missing.
        """
        return self.latest_id == PROVISIONAL

    def __post_init__(self) -> None:
        # Computed once: every request on the ordinary path reads it.
        flaw = ""
        if self.provisional:
            flaw = "an event was recorded and could not be read back"
        elif self.latest_id and (not self.entries or self.entries[0].id != self.latest_id):
            flaw = "its newest event cannot be read"
        object.__setattr__(self, "flaw", flaw)


@dataclass(frozen=True, slots=True)
class Change:
    """What listeners receive: a new snapshot, or a change of freshness (`before is after`).

    The freshness changes when a snapshot begins or ceases to be current, or the monitor to be
    silent. `continuous` is whether everything that was recorded since `before` is in `after`.
    """

    before: Snapshot | None
    after: Snapshot
    continuous: bool


def content_identity(snapshot: Snapshot) -> tuple[object, ...]:
    """A value that is equal for two snapshots only if they have the same content."""
    return snapshot.version, snapshot.stamp, snapshot.latest


def oldest_allowed(snapshot: Snapshot, retention: Retention, monotonic: float, wall: float) -> int:
    """The recorded_at (µs) before which an event is too old. `monotonic` and `wall` are seconds.

    Where Redis' clock and ours disagree, the earlier one decides, so that a jump hides no event.
    """
    now, ours = snapshot.now_us(monotonic), round(wall * 1_000_000)
    if abs(now - ours) > CLOCK_TOLERANCE_US:
        now = min(now, ours)
    return now - retention.age_us


def retained(snapshot: Snapshot, oldest: int) -> tuple[Entry, ...]:
    """The events recorded at or after `oldest` (µs), newest first, and always the latest."""
    entries = snapshot.entries
    if not entries or entries[-1].recorded_at >= oldest:
        return entries
    return entries[:1] + tuple(entry for entry in entries[1:] if entry.recorded_at >= oldest)


def find(snapshot: Snapshot, event_id: str, oldest: int) -> Entry | None:
    """The event of that id, if it was recorded at or after `oldest` (µs) or is the latest."""
    entry = snapshot.by_id.get(event_id)
    if entry is None or entry is snapshot.latest or entry.recorded_at >= oldest:
        return entry
    return None


def without_expired(snapshot: Snapshot, oldest: int) -> Snapshot:
    """The snapshot without the events that are no longer retained."""
    entries = retained(snapshot, oldest)
    if entries is snapshot.entries:
        return snapshot
    return replace(snapshot, entries=entries, by_id={entry.id: entry for entry in entries})


def without_events(snapshot: Snapshot, gone: Iterable[Entry]) -> Snapshot:
    """The snapshot without these entries, which are compared by identity.

    They count as `omitted`: the store's timeline and its retention may still count them.
    """
    ids = {id(entry) for entry in gone}
    entries = tuple(entry for entry in snapshot.entries if id(entry) not in ids)
    dropped = len(snapshot.entries) - len(entries)
    if not dropped:
        return snapshot
    return replace(
        snapshot,
        entries=entries,
        by_id={entry.id: entry for entry in entries},
        omitted=snapshot.omitted + dropped,
    )


def monitor_silent(snapshot: Snapshot, monotonic: float, stale_after_us: int) -> bool:
    """Whether no check has been completed for `stale_after_us` microseconds.

    A check in the future proves nothing: a clock was set back.
    """
    if snapshot.checked_at is None:
        return True
    age = snapshot.now_us(monotonic) - snapshot.checked_at
    return not -CLOCK_TOLERANCE_US <= age <= stale_after_us
