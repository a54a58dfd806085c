"""Thousands who wait: what each costs, how soon all know of a change, and what polls feel of it.
And what thin lines cost.

Run: python -m tests.soak.watchers. One API process on one core, this client and the store on
another.
"""

import asyncio
import functools
import gzip
import json
import resource
import shutil
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field

import click

from tests.load import wire
from tests.load.marks import Mark, Verdict, table
from tests.load.measure import Cores, cpu_us, memory_kib, percentile, wrk
from tests.soak.line import field as header
from tests.soak.rig import LATEST, LIST, READER, WRITER, Replica, Valkey, folder, pinned_to, running
from tests.soak.steady import p99_ms, poll, poller
from tests.soak.watcher import Stream, request
from tests.soak.writer import Recorded, event, record

PATIENCE_S = 20.0
"""For everybody to be there, or to have heard."""
AT_ONCE = 200
"""Connections that are opened side by side."""
REST_S = 3.0
"""The most for polls at rest; those of the second after the change are compared with them."""
SETTLE_S = 1.0
"""For the polling process to start."""
WARM = 0.1
"""The share of the crowd that comes first and fills the room that a fresh process has free; it is
not counted."""


@dataclass
class Crowd:
    """Everybody who waits, as streams or as waiting reads; `heard` is when each one heard of the
    change, in monotonic seconds."""

    port: int
    begin: Callable[["Crowd"], Awaitable[None]]
    heard: list[float] = field(default_factory=list)
    here: int = 0
    clients: list[asyncio.Transport] = field(default_factory=list)

    async def grow(self, count: int) -> None:
        """So many more come."""
        for start in range(0, count, AT_ONCE):
            await asyncio.gather(*(self.begin(self) for _ in range(min(AT_ONCE, count - start))))
        async with asyncio.timeout(PATIENCE_S):
            while self.here < len(self.clients):
                await asyncio.sleep(0.01)

    def hear(self, *_: object) -> None:
        """Somebody has heard."""
        self.heard.append(time.monotonic())

    async def leave(self) -> None:
        """Everybody goes."""
        for client in self.clients:
            client.abort()
        await asyncio.sleep(0.1)


class Listening(Stream):
    """A stream that tells when it has begun."""

    def __init__(self, crowd: Crowd) -> None:
        super().__init__(request(), crowd.hear, lambda: None)
        self._crowd = crowd

    def data_received(self, data: bytes) -> None:
        """The head comes first."""
        begun = self._begun
        super().data_received(data)
        if self._begun and not begun:
            self._crowd.here += 1


async def listen(crowd: Crowd) -> None:
    """Begins a stream."""
    stream = Listening(crowd)
    transport, _ = await asyncio.get_running_loop().create_connection(
        lambda: stream, "127.0.0.1", crowd.port
    )
    crowd.clients.append(transport)


