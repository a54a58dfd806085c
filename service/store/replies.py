"""Decodes the replies of the Lua scripts.

A reply that our scripts never send raises one of the errors that `driver_errors` translates.
"""

import logging
from collections.abc import Mapping
from typing import Any

from service.errors import EventConflict
from service.events import LAST_US, Event, Observation, clean, is_event, rfc3339
from service.store.models import AppendResult, Entry, StoredKey, StoreState

log = logging.getLogger(__name__)

DAY_US = 86_400_000_000


def existing_event(
    event: Event, full: bytes, status: bytes, stored: bytes, *, replicated: bool
) -> AppendResult:
    """The result of an append whose id is already in the store, with the bytes `stored`.

    `full` and `status` are the bytes that were to be stored. Raises `EventConflict` if the two
    events have different content.
    """
    # The same bytes: this writer stored them before, and the reply was lost.
    if stored == full:
        return AppendResult(event, status, stored, True, replicated=replicated)
    try:
        known = Event.from_bytes(stored)
    except ValueError:
        # An unreadable event cannot be the same.
        raise EventConflict(event.id) from None
    # Another version may have recorded more services. Those of `event` must have the same content.
    if not _content(event).items() <= _content(known).items():
        raise EventConflict(event.id)
    return AppendResult(known, status, stored, False)


def _content(event: Event) -> Mapping[str, Observation]:
    """The cleaned observations of an event: earlier versions stored POSTed infos uncleaned."""
    return {
        name: Observation(seen.status, clean(seen.self_info), clean(seen.resources_info))
        for name, seen in event.services.items()
    }


_OUTCOMES = {
    b"APPENDED": 6,
    b"EXISTS": 3,
    b"MOVED": 2,
    b"FENCED": 2,
    b"CHECKED": 1,
    b"LEADS": 2,
    b"HELD": 4,
    b"RELEASED": 2,
}
"""The number of elements of the scripts' replies, by their first element."""


def decode_outcome(reply: list[Any]) -> list[Any]:
    """A reply that begins with an outcome, with its length checked."""
    if len(reply) != _OUTCOMES[reply[0]]:
        raise ValueError("not a reply of our scripts")
    return reply


def decode_full(entry: Entry, reply: list[Any]) -> bytes | None:
    """The `all` projection of this event; `None` if it is gone, or its id was recorded again."""
    status, full = reply
    if not isinstance(status, bytes | None) or not isinstance(full, bytes | None):
        raise TypeError("not an event's bytes")
    if status != entry.status or full is None:
        return None
    if not is_event(full, entry.id):
        log.error("events in the store cannot be read", extra={"events": entry.id})
        return None
    return full


def decode_state(reply: list[Any]) -> StoreState:
    """The state from a reply of `read.lua`, whose header describes the elements."""
    now, version, stamp, latest, checked_at, *changed = reply
    checked = _time(checked_at) if checked_at else None
    head = int(now), int(version), stamp.decode(), latest.decode(), checked
    if not changed:
        return StoreState(*head)
    keys, retained, oldest_at, cut_at, flat = changed
    pairs = keys.items() if isinstance(keys, dict) else zip(keys[::2], keys[1::2], strict=True)
    entries: list[Entry] = []
    unreadable: list[str] = []
    for raw_id, score, status, full in zip(
        flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True
    ):
        # The body has expired in Redis a moment before the event is trimmed from the timeline.
        if not status or not full:
            continue
        event_id, recorded_at = raw_id.decode("utf-8", "replace"), _time(score)
        # For all but the first event, the script sends 1 if there is a full body.
        readable = is_event(status, event_id) and (full == b"1" or is_event(full, event_id))
        if readable and recorded_at is not None:
            entries.append(Entry(event_id, recorded_at, status))
        else:
            unreadable.append(event_id)
    latest_all = flat[3] if entries and flat[0].decode("utf-8", "replace") == entries[0].id else b""
    return StoreState(
        *head,
        tuple(entries),
        latest_all,
        decode_api_keys(pairs),
        newest_at=int(flat[1]) if flat else 0,
        oldest_at=int(oldest_at),
        cut_at=int(cut_at),
        retained=int(retained),
        unreadable=tuple(unreadable),
    )


def _time(value: bytes) -> int | None:
    """A time in µs since 1970; `None` if RFC 3339 cannot express it, so that we never stored it."""
    us = int(value)
    return us if 0 <= us <= LAST_US else None


def decode_api_keys(pairs: Any) -> Mapping[str, StoredKey]:
    """The readable keys by name. An unreadable key is logged and skipped; no token matches it."""
    keys: dict[str, StoredKey] = {}
    for name, value in pairs:
        try:
            keys[name.decode()] = StoredKey.from_bytes(value)
        except (AttributeError, TypeError, ValueError):
            # The traceback would add nothing.
            log.error("unreadable API key in the store", extra={"key_name": repr(name)[:80]})  # noqa: TRY400
    return keys


def decode_days_used(pairs: Any) -> Mapping[str, int]:
    """The readable days of last use, by key id. An unreadable day is logged and skipped."""
    days: dict[str, int] = {}
    for name, value in pairs:
        try:
            key_id, day = value.decode().split(" ")
            rfc3339(int(day) * DAY_US)  # Raises for a day that cannot be formatted.
            days[key_id] = int(day)
        except (AttributeError, ValueError):
            # The traceback would add nothing.
            log.error(  # noqa: TRY400
                "unreadable day of last use in the store", extra={"key_name": repr(name)[:80]}
            )
    return days
