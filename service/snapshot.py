"""A replica's in-memory copy of the store, kept current (DESIGN, section 6).

Publications make it fast, the store's version makes it true: every heartbeat, and at every notice, one reading asks for what
the replica does not know yet. A snapshot is immutable and advances by one attribute assignment, so a request sees one state,
whole. The trade: an answer may be `MAX_STALENESS` old if notices are lost, never older without saying so.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from service.errors import StoreUnavailable
from service.events import Observation
from service.observability import Metrics
from service.store import CLOCK_TOLERANCE_US, Appended, Cursor, Entry, Rows, Store, StoredKey, count_append
from service.tasks import background, end

log = logging.getLogger(__name__)

_PROVISIONAL = "?"
"""The latest id of a snapshot that no reading has given: it is known to no store."""
_ASK_TIMEOUT_S = 0.5
"""How long a read may wait for the store before it is answered from what is known, or with 503."""


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
    """At most so many events in the timeline are not in `entries`: beyond this replica's retention, gone, or unreadable."""

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
        """Whether it has an own event that was not read back: events of other writers may be missing."""
        return self.latest_id == _PROVISIONAL

    @property
    def flaw(self) -> str:
        """Why it is not the whole state of the store, or nothing. A flawed snapshot is never current."""
        if self.provisional:
            return "an event was recorded and could not be read back"
        if self.latest_id and (not self.entries or self.entries[0].id != self.latest_id):
            return "its newest event cannot be read"
        return ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a response is made from: a snapshot, and whether it is known to be the current state.

    `age` is `None` while it is current, else the whole seconds since it was last confirmed, and
    `reason` says why. What a stale snapshot does not contain is not known (DESIGN, section 6): so a
    look-up here never says "there is none" on stale knowledge.
    """

    replica: "Replica"
    snapshot: Snapshot
    age: int | None = None
    reason: str = ""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The retained events, newest first."""
        return self.replica.retained(self.snapshot)

    def latest(self) -> Entry | None:
        """The newest event, `None` if there is none. Raises `StoreUnavailable` if that is not known."""
        return self._known(self.snapshot.latest)

    def event(self, event_id: str) -> Entry | None:
        """The retained event of that id, `None` if there is none. Raises `StoreUnavailable` if that is not known."""
        return self._known(self.replica.entry(self.snapshot, event_id))

    def _known(self, entry: Entry | None) -> Entry | None:
        if entry is None and self.age is not None:
            raise StoreUnavailable(self.reason)
        return entry


@dataclass(frozen=True, slots=True)
class Change:
    """What listeners hear: the snapshot has advanced, or (`before is after`) it has begun or ceased to be trustworthy.

    `continuous` is whether everything that was recorded since `before` is in `after`.
    """

    before: Snapshot | None
    after: Snapshot
    continuous: bool


