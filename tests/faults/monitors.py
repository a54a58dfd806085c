"""Several monitors as processes on one real store, under faults at random moments, and the checker
of what they wrote.

    python -m tests.faults.monitors --minutes 10    two rigs at once, of two and of three monitors
    python -m tests.faults.monitors --minutes 1 --without fence deadline    the checker must find it

The monitors are the real ones, but for one line in each of the store's scripts: in the same step in
which a script grants a lease, appends an event or notes a check, it adds an entry to a journal. So
the journal is what happened, in the order in which it happened, whoever was killed or paused
meanwhile, and the checker need not believe any monitor.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from redis import Redis

from tests.support.durable import Server
from tests.support.folders import ROOT, short_folder

KEY = "{ce:default}:"
CHECK_INTERVAL_S = 0.5
REFUSED = "the store refused a write"
FAULTS = ("kill", "terminate", "pause", "pause in a check", "pause the store", "kill a standby")
LED = (
    f"highest = redis.call('HGET', '{KEY}meta', 'epoch'), holder = redis.call('GET', '{KEY}leader')"
)
JOURNALLED = {
    "append": (
        "return {'APPENDED'",
        "kind = 'event', id = id, owner = owner, epoch = epoch, " + LED,
    ),
    "checked": ("return {'CHECKED'}", "kind = 'check', owner = ARGV[2], epoch = ARGV[1], " + LED),
    "lease": ("return {'LEADS'", "kind = 'lease', owner = owner, epoch = epoch, " + LED),
}
"""Script → the line before which it writes its entry, and what is in it."""


# -- what happened, and what must not have ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One step of the store: a lease granted or renewed, an event appended, a check noted."""

    kind: str
    owner: str
    epoch: int
    highest: int
    holder: str
    at: float
    id: str = ""

    @classmethod
    def from_json(cls, text: bytes) -> "Entry":
        """An entry as a script wrote it."""
        fields = json.loads(text)
        seconds, us = fields.pop("time")
        return cls(
            fields["kind"],
            fields["owner"],
            int(fields["epoch"]),
            int(fields["highest"]),
            fields["holder"] or "",
            int(seconds) + int(us) / 1e6,
            fields.get("id", ""),
        )


def violations(journal: Sequence[Entry], timeline: Sequence[str]) -> list[str]:
    """What must not have happened. `timeline` is the ids of the events in the store, oldest
    first."""
    wrong: list[str] = []
    leaders: dict[int, str] = {}
    highest = 0
    for entry in journal:
        what = f"{entry.kind} by {entry.owner} in epoch {entry.epoch}"
        if entry.epoch < highest:
            wrong.append(f"{what} after epoch {highest} had begun")
        if entry.kind != "lease" and entry.holder not in {"", entry.owner}:
            wrong.append(f"{what} while {entry.holder} held the lease")
        if leaders.setdefault(entry.epoch, entry.owner) != entry.owner:
            wrong.append(f"{what}, which was {leaders[entry.epoch]}'s")
        highest = max(highest, entry.epoch)
    owners = [entry.owner for entry in journal if entry.kind != "lease"]
    terms = [
        owner for number, owner in enumerate(owners) if number == 0 or owners[number - 1] != owner
    ]
    epochs = len({(entry.owner, entry.epoch) for entry in journal if entry.kind != "lease"})
    if len(terms) > epochs:
        wrong.append(f"writes of two leaders are interleaved: {len(terms)} runs in {epochs} terms")
    ids = [entry.id for entry in journal if entry.kind == "event"]
    if ids != list(timeline):
        wrong.append(
            f"the store has {len(timeline)} events, {len(ids)} were appended, or in another order"
        )
    return wrong


def silence(journal: Sequence[Entry], since: float, owner: str) -> float:
    """Seconds from that moment until another than `owner` completed a check."""
    return (
        next(
            (
                entry.at
                for entry in journal
                if entry.kind != "lease" and entry.at > since and entry.owner != owner
            ),
            since + 1e9,
        )
        - since
    )


def _entry(fields: str) -> str:
    """The line of a script that adds an entry."""
    return f"redis.call('RPUSH', '{KEY}journal', cjson.encode({{{fields}, time = redis.call('TIME')}}))\n"  # noqa: E501


# -- a monitor -------------------------------------------------------------------------------------


