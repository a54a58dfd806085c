"""The values that the store takes and returns."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self

import orjson

from service.errors import ClusterEventsError
from service.events import LAST_US, Event, rfc3339
from service.metrics import Metrics

CLOCK_TOLERANCE_US = 5_000_000
"""If Redis' clock and ours differ by more, neither is trusted to tell an event's age."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in the timeline, with its `status` projection."""

    id: str
    recorded_at: int
    status: bytes


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key as stored. `sha256` is the hex digest of the whole key; times in µs since 1970."""

    name: str
    id: str
    role: str
    sha256: str
    created_at: int
    expires_at: int | None = None

    def to_bytes(self) -> bytes:
        """The JSON that is stored."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`; unknown fields of newer versions are ignored.

        An earlier version accepted an `expires_at` after the year 9999: it becomes the last moment
        of that year. Raises `ValueError` for bytes that are not an API key, and for times that
        RFC 3339 cannot express.
        """
        fields = orjson.loads(data)
        key = cls(**{name: fields.get(name) for name in cls.__slots__})
        texts, times = (
            (key.name, key.id, key.role, key.sha256),
            (key.created_at, key.expires_at or 0),
        )
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(one, int) for one in times
        ):
            raise ValueError("not an API key")
        if key.expires_at is not None and key.expires_at > LAST_US:
            key = replace(key, expires_at=LAST_US)
        for moment in (key.created_at, key.expires_at or 0):
            # Raises for a time that cannot be formatted.
            rfc3339(moment)
        return key


@dataclass(frozen=True, slots=True)
class Cursor:
    """How much of the store a reader has: version, stamp, latest id, and `since`.

    `since` is the recorded_at (µs) of the newest event that it has. While the other three are
    unchanged, the store sends no events; otherwise it sends those recorded at or after `since`.
    """

    version: int | None
    stamp: str
    latest: str
    since: int | None


NO_CURSOR = Cursor(None, "", "", None)


@dataclass(frozen=True, slots=True)
class StoreState:
    """One reading of the store. All times are in µs since 1970.

    `now` is Redis' clock, `stamp` the random mark of the last change, and `checked_at` when the
    last check was completed. `entries` (newest first) and `api_keys` are `None` if nothing changed
    since the cursor.

    `unreadable` are the ids of events that cannot be read. They are not in `entries`, and neither
    are events whose bodies have expired; but both count in `retained`, the number of all events in
    the timeline, and in `newest_at` and `oldest_at`, the times of its ends. Events recorded at or
    before `cut_at` were trimmed because of retention by bytes.
    """

    now: int
    version: int
    stamp: str
    latest: str
    checked_at: int | None
    entries: tuple[Entry, ...] | None = None
    latest_all: bytes = b""
    api_keys: Mapping[str, StoredKey] | None = None
    newest_at: int = 0
    oldest_at: int = 0
    cut_at: int = 0
    retained: int = 0
    unreadable: tuple[str, ...] = ()

    @property
    def cursor(self) -> Cursor:
        """The cursor of a reader that has all of `entries`."""
        return Cursor(
            self.version,
            self.stamp,
            self.latest,
            self.entries[0].recorded_at if self.entries else None,
        )


@dataclass(frozen=True, slots=True)
class AppendResult:
    """The outcome of an append: the event, and its projections as they are stored.

    `created` is false if the same event had been recorded before. If this append is known to have
    made the change, `version` and `stamp` are those of the store after it, and `previous` is the id
    of the latest event before it; otherwise `version` is `None`. `replicated` is false if fewer
    Redis replicas than `WRITE_REPLICAS` confirmed the event in time; it is recorded all the same.
    """

    event: Event
    status: bytes
    full: bytes
    created: bool
    trimmed_by_age: int = 0
    trimmed_by_count: int = 0
    trimmed_by_bytes: int = 0
    replicated: bool = True
    version: int | None = None
    stamp: str = ""
    previous: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of the leading monitor: its owner, its epoch, and the seconds until it expires."""

    owner: str
    epoch: int
    remaining: float


def count_append(metrics: Metrics, appended: AppendResult, reason: str) -> None:
    """Count the outcome of an append in the metrics."""
    if appended.created:
        metrics.recorded.labels(reason).inc()
    metrics.trimmed.labels("age").inc(appended.trimmed_by_age)
    metrics.trimmed.labels("count").inc(appended.trimmed_by_count)
    metrics.trimmed.labels("bytes").inc(appended.trimmed_by_bytes)
    if not appended.replicated:
        metrics.unreplicated.inc()


class Fenced(ClusterEventsError):
    """Another monitor leads: this writer's epoch has ended, and nothing was written."""


def new_stamp() -> str:
    """The random mark of one change.

    A store that lost changes and then got others has another stamp at the same version.
    """
    return secrets.token_hex(8)
