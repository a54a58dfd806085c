"""Resuming: watchers lose connections, replicas and the store at random, and must have the whole
history all the same.

Run: python -m tests.soak.resume --seconds 60 --events 2000. Every watcher's log must equal what the
writers know to be recorded, in order, each event once and in the very bytes, with a `reset` nowhere
but where retention had cut what the watcher still needed.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import click

from tests.load import wire
from tests.soak.rig import LIST, READER, Replica, Valkey, folder, running
from tests.soak.watcher import RESET, Watcher
from tests.soak.writer import Recorded, record, status_of

ORDERLY = 0.3
"""The share of replicas that are asked to end rather than killed."""
SETTLE_S = 20.0
"""After the last fault: for everybody to come back and catch up."""

CAUGHT_UP_S = 3.0
"""Seconds after the last fault: the store's return, a reconnection, and a heartbeat."""


@dataclass(frozen=True)
class Fault:
    """Something that breaks once `at` events are recorded."""

    at: int
    kind: str
    victims: tuple[int, ...] = ()
    """The watchers whose connections are cut, or the replica."""
    away: tuple[int, ...] = ()
    """For each of these watchers, how many events it misses before it comes back."""
    down: float = 0.0
    """Seconds until the process that ended is started again: without a store nothing is counted."""


CUT, KILLED, ENDED, STORE = (
    "connections cut",
    "replicas killed",
    "replicas ended in order",
    "stores killed",
)


