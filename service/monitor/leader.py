"""Leader election: one monitor has a lease in the store and renews it, the others stand by.

The store decides who gets the lease (`store/scripts/lease.lua`). This class is an optimisation;
safety comes from the epoch check in the Lua scripts, which refuse the writes of a former leader.
What it adds: a leader knows without the store when its lease may have expired. The deadline is
counted from the *sending* of its last successful renewal, on a clock that also runs while the
machine is suspended.

During an outage of the store it is unknown who leads. The last leader then continues to check the
services, so that it knows at once what to record when the store is available again. It records
nothing until it has the lease again. See `service/DESIGN.md`, "Leader election".
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Protocol

from service.errors import StoreUnavailable
from service.metrics import Metrics
from service.settings import Settings
from service.store import Store
from service.tasks import OutageLog, jittered

log = logging.getLogger(__name__)


def boottime() -> float:
    """Seconds on a monotonic clock that, where the system has one, also runs during suspension."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class Leader(Protocol):
    """Tells a monitor whether it leads: whether it should check, and whether it may write."""

    owner: str
    """The name of this monitor in the lease; empty for a monitor without a lease."""
    epoch: int | None
    """The fencing epoch of its writes; `None` while it does not lead, or has no lease."""

    @property
    def leads(self) -> bool:
        """Whether this monitor may write."""

    async def wait_until_checking(self) -> None:
        """Return when this monitor should check."""

    async def wait_until_replaced(self) -> None:
        """Return when another monitor is known to lead."""

    def on_fenced(self) -> None:
        """Handle a write that the store refused because another monitor leads."""


class SoleMonitor:
    """The leader where there is only one monitor. It has no lease, and writes without an epoch."""

    owner = ""
    epoch: int | None = None
    leads = True

    async def wait_until_checking(self) -> None:
        """Return at once."""

    async def wait_until_replaced(self) -> None:
        """Never return."""
        await asyncio.Event().wait()

    def on_fenced(self) -> None:
        """Never called: writes without an epoch are not fenced."""


class LeaseHolder:
    """One of several monitors: it leads while it has the lease, otherwise it stands by."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`clock` returns seconds; it is monotonic and also runs during suspension."""
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(8).hex()}"
        """Unique to this run of this process."""
        self.epoch: int | None = None
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._deadline = 0.0
        """Until when this monitor leads, by `clock`, unless it renews the lease."""
        self._highest_epoch = 0
        """The highest epoch of any monitor that this one has seen."""
        self._holder: str | None = None
        """The owner of the lease; `None` if the last request for the lease failed."""
        self.failure = ""
        """Why the last request for the lease failed, for clients; empty if it did not."""
        # The end is logged as "leading" or "standing by".
        self._outage = OutageLog(log, "cannot acquire the lease")
        self._should_check = asyncio.Event()
        """Set when this monitor gets the lease, or if the store never answered;
        cleared when another monitor has the lease."""
        self._replaced = asyncio.Event()
        """Set while another monitor is known to lead."""
        self._try_now = asyncio.Event()
        """Set to request the lease without waiting for the next renewal."""

    @property
    def leads(self) -> bool:
        """Whether this monitor may write: it has the lease, and its deadline has not passed."""
        return self.epoch is not None and self._clock() < self._deadline

    @property
    def leader_known(self) -> bool:
        """Whether it is known who leads: this monitor, or one that the store named last."""
        return self.leads or (self._holder is not None and self._holder != self.owner)

    async def wait_until_checking(self) -> None:
        """Return when this monitor should check."""
        await self._should_check.wait()

    async def wait_until_replaced(self) -> None:
        """Return when another monitor is known to lead."""
        await self._replaced.wait()

    def on_fenced(self) -> None:
        """Stop leading, and request the lease at once to learn who leads."""
        self._metrics.fenced.inc()
        log.warning("the store refused a write: another monitor leads", extra={"epoch": self.epoch})
        self._step_down("another monitor has the lease")
        self._try_now.set()

    async def run(self) -> None:
        """Request or renew the lease until cancelled."""
        while True:
            self._try_now.clear()
            await self.try_acquire()
            try:
                async with asyncio.timeout(self._seconds_until_next_try()):
                    await self._try_now.wait()
            except TimeoutError:
                pass

    async def try_acquire(self) -> None:
        """Request or renew the lease once."""
        sent = self._clock()
        try:
            lease = await self._store.lease(
                self.owner, self._settings.lease_ttl, self._highest_epoch
            )
        except StoreUnavailable as error:
            self._holder = None
            self.failure = str(error.details["reason"])
            self._metrics.store_failures.labels("lease").inc()
            # A leader logs the outage only if it lasts so long that it must stop leading.
            was_leading = self.epoch is not None
            if was_leading and not self.leads:
                self._step_down(f"the lease could not be renewed in time: {error.for_log()}")
            self._outage.failed(quiet=was_leading, reason=error.for_log())
            # The store has not answered since the start, so no monitor is known to lead.
            if not self._highest_epoch:
                self._should_check.set()
            return
        self.failure = ""
        self._outage.succeeded()
        self._highest_epoch = max(self._highest_epoch, lease.epoch)
        self._metrics.epoch.set(lease.epoch)
        self._set_holder(lease.owner)
        if lease.owner == self.owner:
            self._lead(lease.epoch, sent + self._settings.lease_deadline)
        else:
            self._step_down("another monitor has the lease")
            self._should_check.clear()
            self._replaced.set()

    async def release(self) -> None:
        """Release the lease, so that another monitor leads at once.

        It must be called when no write is in progress any more.
        """
        self.epoch = None
        self._metrics.leading.set(0)
        try:
            await self._store.release(self.owner)
        except StoreUnavailable as error:
            log.warning("cannot release the lease", extra={"reason": error.for_log()})

    def _lead(self, epoch: int, deadline: float) -> None:
        self._deadline = deadline
        if epoch != self.epoch:
            log.info("leading", extra={"epoch": epoch})
        self.epoch = epoch
        self._metrics.leading.set(1)
        self._replaced.clear()
        self._should_check.set()

    def _step_down(self, why: str) -> None:
        if self.epoch is not None:
            log.warning("no longer leading", extra={"epoch": self.epoch, "why": why})
        self.epoch = None
        self._metrics.leading.set(0)

    def _set_holder(self, holder: str) -> None:
        if holder not in {self.owner, self._holder}:
            log.info("standing by", extra={"leader": holder, "epoch": self._highest_epoch})
        self._holder = holder

    def _seconds_until_next_try(self) -> float:
        """Seconds until the next request: a standby requests the lease twice as often as a leader.

        The jitter of 20 % keeps monitors out of step.
        """
        renew = jittered(self._settings.lease_renew, 0.8, 1.2)
        return renew if self.epoch is not None else renew / 2
