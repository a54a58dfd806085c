"""The monitor's loop: a check at every interval, an event where one is due, whatever the store does
meanwhile."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import aiohttp

from service.errors import StoreUnavailable
from service.events import Observation, Status, clean_info, observations, rfc3339_seconds
from service.metrics import Metrics
from service.monitor.check import Finding, check_service
from service.monitor.kubernetes.client import Kubernetes
from service.monitor.leader import Alone, Leader
from service.monitor.notify.webhook import Changed
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

log = logging.getLogger(__name__)


class _NotLeading(Exception):
    """This monitor's lease has run out, or it never had one."""


class Monitor:
    """Checks the services of the settings and records what is worth an event."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        leader: Leader | None = None,
        kubernetes: Kubernetes | None = None,
        checked: Callable[[], None] = lambda: None,
        changed: Changed = lambda _event, _before: None,
    ) -> None:
        """Without a `leader` it is the only monitor. `checked` is called after each completed
        check, `changed` with each recorded event and the statuses before it.

        Raises `SettingsError` for services that cannot be checked.
        """
        self._services = services(settings)
        self._settings = settings
        self._kubernetes = kubernetes
        self._number = 0  # Of checks begun.
        # Whether the next check is to look at everything, since what is known of the services may
        # be old.
        self._check_all = False
        self._findings: dict[
            str, Finding
        ] = {}  # The last of each service, and how many alike there were in a row:
        self._runs: dict[str, Streak] = {}
        self._store = store
        self._metrics = metrics
        self._monotonic = monotonic
        self._leader = leader or Alone()
        self._checked = checked
        self._changed = changed
        self.checked_at: float | None = None  # By `monotonic`.
        self._recorded = RecordState({})
        self._cursor: Cursor | None = None  # Of the store, when it was last read.
        self._store_clock = 0, 0.0  # What it said (µs), and when it said so by `monotonic`.
        self._first_seen: dict[
            str, float
        ] = {}  # Changes that could not be recorded yet: when each was seen first.
        self._failing = False

    async def run(self) -> None:
        """Checks until cancelled, whenever it is this monitor's turn. It begins at a random moment
        within a tenth of the interval: monitors that start together do not stay together."""
        spread = min(1.0, self._settings.check_interval / 10)
        await asyncio.sleep(random.uniform(0, spread))  # noqa: S311  # Spreading, not secrecy.
        async with session() as client:
            while True:
                await self._leader.wait_until_leading()
                self._check_all = True
                self._first_seen.clear()
                due = self._monotonic()
                while not await self._replaced_before(due):
                    await self.check(client)
                    due = self._next_after(due)

    def reload(self, settings: Settings) -> None:
        """Checks from now on as the settings say, and at the next check all services. Raises
        `SettingsError` for services that cannot be checked."""
        self._services = services(settings)
        self._check_all = True

    def check_age(self) -> float | None:
        """Seconds since this monitor last completed a check; `None` if it never has."""
        return None if self.checked_at is None else self._monotonic() - self.checked_at

    async def _replaced_before(self, due: float) -> bool:
        """Waits until a check is due (false), or another monitor leads (true)."""
        try:
            async with asyncio.timeout(max(0.0, due - self._monotonic())):
                await self._leader.wait_until_replaced()
        except TimeoutError:
            return False
        return True

    def _next_after(self, due: float) -> float:
        """When the next check is due. No two overlap, and what was missed is not made up for."""
        interval = self._settings.check_interval
        due += interval
        late = self._monotonic() - due
        if late > 0:
            missed = int(late // interval) + 1
            self._metrics.missed_checks.inc(missed)
            log.warning("a check overran its interval", extra={"missed_checks": missed})
            due += missed * interval
        return due

    async def check(self, client: aiohttp.ClientSession) -> None:
        """One check of all services, with its event where one is due."""
        await self._look(client)
        looked = self._monotonic()
        try:
            await self._conclude(looked)
        except StoreUnavailable as error:
            self._metrics.store_failures.labels("record").inc()
            if not self._failing:
                log.warning(
                    "the store is unavailable, checks go on", extra={"reason": error.for_log()}
                )
            self._failing = True
            self._keep()
            return
        except _NotLeading:
            self._keep()
            return
        except Fenced:
            self._leader.on_fenced()
            return
        if self._failing:
            log.info("the store is available again")
        self._failing = False
        self.checked_at = self._monotonic()
        self._checked()
        self._metrics.checks.labels(
            "healthy"
            if all(finding.healthy for finding in self._findings.values())
            else "unhealthy"
        ).inc()

    async def _look(self, client: aiohttp.ClientSession) -> None:
        """Checks the services whose turn it is, all at the same time."""
        services, number = self._services, self._number
        self._number += 1
        if self._check_all:
            self._findings, self._runs, self._check_all = {}, {}, False
        names = [
            name
            for name in services
            if number % services[name].every == 0 or name not in self._findings
        ]
        found = await asyncio.gather(*(self._check(client, services[name]) for name in names))
        for name, finding in zip(names, found, strict=True):
            self._findings[name] = finding
            before = self._runs.get(name)
            self._runs[name] = before.then(finding.healthy) if before else Streak(finding.healthy)

    async def _check(self, client: aiohttp.ClientSession, service: Service) -> Finding:
        with self._metrics.check_seconds.labels(service.name).time():
            return await check_service(
                client, service, self._kubernetes, self._settings.resources_unknown
            )

    def _counts_as_healthy(self, name: str) -> bool:
        """Whether a service is healthy by its thresholds, compared with what was recorded."""
        service, before = self._services[name], self._recorded.statuses.get(name)
        return self._runs[name].counts_as_healthy(
            before, service.unhealthy_after, service.healthy_after
        )

    def _observed(self, name: str) -> Observation:
        """What is to be recorded of a service, if anything is."""
        finding, healthy = self._findings[name], self._counts_as_healthy(name)
        info = finding.info
        if healthy is not finding.healthy:
            service, checks = self._services[name], self._runs[name].checks
            passed, needed, counted = (
                ("passed", service.healthy_after, "unhealthy")
                if finding.healthy
                else ("failed", service.unhealthy_after, "healthy")
            )
            info = f"Check {checks} of {needed} in a row {passed}, so it still counts as {counted}: {info}"
        before = self._recorded.statuses.get(name)
        status = status_of(healthy, before)
        if status is not before:
            info = self._dated(name, info)
        return Observation(status, clean_info(info), finding.resources)

    async def _conclude(self, looked: float) -> None:
        """Records the event if one is due, else only that a check was completed, at the monotonic
        time `looked`.

        Raises `Fenced`, `_NotLeading` or `StoreUnavailable`.
        """
        self._may_write()
        recorded = self._recorded = await self._as_stored()
        seen = {name: self._observed(name) for name in self._services}
        statuses = {name: observation.status for name, observation in seen.items()}
        now = self._monotonic()
        reason = reason_to_record(recorded, statuses, now, self._settings.record_interval)
        self._may_write()
        epoch, owner = self._leader.epoch, self._leader.owner
        # By Redis' clock, which said so just now: a write that is held up must not make the check
        # younger than it is.
        said, at = self._store_clock
        checked_at = said - round((at - looked) * 1_000_000)
        if reason is None:
            await self._store.record_check(epoch, owner, checked_at)
            self._recorded = after_check(recorded)
        else:
            appended = await self._store.append(
                seen, epoch=epoch, owner=owner, checked_at=checked_at
            )
            count_append(self._metrics, appended, reason)
            self._recorded = after_event(recorded, statuses, now, reason)
            self._changed(appended.event, recorded.statuses)
        self._first_seen.clear()
        _log_changes(recorded.statuses, seen)

    def _may_write(self) -> None:
        """Raises `_NotLeading` unless this monitor leads: without a lease in time, nobody knows who
        may write."""
        if not self._leader.leads:
            raise _NotLeading

    def _keep(self) -> None:
        """Keeps when a change was seen first that could not be recorded; one that has healed is
        forgotten."""
        now = self._monotonic()
        for name in self._services:
            before = self._recorded.statuses.get(name)
            if before in {None, status_of(self._counts_as_healthy(name), before)}:
                self._first_seen.pop(name, None)
            else:
                self._first_seen.setdefault(name, now)

    def _dated(self, name: str, info: str) -> str:
        """The info, with the time at which the change was seen where it is recorded later than
        that."""
        if name not in self._first_seen:
            return info
        said, at = self._store_clock
        found_at = rfc3339_seconds(said - round((at - self._first_seen[name]) * 1_000_000))
        first, _, rest = info.partition("\n")
        return f"{first}\nFound at {found_at}; it could not be recorded then.\n{rest}".rstrip()

    async def _as_stored(self) -> RecordState:
        """What was recorded, as the store has it. Raises `StoreUnavailable`.

        It is asked at every check, since this monitor's memory may be wrong: the reply to its last
        append was lost, others record too, the store lost its data. What is compared with anything
        else would leave a wrong event standing as the latest.
        """
        rows = await self._store.read(self._cursor)
        self._store_clock = rows.now, self._monotonic()
        if rows.entries is None:
            return self._recorded
        self._cursor = rows.cursor
        if (
            not rows.entries or rows.entries[0].id != rows.latest
        ):  # None, or the newest cannot be read: make a new one.
            return replace(self._recorded, first=True)
        seen = observations(rows.entries[0].status)
        return replace(self._recorded, statuses={name: one.status for name, one in seen.items()})


def _log_changes(before: Mapping[str, Status | str], seen: Mapping[str, Observation]) -> None:
    for name, observation in seen.items():
        if before.get(name) is not observation.status:
            level = logging.INFO if observation.healthy else logging.WARNING
            first_line = observation.self_info.partition("\n")[0]
            log.log(level, "%s is %s", name, observation.status, extra={"info": first_line})
