"""Outages of the store under load: killed, paused, emptied, and what pollers get meanwhile
(service/DESIGN.md, "Snapshot and freshness").

Run: python -m tests.soak.outages. A client notes every answer and when it was asked for; afterwards
each must be one that the settings allow at that moment: the current state unmarked, then marked as
stale with the right `Age`, then 503, and once the store is back the current state again.
"""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import click

from tests.load import wire
from tests.load.marks import table
from tests.load.measure import percentile
from tests.soak.line import Line
from tests.soak.line import field as header
from tests.soak.rig import LATEST, LIST, READER, VERDICT, Replica, Valkey, folder, running
from tests.soak.writer import Recorded, record

READ_TIMEOUT = 0.5
"""Seconds for one reading of the store."""
SLACK = 0.3
"""Seconds by which a busy machine may be late. A state passed off as current may not be: only a
signal takes its `MOMENT`."""
MOMENT = 0.02
POLL_EVERY = 0.002
PATHS = {"latest": LATEST, "list": LIST, "verdict": VERDICT, "ready": "/readyz"}


@dataclass(frozen=True)
class Limits:
    """The settings of the same names, in seconds: short ones, so that an outage need not last for
    half a minute."""

    heartbeat: float = 0.25
    max_staleness: float = 1.0
    stale_if_error: float = 3.0


@dataclass(frozen=True)
class Seen:
    """An answer: when it was asked for and when it was there, in monotonic seconds."""

    asked: float
    there: float
    status: int
    age: int | None
    stale: str | None
    retry_after: str | None
    body: bytes

    @property
    def current(self) -> bool:
        """Whether it is passed off as the current state."""
        return self.status == 200 and self.stale is None


@dataclass
class Outage:
    """One run: from `began` on the store did not do its work; at `mended` it was started, and by
    `up` it answered."""

    fault: str
    limits: Limits = Limits()  # Frozen.
    began: float = 0.0
    mended: float = 0.0
    up: float = 0.0
    seen: dict[str, list[Seen]] = field(default_factory=lambda: {name: [] for name in PATHS})
    divergences: float = 0.0
    known: bytes = b""
    """The latest event before the fault."""

    def during(self, name: str) -> list[Seen]:
        """What was asked for while the store was away."""
        return [one for one in self.seen[name] if self.began <= one.asked < self.mended]

    def back(self, name: str) -> float:
        """Seconds after which the last answer came that was not the current state, once the store
        answered."""
        return max([0.0, *(one.there - self.up for one in self.seen[name] if not one.current)])

    @property
    def figures(self) -> list[str]:
        """A row for people."""
        polls = self.seen["latest"]
        during = self.during("latest")
        before = [one.there - one.asked for one in polls if one.asked < self.began]
        took = [one.there - one.asked for one in during]

        def first(which: Callable[[Seen], bool]) -> str:
            found = next((one.asked - self.began for one in during if which(one)), None)
            return f"{found:.2f}" if found is not None else "-"

        return [
            self.fault,
            f"{len(polls):,}",
            first(lambda one: one.stale is not None),
            first(lambda one: one.status == 503),
            first(lambda one: one.status == 404),
            f"{self.back('latest'):.2f}" if self.fault != "FLUSHALL" else "-",
            f"{percentile(before, 99) * 1_000:.1f}",
            f"{percentile(took, 99) * 1_000:.1f}" if took else "-",
            f"{max(took) * 1_000:.0f}" if took else "-",
            f"{self.divergences:.0f}",
            str(len(self.problems)),
        ]

    @property
    def problems(self) -> list[str]:
        """Every answer that section 6 does not allow."""
        if self.fault == "FLUSHALL":
            return emptied(self)
        return [*marked(self), *gone(self), *unready(self), *mended(self), *piled_up(self)]


def marked(outage: Outage) -> list[str]:
    """What is passed off as current for too long, or marked with a wrong age, or not what was
    known."""
    found = []
    for one in outage.during("latest"):
        after, until = one.asked - outage.began, one.there - outage.began
        if one.current and after > outage.limits.max_staleness + MOMENT:
            found.append(f"passed off as current {after:.2f} s after the fault")
        if one.stale is not None:
            # Known to be true last at a heartbeat before the fault; the age is cut to whole
            # seconds.
            if one.stale != "store-unreachable" or one.age is None:
                found.append(f"marked with {one.stale}, Age {one.age}")
            elif not int(after) <= one.age <= until + outage.limits.heartbeat + SLACK:
                found.append(f"Age {one.age} {after:.2f} s after the fault")
        if one.status == 200 and one.body != outage.known:
            found.append(f"another event: {one.body!r}")
    return found


