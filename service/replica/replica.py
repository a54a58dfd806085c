"""Keeps the snapshot of one API process current, and answers look-ups from it.

Notifications make updates fast; comparing the store's version at every heartbeat makes them
reliable (`service/DESIGN.md`, "Snapshot and freshness").
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from service.errors import StoreUnavailable
from service.events import Observation
from service.metrics import Metrics
from service.replica.advance import (
    Reading,
    add_own_event,
    advance,
    build,
    lost_data,
    with_later_drops,
)
from service.replica.current_or_stale import CurrentOrStale
from service.replica.full_events import FullEventCache
from service.replica.snapshot import (
    Change,
    Retention,
    Snapshot,
    content_identity,
    find,
    monitor_silent,
    oldest_allowed,
    retained,
    without_events,
    without_expired,
)
from service.store import (
    AppendResult,
    Cursor,
    Entry,
    Store,
    StoredKey,
    StoreState,
    count_append,
)
from service.tasks import OutageLog, SingleFlight, cancel_and_wait, jittered, spawn_guarded

log = logging.getLogger(__name__)

_READ_TIMEOUT_S = 0.5
"""How long a request may wait for the store before it gets the stale snapshot, or 503."""


class Replica:
    """Keeps a snapshot current, and answers look-ups from it.

    `heartbeat`, `max_staleness`, `stale_if_error` and `stale_after` are the settings of these
    names, in seconds. `events_memory` bounds the cache of full events, in bytes. `monotonic` and
    `wall` return seconds; tests pass their own.
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
        """Called at every change, in the event loop; they must not block."""
        self.max_staleness = max_staleness
        self.stale_after_us = round(stale_after * 1_000_000)
        self.monotonic = monotonic
        self.wall = wall
        self.metrics = metrics
        self._store = store
        self._retention = Retention(store.retention_events, store.retention_us)
        self._heartbeat = heartbeat
        self._stale_if_error = stale_if_error
        self._full = FullEventCache(store, events_memory)
        self._reads: SingleFlight[Snapshot] = SingleFlight("snapshot-reading")
        self._failure: str | None = None
        """Why the last reading failed; `None` if it did not."""
        self._unreadable: frozenset[str] = frozenset()
        """The ids of unreadable events that have been reported."""
        self._notified = asyncio.Event()

    def current(self) -> Snapshot | None:
        """The snapshot, if it is known to be the current state."""
        snapshot = self.snapshot
        if (
            snapshot is not None
            and self.monotonic() - snapshot.confirmed < self.max_staleness
            and not snapshot.flaw
        ):
            return snapshot
        return None

    async def read(self) -> CurrentOrStale:
        """The state to answer from: the current one, or for `STALE_IF_ERROR` the last known one.

        Raises `StoreUnavailable` if there is neither.
        """
        if (snapshot := self.current()) is not None:
            return CurrentOrStale(self, snapshot)
        reason = self._failure or self._flaw_just_read()
        # After a failure only the heartbeat tries again: requests do not queue for a dead store.
        if not reason:
            try:
                async with asyncio.timeout(_READ_TIMEOUT_S):
                    await self.refresh()
                # Even a successful reading is too old if this process was suspended meanwhile.
                if (snapshot := self.current()) is not None:
                    return CurrentOrStale(self, snapshot)
                reason = self._flaw_just_read() or "its reply came too late"
            except TimeoutError:
                reason = self._failure = "it did not answer in time"
            except StoreUnavailable as error:
                reason = error.details["reason"]
        snapshot = self.snapshot
        if snapshot is not None:
            age = self.monotonic() - snapshot.confirmed
            if age < max(self._stale_if_error, self.max_staleness):
                return CurrentOrStale(self, snapshot, int(age), reason)
        raise StoreUnavailable(reason)

    def _flaw_just_read(self) -> str:
        """The flaw of a snapshot, if it is so recent that a new reading would find it again."""
        snapshot = self.snapshot
        if snapshot is None or self.monotonic() - snapshot.confirmed >= self.max_staleness:
            return ""
        return snapshot.flaw

    @property
    def failure(self) -> str:
        """Why the last reading failed, or what is wrong with the snapshot; empty if nothing is."""
        return self._failure or self._flaw_just_read()

    def ready(self) -> bool:
        """Whether event reads can be answered, from a current or a stale snapshot."""
        snapshot = self.snapshot
        limit = max(self._stale_if_error, self.max_staleness)
        return snapshot is not None and self.monotonic() - snapshot.confirmed < limit

    def retained(self, snapshot: Snapshot) -> tuple[Entry, ...]:
        """The events within the age limit, newest first, and always the latest."""
        return retained(snapshot, self._oldest_allowed(snapshot))

    def entry(self, snapshot: Snapshot, event_id: str) -> Entry | None:
        """The retained event of that id. The snapshot contains all ids, so Redis is not asked."""
        return find(snapshot, event_id, self._oldest_allowed(snapshot))

    def seconds_until_expiry(self, snapshot: Snapshot, entry: Entry) -> float:
        """How long an event that is not the latest stays within the age limit."""
        return (entry.recorded_at - self._oldest_allowed(snapshot)) / 1_000_000

    def full_in_memory(self, snapshot: Snapshot, entry: Entry) -> bytes | None:
        """The `all` projection, if it is in memory."""
        if entry is snapshot.latest and snapshot.latest_all:
            return snapshot.latest_all
        return self._full.cached(entry)

    async def full(self, snapshot: Snapshot, entry: Entry) -> bytes | None:
        """The `all` projection; `None` if the store no longer has the event.

        Raises `StoreUnavailable`.
        """
        full = self.full_in_memory(snapshot, entry) or await self._full.get(entry)
        if full is None:
            self._forget([entry])
        return full

    async def fulls(self, snapshot: Snapshot, entries: Sequence[Entry]) -> dict[str, bytes | None]:
        """The `all` projections of several events by id, in the order of `entries`.

        The value is `None` for an event that the store no longer has. Raises `StoreUnavailable`.
        """
        found = {entry.id: self.full_in_memory(snapshot, entry) for entry in entries}
        missing = [entry for entry in entries if found[entry.id] is None]
        if missing:
            found |= await self._full.get_many(missing)
            self._forget([entry for entry in missing if found[entry.id] is None])
        return found

    def _forget(self, gone: Sequence[Entry]) -> None:
        """Drop events that the store no longer has: every route treats them as trimmed."""
        if self.snapshot is not None:
            self.snapshot = without_events(self.snapshot, gone)

    def monitor_silent(self, snapshot: Snapshot) -> bool:
        """Whether no check has been completed for `STALE_AFTER`."""
        return monitor_silent(snapshot, self.monotonic(), self.stale_after_us)

    def _oldest_allowed(self, snapshot: Snapshot) -> int:
        return oldest_allowed(snapshot, self._retention, self.monotonic(), self.wall())

    async def append(
        self, services: Mapping[str, Observation], event_id: str | None = None
    ) -> AppendResult:
        """Record an event and advance the snapshot: from now on this process serves the event.

        Raises what `Store.append` raises.
        """
        appended = await self._store.append(services, event_id)
        count_append(self.metrics, appended, reason="posted")
        try:
            await self.refresh_after_now()
        except StoreUnavailable:
            self._insert(appended)
        return appended

    def _insert(self, appended: AppendResult) -> None:
        """Add an event that is recorded but could not be read back."""
        known = self.snapshot
        if known is None or appended.event.id in known.by_id:
            return
        self._cache_latest()
        snapshot, follows = add_own_event(known, appended, self._retention)
        self._install(snapshot, continuous=follows)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the snapshot current. The first reading is attempted before the body is entered."""
        with contextlib.suppress(StoreUnavailable):
            await self.refresh()
        tasks = [
            spawn_guarded(self._keep_current(), "snapshot-heartbeat"),
            spawn_guarded(self._listen(), "snapshot-notifications"),
        ]
        try:
            yield
        finally:
            await cancel_and_wait(*tasks)

    def drop_api_key(self, name: str) -> None:
        """Drop an API key that is known to be deleted, for when the store cannot be read."""
        snapshot = self.snapshot
        if snapshot is not None and name in snapshot.api_keys:
            keys = {other: key for other, key in snapshot.api_keys.items() if other != name}
            self.snapshot = replace(snapshot, api_keys=keys)
            self._notify(Change(snapshot, self.snapshot, continuous=True))

    async def aclose(self) -> None:
        """Close the store's connections."""
        await self._store.aclose()

    async def refresh(self) -> Snapshot:
        """Read what is new in the store. Callers at the same time share one reading.

        Raises `StoreUnavailable`.
        """
        return await self._reads.run(self._read)

    async def refresh_after_now(self) -> Snapshot:
        """The state of the store at a time after the call. Raises `StoreUnavailable`."""
        # A reading in progress may have left Redis before the call.
        if (reading := self._reads.in_progress()) is not None:
            await asyncio.wait([reading])
        return await self.refresh()

    async def _keep_current(self) -> None:
        """Refresh at every heartbeat and at every notification."""
        freshness = (True, False)
        outage = OutageLog(log, "the store is unavailable", "the store is available again")
        while True:
            freshness = self._notify_freshness(freshness)
            # The jitter keeps replicas apart that lost the store at the same time.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(jittered(self._heartbeat, 0.9, 1.0)):
                    await self._notified.wait()
            notified = self._notified.is_set()
            self._notified.clear()
            before = self.snapshot
            try:
                after = await (self.refresh_after_now() if notified else self.refresh())
            except StoreUnavailable as error:
                outage.failed(reason=error.for_log())
                continue
            outage.succeeded()
            # The heartbeat found a change that no notification has announced.
            if (
                before is not None
                and after.version != before.version
                and not notified
                and not self._notified.is_set()
            ):
                self.metrics.lost_notices.inc()

    async def _listen(self) -> None:
        """Receive notifications; subscribe again whenever the subscription ends."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async with self._store.subscribe() as subscription:
                    # Changes may have been published before the subscription was active.
                    self._notified.set()
                    while True:
                        await subscription.wait_for_change()
                        self._notified.set()
            await asyncio.sleep(jittered(self._heartbeat, 0.5, 1.0))

    async def _read(self) -> Snapshot:
        """Read what is new, or everything where that is not enough, and install the result."""
        known = self.snapshot
        cursor = known.cursor if known is not None else None
        try:
            reading = await self._read_store(cursor)
            known = with_later_drops(known, self.snapshot)
            changed = known is None or reading.state.entries is not None
            self.metrics.refreshes.labels("changed" if changed else "unchanged").inc()
            snapshot = advance(known, reading, self._api_keys(reading), self._retention)
            continuous = snapshot is not None
            if snapshot is None:
                if cursor is not None:
                    reading = await self._read_store(None)
                self._check_for_data_loss(known, reading.state)
                snapshot = build(reading, (), self._api_keys(reading), self._retention)
        except StoreUnavailable as error:
            self._failure = error.details["reason"]
            self.metrics.refreshes.labels("failed").inc()
            raise
        self._failure = None
        if changed:
            self._report_unreadable(reading.state)
            self._cache_latest()
        snapshot = without_expired(snapshot, self._oldest_allowed(snapshot))
        self._install(snapshot, continuous=continuous)
        return snapshot

    async def _read_store(self, cursor: Cursor | None) -> Reading:
        sent = self.monotonic()
        state = await self._store.read(cursor)
        return Reading(state, sent, clock=state.now - round(self.monotonic() * 1_000_000))

    def _api_keys(self, reading: Reading) -> Mapping[str, StoredKey]:
        """The API keys of a reading.

        Where they are the same as before, this is the same object: the poll path compares the
        identity of the mapping that a credential was verified against.
        """
        known, found = self.snapshot, reading.state.api_keys
        return known.api_keys if known and known.api_keys == found else found or {}

    def _cache_latest(self) -> None:
        """Keep the full latest event: a newer one is about to replace it in the snapshot."""
        known = self.snapshot
        if known is not None and known.latest is not None and known.latest_all:
            self._full.put(known.latest, known.latest_all)

    def _install(self, snapshot: Snapshot, *, continuous: bool) -> None:
        """Replace the snapshot in one assignment; notify the listeners if its content changed."""
        before, self.snapshot = self.snapshot, snapshot
        if before is None or content_identity(before) != content_identity(snapshot):
            self._notify(Change(before, snapshot, continuous))

    def _notify(self, change: Change) -> None:
        for listener in self.listeners:
            listener(change)

    def _notify_freshness(self, before: tuple[bool, bool]) -> tuple[bool, bool]:
        """Notify the listeners if the freshness differs from `before`; returns the freshness.

        It is whether the snapshot is current, and whether the monitor is silent.
        """
        snapshot = self.snapshot
        if snapshot is None:
            return before
        now = self.current() is not None, self.monitor_silent(snapshot)
        if now != before:
            self._notify(Change(snapshot, snapshot, continuous=True))
        return now

    def _check_for_data_loss(self, known: Snapshot | None, state: StoreState) -> None:
        """Report a store that lost data, and drop the cached events. `state` is everything."""
        if known is not None and lost_data(known, state, self._retention):
            log.error(
                "the store lost data",
                extra={"known_version": known.version, "version": state.version},
            )
            self.metrics.divergences.inc()
            self._full.clear()

    def _report_unreadable(self, state: StoreState) -> None:
        """Log and count each unreadable event once. It is omitted; all others are served."""
        found = frozenset(state.unreadable)
        if new := found - self._unreadable:
            log.error(
                "events in the store cannot be read", extra={"events": ", ".join(sorted(new))[:400]}
            )
            self.metrics.unreadable.inc(len(new))
        self._unreadable = found