class Waiter(asyncio.Protocol):
    """One waiting read: what comes is the change."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd

    def data_received(self, data: bytes) -> None:
        """The reply."""
        assert data.startswith(b"HTTP/1.1 200 ")
        self._crowd.hear()


async def wait(crowd: Crowd, etag: str) -> None:
    """Begins a waiting read."""
    transport, _ = await asyncio.get_running_loop().create_connection(
        lambda: Waiter(crowd), "127.0.0.1", crowd.port
    )
    transport.write(wire.get(LATEST, READER, f"If-None-Match: {etag}", "Prefer: wait=60"))
    crowd.clients.append(transport)
    crowd.here += 1


@dataclass(frozen=True)
class Cost:
    """What a crowd costs. Memory per head in KiB, CPU in % of one core, times in ms."""

    count: int
    each_kib: float
    idle_cpu: float
    idle_cpu_without: float
    heard_p50_ms: float
    heard_p99_ms: float
    heard_max_ms: float
    poll_p99_ms: float
    poll_p99_idle_ms: float
    poll_max_ms: float


async def measure(
    replica: Replica, begin: Callable[[Crowd], Awaitable[None]], count: int, seconds: float
) -> Cost:
    """Costs of so many, in rest for some seconds and at one change."""
    crowd, rest, calm = Crowd(replica.port, begin), min(REST_S, seconds), min(1.0, seconds)
    without = await _cpu(replica, seconds / 2)
    await crowd.grow(int(count * WARM))
    before = memory_kib(replica.pid)
    await crowd.grow(count)
    await asyncio.sleep(calm)
    each = (memory_kib(replica.pid) - before) / count
    idle = await _cpu(replica, seconds)
    with poller() as pool:
        polling = asyncio.wrap_future(
            pool.submit(poll, replica.port, wire.get(LATEST, READER), rest + SETTLE_S + calm)
        )
        await asyncio.sleep(SETTLE_S + rest)  # A new process takes its time.
        began = time.monotonic()
        await record([replica.port], 1, Recorded())
        async with asyncio.timeout(PATIENCE_S):
            while len(crowd.heard) < len(crowd.clients):
                await asyncio.sleep(0.01)
        polls = await polling
    await crowd.leave()
    delays = [(moment - began) * 1_000 for moment in crowd.heard]
    assert len(delays) == len(crowd.clients), "each hears once"
    return Cost(
        len(crowd.clients),
        each,
        idle,
        without,
        percentile(delays, 50),
        percentile(delays, 99),
        max(delays),
        p99_ms(polls, began, began + calm),
        p99_ms(polls, began - rest, began),
        max(took for due, took in polls if due >= began) * 1_000,
    )


async def _cpu(replica: Replica, seconds: float) -> float:
    before, began = cpu_us(replica.pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_us(replica.pid) - before) / (time.monotonic() - began) / 10_000


@dataclass(frozen=True)
class Lines:
    """What compression and pages cost: the list's size with gzip in %, CPU per request in µs, a
    page's round trip in ms."""

    gzip_percent: float
    plain_us: float
    gzip_us: float
    page_us: float
    page_ms: float


def fill(replica: Replica, events: int) -> None:
    """Records so many, with ids of the service's own, which a list compresses better than
    others."""
    with wire.Connection(replica.port) as connection:
        for number in range(events):
            fields = event(number, "")
            del fields["id"]
            assert (
                connection.ask(wire.post(LIST, json.dumps(fields).encode(), WRITER)).status == 201
            )


def thin_lines(replica: Replica, seconds: int, cores: Cores) -> Lines:
    """Of the list of all that is retained. CPU is not measured where wrk is not installed."""
    with wire.Connection(replica.port) as connection:
        plain = connection.ask(wire.get(LIST, READER))
        small = connection.ask(wire.get(LIST, READER, "Accept-Encoding: gzip"))
        assert header(small, "Content-Encoding") == "gzip"
        assert gzip.decompress(small.body) == plain.body
        page = wire.get(PAGE, READER)
        assert connection.ask(page).body.count(b'"id"') == 50
        took = []
        for _ in range(300):
            began = time.perf_counter()
            connection.ask(page)
            took.append(time.perf_counter() - began)
    load = functools.partial(_cpu_per_request, replica, seconds, cores)
    plain_us, gzip_us, page_us = [], [], []
    if seconds and shutil.which("wrk"):
        for _ in range(3):
            plain_us.append(load(LIST))
            gzip_us.append(load(LIST, "Accept-Encoding: gzip"))
            page_us.append(load(PAGE))
    share = 100 * len(small.body) / len(plain.body)
    plain_cpu, gzip_cpu, page_cpu = (
        statistics.median(values or [0.0]) for values in (plain_us, gzip_us, page_us)
    )
    return Lines(share, plain_cpu, gzip_cpu, page_cpu, statistics.median(took) * 1_000)


PAGE = f"{LIST}?limit=50&service=api&status=Healthy&since=2020-01-01T00:00:00Z"


