"""A replica's in-memory copy of the store, kept current (DESIGN, section 6).

Publications make it fast, the store's version makes it true: every heartbeat, and at every notice, one reading asks for what
the replica does not know yet. A snapshot is immutable and advances by one attribute assignment, so a request sees one state,
whole. The trade: an answer may be `MAX_STALENESS` old if notices are lost, never older without saying so.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from service.errors import StoreUnavailable
from service.events import Observation, Selector
from service.observability import Metrics
from service.store import CLOCK_TOLERANCE_US, Appended, Entry, Rows, Store, StoredKey, count_append
from service.tasks import background, end

log = logging.getLogger(__name__)

_PROVISIONAL = "?"
"""The latest id of a snapshot that no reading has given: it is known to no store."""
_ASK_TIMEOUT_S = 0.5
"""How long a read may wait for the store before it is answered from what is known, or with 503."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The store as of one reading.

    `confirmed` is when the reading that last found it true was sent (monotonic seconds); `clock` is Redis' time in µs minus
    our monotonic time in µs.
    """

    version: int
    latest_id: str
    entries: tuple[Entry, ...]
    latest_all: bytes
    api_keys: Mapping[str, StoredKey]
    checked_at: int | None
    clock: int
    confirmed: float
    by_id: Mapping[str, Entry] = field(default_factory=dict)

    def now_us(self, monotonic: float) -> int:
        """Redis' clock at a monotonic time, in µs since 1970."""
        return self.clock + round(monotonic * 1_000_000)

    @property
    def latest(self) -> Entry | None:
        """The newest event."""
        return self.entries[0] if self.entries else None

    @property
    def provisional(self) -> bool:
        """Whether it holds an event of our own that has not been read back: older ones of others may be missing."""
        return self.latest_id == _PROVISIONAL


