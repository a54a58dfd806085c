"""Keeps the snapshot of one API process current, and answers look-ups from it (contract, section
6)."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from service.errors import StoreUnavailable
from service.events import Observation
from service.metrics import Metrics
from service.replica.full_events import FullEventCache, mark_retrieved
from service.replica.snapshot import PROVISIONAL, Change, Snapshot, content_identity, diverges
from service.store import CLOCK_TOLERANCE_US, AppendResult, Entry, Store, StoreState, count_append
from service.tasks import cancel_and_wait, spawn_guarded

log = logging.getLogger(__name__)
_ASK_TIMEOUT_S = 0.5
"""How long a read may wait for the store before it is answered from what is known, or with 503."""


@dataclass(frozen=True, slots=True)
class CurrentOrStale:
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
        """The newest event, `None` if there is none. Raises `StoreUnavailable` if that is not
        known."""
        return self._known(self.snapshot.latest)

    def event(self, event_id: str) -> Entry | None:
        """The retained event of that id, `None` if there is none. Raises `StoreUnavailable` if that
        is not known."""
        return self._known(self.replica.entry(self.snapshot, event_id))

    def _known(self, entry: Entry | None) -> Entry | None:
        if entry is None and self.age is not None:
            raise StoreUnavailable(self.reason)
        return entry


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
        self._full = FullEventCache(store, events_memory)
        self._pending_read: asyncio.Task[Snapshot] | None = None
        self._failure: str | None = None
        self._unreadable: frozenset[str] = frozenset()
        self._notified = asyncio.Event()

    # -- what handlers ask -------------------------------------------------------------------------

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
        """The state to answer from: the current one, or the last known while `STALE_IF_ERROR`
        lasts.

        Raises `StoreUnavailable` if there is neither.
        """
        if (snapshot := self.current()) is not None:
            return CurrentOrStale(self, snapshot)
        reason = self._failure or self._flaw_just_read()
        # After a failed attempt only the heartbeat goes on trying: readers do not queue before a
        # dead store.
        if not reason:
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    await self.refresh()
                if (
                    snapshot := self.current()
                ) is not None:  # Unless we were held up with the answer in our hands.
                    return CurrentOrStale(self, snapshot)
                reason = self._flaw_just_read() or "its answer came too late"
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
        """The flaw of a snapshot that was read so recently that reading it again would find the
        same."""
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
        return entries[:1] + tuple(
            entry for entry in entries[1:] if entry.recorded_at >= oldest_allowed
        )

    def entry(self, snapshot: Snapshot, event_id: str) -> Entry | None:
        """The retained event of that id. The snapshot knows all ids there are: Redis is not
        asked."""
        entry = snapshot.by_id.get(event_id)
        if (
            entry is None
            or entry is snapshot.latest
            or entry.recorded_at >= self._oldest_allowed(snapshot)
        ):
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
        """The `all` projection; `None` if the event is gone from the store. Raises
        `StoreUnavailable`."""
        full = self.full_in_memory(snapshot, entry) or await self._full.get(entry)
        if full is None:
            self._forget([entry])
        return full

    async def fulls(self, snapshot: Snapshot, entries: Sequence[Entry]) -> dict[str, bytes | None]:
        """The `all` projections of several events by id, in their order; `None` for those that are
        gone from the store.

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
        """Whether no check has been completed for `STALE_AFTER`. One of the future proves nothing:
        a clock has gone back."""
        if snapshot.checked_at is None:
            return True
        age = snapshot.now_us(self.monotonic()) - snapshot.checked_at
        return not -CLOCK_TOLERANCE_US <= age <= self.stale_after_us

    # -- writing -----------------------------------------------------------------------------------

    async def append(
        self, services: Mapping[str, Observation], event_id: str | None = None
    ) -> AppendResult:
        """Records an event and advances the snapshot: this process answers with it from now on.

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
        """Adds an event that is recorded but could not be read back.

        If the append was the very next change after the snapshot, the result is the whole state. If
        not, events of others may be missing: the snapshot is provisional, and so not current, until
        the next reading, which must find the event again.
        """
        known, event = self.snapshot, appended.event
        if known is None or event.id in known.by_id:
            return
        entry = Entry(event.id, event.recorded_at, appended.status)
        newest_first = sorted(
            (entry, *known.entries), key=lambda one: (one.recorded_at, one.id), reverse=True
        )
        entries = tuple(newest_first[: self._store.retention_events])
        if known.latest is not None and known.latest_all:
            self._full.keep(known.latest, known.latest_all)
        snapshot = replace(
            known,
            entries=entries,
            by_id={one.id: one for one in entries},
            latest_all=appended.full if entries[0] is entry else known.latest_all,
            latest_id=PROVISIONAL,
        )
        follows = (
            not (known.flaw or known.left_out)
            and appended.version == known.version + 1
            and appended.previous == known.latest_id
        )
        if follows:
            snapshot = replace(
                snapshot, version=known.version + 1, stamp=appended.stamp, latest_id=event.id
            )
        self._install(snapshot, continuous=follows)

    # -- keeping current ---------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the snapshot current inside it; the first reading is tried before it is entered."""
        with contextlib.suppress(StoreUnavailable):
            await self.refresh()
        tasks = [
            spawn_guarded(self._keep_current(), "snapshot-heartbeat"),
            spawn_guarded(self._listen(), "snapshot-notices"),
        ]
        try:
            yield
        finally:
            await cancel_and_wait(*tasks)

    def drop_api_key(self, name: str) -> None:
        """Forgets an API key that is known to be deleted, where the store cannot be read to see
        it."""
        snapshot = self.snapshot
        if snapshot is not None and name in snapshot.api_keys:
            keys = {other: key for other, key in snapshot.api_keys.items() if other != name}
            self.snapshot = replace(snapshot, api_keys=keys)
            self._notify(Change(snapshot, self.snapshot, continuous=True))

    async def aclose(self) -> None:
        """Closes the store's connections."""
        await self._store.aclose()

    async def refresh(self) -> Snapshot:
        """Reads what is new in the store. Callers at the same time share one reading. Raises
        `StoreUnavailable`."""
        if self._pending_read is None or self._pending_read.done():
            self._pending_read = asyncio.create_task(self._read(), name="snapshot-reading")
            self._pending_read.add_done_callback(mark_retrieved)
        return await asyncio.shield(self._pending_read)

    async def refresh_after_now(self) -> Snapshot:
        """The store as of a moment after the call. Raises `StoreUnavailable`."""
        if (
            self._pending_read is not None and not self._pending_read.done()
        ):  # It may have been read already.
            await asyncio.wait([self._pending_read])
        return await self.refresh()

    async def _keep_current(self) -> None:
        """At every heartbeat and every notice. A failure is logged when it begins and when it
        ends."""
        failing, trusted = False, (True, False)
        while True:
            trusted = self._notify_freshness(trusted)
            # A little jitter, so that replicas that lost the store together do not come back
            # together.
            pause = self._heartbeat * random.uniform(0.9, 1.0)  # noqa: S311  # Spreading, not secrecy.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._notified.wait()
            noticed = self._notified.is_set()
            self._notified.clear()
            before = self.snapshot
            try:
                after = await (self.refresh_after_now() if noticed else self.refresh())
            except StoreUnavailable as error:
                if not failing:
                    log.warning("the store is unavailable", extra={"reason": error.for_log()})
                failing = True
                continue
            if failing:
                log.info("the store is available again")
            failing = False
            if (
                before is not None
                and after.version != before.version
                and not noticed
                and not self._notified.is_set()
            ):
                self.metrics.lost_notices.inc()

    async def _listen(self) -> None:
        """Turns publications into notices; subscribes again whenever the subscription ends."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async with self._store.subscribe() as subscription:
                    # What was published before the subscription stood went unheard.
                    self._notified.set()
                    while True:
                        await subscription.wait_for_change()
                        self._notified.set()
            await asyncio.sleep(self._heartbeat * random.uniform(0.5, 1.0))  # noqa: S311  # Spreading, not secrecy.

    async def _read(self) -> Snapshot:
        known = self.snapshot
        sent = self.monotonic()
        try:
            cursor = known.cursor if known is not None else None
            state = await self._store.read(cursor)
            snapshot = self._advance(known, state, sent)
            continuous = snapshot is not None
            if snapshot is None:
                if cursor is not None:
                    sent = self.monotonic()
                    state = await self._store.read()
                self._check_for_data_loss(known, state)
                snapshot = self._build(state, (), sent)
        except StoreUnavailable as error:
            self._failure = error.details["reason"]
            self.metrics.refreshes.labels("failed").inc()
            raise
        self._failure = None
        self._install(snapshot, continuous=continuous)
        return snapshot

    def _install(self, snapshot: Snapshot, *, continuous: bool) -> None:
        """Advances the snapshot by one assignment, and tells the listeners if that changed anything
        but the time."""
        before, self.snapshot = self.snapshot, snapshot
        if before is None or content_identity(before) != content_identity(snapshot):
            self._notify(Change(before, snapshot, continuous))

    def _notify(self, change: Change) -> None:
        for listener in self.listeners:
            listener(change)

    def _notify_freshness(self, trusted: tuple[bool, bool]) -> tuple[bool, bool]:
        """Tells the listeners if the snapshot has begun or ceased to be current, or the monitor to
        be silent."""
        snapshot = self.snapshot
        if snapshot is None:
            return trusted
        now = self.current() is not None, self.monitor_silent(snapshot)
        if now != trusted:
            self._notify(Change(snapshot, snapshot, continuous=True))
        return now

    def _advance(self, known: Snapshot | None, state: StoreState, sent: float) -> Snapshot | None:
        """The snapshot that follows on the known one, or `None` if the whole state must be read and
        compared."""
        if state.entries is None and known is not None:
            self.metrics.refreshes.labels("unchanged").inc()
            same = replace(
                known, checked_at=state.checked_at, clock=self._clock(state), confirmed=sent
            )
            return self._without_expired(same)
        self.metrics.refreshes.labels("changed").inc()
        if known is None:
            return self._build(state, (), sent)
        if known.provisional or state.version <= known.version:
            return None
        latest, found = known.latest, state.entries or ()
        if found and found[-1] == latest:
            return self._build(state, known.entries[1:], sent)
        # If each change since has added one of these events, nothing lies between them and the
        # latest that is known, which retention has taken.
        nothing_between = bool(found) and len(found) == state.version - known.version
        if latest is None or (nothing_between and self._trimmed(latest, state)):
            return self._build(state, (), sent)
        return None

    def _trimmed(self, entry: Entry, state: StoreState) -> bool:
        """Whether retention can have taken an event: it takes the oldest first, by number, age or
        bytes."""
        if entry.recorded_at >= state.oldest_at:
            return False
        cut_at = max(state.cut_at, state.now - self._store.retention_us - 1)
        return state.retained >= self._store.retention_events or entry.recorded_at <= cut_at

    def _check_for_data_loss(self, known: Snapshot | None, state: StoreState) -> None:
        """Reports a store that no longer has what it had: a version that went back or has another
        stamp, or events that are missing though retention cannot have taken them."""
        if known is None:
            return
        present = {(entry.id, entry.recorded_at) for entry in state.entries or ()}
        missing = [entry for entry in known.entries if (entry.id, entry.recorded_at) not in present]
        other_history = (
            state.version <= known.version if known.provisional else diverges(known, state)
        )
        if other_history or not all(self._trimmed(entry, state) for entry in missing):
            log.error(
                "the store lost data",
                extra={"known_version": known.version, "version": state.version},
            )
            self.metrics.divergences.inc()
            self._full.clear()

    def _build(self, state: StoreState, older: tuple[Entry, ...], sent: float) -> Snapshot:
        known = self.snapshot
        entries = (state.entries or ()) + tuple(
            entry for entry in older if entry.recorded_at >= state.oldest_at
        )
        entries = entries[: self._store.retention_events]  # The writer may be set to retain more.
        self._report_unreadable(state)
        if known is not None and known.latest is not None and known.latest_all:
            self._full.keep(known.latest, known.latest_all)
        snapshot = Snapshot(
            version=state.version,
            stamp=state.stamp,
            latest_id=state.latest,
            entries=entries,
            latest_all=state.latest_all,
            api_keys=known.api_keys
            if known and known.api_keys == state.api_keys
            else state.api_keys or {},
            checked_at=state.checked_at,
            clock=self._clock(state),
            confirmed=sent,
            by_id={entry.id: entry for entry in entries},
            left_out=state.retained - len(entries),
        )
        return self._without_expired(snapshot)

    def _report_unreadable(self, state: StoreState) -> None:
        """Reports events in the store that cannot be read, each once: they are left out, and all
        others are served."""
        found = frozenset(state.unreadable)
        if new := found - self._unreadable:
            log.error(
                "events in the store cannot be read", extra={"events": ", ".join(sorted(new))[:400]}
            )
            self.metrics.unreadable.inc(len(new))
        self._unreadable = found

    def _without_expired(self, snapshot: Snapshot) -> Snapshot:
        retained = self.retained(snapshot)
        if retained is snapshot.entries:
            return snapshot
        return replace(snapshot, entries=retained, by_id={entry.id: entry for entry in retained})

    def _clock(self, state: StoreState) -> int:
        return state.now - round(self.monotonic() * 1_000_000)

    def _oldest_allowed(self, snapshot: Snapshot) -> int:
        """The recorded_at (µs) before which an event is too old. Where the clocks disagree the
        earlier one decides: a jump hides nothing."""
        now, ours = snapshot.now_us(self.monotonic()), round(self.wall() * 1_000_000)
        if abs(now - ours) > CLOCK_TOLERANCE_US:
            now = min(now, ours)
        return now - self._store.retention_us
