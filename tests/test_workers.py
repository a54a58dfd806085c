"""Several workers on one port, as processes."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from service.workers import MAX_FAILED_STARTS
from tests.support import needs
from tests.support.environment import environment
from tests.support.ports import reserve_port
from tests.support.processes import alive, children, end
from tests.support.settings import JWT_SECRET
from tests.support.waiting import PATIENCE_S, until_blocking

pytestmark = pytest.mark.slow

WORKERS = 3
TAKEN = "Error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def serving(valkey: str, **settings: str) -> dict[str, str]:
    """The environment of `serve` on that store."""
    return environment(**({"redis_url": valkey, "jwt_secret": JWT_SECRET, "drain": "0"} | settings))


def start(environ: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    """`cluster-events serve` as a process."""
    command = [sys.executable, "-m", "service", "serve", *arguments]
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)


@contextmanager
def served(
    environ: dict[str, str], *arguments: str, workers: int = WORKERS, port: int = 0
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """`serve --workers 3` as a process: the parent, and the port, when every worker serves."""
    process = start(environ, "--port", str(port), "--workers", str(workers), *arguments)
    try:
        ports = {logged(process, r"serving .*port=(\d+)") for _ in range(workers)}
        (found,) = ports
        yield process, int(found)
    finally:
        end(process)


def logged(process: "subprocess.Popen[str]", pattern: str) -> str:
    """The first group of the pattern in the next line of the log that it matches."""
    assert process.stderr is not None
    lines = []
    while line := process.stderr.readline():
        if match := re.search(pattern, line):
            return match[1]
        lines.append(line)
    raise AssertionError(f"it ended: {''.join(lines)}")


def metrics(port: int) -> str:
    """The page of metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def status_of(port: int, path: str) -> int:
    """The status of a GET on a new connection."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(error.code)


def requests_of(page: str, code: int) -> dict[str, float]:
    """How many requests each worker answered with that status."""
    counts: Counter[str] = Counter()
    for worker, count in re.findall(
        rf'http_requests_total\{{code="{code}".*worker="(\d+)"\}} ([\d.]+)', page
    ):
        counts[worker] += float(count)  # type: ignore[assignment]
    return dict(counts)


# -- one service -----------------------------------------------------------------------------------


def test_workers_share_a_port_and_its_metrics(valkey: str) -> None:
    """Every request is counted once, whichever worker answered it and whichever is asked for the
    metrics."""
    with served(serving(valkey)) as (_, port):
        for _ in range(30):
            assert status_of(port, "/v0/config") == 401
        until_blocking(
            lambda: sum(requests_of(metrics(port), 401).values()) == 30
        )  # At the latest a second later.
        assert len(re.findall(r"build_info\{", metrics(port))) == WORKERS

        def current() -> list[str]:
            ages = re.findall(r"snapshot_age_seconds\{worker=.*\} ([\d.e-]+)", metrics(port))
            return [age for age in ages if 0 < float(age) < 2]

        # As they are now, whoever is asked: each worker confirms its snapshot twice a second.
        until_blocking(lambda: len(current()) == WORKERS)


def test_connections_are_spread_evenly(valkey: str) -> None:
    """No worker of two gets less than a quarter of 200 connections: by chance that happens once in
    10¹³ runs."""
    needs.linux("a kernel that spreads connections over the sockets of a port")
    with served(serving(valkey), workers=2) as (_, port):
        for _ in range(200):
            assert status_of(port, "/v0/config") == 401
        until_blocking(lambda: sum(requests_of(metrics(port), 401).values()) == 200)
        counts = requests_of(metrics(port), 401)
    assert len(counts) == 2
    assert min(counts.values()) >= 50


def test_a_dead_worker_is_replaced(valkey: str) -> None:
    """A worker that is killed is started again. No connection is refused meanwhile, and the others
    go on."""
    with served(serving(valkey)) as (process, port):
        before = children(process.pid)
        os.kill(before[0], signal.SIGKILL)
        assert {status_of(port, "/healthz") for _ in range(100)} == {200}
        until_blocking(lambda: len(set(children(process.pid)) - set(before)) == 1)
        assert set(before[1:]) <= set(children(process.pid))
        until_blocking(lambda: metrics(port).count("build_info{") == WORKERS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_together(valkey: str, number: signal.Signals) -> None:
    """All end when the parent gets the signal to stop, and also when it is killed; then the port is
    free."""
    with served(serving(valkey)) as (process, port):
        workers = children(process.pid)
        assert len(workers) == WORKERS
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == (0 if number is signal.SIGTERM else -number)
        until_blocking(lambda: not any(map(alive, workers)))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_metrics_on_a_port_of_their_own(valkey: str) -> None:
    """`METRICS_PORT` serves the metrics of all workers, also while one is being replaced; the API's
    port has none."""
    with ExitStack() as stack:
        environ = serving(valkey, metrics_port="0", log_format="json")
        process = start(environ, "--port", "0", "--workers", "2")
        stack.callback(end, process)
        ports: dict[str, set[int]] = {"serving": set(), "serving metrics": set()}
        assert process.stderr is not None
        for _ in range(4):
            line = json.loads(process.stderr.readline())
            ports[line["message"]].add(line["port"])
        (port,), (metrics_port,) = ports.values()
        assert status_of(port, "/metrics") == 404
        until_blocking(lambda: metrics(metrics_port).count("build_info{") == 2)
        before = set(children(process.pid))
        os.kill(min(before), signal.SIGKILL)
        assert 'worker="' in metrics(metrics_port)
        assert json.loads(logged(process, "(.*a worker ended.*)"))["worker"] in {0, 1}
        assert json.loads(logged(process, '(.*"serving metrics".*)'))["port"] == metrics_port
        assert len(set(children(process.pid)) - before) == 1
        until_blocking(lambda: metrics(metrics_port).count("build_info{") == 2)


@pytest.mark.parametrize("folder", ["long", "read-only"])
def test_workers_need_no_folder(valkey: str, tmp_path: Path, folder: str) -> None:
    """The temporary folder may have a long path, and there may be no file system to write to."""
    environ = serving(valkey)

    def write_nothing() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    if folder == "long":
        long = tmp_path / ("x" * 120)
        long.mkdir()
        environ["TMPDIR"] = str(long)
    environ["PYTHONDONTWRITEBYTECODE"] = "1"
    environ.pop("COVERAGE_PROCESS_CONFIG", None)  # It would write a file.
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--workers", "2"]
    limit = write_nothing if folder == "read-only" else None
    process = subprocess.Popen(
        command,
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,  # noqa: PLW1509
    )
    try:
        (port,) = {int(logged(process, r"serving .*port=(\d+)")) for _ in range(2)}
        until_blocking(lambda: metrics(port).count("build_info{") == 2)
    finally:
        end(process)


# -- two services ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(2, 2), (1, 2), (2, 1)], ids=str)
def test_port_of_another_service(valkey: str, first: int, second: int) -> None:
    """A service does not start on a port that another one serves, with workers or without: one
    line, exit code 1."""
    environ = serving(valkey)
    with served(environ, workers=first) as (_, port):
        process = start(environ, "--port", str(port), "--workers", str(second))
        try:
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            end(process)
        assert (process.returncode, said) == (1, TAKEN.format(port=port))


def test_services_started_together(valkey: str) -> None:
    """Of several services that are started on one port at the same time, one serves; the others end
    with one line."""
    environ, reserved = serving(valkey), reserve_port()
    port = reserved.getsockname()[1]
    processes = [start(environ, "--port", str(port), "--workers", workers) for workers in "1212"]
    try:
        until_blocking(lambda: sum(process.poll() is None for process in processes) == 1)
        assert status_of(port, "/healthz") == 200
        ended = [process for process in processes if process.poll() is not None]
        assert [process.returncode for process in ended] == [1, 1, 1]
        assert [process.communicate()[1] for process in ended] == [TAKEN.format(port=port)] * 3
    finally:
        with ExitStack() as stack:  # Each is ended, also where another one does not end in time.
            for process in processes:
                stack.callback(end, process)
            stack.callback(reserved.close)


@pytest.mark.parametrize("workers", [1, 2])
def test_restart_on_the_same_port(valkey: str, workers: int) -> None:
    """A service starts on the port that it has just left, although connections that it closed
    linger (TIME_WAIT)."""
    environ, port = serving(valkey), 0
    for _ in range(2):
        with (
            served(environ, workers=workers, port=port) as (_, port),
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock,
        ):
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while sock.recv(65_536):
                pass


# -- workers that fail -----------------------------------------------------------------------------

SUPERVISED = """
import os, signal, sys, time
from service.logs import configure_logging
from service.settings import LogFormat
from service.workers import Supervisor

