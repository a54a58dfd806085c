"""The rows about a replica's life: memory, the store's peace, how soon a change is seen, how soon
it is ready."""

import json
import random
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.load import ours, wire
from tests.load.contenders import EVENTS, FULL_BYTES, Contenders
from tests.load.marks import Mark
from tests.load.measure import BenchError, memory_kib, percentile, wrk
from tests.load.ours import LATEST, LIST, READER, Server, Valkey
from tests.load.polls import Load

FIRST_CONNECTIONS = 12_500
"""They take the room that imports leave free in a process, some megabytes; what the next ones need
is new."""
IDLE_CONNECTIONS = 5_000
STARTS = 5
CHANGES = 200
_CHANGES_PER_S = 20
_FILES = FIRST_CONNECTIONS + IDLE_CONNECTIONS + 500

Result = tuple[dict[str, float], list[Mark]]


def memory(contenders: Contenders, _seconds: int) -> Result:
    """What a replica needs with every event kept in full."""
    replica = partial(_replica, contenders, contenders.valkey, cluster_name="memory")
    with replica() as server, wire.Connection(server.port) as connection:
        empty = memory_kib(server.pid)
        for _ in range(EVENTS):
            ours.record(connection, FULL_BYTES)
    # One that starts with all of them, so that nothing of the recording is counted.
    with replica() as server, wire.Connection(server.port) as connection:
        listed = json.loads(connection.ask(wire.get(LIST, READER)).body)
        for event in listed:
            reply = connection.ask(wire.get(f"{LIST}/{event['id']}?selector=all", READER))
            if len(reply.body) != FULL_BYTES:
                raise BenchError(f"an event has {len(reply.body)} bytes, expected {FULL_BYTES}")
        full = memory_kib(server.pid)
    figures = {"events": len(listed), "empty_mib": empty / 1_024, "full_mib": full / 1_024}
    return figures, [
        Mark("memory with 1,000 events of 2 KB", 70, full / 1_024, unit="MiB", digits=1)
    ]


def idle(contenders: Contenders, _seconds: int) -> Result:
    """What a connection needs that has polled and waits."""
    _allow_files()
    poll = wire.get(LATEST, READER)
    with ExitStack() as stack:
        server = stack.enter_context(_replica(contenders, contenders.valkey, cluster_name="idle"))
        with wire.Connection(server.port) as connection:
            ours.record(connection, FULL_BYTES)
            for _ in range(100):
                connection.ask(poll)
        empty = memory_kib(server.pid)
        _connect(server, FIRST_CONNECTIONS, poll, stack)
        before = memory_kib(server.pid)
        last = _connect(server, IDLE_CONNECTIONS, poll, stack)
        after = memory_kib(server.pid)
        if last.ask(poll).status != 200:
            raise BenchError("an idle connection does not answer")
    each = (after - before) / IDLE_CONNECTIONS
    figures = {
        f"with_{count:,}_mib": kib / 1_024
        for count, kib in (
            (0, empty),
            (FIRST_CONNECTIONS, before),
            (FIRST_CONNECTIONS + IDLE_CONNECTIONS, after),
        )
    }
    return figures, [Mark("memory per idle connection (of 5,000)", 2, each, unit="KiB")]


def _connect(server: Server, count: int, poll: bytes, stack: ExitStack) -> wire.Connection:
    """Makes connections, each of which polls once; gives the last."""
    connection = None
    for _ in range(count):
        connection = stack.enter_context(wire.Connection(server.port))
        if connection.ask(poll).status != 200:
            raise BenchError("a poll was refused")
    assert connection is not None
    return connection


def commands(contenders: Contenders, seconds: int) -> Result:
    """What the store is asked per second, while nobody polls and while as many as possible do."""
    window = max(10, 2 * seconds)
    with ExitStack() as stack:  # A store that no other replica asks.
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ce-bench-")))
        store = stack.enter_context(ours.valkey(folder, contenders.cores))
        server = stack.enter_context(_replica(contenders, store))
        with wire.Connection(server.port) as connection:
            ours.record(connection, FULL_BYTES)
        time.sleep(1)  # Until the replica has subscribed and knows the record.
        at_rest = _commands_per_s(store, lambda: time.sleep(window))
        load = Load().arguments(server.port)
        under_load = _commands_per_s(store, lambda: wrk(load, window, contenders.cores.client))
    figures = {"idle_per_s": at_rest.total, "load_per_s": under_load.total}
    figures |= {"idle_requests_per_s": at_rest.requests, "load_requests_per_s": under_load.requests}
    worst = max(at_rest.total, under_load.total)
    return figures, [
        Mark(
            "Redis commands per second and replica, within scripts too",
            10,
            worst,
            unit="/s",
            digits=1,
        ),
        # The same, but for one heartbeat more or less in the window.
        Mark("Redis commands under full poll load / idle", 1.1, under_load.total / at_rest.total),
    ]


@dataclass(frozen=True)
class _Rate:
    """Commands per second: all, and those that came over a connection rather than from within a
    script."""

    total: float
    requests: float