def _cpu_per_request(
    replica: Replica, seconds: int, cores: Cores, path: str, *headers: str
) -> float:
    arguments = ["--connections", "32", "--header", READER]
    for line in headers:
        arguments += ["--header", line]
    before = cpu_us(replica.pid)
    found = wrk([*arguments, f"http://127.0.0.1:{replica.port}{path}"], seconds, cores.client)
    assert not found.refused
    return (cpu_us(replica.pid) - before) / found.requests


@dataclass(frozen=True)
class Outcome:
    """Everything that was measured."""

    watching: Cost
    waiting: Cost
    lines: Lines

    @property
    def marks(self) -> list[Mark]:
        """What was promised. Of waiting reads nothing was: they are in the report."""
        watching, lines = self.watching, self.lines
        count = f"{watching.count:,}"
        per_request = lines.gzip_us / lines.plain_us if lines.plain_us else None
        return [
            Mark(f"memory per idle watcher (of {count})", 8, watching.each_kib, unit="KiB"),
            Mark(
                "CPU of idle watchers beyond that of none",
                0.5,
                max(0.0, watching.idle_cpu - watching.idle_cpu_without),
                unit="%",
            ),
            Mark(
                f"one change reaches {count} watchers, p99",
                500,
                watching.heard_p99_ms,
                unit="ms",
                digits=0,
            ),
            Mark(
                "polls meanwhile / at rest, p99",
                2,
                watching.poll_p99_ms / watching.poll_p99_idle_ms,
            ),
            Mark("the list with gzip, of its size", 12, lines.gzip_percent, unit="%", digits=1),
            Mark("the list with gzip / without, CPU per request", 1, per_request),
            Mark(
                "a page of 50 with filters, in the server",
                1,
                lines.page_us / 1_000 or None,
                unit="ms",
            ),
        ]

    @property
    def report(self) -> str:
        """A table for people."""
        both = asdict(self.watching), asdict(self.waiting)
        rows = [["figure", "watchers", "waiting reads"]]
        rows += [[name, *(f"{cost[name]:,.2f}" for cost in both)] for name in both[0]]
        lines = (f"  {name} {value:.2f}" for name, value in asdict(self.lines).items())
        return "\n".join(
            [table(rows, frozenset({1, 2})), "the list of 1,000 events, and a page of 50:", *lines]
        )


async def run(
    count: int = 5_000,
    *,
    events: int = 1_000,
    seconds: float = 20.0,
    wrk_seconds: int = 2,
    own_core: bool = True,
) -> Outcome:
    """Measures everything with so many who wait and a list of so many events."""
    _allow_files(2 * count + 500)
    cores = Cores.available()
    with folder() as path, pinned_to(cores.client if own_core else None):
        store = Valkey(path)
        replica = Replica(store, path, core=cores.server if own_core else None)
        with running(store, replica):
            fill(replica, events)
            lines = await asyncio.to_thread(thin_lines, replica, wrk_seconds, cores)
            etag = header(wire.ask(replica.port, wire.get(LATEST, READER)), "ETag") or ""
            waiting = await measure(replica, lambda crowd: wait(crowd, etag), count, seconds / 2)
            replica.stop()  # Each crowd meets a fresh process.
            await asyncio.to_thread(replica.start)
            watching = await measure(replica, listen, count, seconds)
    return Outcome(watching, waiting, lines)


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= count, (
        f"only {hard} files may be open; {count} are needed"
    )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@click.command()
@click.option("--count", default=5_000, show_default=True, help="How many watch, and then wait.")
@click.option(
    "--seconds", default=20.0, show_default=True, help="For how long watchers are left idle."
)
def main(count: int, seconds: float) -> None:
    """Measures what thousands of watchers and waiting reads cost, and compressed and filtered
    lists."""
    outcome = asyncio.run(run(count, seconds=seconds))
    click.echo(outcome.report)
    rows = [["what", "mark", "measured", "verdict"]]
    rows += [[mark.what, mark.target, mark.measured, mark.verdict.value] for mark in outcome.marks]
    click.echo(table(rows, frozenset({2})))
    raise SystemExit(any(mark.verdict is Verdict.MISSED for mark in outcome.marks))


if __name__ == "__main__":
    main()
