"""Which snapshot follows from a reading of the store, and whether the store lost data.

These are pure functions (`service/DESIGN.md`, "Snapshot and freshness").
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from service.replica.snapshot import PROVISIONAL, Retention, Snapshot
from service.store import AppendResult, Entry, StoredKey, StoreState


@dataclass(frozen=True, slots=True)
class Reading:
    """A state that was read from the store, and what a snapshot needs besides it.

    `sent` is when the request was sent (monotonic seconds). `clock` is Redis' time minus our
    monotonic time at the reply, both in µs.
    """

    state: StoreState
    sent: float
    clock: int


def advance(
    known: Snapshot | None,
    reading: Reading,
    api_keys: Mapping[str, StoredKey],
    retention: Retention,
) -> Snapshot | None:
    """The snapshot that follows the known one; `None` if everything must be read and compared.

    `reading` was made with the cursor of the known snapshot.
    """
    state = reading.state
    if known is None:
        return build(reading, (), api_keys, retention)
    if state.entries is None:
        return replace(
            known, checked_at=state.checked_at, clock=reading.clock, confirmed=reading.sent
        )
    if known.provisional or state.version <= known.version:
        return None
    latest, found = known.latest, state.entries
    if found and found[-1] == latest:
        return build(reading, known.entries[1:], api_keys, retention)
    # If each change since then added one of these events, no other event lies between them and the
    # known latest event. That one is missing, so retention must have trimmed it.
    nothing_between = bool(found) and len(found) == state.version - known.version
    if latest is None or (nothing_between and may_be_trimmed(latest, state, retention)):
        return build(reading, (), api_keys, retention)
    return None


def with_later_drops(known: Snapshot | None, current: Snapshot | None) -> Snapshot | None:
    """The snapshot that a reading was made for, without the events that were dropped meanwhile.

    An event is dropped when its body is found to be gone, which changes no version of the store.
    """
    if known is None or current is None or current.provisional:
        return known
    same = (current.version, current.stamp) == (known.version, known.stamp)
    return current if same else known


def build(
    reading: Reading,
    older: tuple[Entry, ...],
    api_keys: Mapping[str, StoredKey],
    retention: Retention,
) -> Snapshot:
    """The snapshot with the events of a reading, and with those of `older` that the store has."""
    state = reading.state
    entries = (state.entries or ()) + tuple(
        entry for entry in older if entry.recorded_at >= state.oldest_at
    )
    # The writer may be configured to retain more events than this replica.
    entries = entries[: retention.events]
    return Snapshot(
        version=state.version,
        stamp=state.stamp,
        latest_id=state.latest,
        entries=entries,
        latest_all=state.latest_all,
        api_keys=api_keys,
        checked_at=state.checked_at,
        clock=reading.clock,
        confirmed=reading.sent,
        by_id={entry.id: entry for entry in entries},
        omitted=state.retained - len(entries),
    )


def add_own_event(
    known: Snapshot, appended: AppendResult, retention: Retention
) -> tuple[Snapshot, bool]:
    """The snapshot with an event that is recorded but could not be read back.

    The second value is whether the append was the very next change after the snapshot: then the
    result is the whole state. Otherwise events of other writers may be missing. The snapshot is
    then provisional, and so not current, until the next reading, which must find the event again.
    """
    event = appended.event
    entry = Entry(event.id, event.recorded_at, appended.status)
    newest_first = sorted(
        (entry, *known.entries), key=lambda one: (one.recorded_at, one.id), reverse=True
    )
    entries = tuple(newest_first[: retention.events])
    follows = (
        not (known.flaw or known.omitted)
        and appended.version == known.version + 1
        and appended.previous == known.latest_id
    )
    snapshot = replace(
        known,
        entries=entries,
        by_id={one.id: one for one in entries},
        latest_all=appended.full if entries[0] is entry else known.latest_all,
        latest_id=PROVISIONAL,
    )
    if follows:
        snapshot = replace(
            snapshot, version=known.version + 1, stamp=appended.stamp, latest_id=event.id
        )
    return snapshot, follows


def may_be_trimmed(entry: Entry, state: StoreState, retention: Retention) -> bool:
    """Whether retention can have trimmed an event: the oldest first, by number, age or bytes."""
    if entry.recorded_at >= state.oldest_at:
        return False
    cut_at = max(state.cut_at, state.now - retention.age_us - 1)
    return state.retained >= retention.events or entry.recorded_at <= cut_at


def lost_data(known: Snapshot, state: StoreState, retention: Retention) -> bool:
    """Whether the store no longer has what it had. `state` must be a reading of everything.

    That is so if the version went back or has another stamp, or if events are missing that
    retention cannot have trimmed.
    """
    present = {(entry.id, entry.recorded_at) for entry in state.entries or ()}
    missing = [entry for entry in known.entries if (entry.id, entry.recorded_at) not in present]
    other_history = state.version <= known.version if known.provisional else _diverges(known, state)
    return other_history or not all(may_be_trimmed(entry, state, retention) for entry in missing)


def _diverges(known: Snapshot, state: StoreState) -> bool:
    """Whether the store's history is not the known one with changes added."""
    same = state.latest == known.latest_id and state.stamp == known.stamp
    return state.version < known.version or (state.version == known.version and not same)
