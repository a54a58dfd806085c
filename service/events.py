"""Statuses, observations, events, selectors, and the JSON bytes of an event.

An event is serialized once for each selector, when it is recorded. The store keeps these bytes and
the API sends them unchanged.
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
"""The most bytes (UTF-8) of a self info or a resources info.

As JSON they are at most twice as many: in a cleaned text only quotation marks, backslashes, line
feeds and tabs are escaped, with one more byte each."""

LATEST = "latest"
"""In a path, the event id of the newest event."""

LAST_US = 253_402_300_799_999_999
"""The last microsecond of the year 9999, in µs since 1970: RFC 3339 cannot express later times."""

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
    # C0 without tab and line feed, DEL, C1.
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"
    # Bidirectional controls (Unicode Standard Annex 9).
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    # Line and paragraph separators, lone surrogates.
    r"\u2028\u2029\ud800-\udfff]"
)


class Status(StrEnum):
    """The status of a service: `InitialUnhealthy` until a check passes for the first time."""

    INITIAL_UNHEALTHY = "InitialUnhealthy"
    UNHEALTHY = "Unhealthy"
    HEALTHY = "Healthy"


_STATUSES = frozenset(Status)


class Selector(StrEnum):
    """Which fields of an event are returned: `status` omits every `*_info`."""

    STATUS = "status"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Observation:
    """The result of one check of one service.

    A status that only another version of cluster-events knows is a plain `str`, and counts as not
    healthy.
    """

    status: Status | str
    self_info: str = ""
    resources_info: str = ""

    @property
    def healthy(self) -> bool:
        """Whether the status is `Healthy`."""
        return self.status == Status.HEALTHY


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded observation of all services.

    `id` is a lower-case UUID with hyphens. `recorded_at` is in microseconds since 1970 (UTC).
    `services` maps the name of each service to its observation, in the configured order.
    """

    id: str
    recorded_at: int
    services: Mapping[str, Observation]

    @property
    def all_healthy(self) -> bool:
        """Whether every service was healthy."""
        return all(observation.healthy for observation in self.services.values())

    def to_bytes(self, selector: Selector) -> bytes:
        """The event as JSON, with the fields of a selector in the order of the API."""
        fields: dict[str, Any] = {
            "id": self.id,
            "recorded_at": rfc3339(self.recorded_at),
            "all_healthy": self.all_healthy,
        }
        for name, observation in self.services.items():
            fields[f"{name}_status"] = observation.status
            if selector is Selector.ALL:
                fields[f"{name}_self_info"] = observation.self_info
                fields[f"{name}_resources_info"] = observation.resources_info
        return orjson.dumps(fields)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse an event of either selector; infos that are missing are empty.

        Raises `ValueError` for bytes that are not an event.
        """
        services, fields = observations(data), orjson.loads(data)
        try:
            return cls(fields["id"], microseconds(fields["recorded_at"]), services)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an event: {error!r}") from error


def observations(data: bytes) -> dict[str, Observation]:
    """The observations by service name in the bytes of an event, of either selector.

    Another version of cluster-events may have written the event: an unknown status stays a plain
    `str`, and fields of other types and other names are ignored. Raises `ValueError` for bytes that
    are not a JSON object.
    """
    fields = orjson.loads(data)
    if not isinstance(fields, dict):
        raise ValueError("not an event: not a JSON object")  # noqa: TRY004  # The bytes are wrong, not the call.
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
    """Whether the bytes are the event with this id, of either selector and of any version."""
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
    """The names of the services in the fields of an event: each has a field `<name>_status`."""
    return [field.removesuffix("_status") for field in fields if field.endswith("_status")]


def rfc3339(us: int) -> str:
    """Format microseconds since 1970 as RFC 3339 in UTC, with microseconds and `Z`.

    Raises `ValueError` outside the years 1 to 9999, which is the range of `datetime`.
    """
    return _datetime(us).isoformat(timespec="microseconds").replace("+00:00", "Z")


def rfc3339_seconds(us: int) -> str:
    """Format microseconds since 1970 as RFC 3339 in UTC, cut to whole seconds.

    Raises `ValueError` as `rfc3339` does.
    """
    return _datetime(us).isoformat(timespec="seconds").replace("+00:00", "Z")


def microseconds(time: str) -> int:
    """Parse a time of RFC 3339 (section 5.6), with any offset, into microseconds since 1970.

    A fraction may have any number of digits, and is cut to microseconds. Second 60 is the first
    second of the next minute, since Unix time has no leap seconds. Raises `ValueError` for another
    text, or a time outside the years 1 to 9999 in UTC.
    """
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError("expected a time as in RFC 3339, such as 2026-01-31T08:00:00Z")
    date, minutes, seconds, fraction, sign, offset_hours, offset_minutes = match.groups()
    leap = seconds == "60"
    local = datetime.fromisoformat(f"{date}T{minutes}{'59' if leap else seconds}+00:00")
    offset = timedelta()
    if sign:
        if int(offset_hours) > 23 or int(offset_minutes) > 59:  # noqa: PLR2004  # Hours, minutes.
            raise ValueError("the offset is out of range")
        offset = timedelta(
            hours=int(f"{sign}{offset_hours}"), minutes=int(f"{sign}{offset_minutes}")
        )
    us = (local - _EPOCH - offset) // timedelta(microseconds=1)
    us += leap * 1_000_000 + int((fraction or "")[:6].ljust(6, "0"))
    _datetime(us)  # Only for its `ValueError`.
    return us


def _datetime(us: int) -> datetime:
    """The time as a `datetime`. Raises `ValueError` outside the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(microseconds=us)
    except OverflowError:
        raise ValueError("the time is outside the years 1 to 9999") from None


def canonical_uuid(text: str) -> str | None:
    """A UUID in lower case with hyphens, or `None` if the text is not a UUID.

    Accepted are the forms with hyphens, 32 hexadecimal digits, `urn:uuid:…` and `{…}`, in any case,
    ASCII only. `uuid.UUID` is less strict: it ignores misplaced hyphens, and accepts digits of
    other scripts.
    """
    match = _UUID.fullmatch(text)
    return str(uuid.UUID(match[1] or match[2])) if match else None


def uuid7(us: int) -> str:
    """A UUIDv7 of a time in microseconds since 1970 (RFC 9562, section 6.2, method 3).

    The part of the time below a millisecond is in `rand_a`, so that ids sort like their times.
    Libraries support only the current time, or whole milliseconds.
    """
    ms, below_ms = divmod(us, 1_000)
    # From the left: 48 bits of milliseconds, the version, 12 bits of `rand_a`, the variant.
    rand_a = below_ms * 4_096 // 1_000
    value = ms << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def clean(text: str) -> str:
    """Replace control characters, bidirectional controls and lone surrogates by spaces.

    Line feeds and tabs stay. The result cannot control a terminal, and is valid Unicode.
    """
    return _CONTROL.sub(" ", text)


def clean_info(text: str) -> str:
    """A text as an info: cleaned, and cut to `INFO_LIMIT` bytes between two characters.

    The responses of checked services are untrusted input.
    """
    cleaned = clean(text)
    if info_fits(cleaned):
        return cleaned
    room = INFO_LIMIT - len("…".encode())
    return cleaned[:room].encode()[:room].decode(errors="ignore") + "…"


def info_fits(text: str) -> bool:
    """Whether a cleaned text has at most `INFO_LIMIT` bytes."""
    return len(text) <= INFO_LIMIT and len(text.encode()) <= INFO_LIMIT
