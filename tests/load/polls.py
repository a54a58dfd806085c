"""The rows that wrk measures: contenders side by side under the same load, in alternating
rounds."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.load import wire
from tests.load.contenders import Contenders
from tests.load.marks import Mark
from tests.load.measure import BenchError, Skipped, core_us, cpu_us, median_ratio, wrk
from tests.load.ours import ALL, LATEST, LIST, READER, Server

_HERE = Path(__file__).parent
_CONNECTIONS = 64
_WARM_UP_S = 1
_QUIET = 0.1
"""The share of the server's core that others may take unmentioned."""
_SIGHTS = 4
"""How often each of many credentials is sent before: a head is remembered at its second sight."""

OURS = "ours"
NGINX = "nginx return"
NGINX_FILE = "nginx sendfile"
EPOLL = "C epoll"
SERVER = "aiohttp Server"
APPLICATION = "aiohttp Application"
WEBDIS = "webdis"
FASTAPI = "FastAPI reference"
ONE_CREDENTIAL = "ours, one credential"

_TRACEPARENT = "traceparent: 00-4bf92f3577b34da6%016x-00f067aa0ba902b7-01"
_UNKNOWN = "X-Run: %016d"


@dataclass(frozen=True)
class Load:
    """What wrk sends.

    `unique` is a header line with a number in it (as Lua's string.format takes it) that is another
    in each request, `tokens` a file with credentials to send in turn.
    """

    path: str = LATEST
    headers: tuple[str, ...] = (READER,)
    unique: str | None = None
    tokens: Path | None = None

    def arguments(self, port: int) -> list[str]:
        """Wrk's arguments."""
        arguments = ["--connections", str(_CONNECTIONS)]
        for line in self.headers:
            arguments += ["--header", line]
        url = f"http://127.0.0.1:{port}{self.path}"
        if self.unique is not None:
            # Microseconds: no number has been sent before, and what was sent may be remembered.
            began = str(time.time_ns() // 1_000)
            return [
                *arguments,
                "--script",
                str(_HERE / "unique.lua"),
                url,
                "--",
                self.unique,
                began,
            ]
        if self.tokens is not None:
            return [
                *arguments,
                "--script",
                str(_HERE / "credentials.lua"),
                url,
                "--",
                str(self.tokens),
            ]
        return [*arguments, url]


@dataclass(frozen=True)
class Case:
    """One contender under one load, and the reply that it must give."""

    server: Server
    like: wire.Reply
    load: Load = Load()  # Frozen.

    def verify(self, name: str) -> None:
        """Raises `BenchError` if the reply is not the expected one: what answers wrongly is not
        measured."""
        got = wire.ask(self.server.port, wire.get(self.load.path, *self.load.headers))
        if got.status != self.like.status or len(got.body) != len(self.like.body):
            raise BenchError(
                f"{name} answers {got.status} with {len(got.body)} bytes, expected "
                f"{self.like.status} with "
                f"{len(self.like.body)}: {got.body[:200]!r}"
            )

    def warm_up(self, core: int) -> None:
        """Sends load, each credential several times and without haste, so that what can be
        remembered is."""
        if self.load.tokens is not None:
            tokens = self.load.tokens.read_text().split()
            with wire.Connection(self.server.port) as connection:
                for token in _SIGHTS * tokens:
                    connection.ask(wire.get(self.load.path, f"Authorization: Bearer {token}"))
        wrk(self.load.arguments(self.server.port), _WARM_UP_S, core)


@dataclass
class Figures:
    """What was measured of a case, round by round. CPU times are µs per request, of the server and
    of the store.

    `others` is the share of the server's core that someone else took: where it is not small, caches
    were not the server's own.
    """

    cpu_us: list[float] = field(default_factory=list)
    store_us: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    socket_errors: int = 0

    @property
    def cpu(self) -> float:
        """The server's CPU time per request."""
        return statistics.median(self.cpu_us)

    @property
    def store(self) -> float:
        """The store's CPU time per request."""
        return statistics.median(self.store_us)


@dataclass(frozen=True)
class Ratio:
    """A mark on the CPU time per request of one case against another's."""

    what: str
    case: str
    against: str
    limit: float
    accept: float | None = None
    at_least: bool = False

    def mark(self, figures: Mapping[str, Figures]) -> Mark:
        """The mark with its measured value."""
        value = None
        if self.case in figures and self.against in figures:
            value = median_ratio(figures[self.case].cpu_us, figures[self.against].cpu_us)
        return Mark(self.what, self.limit, value, accept=self.accept, at_least=self.at_least)


@dataclass(frozen=True)
class Row:
    """One question to several contenders. A case raises `Skipped` where its contender is not
    installed."""

    title: str
    cases: Mapping[str, Callable[[Contenders], Case]]
    ratios: tuple[Ratio, ...] = ()

    def measure(
        self, contenders: Contenders, rounds: int, seconds: int, tell: Callable[[str], None]
    ) -> dict[str, Figures]:
        """The figures of each case: A B C, A B C, … after all have been verified and warmed up."""
        cases: dict[str, Case] = {}
        for name, start in self.cases.items():
            try:
                cases[name] = start(contenders)
            except Skipped as reason:
                tell(f"skipped: {name}: {reason}")
        for name, case in cases.items():
            case.verify(name)
            case.warm_up(contenders.cores.client)
        figures = {name: Figures() for name in cases}
        for _ in range(rounds):
            for name, case in cases.items():
                sample(case, contenders, seconds, figures[name])
        for name, found in figures.items():
            if found.socket_errors:
                tell(f"remark: {name}: {found.socket_errors} socket errors")
            if max(found.others) > _QUIET:
                tell(
                    f"remark: {name}: others took up to {max(found.others):.0%} of the "
                    f"server's core"
                )
        return figures


def sample(case: Case, contenders: Contenders, seconds: int, figures: Figures) -> None:
    """Adds one round to a case's figures. Raises `BenchError` if requests were refused."""
    server, store, cores = case.server.pid, contenders.valkey.pid, contenders.cores
    core_before, server_before, store_before = core_us(cores.server), cpu_us(server), cpu_us(store)
    run = wrk(case.load.arguments(case.server.port), seconds, cores.client)
    core_used, server_used = core_us(cores.server) - core_before, cpu_us(server) - server_before
    store_used = cpu_us(store) - store_before
    if run.refused or not run.requests:
        raise BenchError(f"{run.refused} of {run.requests} requests were refused under {case.load}")
    figures.cpu_us.append(server_used / run.requests)
    figures.store_us.append(store_used / run.requests)
    figures.rate.append(run.requests / run.seconds)
    figures.p99_ms.append(run.p99_ms)
    figures.others.append(max(0.0, core_used - server_used) / (run.seconds * 1_000_000))
    figures.socket_errors += run.socket_errors


def _by_id(contenders: Contenders) -> Case:
    load = Load(f"{LIST}/{contenders.truth.event_id}")
    return Case(contenders.ours, contenders.truth.latest, load)


def _not_modified(contenders: Contenders) -> Load:
    return Load(headers=(READER, f"If-None-Match: {contenders.truth.etag}"))


_CLOSE = Load(headers=(READER, "Connection: close"))

ROWS: dict[str, Row] = {
    "latest": Row(
        "latest, the same head again and again",
        {
            OURS: lambda c: Case(c.ours, c.truth.latest),
            NGINX: lambda c: Case(c.nginx["latest"], c.truth.latest),
            EPOLL: lambda c: Case(c.epoll, c.truth.latest),
            SERVER: lambda c: Case(c.aiohttp_server, c.truth.latest),
            APPLICATION: lambda c: Case(c.aiohttp_application, c.truth.latest),
            WEBDIS: lambda c: Case(c.webdis, c.truth.latest, Load(c.webdis.path)),
            FASTAPI: lambda c: Case(c.fastapi, c.truth.latest),
        },
        (
            Ratio("memoised poll / nginx return 200", OURS, NGINX, 1.0, accept=1.05),
            Ratio("memoised poll / bare C epoll responder", OURS, EPOLL, 1.2),
            Ratio("FastAPI reference / memoised poll", FASTAPI, OURS, 40, at_least=True),
        ),
    ),
    "tracing": Row(
        "latest, a traceparent of its own in each request",
        {
            OURS: lambda c: Case(c.ours, c.truth.latest, Load(unique=_TRACEPARENT)),
            NGINX: lambda c: Case(c.nginx["latest"], c.truth.latest, Load(unique=_TRACEPARENT)),
        },
        (Ratio("heads that differ in tracing headers / nginx", OURS, NGINX, 1.6),),
    ),
    "unknown": Row(
        "latest, an unknown header of its own in each request",
        {
            OURS: lambda c: Case(c.ours, c.truth.latest, Load(unique=_UNKNOWN)),
            SERVER: lambda c: Case(c.aiohttp_server, c.truth.latest, Load(unique=_UNKNOWN)),
        },
        (Ratio("heads unique in an unknown header / bare aiohttp Server", OURS, SERVER, 1.4),),
    ),
    "not-modified": Row(
        "latest, If-None-Match that matches: 304",
        {
            OURS: lambda c: Case(c.ours, c.truth.not_modified, _not_modified(c)),
            NGINX: lambda c: Case(c.nginx["not_modified"], c.truth.not_modified, _not_modified(c)),
        },
        (Ratio("304 / nginx return 304", OURS, NGINX, 1.0),),
    ),
    "all": Row(
        "latest, selector=all: 3 KB",
        {
            OURS: lambda c: Case(c.ours, c.truth.full, Load(ALL)),
            NGINX: lambda c: Case(c.nginx["full"], c.truth.full, Load(ALL)),
        },
        (Ratio("selector=all, 3 KB / nginx with the same bytes", OURS, NGINX, 1.1),),
    ),
    "by-id": Row(
        "one event by its id",
        {OURS: _by_id, NGINX: lambda c: Case(c.nginx["latest"], c.truth.latest)},
    ),
    "list": Row(
        "the list of 1,000 events",
        {
            OURS: lambda c: Case(c.ours, c.truth.list, Load(LIST)),
            NGINX_FILE: lambda c: Case(c.nginx["list"], c.truth.list, Load(LIST)),
        },
        (Ratio("list of 1,000 events / nginx sendfile", OURS, NGINX_FILE, 1.0),),
    ),
    "close": Row(
        "latest, a new connection for each request",
        {
            OURS: lambda c: Case(c.ours, c.truth.latest, _CLOSE),
            NGINX: lambda c: Case(c.nginx["latest"], c.truth.latest, _CLOSE),
            APPLICATION: lambda c: Case(c.aiohttp_application, c.truth.latest, _CLOSE),
        },
        (Ratio("new connection per request / nginx", OURS, NGINX, 1.25, accept=1.4),),
    ),
    "credentials": Row(
        "latest, 10,000 credentials in turn",
        {
            OURS: lambda c: Case(c.ours, c.truth.latest, Load(tokens=c.credentials)),
            ONE_CREDENTIAL: lambda c: Case(c.ours, c.truth.latest),
        },
        (Ratio("10,000 credentials in turn / one", OURS, ONE_CREDENTIAL, 1.2),),
    ),
}
