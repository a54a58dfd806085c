"""What is measured, and how: CPU time and memory from the operating system's books, requests from
wrk's.

CPU time is that of a whole process family, user and system, in the kernel's ticks (10 ms): over
seconds of load that is exact to a fraction of a percent, and it counts work, not waiting.
"""

import os
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0}

_TOTAL = re.compile(r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m|h),", re.MULTILINE)
_P99 = re.compile(r"^\s*99%\s+([\d.]+)(us|ms|s|m|h)", re.MULTILINE)
_REFUSED = re.compile(r"^\s*Non-2xx or 3xx responses: (\d+)", re.MULTILINE)
_SOCKET_ERRORS = re.compile(
    r"^\s*Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", re.MULTILINE
)


class BenchError(Exception):
    """The benchmark cannot go on; the message says why."""


class Skipped(Exception):
    """Something is not there to be measured; the message says what."""


@dataclass(frozen=True)
class Cores:
    """One core for servers, another for whoever asks them, so that neither takes the other's
    time."""

    server: int
    client: int

    @classmethod
    def available(cls) -> "Cores":
        """The first and the last core that this process may use; the same one if there is no
        other."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[-1])


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes that are started inside run on that core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# -- the operating system's books ------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for member in found:  # It grows while it is walked.
        found += children.get(member, [])
    return found


def cpu_us(pid: int) -> float:
    """Microseconds of CPU time that a process family has used, in user and system mode."""
    return (
        sum(
            int(fields[11]) + int(fields[12]) for member in family(pid) if (fields := _stat(member))
        )
        * _TICK_US
    )


def core_us(core: int) -> float:
    """Microseconds that all processes together, and the machine's host, have taken of a core since
    it started."""
    line = next(
        line
        for line in Path("/proc/stat").read_text().splitlines()
        if line.startswith(f"cpu{core} ")
    )
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + steal) * _TICK_US


def memory_kib(pid: int) -> int:
    """KiB of memory in which a process family resides."""
    return sum(_resident_kib(member) for member in family(pid))


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name, the state first; `None` if the process has
    gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None


def _resident_kib(pid: int) -> int:
    # The roll-up walks the pages; VmRSS is a counter that lags behind on machines with many cores.
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Rss:\s+(\d+) kB", text, re.MULTILINE)
    assert match, text
    return int(match[1])


# -- wrk -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What wrk counted. `p99_ms` is the latency at full load: it says how long the queue is, not
    how fast the server."""

    requests: int
    seconds: float
    p99_ms: float
    refused: int
    socket_errors: int


def wrk(arguments: Sequence[str], seconds: int, core: int) -> Run:
    """Runs wrk with one thread on a core. Raises `BenchError` if it fails."""
    binary = shutil.which("wrk")
    if binary is None:
        raise BenchError("wrk is not installed (Debian: apt-get install wrk)")
    command = [
        binary,
        "--threads",
        "1",
        "--duration",
        f"{seconds}s",
        "--latency",
        "--timeout",
        "10s",
        *arguments,
    ]
    with (
        pinned(core),
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            output, _ = process.communicate(timeout=seconds + 30)
        finally:
            process.kill()
    return parse_wrk(output)


def parse_wrk(output: str) -> Run:
    """The counts in wrk's report. Raises `BenchError` if it is none."""
    total, p99 = _TOTAL.search(output), _P99.search(output)
    if total is None or p99 is None:
        raise BenchError(f"wrk reported nothing: {output.strip()}")
    refused, errors = _REFUSED.search(output), _SOCKET_ERRORS.search(output)
    return Run(
        requests=int(total[1]),
        seconds=float(total[2]) * _SECONDS[total[3]],
        p99_ms=float(p99[1]) * _SECONDS[p99[2]] * 1_000,
        refused=int(refused[1]) if refused else 0,
        socket_errors=sum(map(int, errors.groups())) if errors else 0,
    )


# -- figures ---------------------------------------------------------------------------------------


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios round by round: what disturbs a round disturbs both sides of its
    ratio."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]
