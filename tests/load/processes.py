"""Processes that are started on one core, waited for until they are ready, and stopped by their ids
whatever happens."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.load.measure import BenchError, family, pinned
from tests.support.environment import inherited

_PATIENCE_S = 20.0
"""Seconds for a process to be ready."""
_FAREWELL_S = 5.0
"""Seconds for a process to end by itself."""


@contextmanager
def process(
    command: Sequence[str], log: Path, core: int, environ: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a command on a core while it is entered. What it writes goes to `log`.

    It is in a session of its own, so that Ctrl-C reaches the benchmark alone, which then stops
    everything in order.
    """
    with log.open("ab") as output, pinned(core):
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=inherited() | dict(environ or {}),
            start_new_session=True,
        )
    try:
        yield started
    finally:
        stop(started)


def stop(started: "subprocess.Popen[bytes]") -> None:
    """Asks a process to end; ends it and its family if it does not."""
    members = family(started.pid) if started.poll() is None else []
    started.terminate()
    try:
        started.wait(_FAREWELL_S)
    except subprocess.TimeoutExpired:
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        started.wait()


def until(
    ready: Callable[[], bool], started: "subprocess.Popen[bytes]", log: Path, pause: float = 0.02
) -> None:
    """Waits until a process is ready; not being reachable counts as not ready. Raises `BenchError`
    if it never is."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with suppress(OSError):
            if ready():
                return
        if started.poll() is not None or time.monotonic() >= deadline:
            raise BenchError(
                f"{started.args!r} is not ready:\n{log.read_text(errors='replace')[-2_000:]}"
            )
        time.sleep(pause)


def listens(address: tuple[str, int] | str) -> bool:
    """Whether something accepts connections at a TCP address or a socket's path. Raises `OSError`
    if not."""
    family_ = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family_, socket.SOCK_STREAM) as probe:
        probe.connect(address)
    return True


def free_port() -> int:
    """A TCP port on loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
