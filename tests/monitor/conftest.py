"""Worlds: a monitor, its store and the services that it checks."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from service.monitor.probes.http import session
from service.store import open_store
from tests.support.settings import make_settings
from tests.support.world import MakeWorld, Scripted, World


@pytest.fixture
async def make_world(valkey: str) -> AsyncIterator[MakeWorld]:
    """Makes worlds: `await make_world("api", "runner", check_timeout="200ms")`."""
    async with AsyncExitStack() as stack:

        async def make(*names: str, **values: Any) -> World:
            services = {name: Scripted() for name in names or ("api", "compiler", "runner")}
            for service in services.values():
                await stack.enter_async_context(service.listening())
            urls = ",".join(
                f"{name}=http://127.0.0.1:{service.port}/" for name, service in services.items()
            )
            settings = make_settings(
                **({"redis_url": valkey, "redis_timeout": "2s", "services": urls} | values)
            )
            store = open_store(settings)
            stack.push_async_callback(store.aclose)
            return World(services, settings, store, await stack.enter_async_context(session()))

        yield make
