"""The values that the store takes and returns."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self

import orjson

from service.errors import ClusterEventsError
from service.events import LAST_US, Event, rfc3339
from service.metrics import Metrics

CLOCK_TOLERANCE_US = 5_000_000
"""Disagreement of two clocks beyond which nobody's idea of an event's age is trusted."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in the timeline, with its `status` projection."""

    id: str
    recorded_at: int
    status: bytes


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What the store knows of an API key. `sha256` is the hex digest of the whole key; times are in
    µs since 1970."""

    name: str
    id: str
    role: str
    sha256: str
    created_at: int
    expires_at: int | None = None

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`; fields of newer versions are ignored.

        An end after the year 9999, which an earlier version accepted, becomes the last moment of
        that year. Raises `ValueError` for bytes that are not an API key, or one whose times cannot
        be printed.
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
            rfc3339(moment)  # Raises for a time that cannot be printed.
        return key


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a reader knows the store: the version, its stamp, the latest id, and the recorded_at
    (µs) of the newest event that it has. While the first three are the same it is sent no events,
    otherwise those recorded at or after that time."""

    version: int | None
    stamp: str
    latest: str
    since: int | None


NO_CURSOR = Cursor(None, "", "", None)


@dataclass(frozen=True, slots=True)
class StoreState:
    """One reading of the store; `entries`, newest first, and `api_keys` are `None` when nothing
    changed.

    `stamp` is the random mark of the last change. `unreadable` are the ids of events that cannot be
    read; they are left out of `entries`, as are those whose bodies are gone, but count in
    `retained`, the number of all events, the oldest of which was recorded at `oldest_at`. Events
    recorded at `cut_at` and before were trimmed for their bytes. `now` is Redis' clock,
    `checked_at` when the last check was completed, `newest_at` the time of the newest event, also
    of one whose body is gone (all µs since 1970).
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
        """Where a reader is who has all of `entries`."""
        return Cursor(
            self.version,
            self.stamp,
            self.latest,
            self.entries[0].recorded_at if self.entries else None,
        )


@dataclass(frozen=True, slots=True)
class AppendResult:
    """The outcome of an append: the event, and its projections as they are stored.

    `created` is false if the same event had been recorded before. Where it is known that this
    append made the change, `version` and `stamp` are the store's after it (else `version` is
    `None`), and `previous` is the id of the latest event before it. `replicated` is false if fewer
    Redis replicas than asked for confirmed it in time; it is recorded all the same.
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
    """The lease of the leading monitor: whose it is, the epoch, and for how many seconds it holds
    if nobody renews it."""

    owner: str
    epoch: int
    remaining: float


def count_append(metrics: Metrics, appended: AppendResult, reason: str) -> None:
    """Counts what an append did."""
    if appended.created:
        metrics.recorded.labels(reason).inc()
    metrics.trimmed.labels("age").inc(appended.trimmed_by_age)
    metrics.trimmed.labels("count").inc(appended.trimmed_by_count)
    metrics.trimmed.labels("bytes").inc(appended.trimmed_by_bytes)
    if not appended.replicated:
        metrics.unreplicated.inc()


class Fenced(ClusterEventsError):
    """Another monitor leads: this writer's epoch is over, and nothing was written."""
