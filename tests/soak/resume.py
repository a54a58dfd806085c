"""Resuming: watchers lose connections, replicas and the store at random, and must have the whole
history all the same.

Run: python -m tests.soak.resume --seconds 60 --events 2000. Every watcher's log must equal what the
writers know to be recorded, in order, each event once and in the very bytes, with a `reset` nowhere
but where retention had cut what the watcher still needed.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
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


@dataclass
class Faults:
    """Breaks what it is given, at random, one thing at a time. `counts` is how often it did
    what."""

    store: Valkey
    replicas: Sequence[Replica]
    watchers: Sequence[Watcher]
    pause: float
    """Seconds between two faults, on average."""
    away: float
    """Seconds for which a watcher may stay away."""
    counts: dict[str, int] = field(default_factory=dict)

    async def inject(self, enough: asyncio.Event) -> None:
        """Goes on until it is told that it is enough, and ends with everything running."""
        kinds: Sequence[Callable[[], Awaitable[None]]] = [
            *[self._connections] * 6,
            *[self._replica, self._store] * 2,
        ]
        first = [*kinds[-2:], *kinds[:1]]  # Even a short run has seen all.
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(0.5, 1.5) * self.pause):
                    await enough.wait()
                if not first:
                    return
            await (first.pop() if first else random.choice(kinds))()

    async def _connections(self) -> None:
        victims = random.sample(list(self.watchers), max(1, len(self.watchers) // 4))
        for watcher in victims:
            watcher.cut(random.choice([0.0, 0.0, random.uniform(0, self.away)]))
        self._count("connections cut", len(victims))

    async def _replica(self) -> None:
        victim = random.choice(self.replicas)
        if random.random() < ORDERLY:
            await asyncio.to_thread(victim.stop)
            self._count("replicas ended in order")
        else:
            victim.kill()
            self._count("replicas killed")
        await asyncio.sleep(random.uniform(0, 0.3))
        await asyncio.to_thread(victim.start)

    async def _store(self) -> None:
        self.store.kill()
        self._count("stores killed")
        await asyncio.sleep(random.uniform(0, 0.5))
        await asyncio.to_thread(self.store.start)

    def _count(self, what: str, times: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + times


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
    pause: float = 1.0,
    away: float = 2.0,
) -> Outcome:
    """Records `events` over `seconds` while things break, then mends everything and compares."""
    recorded = Recorded()
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
            faults = Faults(store, replicas, crowd, pause, away)
            began, enough = time.monotonic(), asyncio.Event()
            breaking = asyncio.create_task(faults.inject(enough))
            try:
                await _write(ports, recorded, seconds, events, writers)
                took = time.monotonic() - began
                enough.set()
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
    return Outcome(recorded, faults.counts, took, watchers, connections, resets, problems)


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
                yield f"a reset after event {place}, which retention cannot have cut: {sent} had been sent"
            reset = True
            continue
        here = place_of.get(what, -1)
        if reset and here > 0 and here + retention > sent:
            yield f"after a reset it begins with event {here} though older ones were retained: {sent} had been sent"
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
    seed = seed if seed is not None else random.randrange(1_000_000)
    random.seed(seed)
    outcome = asyncio.run(
        run(
            seconds,
            events,
            retention=retention or events,
            watchers=watchers,
            writers=1 if retention else 2,
            away=2 * retention * seconds / events if retention else 2.0,
        )
    )
    for name, value in (outcome.figures | {"seed": str(seed)}).items():
        click.echo(f"{name:<40} {value}")
    for problem in outcome.problems[:10]:
        click.echo(problem, err=True)
    raise SystemExit(bool(outcome.problems))


if __name__ == "__main__":
    main()
