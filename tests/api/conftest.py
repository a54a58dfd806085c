"""The event loops that the tests of the API run on."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from service.api.poll_path.request_handler import HANDLER_SETTINGS
from service.settings import PREFIX
from service.store import open_store
from tests.support import needs
from tests.support.servers import Server
from tests.support.settings import JWT_SECRET, make_settings


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Asyncio's own loop; with `EVERY_LOOP` in the test's module also uvloop, which serves where it
    is installed."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if isinstance(item, pytest.Function) and getattr(item.module, "EVERY_LOOP", False):
        loops["uvloop"] = lambda: needs.package("uvloop").new_event_loop()
    return loops


@pytest.fixture(scope="module")
def pure_python_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of the service below."""
    return tmp_path_factory.mktemp("pure") / "log"


@pytest.fixture(scope="module")
def pure_python_port(valkey_server: str, pure_python_log: Path) -> Iterator[int]:
    """The port of a service that runs on the framework's parser in pure Python, the one with most
    smuggling bugs."""
    log = pure_python_log
    environ = {
        "AIOHTTP_NO_EXTENSIONS": "1",
        f"{PREFIX}REDIS_URL": valkey_server,
        f"{PREFIX}JWT_SECRET": JWT_SECRET,
        f"{PREFIX}LOG_FORMAT": "json",
        f"{PREFIX}DRAIN": "0",
    }
    command = [sys.executable, "-m", "service", "serve", "--port", "0"]
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, env=os.environ | environ, stderr=stderr) as process,
    ):
        try:
            yield _port_in(log, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def _port_in(log: Path, process: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_bytes().splitlines(keepends=True):
            if b'"serving"' in line and line.endswith(b"\n"):
                return int(orjson.loads(line)["port"])
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def _complaints(log: Path, begin: int) -> Sequence[str]:
    """The lines of a log in JSON from a place on, but for those at INFO.

    The service outlives a test, after which the store is emptied: it may notice that in the next
    one, on a slow machine.
    """
    lines = log.read_bytes()[begin:].decode().splitlines()
    expected = ('"level":"info"', '"message":"the store lost data"')
    return [line for line in lines if not any(text in line for text in expected)]


@pytest.fixture(params=["poll path", "no poll path", "pure Python parser"])
async def server(
    request: pytest.FixtureRequest,
    make_api: Callable[..., Any],
    valkey: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[Server]:
    """The service in each of the ways in which it can read bytes."""
    monkeypatch.setitem(HANDLER_SETTINGS, "lingering_time", 0.2)
    if request.param == "pure Python parser":
        store = open_store(make_settings(redis_url=valkey, redis_timeout="2s"))
        port, log = (
            request.getfixturevalue("pure_python_port"),
            request.getfixturevalue("pure_python_log"),
        )
        begin = log.stat().st_size
        yield Server(port, store, lambda: _complaints(log, begin), pure_python=True)
        await store.aclose()
    else:
        api = await make_api(poll_path="on" if request.param == "poll path" else "off")
        yield Server(
            api.port, api.store, lambda: [record.getMessage() for record in caplog.records]
        )
