"""The dead man's switch: calls a watcher outside after each completed check, which raises an alarm
when the calls stop.

It says that somebody is checking, not that all is well: what is unhealthy is in the events. A call
that fails is not repeated; the next check makes the next one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from pydantic import SecretStr

from service.metrics import Metrics
from service.monitor.probes.http import session
from service.tasks import cancel_and_wait, spawn_guarded

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""The most that a call may take; calls do not overlap, and checks do not wait for them."""


@asynccontextmanager
async def beating(url: SecretStr | None, metrics: Metrics) -> AsyncIterator[Callable[[], None]]:
    """Gives what is to be called after each completed check. Without a URL nothing comes of it."""
    if url is None:
        yield lambda: None
        return
    due = asyncio.Event()
    task = spawn_guarded(_beat(url.get_secret_value(), due, metrics), "heartbeat")
    try:
        yield due.set
    finally:
        await cancel_and_wait(task)


async def _beat(url: str, due: asyncio.Event, metrics: Metrics) -> None:
    failing = False
    async with session() as client:
        while True:
            await due.wait()
            due.clear()
            failed = await _call(client, url)
            metrics.heartbeats.labels("failed" if failed else "delivered").inc()
            if failed and not failing:  # The URL is a secret, so it is not named.
                log.warning("the watcher outside cannot be reached", extra={"reason": failed})
            elif failing and not failed:
                log.info("the watcher outside is reached again")
            failing = bool(failed)


async def _call(client: aiohttp.ClientSession, url: str) -> str:
    """Why the call failed, or nothing."""
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with client.get(url, allow_redirects=False, timeout=timeout) as answer:
            return "" if answer.ok and answer.status < 300 else f"HTTP {answer.status}"  # noqa: PLR2004  # Success.
    except Exception as error:  # The edge of a call: whatever the watcher does, checks go on.
        return type(error).__name__