def plan(
    seed: int, number: int, *, events: int, watchers: int, replicas: int, away: int
) -> list[Fault]:
    """So many faults, spread over the events. The same seed plans the same faults.

    The first four are of all kinds, and the first one cuts connections so that one watcher misses
    `away` events.
    """
    dice = random.Random(seed)
    kinds = [CUT, *dice.sample([KILLED, ENDED, STORE], 3)]
    kinds += dice.choices([CUT, KILLED, ENDED, STORE], [6, 1, 1, 2], k=number - len(kinds))
    faults = []
    for index, kind in enumerate(kinds):
        at = round((index + dice.uniform(0.7, 1.3)) * events / (number + 1))
        if kind == CUT:
            victims = tuple(dice.sample(range(watchers), max(1, watchers // 4)))
            missed = tuple(dice.choice([0, 0, dice.randint(1, away)]) for _ in victims[1:])
            faults.append(Fault(at, kind, victims, (away if not index else 0, *missed)))
        else:
            victims = () if kind == STORE else (dice.randrange(replicas),)
            faults.append(Fault(at, kind, victims, down=dice.uniform(0, 0.4)))
    return faults


@dataclass
class Faults:
    """Breaks what it is given, one thing at a time. `counts` is how often it did what."""

    store: Valkey
    replicas: Sequence[Replica]
    watchers: Sequence[Watcher]
    recorded: Recorded
    events: int
    """How many are recorded in all."""
    counts: Counter[str] = field(default_factory=Counter)

    async def inject(self, faults: Sequence[Fault]) -> None:
        """Makes these faults, and ends with everything running."""
        for fault in faults:
            while len(self.recorded.full) < fault.at:
                await asyncio.sleep(0.005)
            self.counts[fault.kind] += 1
            if fault.kind == CUT:
                await self._cut(fault)
            elif fault.kind == STORE:
                self.store.kill()
                await asyncio.sleep(fault.down)
                await asyncio.to_thread(self.store.start)
            else:
                victim = self.replicas[fault.victims[0]]
                await asyncio.to_thread(victim.stop if fault.kind == ENDED else victim.kill)
                await asyncio.sleep(fault.down)
                await asyncio.to_thread(victim.start)

    async def _cut(self, fault: Fault) -> None:
        for index, away in zip(fault.victims, fault.away, strict=True):
            watcher = self.watchers[index]
            while not watcher.log:  # It has a place in the history, so that it can lose it.
                await asyncio.sleep(0.005)
            watcher.cut(min(self.recorded.sent + away, self.events) if away else 0)


@dataclass
class Outcome:
    """What a run found; `problems` is empty if every promise was kept."""

    recorded: Recorded
    faults: dict[str, int]
    seconds: float
    watchers: int
    connections: int
    resets: int
    problems: list[str]
    seed: int

    @property
    def figures(self) -> dict[str, str]:
        """For people."""
        recorded = self.recorded
        return {
            "events recorded": f"{len(recorded.full):,} in {self.seconds:.0f} s",
            "sent again, of which had been recorded": f"{recorded.retries}, {recorded.found}",
            **{name: str(count) for name, count in self.faults.items()},
            "watchers, streams begun": f"{self.watchers}, {self.connections}",
            "resets after the first": str(self.resets),
            "wrong logs": str(len(self.problems)),
        }


async def run(
    seconds: float,
    events: int,
    *,
    retention: int,
    watchers: int = 40,
    writers: int = 2,
    faults: int = 60,
    away: int = 60,
    seed: int | None = None,
) -> Outcome:
    """Records `events` over `seconds` while so many things break, then compares.

    `away` is the most events that a watcher misses before it comes back. The same `seed` plans the
    same faults; without one it is chosen, and printed.
    """
    recorded = Recorded()
    seed = random.randrange(1_000_000) if seed is None else seed
    click.echo(f"the faults are those of the seed {seed}")
    with folder() as path:
        store = Valkey(path)
        replicas = [
            Replica(
                store, path, f"replica-{index}", retention_events=str(retention), log_format="json"
            )
            for index in range(2)
        ]
        with running(store, *replicas):
            ports = [replica.port for replica in replicas]
            crowd = [
                Watcher(ports, ("status", "all")[index % 2], lambda: recorded.sent)
                for index in range(watchers)
            ]
            tasks = [asyncio.create_task(watcher.watch()) for watcher in crowd]
            planned = plan(
                seed, faults, events=events, watchers=watchers, replicas=len(replicas), away=away
            )
            chaos = Faults(store, replicas, crowd, recorded, events)
            began = time.monotonic()
            breaking = asyncio.create_task(chaos.inject(planned))
            try:
                await _write(ports, recorded, seconds, events, writers)
                took = time.monotonic() - began
                await breaking
                history = recorded.history()
                await _settle(crowd, history)
                problems = [
                    f"watcher {n}: {p}"
                    for n, one in enumerate(crowd)
                    if (p := wrong(one, recorded, retention))
                ]
                expected = (
                    b"["
                    + b",".join(status_of(recorded.full[i]) for i in reversed(history[-retention:]))
                    + b"]"
                )
                late = [
                    replica.url for replica in replicas if not await _answers(replica, expected)
                ]
                problems += [f"the list of {url} is not the history" for url in late]
            finally:
                for task in (*tasks, breaking):
                    task.cancel()
                await asyncio.gather(*tasks, breaking, return_exceptions=True)
    resets = sum(what == RESET for one in crowd for what, _ in one.log[_first_id(one) :])
    connections = sum(one.connections for one in crowd)
    return Outcome(recorded, chaos.counts, took, watchers, connections, resets, problems, seed)


async def _write(
    ports: Sequence[int], recorded: Recorded, seconds: float, events: int, writers: int
) -> None:
    """Writers keep to a schedule and make up for what an outage cost them."""
    began, numbers = time.monotonic(), iter(range(events))

    async def write() -> None:
        for number in numbers:
            await asyncio.sleep(max(0.0, began + number * seconds / events - time.monotonic()))
            await record(ports, number, recorded)

    await asyncio.gather(*(write() for _ in range(writers)))


async def _answers(replica: Replica, expected: bytes) -> bool:
    """Whether a replica comes to give this list. One that nobody watches, just restarted, may need
    a heartbeat or two."""
    deadline = time.monotonic() + CAUGHT_UP_S
    while wire.ask(replica.port, wire.get(LIST, READER)).body != expected:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def _settle(crowd: Sequence[Watcher], history: Sequence[str]) -> None:
    """Returns when everybody has the last event, or does not get it in time."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline and any(one.last != history[-1] for one in crowd):
        await asyncio.sleep(0.05)


def wrong(watcher: Watcher, recorded: Recorded, retention: int) -> str | None:
    """What is wrong with a watcher's log, if anything is."""
    return next(_wrong_order(watcher, recorded.history(), retention), None) or next(
        _wrong_bytes(watcher, recorded), None
    )


def _wrong_order(watcher: Watcher, history: Sequence[str], retention: int) -> Iterator[str]:
    place_of = {event_id: place for place, event_id in enumerate(history)}
    place, reset = -1, False
    for what, sent in watcher.log:
        if what == RESET:
            if place >= 0 and sent < place + 1 + retention:
                yield f"a reset after event {place}, which retention cannot have cut: {sent} had been sent"  # noqa: E501
            reset = True
            continue
        here = place_of.get(what, -1)
        if reset and here > 0 and here + retention > sent:
            yield f"after a reset it begins with event {here} though older ones were retained: {sent} had been sent"  # noqa: E501
        if here <= place or (not reset and here != place + 1):
            yield f"event {here} after {place}"
        place, reset = here, False
    if place != len(history) - 1:
        yield f"it ends with event {place} of {len(history)}"


def _wrong_bytes(watcher: Watcher, recorded: Recorded) -> Iterator[str]:
    for event_id, data in watcher.data.items():
        full = recorded.full[event_id]
        if data != (full if watcher.selector == "all" else status_of(full)):
            yield f"the bytes of {event_id} are not those recorded"


def _first_id(watcher: Watcher) -> int:
    return next(
        (index for index, (what, _) in enumerate(watcher.log) if what != RESET), len(watcher.log)
    )


@click.command()
@click.option(
    "--seconds", default=60.0, show_default=True, help="For how long to record and to break things."
)
@click.option("--events", default=2_000, show_default=True, help="How many events to record.")
@click.option("--watchers", default=40, show_default=True, help="How many clients watch.")
@click.option("--retention", default=0, help="The most events retained; all if not given.")
@click.option("--seed", default=None, type=int, help="For the same faults again.")
def main(seconds: float, events: int, watchers: int, retention: int, seed: int | None) -> None:
    """Breaks connections, replicas and the store while events are recorded, and compares every
    watcher's log."""
    outcome = asyncio.run(
        run(
            seconds,
            events,
            retention=retention or events,
            watchers=watchers,
            writers=1 if retention else 2,
            faults=max(4, round(seconds)),
            away=2 * retention or max(1, round(2 * events / seconds)),
            seed=seed,
        )
    )
    for name, value in (outcome.figures | {"seed": str(outcome.seed)}).items():
        click.echo(f"{name:<40} {value}")
    for problem in outcome.problems[:10]:
        click.echo(problem, err=True)
    raise SystemExit(bool(outcome.problems))


if __name__ == "__main__":
    main()
