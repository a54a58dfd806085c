"""Stores that can be broken and mended."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from service.store import Store, connect
from tests.support.durable import Server
from tests.support.folders import short_folder
from tests.support.proxy import Proxy
from tests.support.stores import RETENTION_US


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