def gone(outage: Outage) -> list[str]:
    """503 too early or too late, or without what belongs to it."""
    found = []
    for one in (*outage.during("latest"), *outage.during("list")):
        if one.status == 503:
            if json.loads(one.body)["error_code"] != "StoreUnavailable" or one.retry_after is None:
                found.append(f"503 with {one.body!r}, Retry-After {one.retry_after}")
            found += _too_early(outage, one)
        elif one.status != 200 or one.asked - outage.began > outage.limits.stale_if_error + MOMENT:
            found.append(f"{one.status} {one.asked - outage.began:.2f} s after the fault")
    return found


def unready(outage: Outage) -> list[str]:
    """`/readyz` that does not follow, and a cluster that is called healthy though nobody can
    know."""
    found = []
    for one in outage.during("ready"):
        if one.status != 200:
            found += _too_early(outage, one)
        elif one.asked - outage.began > outage.limits.stale_if_error + MOMENT:
            found.append(f"ready {one.asked - outage.began:.2f} s after the fault")
    for one in outage.during("verdict"):
        if one.status == 200 and one.asked - outage.began > outage.limits.max_staleness + MOMENT:
            found.append(f"healthy {one.asked - outage.began:.2f} s after the fault")
    return found


def _too_early(outage: Outage, one: Seen) -> list[str]:
    until, limits = one.there - outage.began, outage.limits
    early = until < limits.stale_if_error - limits.heartbeat - SLACK
    return [f"503 {until:.2f} s after the fault"] if early else []


def mended(outage: Outage) -> list[str]:
    """What is not right again once the store is back."""
    return [
        f"{name} is right only {outage.back(name):.2f} s after the store was back"
        for name in ("latest", "list", "verdict")
        if outage.back(name) > READ_TIMEOUT + 2 * outage.limits.heartbeat + SLACK
        or not outage.seen[name][-1].current
    ] + [f"{name} was not asked" for name, seen in outage.seen.items() if not seen]


def piled_up(outage: Outage) -> list[str]:
    """Polls that waited for a dead store: each process may ask it once, within its time, and then
    no more."""
    waited = [
        one for one in outage.during("latest") if one.there - one.asked > READ_TIMEOUT + SLACK
    ]
    return [f"{len(waited)} polls waited for longer than one reading may take"] if waited else []


def emptied(outage: Outage) -> list[str]:
    """A store that lost everything: told within a heartbeat, counted once, and the next event is
    the first."""
    found = []
    for one in outage.during("latest"):
        if one.status == 200 and one.asked - outage.began > outage.limits.heartbeat + SLACK:
            found.append(
                f"an event that is lost was shown {one.asked - outage.began:.2f} s after the loss"
            )
        if one.status not in {200, 404}:
            found.append(f"{one.status} {one.body!r}")
    if outage.divergences != 1:
        found.append(f"the loss was counted {outage.divergences:g} times")
    last = outage.seen["latest"][-1], outage.seen["list"][-1]
    if not all(one.current for one in last) or last[1].body != b"[" + last[0].body + b"]":
        found.append(f"in the end there is {last[1].body!r}")
    return found