class Replica:
    """Keeps a snapshot current, and answers what is in it.

    `monotonic` and `wall` give seconds; tests pass their own.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        heartbeat: float = 0.5,
        max_staleness: float = 2.0,
        stale_if_error: float = 30.0,
        stale_after: float = 30.0,
        events_memory: int = 16 * 1024 * 1024,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.listeners: list[Callable[[Change], None]] = []
        """Called at every change, in the loop; they must not block."""
        self.max_staleness = max_staleness
        self.stale_after_us = round(stale_after * 1_000_000)
        self.monotonic = monotonic
        self.wall = wall
        self.metrics = metrics
        self._store = store
        self._heartbeat = heartbeat
        self._stale_if_error = stale_if_error
        self._full = FullEvents(store, events_memory)
        self._flight: asyncio.Task[Snapshot] | None = None
        self._failure: str | None = None
        self._unreadable: frozenset[str] = frozenset()
        self._notice = asyncio.Event()

    # -- what handlers ask --------------------------------------------------------------------------------------------

    def current(self) -> Snapshot | None:
        """The snapshot, if it is known to be the current state."""
        snapshot = self.snapshot
        if snapshot is not None and self.monotonic() - snapshot.confirmed < self.max_staleness and not snapshot.flaw:
            return snapshot
        return None

    async def read(self) -> Reading:
        """The state to answer from: the current one, or the last known while `STALE_IF_ERROR` lasts.

        Raises `StoreUnavailable` if there is neither.
        """
        if (snapshot := self.current()) is not None:
            return Reading(self, snapshot)
        reason = self._failure or self._flaw_just_read()
        # After a failed attempt only the heartbeat goes on trying: readers do not queue before a dead store.
        if not reason:
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    await self.refresh()
                if (snapshot := self.current()) is not None:  # Unless we were held up with the answer in our hands.
                    return Reading(self, snapshot)
                reason = self._flaw_just_read() or "its answer came too late"
            except TimeoutError:
                reason = self._failure = "it did not answer in time"
            except StoreUnavailable as error:
                reason = error.details["reason"]
        snapshot = self.snapshot
        if snapshot is not None:
            age = self.monotonic() - snapshot.confirmed
            if age < max(self._stale_if_error, self.max_staleness):
                return Reading(self, snapshot, int(age), reason)
        raise StoreUnavailable(reason)

    def _flaw_just_read(self) -> str:
        """The flaw of a snapshot that was read so recently that reading it again would find the same."""
        snapshot = self.snapshot
        if snapshot is None or self.monotonic() - snapshot.confirmed >= self.max_staleness:
            return ""
        return snapshot.flaw

    def ready(self) -> bool:
        """Whether events can be answered, current or marked as stale."""
        snapshot = self.snapshot
        limit = max(self._stale_if_error, self.max_staleness)
        return snapshot is not None and self.monotonic() - snapshot.confirmed < limit

    def retained(self, snapshot: Snapshot) -> tuple[Entry, ...]:
        """The events within the age limit, newest first; the latest whatever its age."""
        entries = snapshot.entries
        oldest_allowed = self._oldest_allowed(snapshot)
        if not entries or entries[-1].recorded_at >= oldest_allowed:
            return entries
        return entries[:1] + tuple(entry for entry in entries[1:] if entry.recorded_at >= oldest_allowed)

    def entry(self, snapshot: Snapshot, event_id: str) -> Entry | None:
        """The retained event of that id. The snapshot knows all ids there are: Redis is not asked."""
        entry = snapshot.by_id.get(event_id)
        if entry is None or entry is snapshot.latest or entry.recorded_at >= self._oldest_allowed(snapshot):
            return entry
        return None

    def seconds_until_expiry(self, snapshot: Snapshot, entry: Entry) -> float:
        """How long an event that is not the latest stays within the age limit."""
        return (entry.recorded_at - self._oldest_allowed(snapshot)) / 1_000_000

    def full_in_memory(self, snapshot: Snapshot, entry: Entry) -> bytes | None:
        """The `all` projection, if it is in memory."""
        if entry is snapshot.latest and snapshot.latest_all:
            return snapshot.latest_all
        return self._full.known(entry)

    async def full(self, snapshot: Snapshot, entry: Entry) -> bytes | None:
        """The `all` projection; `None` if the event is gone from the store. Raises `StoreUnavailable`."""
        full = self.full_in_memory(snapshot, entry) or await self._full.get(entry)
        if full is None:
            self._forget([entry])
        return full

    async def fulls(self, snapshot: Snapshot, entries: Sequence[Entry]) -> dict[str, bytes | None]:
        """The `all` projections of several events by id, in their order; `None` for those that are gone from the store.

        Raises `StoreUnavailable`.
        """
        found = {entry.id: self.full_in_memory(snapshot, entry) for entry in entries}
        missing = [entry for entry in entries if found[entry.id] is None]
        if missing:
            found |= await self._full.get_many(missing)
            self._forget([entry for entry in missing if found[entry.id] is None])
        return found

    def _forget(self, entries: Sequence[Entry]) -> None:
        """Drops events that are gone from the store: they count as trimmed on every route."""
        snapshot = self.snapshot
        if snapshot is None or not entries:
            return
        gone = {id(entry) for entry in entries}
        left = tuple(entry for entry in snapshot.entries if id(entry) not in gone)
        if len(left) < len(snapshot.entries):
            # The timeline may still contain them, and the store's retention count them.
            left_out = snapshot.left_out + len(snapshot.entries) - len(left)
            by_id = {entry.id: entry for entry in left}
            self.snapshot = replace(snapshot, entries=left, by_id=by_id, left_out=left_out)

    def monitor_silent(self, snapshot: Snapshot) -> bool:
        """Whether no check has been completed for `STALE_AFTER`. One of the future proves nothing: a clock has gone back."""
        if snapshot.checked_at is None:
            return True
        age = snapshot.now_us(self.monotonic()) - snapshot.checked_at
        return not -CLOCK_TOLERANCE_US <= age <= self.stale_after_us

    # -- writing ------------------------------------------------------------------------------------------------------

    async def append(self, services: Mapping[str, Observation], event_id: str | None = None) -> Appended:
        """Records an event and advances the snapshot: this process answers with it from now on.

        Raises what `Store.append` raises.
        """
        appended = await self._store.append(services, event_id)
        count_append(self.metrics, appended, reason="posted")
        try:
            await self.read_anew()
        except StoreUnavailable:
            self._insert(appended)
        return appended

    def _insert(self, appended: Appended) -> None:
        """Adds an event that is recorded but could not be read back.

        If the append was the very next change after the snapshot, the result is the whole state. If
        not, events of others may be missing: the snapshot is provisional, and so not current, until
        the next reading, which must find the event again.
        """
        known, event = self.snapshot, appended.event
        if known is None or event.id in known.by_id:
            return
        entry = Entry(event.id, event.recorded_at, appended.status)
        newest_first = sorted((entry, *known.entries), key=lambda one: (one.recorded_at, one.id), reverse=True)
        entries = tuple(newest_first[: self._store.retention_events])
        if known.latest is not None and known.latest_all:
            self._full.keep(known.latest, known.latest_all)
        snapshot = replace(
            known,
            entries=entries,
            by_id={one.id: one for one in entries},
            latest_all=appended.full if entries[0] is entry else known.latest_all,
            latest_id=_PROVISIONAL,
        )
        follows = (
            not (known.flaw or known.left_out)
            and appended.version == known.version + 1
            and appended.previous == known.latest_id
        )
        if follows:
            snapshot = replace(snapshot, version=known.version + 1, stamp=appended.stamp, latest_id=event.id)
        self._become(snapshot, continuous=follows)

    # -- keeping current ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the snapshot current inside it; the first reading is tried before it is entered."""
        with contextlib.suppress(StoreUnavailable):
            await self.refresh()
        tasks = [
            background(self._keep_current(), "snapshot-heartbeat"),
            background(self._listen(), "snapshot-notices"),
        ]
        try:
            yield
        finally:
            await end(*tasks)

    def without_api_key(self, name: str) -> None:
        """Forgets an API key that is known to be deleted, where the store cannot be read to see it."""
        snapshot = self.snapshot
        if snapshot is not None and name in snapshot.api_keys:
            keys = {other: key for other, key in snapshot.api_keys.items() if other != name}
            self.snapshot = replace(snapshot, api_keys=keys)
            self._tell(Change(snapshot, self.snapshot, continuous=True))

    async def aclose(self) -> None:
        """Closes the store's connections."""
        await self._store.aclose()

    async def refresh(self) -> Snapshot:
        """Reads what is new in the store. Callers at the same time share one reading. Raises `StoreUnavailable`."""
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._read(), name="snapshot-reading")
            self._flight.add_done_callback(_retrieve)
        return await asyncio.shield(self._flight)

    async def read_anew(self) -> Snapshot:
        """The store as of a moment after the call. Raises `StoreUnavailable`."""
        if self._flight is not None and not self._flight.done():  # It may have been read already.
            await asyncio.wait([self._flight])
        return await self.refresh()

    async def _keep_current(self) -> None:
        """At every heartbeat and every notice. A failure is logged when it begins and when it ends."""
        failing, trusted = False, (True, False)
        while True:
            trusted = self._tell_of_trust(trusted)
            # A little jitter, so that replicas that lost the store together do not come back together.
            pause = self._heartbeat * random.uniform(0.9, 1.0)  # noqa: S311  # Spreading, not secrecy.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._notice.wait()
            noticed = self._notice.is_set()
            self._notice.clear()
            before = self.snapshot
            try:
                after = await (self.read_anew() if noticed else self.refresh())
            except StoreUnavailable as error:
                if not failing:
                    log.warning("the store is unavailable", extra={"reason": error.for_log()})
                failing = True
                continue
            if failing:
                log.info("the store is available again")
            failing = False
            if before is not None and after.version != before.version and not noticed and not self._notice.is_set():
                self.metrics.lost_notices.inc()

    async def _listen(self) -> None:
        """Turns publications into notices; subscribes again whenever the subscription ends."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async with self._store.changes() as changes:
                    self._notice.set()  # What was published before the subscription stood went unheard.
                    while True:
                        await changes.next()
                        self._notice.set()
            await asyncio.sleep(self._heartbeat * random.uniform(0.5, 1.0))  # noqa: S311  # Spreading, not secrecy.

    async def _read(self) -> Snapshot:
        known = self.snapshot
        sent = self.monotonic()
        try:
            cursor = known.cursor if known is not None else None
            rows = await self._store.read(cursor)
            snapshot = self._advance(known, rows, sent)
            continuous = snapshot is not None
            if snapshot is None:
                if cursor is not None:
                    sent = self.monotonic()
                    rows = await self._store.read()
                self._look_for_losses(known, rows)
                snapshot = self._build(rows, (), sent)
        except StoreUnavailable as error:
            self._failure = error.details["reason"]
            self.metrics.refreshes.labels("failed").inc()
            raise
        self._failure = None
        self._become(snapshot, continuous=continuous)
        return snapshot

    def _become(self, snapshot: Snapshot, *, continuous: bool) -> None:
        """Advances the snapshot by one assignment, and tells the listeners if that changed anything but the time."""
        before, self.snapshot = self.snapshot, snapshot
        if before is None or _identity(before) != _identity(snapshot):
            self._tell(Change(before, snapshot, continuous))

    def _tell(self, change: Change) -> None:
        for listener in self.listeners:
            listener(change)

    def _tell_of_trust(self, trusted: tuple[bool, bool]) -> tuple[bool, bool]:
        """Tells the listeners if the snapshot has begun or ceased to be current, or the monitor to be silent."""
        snapshot = self.snapshot
        if snapshot is None:
            return trusted
        now = self.current() is not None, self.monitor_silent(snapshot)
        if now != trusted:
            self._tell(Change(snapshot, snapshot, continuous=True))
        return now

    def _advance(self, known: Snapshot | None, rows: Rows, sent: float) -> Snapshot | None:
        """The snapshot that follows on the known one, or `None` if the whole state must be read and compared."""
        if rows.entries is None and known is not None:
            self.metrics.refreshes.labels("unchanged").inc()
            same = replace(known, checked_at=rows.checked_at, clock=self._clock(rows), confirmed=sent)
            return self._without_expired(same)
        self.metrics.refreshes.labels("changed").inc()
        if known is None:
            return self._build(rows, (), sent)
        if known.provisional or rows.version <= known.version:
            return None
        latest, found = known.latest, rows.entries or ()
        if found and found[-1] == latest:
            return self._build(rows, known.entries[1:], sent)
        # If each change since has added one of these events, nothing lies between them and the latest
        # that is known, which retention has taken.
        nothing_between = bool(found) and len(found) == rows.version - known.version
        if latest is None or (nothing_between and self._trimmed(latest, rows)):
            return self._build(rows, (), sent)
        return None

    def _trimmed(self, entry: Entry, rows: Rows) -> bool:
        """Whether retention can have taken an event: it takes the oldest first, by number, age or bytes."""
        if entry.recorded_at >= rows.oldest_at:
            return False
        cut_at = max(rows.cut_at, rows.now - self._store.retention_us - 1)
        return rows.retained >= self._store.retention_events or entry.recorded_at <= cut_at

    def _look_for_losses(self, known: Snapshot | None, rows: Rows) -> None:
        """Reports a store that no longer has what it had: a version that went back or has another
        stamp, or events that are missing though retention cannot have taken them."""
        if known is None:
            return
        present = {(entry.id, entry.recorded_at) for entry in rows.entries or ()}
        missing = [entry for entry in known.entries if (entry.id, entry.recorded_at) not in present]
        other_history = rows.version <= known.version if known.provisional else _went_another_way(known, rows)
        if other_history or not all(self._trimmed(entry, rows) for entry in missing):
            log.error("the store lost data", extra={"known_version": known.version, "version": rows.version})
            self.metrics.divergences.inc()
            self._full.clear()

    def _build(self, rows: Rows, older: tuple[Entry, ...], sent: float) -> Snapshot:
        known = self.snapshot
        entries = (rows.entries or ()) + tuple(entry for entry in older if entry.recorded_at >= rows.oldest_at)
        entries = entries[: self._store.retention_events]  # The writer may be set to retain more.
        self._report_unreadable(rows)
        if known is not None and known.latest is not None and known.latest_all:
            self._full.keep(known.latest, known.latest_all)
        snapshot = Snapshot(
            version=rows.version,
            stamp=rows.stamp,
            latest_id=rows.latest,
            entries=entries,
            latest_all=rows.latest_all,
            api_keys=known.api_keys if known and known.api_keys == rows.api_keys else rows.api_keys or {},
            checked_at=rows.checked_at,
            clock=self._clock(rows),
            confirmed=sent,
            by_id={entry.id: entry for entry in entries},
            left_out=rows.retained - len(entries),
        )
        return self._without_expired(snapshot)

    def _report_unreadable(self, rows: Rows) -> None:
        """Reports events in the store that cannot be read, each once: they are left out, and all others are served."""
        found = frozenset(rows.unreadable)
        if new := found - self._unreadable:
            log.error("events in the store cannot be read", extra={"events": ", ".join(sorted(new))[:400]})
            self.metrics.unreadable.inc(len(new))
        self._unreadable = found

    def _without_expired(self, snapshot: Snapshot) -> Snapshot:
        retained = self.retained(snapshot)
        if retained is snapshot.entries:
            return snapshot
        return replace(snapshot, entries=retained, by_id={entry.id: entry for entry in retained})

    def _clock(self, rows: Rows) -> int:
        return rows.now - round(self.monotonic() * 1_000_000)

    def _oldest_allowed(self, snapshot: Snapshot) -> int:
        """The recorded_at (µs) before which an event is too old. Where the clocks disagree the earlier one decides: a jump hides
        nothing."""
        now, ours = snapshot.now_us(self.monotonic()), round(self.wall() * 1_000_000)
        if abs(now - ours) > CLOCK_TOLERANCE_US:
            now = min(now, ours)
        return now - self._store.retention_us


class FullEvents:
    """Full events beyond the latest: read once, kept up to a number of bytes, the least recently used dropped first.

    An id may be recorded again once retention has taken it, so what is kept goes by id *and* time.
    """

    def __init__(self, store: Store, limit_bytes: int) -> None:
        self._store = store
        self._limit = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._flights: dict[_Key, asyncio.Task[bytes | None]] = {}

    def known(self, entry: Entry) -> bytes | None:
        """The event, if it is kept."""
        full = self._kept.get(_key(entry))
        if full is not None:
            self._kept.move_to_end(_key(entry))
        return full

    async def get(self, entry: Entry) -> bytes | None:
        """The event from the store; callers at the same time share one request. Raises `StoreUnavailable`."""
        key = _key(entry)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._store.full(entry))
            flight.add_done_callback(_retrieve)
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        full = await asyncio.shield(flight)
        if full is not None:
            self.keep(entry, full)
        return full

    async def get_many(self, entries: Sequence[Entry]) -> dict[str, bytes | None]:
        """Several events from the store, by id; they are kept as far as there is room. Raises `StoreUnavailable`."""
        found = await self._store.fulls(entries)
        for entry in entries:
            if (full := found[entry.id]) is not None:
                self.keep(entry, full)
        return found

    def keep(self, entry: Entry, full: bytes) -> None:
        """Keeps an event as the most recently used."""
        key = _key(entry)
        self._bytes += len(full) - len(self._kept.pop(key, b""))
        self._kept[key] = full
        while self._bytes > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped)

    def clear(self) -> None:
        """Forgets everything."""
        self._kept.clear()
        self._bytes = 0


_Key = tuple[str, int]


def _key(entry: Entry) -> _Key:
    return entry.id, entry.recorded_at


def _identity(snapshot: Snapshot) -> tuple[object, ...]:
    """What differs between two snapshots with different contents."""
    return snapshot.version, snapshot.stamp, snapshot.latest


def _went_another_way(known: Snapshot, rows: Rows) -> bool:
    """Whether the store's history is not the known one with changes added."""
    same = rows.latest == known.latest_id and rows.stamp == known.stamp
    return rows.version < known.version or (rows.version == known.version and not same)


def _retrieve(task: "asyncio.Task[object]") -> None:
    """Marks a failed task's exception as seen, where every caller that waited for it has gone."""
    if not task.cancelled():
        task.exception()
