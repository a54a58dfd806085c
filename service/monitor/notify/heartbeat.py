"""The dead man's switch: calls `HEARTBEAT_URL` after each completed check.

The service at that URL raises an alarm when the calls stop. A call means that the monitor works,
not that the services are healthy. A failed call is not repeated; the next check makes the next
call.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from pydantic import SecretStr

from service.metrics import Metrics
from service.monitor.probes.http import session
from service.outgoing import proxy_for
from service.tasks import OutageLog, cancel_and_wait, spawn_guarded

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""Seconds that a call may take. Calls do not overlap, and checks do not wait for them."""


@asynccontextmanager
async def beating(url: SecretStr | None, metrics: Metrics) -> AsyncIterator[Callable[[], None]]:
    """Yield a function to call after each completed check. Without a URL it does nothing."""
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
    # The URL is a secret, so no log line contains it.
    outage = OutageLog(log, "heartbeat URL unreachable", "heartbeat URL reachable again")
    async with session() as client:
        while True:
            await due.wait()
            due.clear()
            failure = await _call(client, url)
            metrics.heartbeats.labels("failed" if failure else "delivered").inc()
            if failure:
                outage.failed(reason=failure)
            else:
                outage.succeeded()


async def _call(client: aiohttp.ClientSession, url: str) -> str:
    """Make one call; returns why it failed, or `""`."""
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with client.get(
            url, allow_redirects=False, timeout=timeout, proxy=proxy_for(url)
        ) as response:
            return "" if response.ok and response.status < 300 else f"HTTP {response.status}"  # noqa: PLR2004  # Success.
    # Whatever the server or the network does, checks go on.
    except Exception as error:
        return type(error).__name__
