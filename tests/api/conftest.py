"""The event loops that the tests of the API run on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.support import needs


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's own loop; with `EVERY_LOOP` in the test's module also uvloop, which serves where it
    is installed."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if isinstance(item, pytest.Function) and getattr(item.module, "EVERY_LOOP", False):
        loops["uvloop"] = lambda: needs.package("uvloop").new_event_loop()
    return loops
