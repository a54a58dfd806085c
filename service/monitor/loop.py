"""The monitor's loop: a check at every interval, and an event where one is due.

Checks continue during an outage of the store.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import aiohttp

from service.errors import StoreUnavailable
from service.events import Observation, Status, clean_info, observations, rfc3339_seconds
from service.metrics import Metrics
from service.monitor.check import Finding, check_service
from service.monitor.kubernetes.checker import WorkloadChecker
from service.monitor.leader import Leader, SoleMonitor
from service.monitor.notify.webhook import OnEvent
from service.monitor.probes.http import session
from service.monitor.recording import (
    RecordState,
    Streak,
    after_check,
    after_event,
    reason_to_record,
    status_of,
)
from service.monitor.services import Service, services
from service.settings import Settings
from service.store import Cursor, Fenced, Store, count_append
from service.tasks import OutageLog, jittered

log = logging.getLogger(__name__)


class _NotLeading(Exception):
    """This monitor's lease has expired, or it never had one."""


@dataclass(slots=True)
class _Findings:
    """What the checks found, by service."""

    last: dict[str, Finding] = field(default_factory=dict)
    streaks: dict[str, Streak] = field(default_factory=dict)

    def add(self, name: str, finding: Finding) -> None:
        """Add the finding of one more check. One that is not fresh does not count in a streak."""
        before = self.streaks.get(name)
        self.last[name] = finding
        if before is None:
            self.streaks[name] = Streak(finding.healthy, checks=int(finding.fresh))
        elif finding.fresh:
            self.streaks[name] = before.with_check(finding.healthy)


@dataclass(frozen=True, slots=True)
class _StoreClock:
    """Redis' clock (µs since 1970), and the monotonic time (seconds) at which it was read."""

    us: int = 0
    read_at: float = 0.0

    def at(self, monotonic: float) -> int:
        """Redis' clock at another monotonic time."""
        return self.us - round((self.read_at - monotonic) * 1_000_000)


