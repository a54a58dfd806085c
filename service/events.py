"""The domain: statuses, observations, events, selectors, and the wire bytes of an event (DESIGN,
sections 2 and 3).

An event is rendered once, when it is recorded, into the two projections that are stored and served;
so the bytes that an agent reads are the bytes that the writer made.
"""

import re
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Self

import orjson

INFO_LIMIT = 8_192
"""The most bytes (UTF-8) of a self info or a resources info. JSON at most doubles them: in a
cleaned text only quotation marks, backslashes, line feeds and tabs are escaped, by one byte
each."""

LATEST = "latest"
"""The event id that stands for the newest event."""

LAST_US = 253_402_300_799_999_999
"""The last microsecond of the year 9999: RFC 3339 has no spelling for later times."""

_UUID = re.compile(
    r"(?:urn:uuid:)?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})"
    r"|\{([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\}",
    re.ASCII | re.IGNORECASE,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:)([0-9]{2})(?:\.([0-9]+))?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)
"""`date-time` of RFC 3339, section 5.6: date, hours and minutes, seconds, fraction, and the offset
in three parts."""
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but line feed and tab, DEL, C1.
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # Bidirectional controls (Unicode Standard Annex 9).
    r"\u2028\u2029\ud800-\udfff]"  # Line and paragraph separators, lone surrogates.
)


class Status(StrEnum):
    """How a service is: `InitialUnhealthy` until a check has passed for the first time."""

    INITIAL_UNHEALTHY = "InitialUnhealthy"
    UNHEALTHY = "Unhealthy"
    HEALTHY = "Healthy"


_STATUSES = frozenset(Status)


class Selector(StrEnum):
    """Which fields of an event are returned: `status` leaves every `*_info` out."""

    STATUS = "status"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one check saw of one service. A status of another version of this service is text; it
    counts as not healthy."""

    status: Status | str
    self_info: str = ""
    resources_info: str = ""

    @property
    def healthy(self) -> bool:
        """Whether the service passed."""
        return self.status == Status.HEALTHY


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded observation of all services.

    `id` is a lower-case hyphenated UUID, `recorded_at` counts microseconds since 1970 (UTC),
    `services` maps each service's name to what was seen, in the configured order.
    """

    id: str
    recorded_at: int
    services: Mapping[str, Observation]

    @property
    def all_healthy(self) -> bool:
        """Whether every service was healthy."""
        return all(seen.healthy for seen in self.services.values())

    def to_bytes(self, selector: Selector) -> bytes:
        """The event as JSON, in the contract's field order."""
        fields: dict[str, Any] = {
            "id": self.id,
            "recorded_at": rfc3339(self.recorded_at),
            "all_healthy": self.all_healthy,
        }
        for name, seen in self.services.items():
            fields[f"{name}_status"] = seen.status
            if selector is Selector.ALL:
                fields[f"{name}_self_info"] = seen.self_info
                fields[f"{name}_resources_info"] = seen.resources_info
        return orjson.dumps(fields)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """An event from either projection; the infos that `status` leaves out are empty.

        Raises `ValueError` for bytes that are not an event.
        """
        services, fields = observations(data), orjson.loads(data)
        try:
            return cls(fields["id"], microseconds(fields["recorded_at"]), services)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an event: {error!r}") from error


def observations(data: bytes) -> dict[str, Observation]:
    """What an event's bytes (either projection) say of each service.

    Another version of this service may have written them: a status that is not known stays as it
    is, a field that is not a text is ignored, as are all other fields. Raises `ValueError` for
    bytes that are not a JSON object.
    """
    fields = orjson.loads(data)
    if not isinstance(fields, dict):
        raise ValueError("not an event: it is not an object")  # noqa: TRY004  # The bytes are wrong, not the call.
    return {
        name: Observation(
            _status(fields[f"{name}_status"]),
            _text(fields.get(f"{name}_self_info")),
            _text(fields.get(f"{name}_resources_info")),
        )
        for name in service_names(fields)
        if isinstance(fields[f"{name}_status"], str)
    }


def is_event(data: bytes, event_id: str) -> bool:
    """Whether the bytes are the event of that id in either projection, as any version of this
    service writes it."""
    try:
        fields = orjson.loads(data)
    except ValueError:
        return False
    return isinstance(fields, dict) and fields.get("id") == event_id


