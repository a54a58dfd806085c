"""The contenders: each is started when a row first asks for it, and all are stopped when the
benchmark ends."""

import json
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import quote

from service.auth import Role
from tests.load import nginx, ours, wire
from tests.load.measure import Cores, Skipped
from tests.load.nginx import Site
from tests.load.ours import ALL, LATEST, LIST, READER, SECRET, Server, Valkey
from tests.load.processes import free_port, listens, process, until

EVENTS = 1_000
FULL_BYTES = 2_048
LATEST_BYTES = 3_072
CREDENTIALS = 10_000

_HERE = Path(__file__).parent
_REFERENCE_EVENTS = "reference:events"
"""The list of reference_fastapi.py."""

T = TypeVar("T")


@dataclass(frozen=True)
class Truth:
    """What our service answers. The others are made to answer the same bodies."""

    latest: wire.Reply
    full: wire.Reply
    not_modified: wire.Reply
    list: wire.Reply
    event_id: str
    etag: str


class Contenders:
    """What competes. A property raises `Skipped` where its contender is not installed."""

    def __init__(self, stack: ExitStack, cores: Cores) -> None:
        """Everything that is started is stopped when `stack` is closed."""
        self.cores = cores
        self._stack = stack

    def start(self, contender: AbstractContextManager[T]) -> T:
        """Enters what lasts to the end of the benchmark."""
        return self._stack.enter_context(contender)

    def folder(self) -> Path:
        """A new folder."""
        return Path(self.start(TemporaryDirectory(prefix="ce-bench-")))

    @cached_property
    def valkey(self) -> Valkey:
        """The store that all share."""
        return self.start(ours.valkey(self.folder(), self.cores))

    @cached_property
    def ours(self) -> Server:
        """Our service, full of events."""
        server = self.start(ours.serve(self.valkey, self.folder(), self.cores.server))
        with wire.Connection(server.port) as connection:
            for _ in range(EVENTS - 1):
                ours.record(connection, FULL_BYTES)
            ours.record(connection, LATEST_BYTES)
        return server

    @cached_property
    def truth(self) -> Truth:
        """Our service's answers."""
        with wire.Connection(self.ours.port) as connection:
            latest = connection.ask(wire.get(LATEST, READER))
            etag = dict(latest.headers)["ETag"]
            return Truth(
                latest=latest,
                full=connection.ask(wire.get(ALL, READER)),
                not_modified=connection.ask(wire.get(LATEST, READER, f"If-None-Match: {etag}")),
                list=connection.ask(wire.get(LIST, READER)),
                event_id=json.loads(latest.body)["id"],
                etag=etag,
            )

    @cached_property
    def nginx(self) -> dict[str, Server]:
        """Nginx with `latest`, `full` and `not_modified` by `return`, and `list` from a file."""
        truth = self.truth
        sites = {
            "latest": Site(truth.latest),
            "full": Site(truth.full),
            "not_modified": Site(truth.not_modified),
            "list": Site(truth.list, from_file=True),
        }
        return self.start(nginx.nginx(sites, self.folder(), self.cores.server))

    @cached_property
    def epoll(self) -> Server:
        """The least that a server can do, in C, with our reply byte for byte."""
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise Skipped("there is no C compiler (Debian: apt-get install gcc)")
        folder = self.folder()
        binary, reply = folder / "epoll", folder / "reply"
        reply.write_bytes(self.truth.latest.head + b"\r\n" + self.truth.latest.body)
        subprocess.run([compiler, "-O2", "-o", binary, _HERE / "epoll.c"], check=True)
        port = free_port()
        return self._listening([str(binary), str(port), str(reply)], port)

    @cached_property
    def aiohttp_server(self) -> Server:
        """The framework's low-level server."""
        return self._aiohttp("server")

    @cached_property
    def aiohttp_application(self) -> Server:
        """The framework's application, with one route."""
        return self._aiohttp("application")

    @cached_property
    def webdis(self) -> Server:
        """HTTP in front of our store: it sends our event as it is kept there, to anyone."""
        binary = shutil.which("webdis")
        if binary is None:
            raise Skipped("webdis is not installed (Debian: apt-get install webdis)")
        port, folder = free_port(), self.folder()
        config = {
            "redis_host": str(self.valkey.path),  # A path is taken for a unix socket.
            "http_host": "127.0.0.1",
            "http_port": port,
            "threads": 1,
            "daemonize": False,
            "verbosity": 0,
            "logfile": str(folder / "webdis.log"),
        }
        path = folder / "webdis.json"
        path.write_text(json.dumps(config))
        key = quote(f"{{ce:default}}:event:{self.truth.event_id}", safe="")
        return self._listening(
            [binary, str(path)], port, path=f"/HGET/{key}/status.txt?type=application/json"
        )

    @cached_property
    def fastapi(self) -> Server:
        """The service that someone would write in a day."""
        python = _HERE.parent.parent / ".venv-bench" / "bin" / "python"
        if not python.exists():
            raise Skipped("FastAPI is not installed (make bench installs it into .venv-bench)")
        with self.valkey.client() as client:
            client.rpush(_REFERENCE_EVENTS, self.truth.latest.body)
        port = free_port()
        command = [
            str(python),
            "-m",
            "uvicorn",
            "tests.load.reference_fastapi:app",
            "--port",
            str(port),
        ]
        command += [
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--no-access-log",
            "--log-level",
            "warning",
        ]
        return self._listening(
            command, port, {"REDIS_URL": self.valkey.url(), "JWT_SECRET": SECRET}
        )

    @cached_property
    def credentials(self) -> Path:
        """A file with 10,000 tokens, one a line, each of another subject."""
        path = self.folder() / "credentials"
        path.write_text(
            "".join(
                f"{ours.token(f'agent-{number}', Role.READ)}\n" for number in range(CREDENTIALS)
            )
        )
        return path

    def _aiohttp(self, kind: str) -> Server:
        port, body = free_port(), self.folder() / "body"
        body.write_bytes(self.truth.latest.body)
        return self._listening(
            [sys.executable, "-m", "tests.load.bare_aiohttp", kind, str(port), str(body)], port
        )

    def _listening(
        self,
        command: list[str],
        port: int,
        environ: dict[str, str] | None = None,
        *,
        path: str = LATEST,
    ) -> Server:
        log = self.folder() / "log"
        started = self.start(process(command, log, self.cores.server, environ))
        until(lambda: listens(("127.0.0.1", port)), started, log)
        return Server(port, started.pid, path)