class Monitor:
    """Checks the services of the settings and records the events that are due."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        leader: Leader | None = None,
        workloads: WorkloadChecker | None = None,
        on_check: Callable[[], None] = lambda: None,
        on_event: OnEvent = lambda _event, _before: None,
    ) -> None:
        """`leader` tells whether this monitor may write; without one it is the only monitor.

        `on_check` is called after each completed check, `on_event` with each recorded event and the
        statuses before it. Raises `SettingsError` for services that cannot be checked.
        """
        self._settings = settings
        self._services = services(settings)
        self._workloads = workloads
        self._store = store
        self._metrics = metrics
        self._monotonic = monotonic
        self._leader = leader or SoleMonitor()
        self._on_check = on_check
        self._on_event = on_event
        self._outage = OutageLog(
            log, "the store is unavailable, checks go on", "the store is available again"
        )

        self.checked_at: float | None = None
        """When this monitor last completed a check (monotonic seconds)."""
        self._checks_begun = 0
        self._check_all = False
        """Whether the next check includes all services, because the findings may be old."""
        self._findings = _Findings()
        self._resources_known: dict[str, bool] = {}
        """Whether the state of the resources was known at the last check, by service."""

        self._recorded = RecordState({})
        self._cursor: Cursor | None = None
        """The store's state at its last reading."""
        self._store_clock = _StoreClock()
        self._unrecorded_since: dict[str, float] = {}
        """When an unrecorded change was first found (monotonic seconds), by service."""

    async def run(self) -> None:
        """Check until cancelled, whenever no other monitor leads.

        The start is delayed by up to a tenth of the interval, at most 1 s, so that monitors that
        start together do not check at the same times.
        """
        delay = min(1.0, self._settings.check_interval / 10)
        await asyncio.sleep(jittered(delay, 0.0, 1.0))
        async with session() as client:
            while True:
                self._forget_resources()
                await self._leader.wait_until_checking()
                self._check_all = True
                self._unrecorded_since.clear()
                due = self._monotonic()
                while not await self._replaced_before(due):
                    await self.check(client)
                    due = self._next_after(due)

    def reload(self, settings: Settings) -> None:
        """Use these settings from the next check on, which includes all services.

        Raises `SettingsError` for services that cannot be checked.
        """
        self._services = services(settings)
        self._check_all = True
        self._forget_resources()

    def check_age(self) -> float | None:
        """Seconds since this monitor last completed a check; `None` if it never has."""
        return None if self.checked_at is None else self._monotonic() - self.checked_at

    async def _replaced_before(self, due: float) -> bool:
        """Wait until a check is due (returns false) or another monitor leads (returns true)."""
        try:
            async with asyncio.timeout(max(0.0, due - self._monotonic())):
                await self._leader.wait_until_replaced()
        except TimeoutError:
            return False
        return True

    def _next_after(self, due: float) -> float:
        """When the next check is due. Checks do not overlap, and missed checks are not made up."""
        interval = self._settings.check_interval
        due += interval
        late = self._monotonic() - due
        if late > 0:
            missed = int(late // interval) + 1
            self._metrics.missed_checks.inc(missed)
            log.warning("a check took longer than its interval", extra={"missed_checks": missed})
            due += missed * interval
        return due

    async def check(self, client: aiohttp.ClientSession) -> None:
        """Check all services once, and record an event if one is due."""
        await self._check_services(client)
        finished = self._monotonic()
        try:
            await self._record(finished)
        except StoreUnavailable as error:
            self._metrics.store_failures.labels("record").inc()
            self._outage.failed(reason=error.for_log())
            self._remember_unrecorded()
            return
        except _NotLeading:
            self._remember_unrecorded()
            return
        except Fenced:
            self._leader.on_fenced()
            return
        self._outage.succeeded()
        self.checked_at = self._monotonic()
        self._on_check()
        all_healthy = all(finding.healthy for finding in self._findings.last.values())
        self._metrics.checks.labels("healthy" if all_healthy else "unhealthy").inc()

    async def _check_services(self, client: aiohttp.ClientSession) -> None:
        """Check the services that are due, all at the same time."""
        services, number = self._services, self._checks_begun
        self._checks_begun += 1
        if self._check_all:
            self._findings, self._check_all = _Findings(), False
        names = [
            name
            for name in services
            if number % services[name].every == 0 or name not in self._findings.last
        ]
        found = await asyncio.gather(*(self._check(client, services[name]) for name in names))
        for name, finding in zip(names, found, strict=True):
            self._report_resources(name, finding)
            self._findings.add(name, finding)

    async def _check(self, client: aiohttp.ClientSession, service: Service) -> Finding:
        with self._metrics.check_seconds.labels(service.name).time():
            return await check_service(
                client, service, self._workloads, self._settings.resources_unknown
            )

    def _forget_resources(self) -> None:
        """Remove the metric of the resources' state, which only the checking monitor has."""
        self._metrics.resources_known.clear()
        self._resources_known.clear()

    def _report_resources(self, name: str, finding: Finding) -> None:
        """Set the metric of the resources' state, and log each change between known and not."""
        if finding.resources_known is None:
            return
        self._metrics.resources_known.labels(name).set(finding.resources_known)
        before = self._resources_known.get(name)
        self._resources_known[name] = finding.resources_known
        if not finding.resources_known and before is not False:
            reason = {"reason": finding.resources_unknown}
            log.warning("the state of the resources of %s is not known", name, extra=reason)
        elif finding.resources_known and before is False:
            log.info("the state of the resources of %s is known again", name)

    def _counts_as_healthy(self, name: str) -> bool:
        """Whether a service counts as healthy, by its thresholds and its recorded status."""
        service, before = self._services[name], self._recorded.statuses.get(name)
        return self._findings.streaks[name].counts_as_healthy(
            before, service.unhealthy_after, service.healthy_after
        )

    def _observed(self, name: str) -> Observation:
        """The observation of a service that the event contains, if one is recorded."""
        finding, healthy = self._findings.last[name], self._counts_as_healthy(name)
        info = finding.info
        if healthy is not finding.healthy and not finding.fresh:
            counted = "healthy" if healthy else "unhealthy"
            info = (
                f"The state of its Kubernetes resources is not known now, "
                f"so it still counts as {counted}: {info}"
            )
        elif healthy is not finding.healthy:
            service, checks = self._services[name], self._findings.streaks[name].checks
            passed, needed, counted = (
                ("passed", service.healthy_after, "unhealthy")
                if finding.healthy
                else ("failed", service.unhealthy_after, "healthy")
            )
            progress = f"Check {checks} of {needed} in a row {passed}"
            info = f"{progress}, so it still counts as {counted}: {info}"
        before = self._recorded.statuses.get(name)
        status = status_of(healthy, before)
        if status is not before:
            info = self._with_time_found(name, info)
        return Observation(status, clean_info(info), finding.resources)

    async def _record(self, finished: float) -> None:
        """Record the event if one is due, otherwise only that a check was completed.

        `finished` is when the check was completed (monotonic seconds). Raises `Fenced`,
        `_NotLeading` or `StoreUnavailable`.
        """
        self._require_leadership()
        recorded = self._recorded = await self._read_recorded()
        seen = {name: self._observed(name) for name in self._services}
        statuses = {name: observation.status for name, observation in seen.items()}
        now = self._monotonic()
        reason = reason_to_record(recorded, statuses, now, self._settings.record_interval)
        # The lease may have expired while the store was read.
        self._require_leadership()
        epoch, owner = self._leader.epoch, self._leader.owner
        # By Redis' clock, which was read just now: a delayed write must not make the check look
        # more recent.
        checked_at = self._store_clock.at(finished)
        if reason is None:
            await self._store.record_check(epoch, owner, checked_at)
            self._recorded = after_check(recorded)
        else:
            appended = await self._store.append(
                seen, epoch=epoch, owner=owner, checked_at=checked_at
            )
            count_append(self._metrics, appended, reason)
            self._recorded = after_event(recorded, statuses, now, reason)
            self._on_event(appended.event, recorded.statuses)
        self._unrecorded_since.clear()
        _log_changes(recorded.statuses, seen)

    def _require_leadership(self) -> None:
        """Raise `_NotLeading` unless this monitor leads: it must not write without a lease."""
        if not self._leader.leads:
            raise _NotLeading

    def _remember_unrecorded(self) -> None:
        """Remember when an unrecorded change was first found; drop changes that were reverted."""
        now = self._monotonic()
        for name in self._services:
            before = self._recorded.statuses.get(name)
            if before in {None, status_of(self._counts_as_healthy(name), before)}:
                self._unrecorded_since.pop(name, None)
            else:
                self._unrecorded_since.setdefault(name, now)

    def _with_time_found(self, name: str, info: str) -> str:
        """The info, with the time of the change if that could not be recorded when it was found."""
        if name not in self._unrecorded_since:
            return info
        found_at = rfc3339_seconds(self._store_clock.at(self._unrecorded_since[name]))
        first, _, rest = info.partition("\n")
        return f"{first}\nFound at {found_at}; it could not be recorded then.\n{rest}".rstrip()

    async def _read_recorded(self) -> RecordState:
        """What is recorded, according to the store. Raises `StoreUnavailable`.

        It is read at every check, since this monitor's memory may be wrong: the reply to its last
        append was lost, others record events too, or the store lost its data. A comparison with
        anything else could leave a wrong event as the latest.
        """
        state = await self._store.read(self._cursor)
        self._store_clock = _StoreClock(state.now, self._monotonic())
        if state.entries is None:
            return self._recorded
        self._cursor = state.cursor
        # There is no event, or the newest one cannot be read: record a new one.
        if not state.entries or state.entries[0].id != state.latest:
            return replace(self._recorded, first=True)
        seen = observations(state.entries[0].status)
        return replace(self._recorded, statuses={name: one.status for name, one in seen.items()})


def _log_changes(before: Mapping[str, Status | str], seen: Mapping[str, Observation]) -> None:
    for name, observation in seen.items():
        if before.get(name) is not observation.status:
            level = logging.INFO if observation.healthy else logging.WARNING
            first_line = observation.self_info.partition("\n")[0]
            log.log(level, "%s is %s", name, observation.status, extra={"info": first_line})