def _status(text: str) -> Status | str:
    return Status(text) if text in _STATUSES else text


def _text(text: object) -> str:
    return text if isinstance(text, str) else ""


def service_names(fields: Iterable[str]) -> list[str]:
    """The services of an event's flat fields, in their order. Each has a field `<name>_status`."""
    return [field.removesuffix("_status") for field in fields if field.endswith("_status")]


def rfc3339(us: int) -> str:
    """Microseconds since 1970 as RFC 3339 in UTC, with microseconds and `Z`.

    Raises `ValueError` outside the years 1 to 9999, for which RFC 3339 has no spelling.
    """
    return _datetime(us).isoformat(timespec="microseconds").replace("+00:00", "Z")


def rfc3339_seconds(us: int) -> str:
    """Microseconds since 1970 as RFC 3339 in UTC, cut to whole seconds. Raises `ValueError` as
    `rfc3339` does."""
    return _datetime(us).isoformat(timespec="seconds").replace("+00:00", "Z")


def microseconds(time: str) -> int:
    """A time of RFC 3339 (section 5.6) in microseconds since 1970: the inverse of `rfc3339`, for
    any offset.

    A fraction has any number of digits, and is cut to microseconds. Second 60 is the next minute's
    first: leap seconds are not counted here. Raises `ValueError` for a text that is no such time,
    or a time outside the years 1 to 9999 in UTC.
    """
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError("expected a time as in RFC 3339, such as 2026-01-31T08:00:00Z")
    date, minutes, seconds, fraction, sign, offset_hours, offset_minutes = match.groups()
    leap = seconds == "60"
    local = datetime.fromisoformat(f"{date}T{minutes}{'59' if leap else seconds}+00:00")
    offset = timedelta()
    if sign:
        if int(offset_hours) > 23 or int(offset_minutes) > 59:  # noqa: PLR2004  # As on a clock.
            raise ValueError("the offset is out of range")
        offset = timedelta(
            hours=int(f"{sign}{offset_hours}"), minutes=int(f"{sign}{offset_minutes}")
        )
    us = (local - _EPOCH - offset) // timedelta(microseconds=1)
    us += leap * 1_000_000 + int((fraction or "")[:6].ljust(6, "0"))
    _datetime(us)
    return us


def _datetime(us: int) -> datetime:
    """Raises `ValueError` outside the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(microseconds=us)
    except OverflowError:
        raise ValueError("the time is outside the years 1 to 9999") from None


def canonical_uuid(text: str) -> str | None:
    """A UUID in any of its spellings as lower case with hyphens, else `None`.

    Hyphenated, 32 hex digits, `urn:uuid:…` and `{…}`, any case, ASCII only: stricter than
    `uuid.UUID`, which drops stray hyphens and takes digits of other scripts.
    """
    match = _UUID.fullmatch(text)
    return str(uuid.UUID(match[1] or match[2])) if match else None


def uuid7(us: int) -> str:
    """A UUIDv7 of that time, whose sub-millisecond part fills `rand_a` (RFC 9562, section 6.2,
    method 3).

    So ids sort as their times do. The libraries take the current time or whole milliseconds only.
    """
    ms, rest = divmod(us, 1_000)
    value = ms << 80 | 0x7 << 76 | (rest * 4_096 // 1_000) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def clean(text: str) -> str:
    """The text with a space for each control character, bidirectional control character and lone
    surrogate.

    Line feeds and tabs stay. What is left cannot act on a terminal, and is valid Unicode.
    """
    return _CONTROL.sub(" ", text)


def clean_info(text: str) -> str:
    """A text fit for an info: cleaned, and cut to `INFO_LIMIT` bytes between two characters.

    Services' answers are hostile input (DESIGN, section 8).
    """
    cleaned = clean(text)
    if info_fits(cleaned):
        return cleaned
    room = INFO_LIMIT - len("…".encode())
    return cleaned[:room].encode()[:room].decode(errors="ignore") + "…"


def info_fits(text: str) -> bool:
    """Whether a cleaned text keeps to `INFO_LIMIT`."""
    return len(text) <= INFO_LIMIT and len(text.encode()) <= INFO_LIMIT