@dataclass
class Rig:
    """The store that is broken, and who polls meanwhile."""

    store: Valkey
    replica: Replica
    outage: Outage
    recorded: Recorded = field(default_factory=Recorded)
    number: int = 0

    async def poll(self, name: str) -> None:
        """Notes every answer on one connection after the other."""
        request, seen = wire.get(PATHS[name], READER), self.outage.seen[name]
        line = await Line.open(self.replica.port)
        try:
            while True:
                asked = time.monotonic()
                reply = await line.ask(request)
                there = time.monotonic()
                age = header(reply, "Age")
                fields = (
                    int(age) if age else None,
                    header(reply, "Cluster-Stale"),
                    header(reply, "Retry-After"),
                )
                seen.append(Seen(asked, there, reply.status, *fields, reply.body))
                await asyncio.sleep(POLL_EVERY if name == "latest" else 5 * POLL_EVERY)
        finally:
            line.close()

    async def record(self) -> bytes:
        """Records an event; gives its bytes under `status`."""
        # Never the seventh: all are healthy, so that the verdict is 200 while it can be known.
        self.number += 1
        await record([self.replica.port], 7 * self.number + 1, self.recorded)
        return wire.ask(self.replica.port, wire.get(LATEST, READER)).body

    async def kill(self, seconds: float) -> None:
        """SIGKILL; started again after some time."""
        self.store.kill()
        self.outage.began = time.monotonic()
        await asyncio.sleep(seconds)
        self.outage.mended = time.monotonic()
        await asyncio.to_thread(self.store.start)
        self.outage.up = time.monotonic()

    async def pause(self, seconds: float) -> None:
        """SIGSTOP; continued after some time."""
        self.store.signal(signal.SIGSTOP)
        self.outage.began = time.monotonic()
        await asyncio.sleep(seconds)
        self.outage.mended = self.outage.up = time.monotonic()
        self.store.signal(signal.SIGCONT)

    async def empty(self, seconds: float) -> None:
        """FLUSHALL; after some time an event is recorded."""
        with self.store.client() as client:
            client.flushall()
        self.outage.began = time.monotonic()
        await asyncio.sleep(seconds)
        self.outage.mended = self.outage.up = time.monotonic()
        await self.record()


FAULTS: dict[str, Callable[[Rig, float], Awaitable[None]]] = {
    "SIGKILL": Rig.kill,
    "SIGSTOP": Rig.pause,
    "FLUSHALL": Rig.empty,
}


async def run(
    fault: str,
    seconds: float,
    *,
    calm: float = 1.0,
    pollers: int = 4,
    limits: Limits = Limits(),  # Frozen.
) -> Outage:
    """Polls in calm, through a fault of so many seconds, and in calm again."""
    outage = Outage(fault, limits)
    with folder() as path:
        store = Valkey(path)
        replica = Replica(
            store,
            path,
            heartbeat=f"{limits.heartbeat}s",
            max_staleness=f"{limits.max_staleness}s",
            stale_if_error=f"{limits.stale_if_error}s",
            redis_timeout=f"{READ_TIMEOUT}s",
        )
        with running(store, replica):
            rig = Rig(store, replica, outage)
            for _ in range(3):
                outage.known = await rig.record()
            names = ["latest"] * pollers + ["list", "verdict", "ready"]
            tasks = [asyncio.create_task(rig.poll(name)) for name in names]
            try:
                await asyncio.sleep(calm)
                await FAULTS[fault](rig, seconds)
                await asyncio.sleep(calm + READ_TIMEOUT + 2 * limits.heartbeat)
            finally:
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(asyncio.CancelledError):
                for result in results:
                    if isinstance(result, Exception):
                        raise result
            outage.divergences = replica.metric("history_divergence_total")
    for seen in outage.seen.values():
        seen.sort(key=lambda one: one.there)
    return outage


HEADING = (
    "fault",
    "polls",
    "stale after s",
    "503 after s",
    "404 after s",
    "right again s",
    "p99 before ms",
    "p99 during ms",
    "longest ms",
    "losses",
    "wrong",
)


def report(outages: Sequence[Outage]) -> str:
    """The table."""
    return table(
        [list(HEADING), *(outage.figures for outage in outages)], frozenset(range(1, len(HEADING)))
    )


@click.command()
@click.option("--seconds", default=5.0, show_default=True, help="How long each fault lasts.")
def main(seconds: float) -> None:
    """Kills, pauses and empties the store under load, and holds every answer against what was
    promised."""
    outages = [asyncio.run(run(fault, seconds, calm=2.0)) for fault in FAULTS]
    click.echo(report(outages))
    click.echo(f"each fault for {seconds:g} s, {outages[0].limits}")
    for outage in outages:
        for problem in outage.problems[:5]:
            click.echo(f"{outage.fault}: {problem}", err=True)
    raise SystemExit(any(outage.problems for outage in outages))


if __name__ == "__main__":
    main()
