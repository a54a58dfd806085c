"""Several workers on one port, as processes."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import JWT_SECRET

WORKERS = 3


@contextmanager
def served(valkey: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """`serve --workers 3` as a process: the parent, and the URL."""
    environ = {
        **os.environ,
        "CLUSTER_EVENTS_REDIS_URL": valkey,
        "CLUSTER_EVENTS_JWT_SECRET": JWT_SECRET,
        "CLUSTER_EVENTS_DRAIN": "0",
    }
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--workers", str(WORKERS)]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        ports = set()
        for _ in range(WORKERS):
            line = process.stderr.readline().decode()
            match = re.search(r"serving .*port=(\d+)", line)
            assert match, line
            ports.add(match[1])
        (port,) = ports
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=10)


def metrics(url: str) -> str:
    """The page of metrics."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def eventually(condition: Callable[[], object], seconds: float = 5) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_workers_share_a_port_and_its_metrics(valkey: str) -> None:
    """Every request is counted once, whichever worker answered it and whichever is asked for the metrics."""
    with served(valkey) as (_, url):
        for _ in range(30):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{url}/v0/config", timeout=5)
        for _ in range(3):
            counts = re.findall(r'http_requests_total\{code="401".*worker="(\d)"\} ([\d.]+)', metrics(url))
            assert sum(float(count) for _, count in counts) == 30
        page = metrics(url)
        assert len(re.findall(r"build_info\{", page)) == WORKERS
        ages = re.findall(r"snapshot_age_seconds\{worker=.*\} ([\d.e-]+)", page)
        assert len([age for age in ages if 0 < float(age) < 2]) == WORKERS  # As they are now, whoever is asked.


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_dead_worker_is_replaced(valkey: str) -> None:
    """A worker that is killed is started again; the others go on meanwhile."""
    with served(valkey) as (process, url):
        before = children(process.pid)
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: len(set(children(process.pid)) - set(before)) == 1)
        assert set(before[1:]) <= set(children(process.pid))
        eventually(lambda: metrics(url).count("build_info{") == WORKERS)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_together(valkey: str, number: signal.Signals) -> None:
    """All end when the parent is told to stop, and also when it is killed."""
    with served(valkey) as (process, _):
        workers = children(process.pid)
        process.send_signal(number)
        assert process.wait(10) == (0 if number is signal.SIGTERM else -number)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