def monitor(without: Sequence[str]) -> None:
    """Runs a monitor with the journal, and without what it is to be without: the `fence`, the
    `deadline`."""
    from service.monitor import leader  # noqa: PLC0415  # Only the child needs the service.
    from service.run import monitor, run  # noqa: PLC0415
    from service.settings import load  # noqa: PLC0415
    from service.store import store  # noqa: PLC0415

    original = store._script

    def script(name: str) -> str:
        text = original(name)
        if name in JOURNALLED:
            line, fields = JOURNALLED[name]
            assert text.count(line) == 1
            text = text.replace(line, _entry(fields) + line)
        if "fence" in without and name in {"append", "checked"}:
            text, fences = re.subn(r"if (epoch|ARGV\[1\]) ~= '' then", "if false then", text)
            assert fences == 1
        return text

    store._script = script
    if "deadline" in without:
        leader.LeaseHolder.leads = property(lambda self: self.epoch is not None)  # type: ignore[assignment,method-assign]
        leader.LeaseHolder._step_down = lambda *_: None  # type: ignore[method-assign]
    from service.logs import configure_logging  # noqa: PLC0415

    settings = load(os.environ)
    configure_logging(settings.log_format)
    run(monitor(settings))


# -- the rig ---------------------------------------------------------------------------------------


@dataclass
class Fault:
    """A fault that was made, and who led then."""

    kind: str
    at: float
    leader: str


@dataclass
class Rig:
    """A store, a slow service, and so many monitors of it."""

    number: int
    server: Server
    folder: Path
    lease_ttl: float = 1.0
    without: tuple[str, ...] = ()
    faults: list[Fault] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: dict[int, Path] = field(default_factory=dict)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    seed: int = field(default_factory=lambda: random.randrange(1_000_000))
    """Of all waits and of what the service answers."""

    def __post_init__(self) -> None:
        # Apart: how often the service is asked is no part of the plan of faults.
        self.dice, self.service_dice = random.Random(self.seed), random.Random(self.seed)
        click.echo(f"{self.number} monitors: the faults are those of the seed {self.seed}")
        self.client: Any = Redis.from_url(self.server.url)

    async def run(self, kinds: Iterable[str]) -> None:
        """Makes faults of these kinds, one after the other."""
        service = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = service.sockets[0].getsockname()[1]
        try:
            for _ in range(self.number):
                self._start()
            for kind in kinds:
                made = len(self.faults)
                while len(self.faults) == made:  # Between two leaders there is none to be made.
                    await self._all_there()
                    await asyncio.sleep(self.dice.uniform(0, 2 * CHECK_INTERVAL_S))
                    await self._fault(kind)
            await self._all_there()
            await asyncio.sleep(2 * CHECK_INTERVAL_S)
        finally:
            self.server.signal(signal.SIGCONT)
            for process in self.processes:
                process.kill()
                process.wait(5)
            self.processes.clear()
            service.close()

    def journal(self) -> list[Entry]:
        """What happened."""
        return [Entry.from_json(text) for text in self.client.lrange(KEY + "journal", 0, -1)]

    def violations(self) -> list[str]:
        """What must not have."""
        timeline = [member.decode() for member in self.client.zrange(KEY + "timeline", 0, -1)]
        return violations(self.journal(), timeline)

    def silences(self, kind: str) -> list[float]:
        """How long nobody checked, after each fault of the kind."""
        journal = self.journal()
        return [
            silence(journal, fault.at, fault.leader) for fault in self.faults if fault.kind == kind
        ]

    def refused(self) -> int:
        """How many writes the store refused."""
        return sum(log.read_text().count(REFUSED) for log in self.logs.values())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The service: slow, and now and then unhealthy, so that there are events."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked.set()
            await asyncio.sleep(self.service_dice.uniform(0, 0.3 * CHECK_INTERVAL_S))
            status = self.service_dice.choice((b"200 OK", b"503 Service Unavailable"))
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()

    def _start(self) -> None:
        values = {
            "REDIS_URL": self.server.url,
            "SERVICES": f"api=http://127.0.0.1:{self.port}/",
            "CHECK_INTERVAL": f"{CHECK_INTERVAL_S}s",
            "CHECK_TIMEOUT": f"{CHECK_INTERVAL_S}s",
            "RETENTION_EVENTS": "100000",
            "LEASE_TTL": f"{self.lease_ttl}s",
            "LEASE_RENEW": f"{0.2 * self.lease_ttl}s",
            "LEASE_DEADLINE": f"{0.8 * self.lease_ttl}s",
        }
        log = self.folder / f"monitor-{len(self.logs)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.faults.monitors",
                    "--monitor",
                    "--without",
                    *self.without,
                ],
                cwd=ROOT,
                env=os.environ
                | {f"CLUSTER_EVENTS_{name}": value for name, value in values.items()},
                stderr=output,
            )
        self.processes.append(process)
        self.logs[process.pid] = log

    async def _all_there(self) -> None:
        """Waits until every monitor knows its place, and the leader checks."""
        deadline = time.monotonic() + 20 + self.lease_ttl
        while not all(
            re.search("leading|standing by", self.logs[one.pid].read_text())
            for one in self.processes
        ):
            assert time.monotonic() < deadline, "a monitor does not find its place"
            await asyncio.sleep(0.02)
        checks = self.client.llen(KEY + "journal")
        while not self._leader() or self.client.llen(KEY + "journal") < checks + 2:
            assert time.monotonic() < deadline, "nobody checks"
            await asyncio.sleep(0.02)

    def _leader(self) -> str:
        holder: Any = self.client.get(KEY + "leader")
        return str(holder.decode()) if holder else ""

    async def _fault(self, kind: str) -> None:
        """Makes a fault, and mends it."""
        leader = self._leader()
        leading = [one for one in self.processes if f":{one.pid}:" in leader]
        standing_by = [one for one in self.processes if one not in leading]
        if not leading or not standing_by:
            return
        if kind == "pause in a check":
            self.asked.clear()
            await self.asked.wait()
        self.faults.append(Fault(kind, time.time(), leader))
        if kind in {"kill", "kill a standby", "terminate"}:
            victim = standing_by[0] if kind == "kill a standby" else leading[0]
            victim.send_signal(signal.SIGTERM if kind == "terminate" else signal.SIGKILL)
            await asyncio.to_thread(victim.wait, 10)
            self.processes.remove(victim)
            await self._relieved(leader if victim in leading else "")
            self._start()
        elif kind == "pause the store":
            self.server.signal(signal.SIGSTOP)
            await asyncio.sleep(self.dice.uniform(0.1, 2) * self.lease_ttl)
            self.server.signal(signal.SIGCONT)
        else:
            leading[0].send_signal(signal.SIGSTOP)
            await self._relieved(leader)
            await asyncio.sleep(self.dice.uniform(0, CHECK_INTERVAL_S))
            leading[0].send_signal(signal.SIGCONT)

    async def _relieved(self, leader: str) -> None:
        """Waits until another than this one leads and has checked."""
        while self._leader() in {leader, ""}:
            await asyncio.sleep(0.01)
        entries = self.client.llen(KEY + "journal")
        while self.client.llen(KEY + "journal") < entries + 2:
            await asyncio.sleep(0.01)