def live(lifeline, ready):
    ready()
    os.read(lifeline, 1)

def work(index, lifeline, ready):
    {work}

def no_fork():
    raise BlockingIOError(11, "Resource temporarily unavailable")

if not {forks}:
    os.fork = no_fork
def stopping():
    print("no worker will be started", file=sys.stderr, flush=True)

configure_logging(LogFormat.TEXT)
clean = Supervisor(
    {count}, work, stop_within={stop_within}, stopping=stopping, pause={pause}, steady={steady}
).run()
sys.exit(0 if clean else 1)
"""


@contextmanager
def supervised(
    work: str,
    count: int = 1,
    *,
    stop_within: float = 5.0,
    pause: float = 0.01,
    steady: float = 60.0,
    forks: bool = True,
) -> Iterator["subprocess.Popen[str]"]:
    """A supervisor of workers that do this. At the end it is killed, and its workers end with
    it."""
    code = SUPERVISED.format(
        work=work, count=count, stop_within=stop_within, pause=pause, steady=steady, forks=forks
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        ("raise OSError('no such thing')", "exit code 1"),
        ("os._exit(7)", "exit code 7"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("ready()", "exit code 0"),
    ],
    ids=["raises", "exits", "crashes", "serves and ends"],
)
def test_workers_that_keep_ending(work: str, reason: str) -> None:
    """They are started a few times, each end is logged with its reason, and then the parent ends
    with exit code 1."""
    with supervised(work) as process:
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    lines = [line for line in said.splitlines() if f" worker=0 reason='{reason}" in line]
    assert len(lines) == MAX_FAILED_STARTS
    assert all(" ERROR   a worker ended " in line for line in lines[:-1])
    assert " CRITICAL giving up: the workers keep ending " in lines[-1]
    assert said.count("OSError: no such thing") == (MAX_FAILED_STARTS if "raise" in work else 0)


def test_restarts_back_off() -> None:
    """A worker that keeps ending is started anew after pauses that double, but for the first."""
    with supervised(
        "print(time.monotonic(), file=sys.stderr, flush=True); os._exit(1)", pause=0.1
    ) as process:
        _, said = process.communicate(timeout=PATIENCE_S)
    starts = [float(line) for line in said.splitlines() if line.replace(".", "").isdigit()]
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert len(pauses) == MAX_FAILED_STARTS - 1
    assert all(pause >= least for pause, least in zip(pauses, [0, 0.1, 0.2, 0.4], strict=True))


def test_one_worker_that_keeps_ending_beside_a_steady_one() -> None:
    """While another worker serves, the service goes on, and the one that fails is started again and
    again."""
    with supervised(
        "live(lifeline, ready) if index == 0 else os._exit(3)", count=2, steady=0.0
    ) as process:
        for _ in range(MAX_FAILED_STARTS + 2):
            assert logged(process, r"a worker ended worker=(\d)") == "1"
        end(process)
    assert process.returncode == 0


def test_workers_that_cannot_be_forked() -> None:
    """A system without room for another process is a failed start like any other."""
    with supervised("pass", forks=False) as process:
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert said.count("cannot fork: Resource temporarily unavailable") == MAX_FAILED_STARTS
    assert "Traceback" not in said


def test_workers_that_do_not_end_are_killed() -> None:
    """A worker that ignores the signal to stop is killed in the end, and the parent ends in
    order."""
    work = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', file=sys.stderr, "
        "flush=True); live(lifeline, ready)"
    )
    with supervised(work, stop_within=0.1) as process:
        logged(process, "(up)")
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    stopping, killed = said.splitlines()
    assert stopping == "no worker will be started"
    assert "a worker did not end in time worker=0" in killed
