"""Which monitor leads: one holds a lease in the store and renews it, the others stand by and ask
for it.

Safety does not rest here: the store's scripts refuse what a former leader writes. What this adds is
that a leader knows when it may no longer be one, without asking anybody: at a deadline counted from
the *sending* of its last good renewal, on a clock that goes on while the machine is suspended.
While the store is away nobody can tell who leads. Whoever led last then goes on looking after the
services, so that it knows at once what to record when the store returns; it records nothing until
it leads again.
"""

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable
from typing import Protocol

from service.errors import StoreUnavailable
from service.metrics import Metrics
from service.settings import Settings
from service.store import Store

log = logging.getLogger(__name__)


def boottime() -> float:
    """Seconds on a clock that no one sets and that counts suspension, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class Leader(Protocol):
    """What a monitor asks before it checks, and before it writes."""

    owner: str
    epoch: int | None

    @property
    def leads(self) -> bool:
        """Whether this monitor may write."""

    async def wait_until_leading(self) -> None:
        """Returns when this monitor is to check."""

    async def wait_until_replaced(self) -> None:
        """Returns when another is known to lead."""

    def on_fenced(self) -> None:
        """To be told when the store refused a write: another leads."""


class Alone:
    """The only monitor there is. It takes no lease, and the store lets it write as it does any
    outsider."""

    owner = ""
    epoch: int | None = None
    leads = True

    async def wait_until_leading(self) -> None:
        """At once."""

    async def wait_until_replaced(self) -> None:
        """Never."""
        await asyncio.Event().wait()

    def on_fenced(self) -> None:
        """Never happens."""


class LeaseHolder:
    """One of several monitors: leads while it holds the lease, else stands by."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`clock` gives seconds on a monotonic clock that counts suspension."""
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(8).hex()}"
        """This run of this process: never the name of another, nor of a later run."""
        self.epoch: int | None = None
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._deadline = 0.0
        self._seen = 0  # The highest epoch that anybody has had.
        self._holder: str | None = None  # Who leads, as the store said last.
        self._failing = False  # Whether the store could not be asked for the lease last time.
        self._turn = asyncio.Event()
        self._relieved = asyncio.Event()
        self._ask = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether this monitor may write: it holds the lease, and its own deadline has not
        passed."""
        return self.epoch is not None and self._clock() < self._deadline

    @property
    def leader_known(self) -> bool:
        """Whether it is known who leads: this monitor, or another that the store named when it was
        last asked."""
        return self.leads or (self._holder is not None and self._holder != self.owner)

    async def wait_until_leading(self) -> None:
        """Returns when no other monitor is known to lead."""
        await self._turn.wait()

    async def wait_until_replaced(self) -> None:
        """Returns when another is known to lead."""
        await self._relieved.wait()

    def on_fenced(self) -> None:
        """The store refused a write of this epoch. Asks at once who leads."""
        self._metrics.fenced.inc()
        log.warning("the store refused a write: another monitor leads", extra={"epoch": self.epoch})
        self._step_down("another has taken it")
        self._ask.set()

    async def run(self) -> None:
        """Asks for the lease, or renews it, until cancelled."""
        while True:
            self._ask.clear()
            await self.try_acquire()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._ask.wait()
            except TimeoutError:
                pass

    async def try_acquire(self) -> None:
        """Asks for the lease, or renews it, once."""
        sent = self._clock()
        try:
            lease = await self._store.lease(self.owner, self._settings.lease_ttl, self._seen)
        except StoreUnavailable as error:
            self._holder = None
            self._metrics.store_failures.labels("lease").inc()
            if self.epoch is None and not self._failing:
                log.warning("the store gives no lease", extra={"reason": error.for_log()})
            elif self.epoch is not None and not self.leads:
                self._step_down(f"the lease could not be renewed in time: {error.for_log()}")
            self._failing = True
            if (
                not self._seen
            ):  # The first word that is heard of the store: nobody is known to lead.
                self._turn.set()
            return
        self._failing = False
        self._seen = max(self._seen, lease.epoch)
        self._metrics.epoch.set(lease.epoch)
        self._note(lease.owner)
        if lease.owner == self.owner:
            self._lead(lease.epoch, sent + self._settings.lease_deadline)
        else:
            self._step_down("another has taken it")
            self._turn.clear()
            self._relieved.set()

    async def release(self) -> None:
        """Gives the lease back, so that another leads at once. To be called when nothing is being
        written any more."""
        self.epoch = None
        self._metrics.leading.set(0)
        try:
            await self._store.release(self.owner)
        except StoreUnavailable as error:
            log.warning("the lease could not be given back", extra={"reason": error.for_log()})

    def _lead(self, epoch: int, deadline: float) -> None:
        self._deadline = deadline
        if epoch != self.epoch:
            log.info("leading", extra={"epoch": epoch})
        self.epoch = epoch
        self._metrics.leading.set(1)
        self._relieved.clear()
        self._turn.set()

    def _step_down(self, why: str) -> None:
        if self.epoch is not None:
            log.warning("no longer leading", extra={"epoch": self.epoch, "why": why})
        self.epoch = None
        self._metrics.leading.set(0)

    def _note(self, holder: str) -> None:
        if holder not in {self.owner, self._holder}:
            log.info("standing by", extra={"leader": holder, "epoch": self._seen})
        self._holder = holder

    def _pause(self) -> float:
        """Seconds until it asks again: give or take a fifth, so that monitors do not ask in
        step."""
        renew = self._settings.lease_renew * random.uniform(0.8, 1.2)  # noqa: S311  # Spreading, not secrecy.
        return renew if self.epoch is not None else renew / 2