def _commands_per_s(store: Valkey, work: Callable[[], object]) -> _Rate:
    with store.client() as client:
        before, began = client.info("commandstats"), time.monotonic()
        work()
        after, took = client.info("commandstats"), time.monotonic() - began
    calls = {
        name: stats["calls"] - before.get(name, {"calls": 0})["calls"]
        for name, stats in after.items()
    }
    del calls["cmdstat_info"]  # Ours.
    scripts = (
        "cmdstat_eval",
        "cmdstat_fcall",
        "cmdstat_script",
        "cmdstat_ping",
        "cmdstat_subscribe",
    )
    asked = sum(count for name, count in calls.items() if name.startswith(scripts))
    return _Rate(sum(calls.values()) / took, asked / took)


def visible(contenders: Contenders, _seconds: int) -> Result:
    """How long after it was sent a change is seen on other replicas: one that hears of it, one that
    only looks."""
    with contenders.valkey.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "deaf", "on", ">deaf", "~*", "+@all", "resetchannels"
        )
    with ExitStack() as stack:
        writer, hearing = (
            stack.enter_context(_replica(contenders, contenders.valkey, cluster_name="visible"))
            for _ in range(2)
        )
        deaf = stack.enter_context(
            _replica(contenders, contenders.valkey, credential="deaf:deaf", cluster_name="visible")
        )
        with wire.Connection(writer.port) as connection:
            ours.record(connection, FULL_BYTES)
        time.sleep(1)
        observers = {"heard": Observer(hearing), "looked": Observer(deaf)}
        for observer in observers.values():
            observer.start()
        try:
            sent = _change(writer)
            time.sleep(2)  # For the last change to be seen by looking.
        finally:
            for observer in observers.values():
                observer.end()
    figures: dict[str, float] = {"changes": len(sent)}
    delays = {name: observer.delays_ms(sent) for name, observer in observers.items()}
    for name, values in delays.items():
        figures |= {
            f"{name}_p50_ms": percentile(values, 50),
            f"{name}_p99_ms": percentile(values, 99),
        }
    return figures, [
        Mark(
            "a change visible on another replica, p99",
            20,
            figures["heard_p99_ms"],
            unit="ms",
            digits=1,
        ),
        Mark(
            "the same with publications cut off, p99",
            1_000,
            figures["looked_p99_ms"],
            unit="ms",
            digits=0,
        ),
    ]


class Observer(threading.Thread):
    """Polls `latest` a thousand times a second and notes when it saw another event first."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._port = server.port
        self._ended = threading.Event()
        self._seen: list[tuple[str, float]] = []

    def run(self) -> None:
        """Polls until it is ended."""
        poll, last = wire.get(LATEST, READER), ""
        with wire.Connection(self._port) as connection:
            while not self._ended.is_set():
                body = connection.ask(poll).body
                now = time.monotonic()
                event_id = body[7:43].decode()
                if event_id != last:
                    self._seen.append((event_id, now))
                    last = event_id
                time.sleep(0.001)

    def end(self) -> None:
        """Stops polling."""
        self._ended.set()
        self.join()

    def delays_ms(self, sent: dict[str, float]) -> list[float]:
        """For each change, in the order sent, the time from then until it or a later one was seen.
        Raises `BenchError`."""
        order = {event_id: index for index, event_id in enumerate(sent)}
        when = list(sent.values())
        delays: list[float] = []
        for event_id, now in self._seen:
            shown = when[len(delays) : order.get(event_id, -1) + 1]
            delays += [(now - moment) * 1_000 for moment in shown]
        if len(delays) < len(sent):
            raise BenchError(f"{len(sent) - len(delays)} of {len(sent)} changes were never seen")
        return delays


def _change(writer: Server) -> dict[str, float]:
    """Records changes at a steady rate, but in no step with any heartbeat; gives each id and when
    it was sent."""
    sent: dict[str, float] = {}
    with wire.Connection(writer.port) as connection:
        for _ in range(CHANGES):
            time.sleep(random.uniform(0, 2 / _CHANGES_PER_S))
            now = time.monotonic()
            sent[ours.record(connection, FULL_BYTES)] = now
    return sent


def start(contenders: Contenders, _seconds: int) -> Result:
    """How long after its start a process answers that it is ready."""
    took: list[float] = []
    _ = contenders.ours  # There is something to be read at the start.
    for _ in range(STARTS):
        began = time.monotonic()
        with _replica(contenders, contenders.valkey, pause=0.005):
            took.append(time.monotonic() - began)
    figures = {"fastest_s": min(took), "slowest_s": max(took)}
    return figures, [Mark("start to ready, median of 5", 0.6, statistics.median(took), unit="s")]


LIFE_ROWS: dict[str, Callable[[Contenders, int], Result]] = {
    "idle": idle,
    "memory": memory,
    "commands": commands,
    "visible": visible,
    "start": start,
}


@contextmanager
def _replica(
    contenders: Contenders,
    store: Valkey,
    *,
    credential: str = "",
    pause: float = 0.02,
    **settings: str,
) -> Iterator[Server]:
    with TemporaryDirectory(prefix="ce-bench-") as folder:
        core = contenders.cores.server
        with ours.serve(
            store, Path(folder), core, credential=credential, pause=pause, **settings
        ) as server:
            yield server


def _allow_files() -> None:
    """Raises the limit of open files, which processes inherit. Raises `BenchError` where it may not
    be raised so far."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _FILES:
        raise BenchError(f"only {hard} files may be open; {_FILES} are needed")
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, hard))
