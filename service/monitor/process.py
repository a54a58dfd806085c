"""One monitor process: its candidacy, its loop, and what it tells the world, put together."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from service.monitor.heartbeat import beating
from service.monitor.leader import Candidate
from service.monitor.listener import listening
from service.monitor.loop import Monitor
from service.observability import Metrics
from service.settings import Settings
from service.store import open_store
from service.tasks import background, end

log = logging.getLogger(__name__)


@asynccontextmanager
async def monitoring(settings: Settings) -> AsyncIterator[None]:
    """A monitor, while it is entered; on leaving it hands over to one that stands by.

    Raises `SettingsError` for services that cannot be checked, `OSError` if its port cannot be listened on.
    """
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        store = open_store(settings)
        stack.push_async_callback(store.aclose)
        beat = await stack.enter_async_context(beating(settings.heartbeat_url, metrics))
        candidate = Candidate(settings, store, metrics)
        monitor = Monitor(settings, store, metrics, leader=candidate, checked=beat)
        if settings.monitor_port is not None:
            await stack.enter_async_context(
                listening(settings.monitor_host, settings.monitor_port, monitor, candidate, metrics)
            )
        log.info("monitoring", extra={"services": ",".join(settings.service_names)})
        tasks = [background(candidate.run(), "leadership"), background(monitor.run(), "monitor")]
        try:
            yield
        finally:
            await end(*tasks)
            await candidate.release()