def for_seconds(seconds: float, seed: int, kinds: Sequence[str] = FAULTS) -> Iterator[str]:
    """Kinds of faults at random, for so long. The same seed gives the same kinds."""
    dice = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield dice.choice(kinds)


@contextlib.contextmanager
def rig(number: int, **values: Any) -> Iterator[Rig]:
    """A rig on a store of its own."""
    with short_folder() as folder:
        server = Server(folder)
        server.start()
        try:
            yield Rig(number, server, folder, **values)
        finally:
            server.stop()


# -- the long run ----------------------------------------------------------------------------------


def report(rig: Rig) -> bool:
    """Prints what a run found; gives whether all was well."""
    journal, wrong = rig.journal(), rig.violations()
    kinds = Counter(entry.kind for entry in journal)
    epochs = len({entry.epoch for entry in journal})
    click.echo(
        f"{rig.number} monitors: {dict(kinds)}, {epochs} epochs, {rig.refused()} writes refused"
    )
    for kind, count in sorted(Counter(fault.kind for fault in rig.faults).items()):
        silences = (
            rig.silences(kind) if kind in {"kill", "terminate", "pause", "pause in a check"} else []
        )
        longest = f", longest silence {max(silences):.2f} s" if silences else ""
        click.echo(f"  {count:4} x {kind}{longest}")
    click.echo("\n".join(f"  WRONG: {one}" for one in wrong[:20]) or "  nothing is wrong")
    slow = (
        max(rig.silences("kill"), default=0) > 15 or max(rig.silences("terminate"), default=0) > 1.5
    )
    return not wrong and not slow


async def _long(minutes: float, lease_ttl: float, seed: int, without: tuple[str, ...]) -> bool:
    with (
        rig(2, lease_ttl=lease_ttl, seed=seed, without=without) as two,
        rig(3, lease_ttl=lease_ttl, seed=seed + 1, without=without) as three,
    ):
        await asyncio.gather(
            two.run(for_seconds(minutes * 60, two.seed)),
            three.run(for_seconds(minutes * 60, three.seed)),
        )
        return all([report(two), report(three)])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--monitor", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--lease-ttl", type=float, default=5.0, help="seconds; the other times follow from it"
    )
    parser.add_argument("--seed", type=int, help="for the same faults again")
    parser.add_argument("--without", nargs="*", default=[], choices=["fence", "deadline"])
    arguments = parser.parse_args()
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    if arguments.monitor:
        monitor(arguments.without)
    else:
        sys.exit(
            0
            if asyncio.run(
                _long(arguments.minutes, arguments.lease_ttl, seed, tuple(arguments.without))
            )
            else 1
        )


if __name__ == "__main__":
    main()