@dataclass(frozen=True, slots=True)
class Reading:
    """A snapshot fit to answer from. `age` is `None` while it is current, else whole seconds since it was known to be true."""

    snapshot: Snapshot
    age: int | None = None


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
        self._notice = asyncio.Event()

    # -- what handlers ask --------------------------------------------------------------------------------------------

    def current(self) -> Snapshot | None:
        """The snapshot, if it may be passed off as the current state."""
        snapshot = self.snapshot
        if snapshot is not None and self.monotonic() - snapshot.confirmed < self.max_staleness:
            return snapshot
        return None

    async def read(self) -> Reading:
        """The state to answer from: the current one, or the last known while `STALE_IF_ERROR` lasts.

        Raises `StoreUnavailable` when neither can be had.
        """
        if (snapshot := self.current()) is not None:
            return Reading(snapshot)
        reason = self._failure
        # After a failed attempt only the heartbeat goes on trying: readers do not queue before a dead store.
        if reason is None:
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    await self.refresh()
                if (snapshot := self.current()) is not None:  # Unless we were held up with the answer in our hands.
                    return Reading(snapshot)
                reason = "its answer came too late"
            except TimeoutError:
                reason = self._failure = "it did not answer in time"
            except StoreUnavailable as error:
                reason = error.details["reason"]
        snapshot = self.snapshot
        if snapshot is not None:
            age = self.monotonic() - snapshot.confirmed
            if age < max(self._stale_if_error, self.max_staleness):
                return Reading(snapshot, int(age))
        raise StoreUnavailable(reason)

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
        """The `all` projection, if it is at hand."""
        if entry is snapshot.latest and snapshot.latest_all:
            return snapshot.latest_all
        return self._full.known(entry.id)

    async def full(self, snapshot: Snapshot, entry: Entry) -> bytes | None:
        """The `all` projection; `None` if it expired meanwhile. Raises `StoreUnavailable`."""
        return self.full_in_memory(snapshot, entry) or await self._full.get(entry.id)

    async def fulls(self, snapshot: Snapshot, entries: Sequence[Entry]) -> dict[str, bytes | None]:
        """The `all` projections of several events by id, in their order; `None` for those that expired meanwhile.

        Raises `StoreUnavailable`.
        """
        found = {entry.id: self.full_in_memory(snapshot, entry) for entry in entries}
        missing = [event_id for event_id, full in found.items() if full is None]
        if missing:
            found |= await self._full.get_many(missing)
        return found

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
        """Puts an event in its place that is recorded but could not be read back. The next reading tells what else there is."""
        known, event = self.snapshot, appended.event
        if known is not None and event.id not in known.by_id:
            entry = Entry(event.id, event.recorded_at, event.to_bytes(Selector.STATUS))
            newest_first = sorted((entry, *known.entries), key=lambda one: (one.recorded_at, one.id), reverse=True)
            entries = tuple(newest_first[: self._store.retention_events])
            snapshot = replace(
                known,
                entries=entries,
                by_id={one.id: one for one in entries},
                latest_all=event.to_bytes(Selector.ALL) if entries[0] is entry else known.latest_all,
                latest_id=_PROVISIONAL,
            )
            self._become(snapshot, continuous=False)

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
            if known is None or known.provisional:
                rows = await self._store.read()
            elif known.latest is None:
                rows = await self._store.read(known.version, known.latest_id)
            else:
                rows = await self._store.read(known.version, known.latest_id, known.latest.recorded_at)
            snapshot = self._advance(known, rows, sent)
            continuous = snapshot is not None and not (known is not None and known.provisional)
            if snapshot is None:
                sent = self.monotonic()
                snapshot = self._build(await self._store.read(), (), sent)
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
        if before is None or before.version != snapshot.version or before.latest != snapshot.latest:
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
        """The snapshot after a reading, or `None` if everything must be read anew."""
        if rows.entries is None and known is not None:
            self.metrics.refreshes.labels("unchanged").inc()
            same = replace(known, checked_at=rows.checked_at, clock=self._clock(rows), confirmed=sent)
            return self._without_expired(same)
        self.metrics.refreshes.labels("changed").inc()
        if known is None or known.provisional or (known.latest is None and rows.version > known.version):
            return self._build(rows, (), sent)
        if rows.version > known.version and rows.entries and rows.entries[-1] == known.latest:
            return self._build(rows, known.entries[1:], sent)
        complete = known.latest is None or known.latest_id == known.latest.id
        if complete and not self._only_trimmed(known, rows):
            log.error("the store lost data", extra={"known_version": known.version, "version": rows.version})
            self.metrics.divergences.inc()
            self._full.clear()
        return None

    def _only_trimmed(self, known: Snapshot, rows: Rows) -> bool:
        """Whether the latest that we know can be missing because retention took it."""
        many = len(rows.entries or ()) >= self._store.retention_events
        latest_at = known.latest.recorded_at if known.latest is not None else math.inf
        return rows.version > known.version and (
            many or latest_at < self._oldest_allowed(known) or latest_at <= rows.cut_at
        )

    def _build(self, rows: Rows, older: tuple[Entry, ...], sent: float) -> Snapshot:
        if older and older[-1].recorded_at <= rows.cut_at:
            older = tuple(entry for entry in older if entry.recorded_at > rows.cut_at)
        known, entries = self.snapshot, ((rows.entries or ()) + older)[: self._store.retention_events]
        by_id = {entry.id: entry for entry in entries}
        if known is not None and known.latest_all and known.latest == by_id.get(known.latest_id):
            self._full.keep(known.latest_id, known.latest_all)
        snapshot = Snapshot(
            version=rows.version,
            latest_id=rows.latest,
            entries=entries,
            latest_all=rows.latest_all,
            api_keys=known.api_keys if known and known.api_keys == rows.api_keys else rows.api_keys or {},
            checked_at=rows.checked_at,
            clock=self._clock(rows),
            confirmed=sent,
            by_id=by_id,
        )
        return self._without_expired(snapshot)

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
    """Full events beyond the latest: read once, kept up to a number of bytes, the longest unused dropped first."""

    def __init__(self, store: Store, limit_bytes: int) -> None:
        self._store = store
        self._limit = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._flights: dict[str, asyncio.Task[bytes | None]] = {}

    def known(self, event_id: str) -> bytes | None:
        """The event, if it is kept."""
        full = self._kept.get(event_id)
        if full is not None:
            self._kept.move_to_end(event_id)
        return full

    async def get(self, event_id: str) -> bytes | None:
        """The event from the store; callers at the same time share one request. Raises `StoreUnavailable`."""
        flight = self._flights.get(event_id)
        if flight is None:
            flight = self._flights[event_id] = asyncio.create_task(self._store.full(event_id))
            flight.add_done_callback(_retrieve)
            flight.add_done_callback(lambda _: self._flights.pop(event_id, None))
        full = await asyncio.shield(flight)
        if full is not None:
            self.keep(event_id, full)
        return full

    async def get_many(self, event_ids: Sequence[str]) -> dict[str, bytes | None]:
        """Several events from the store; they are kept as far as there is room. Raises `StoreUnavailable`."""
        found = await self._store.fulls(event_ids)
        for event_id, full in found.items():
            if full is not None:
                self.keep(event_id, full)
        return found

    def keep(self, event_id: str, full: bytes) -> None:
        """Keeps an event as the most recently used."""
        self._bytes += len(full) - len(self._kept.pop(event_id, b""))
        self._kept[event_id] = full
        while self._bytes > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped)

    def clear(self) -> None:
        """Forgets everything."""
        self._kept.clear()
        self._bytes = 0


def _retrieve(task: "asyncio.Task[object]") -> None:
    """Marks a failed task's exception as seen, where every caller that waited for it has gone."""
    if not task.cancelled():
        task.exception()
