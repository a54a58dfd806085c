"""Assembles one monitor process: lease, loop, notifications and HTTP port."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from service.metrics import Metrics
from service.monitor.check import Finding, check_service
from service.monitor.kubernetes.assess import Rules
from service.monitor.kubernetes.checker import WorkloadChecker, workload_checker
from service.monitor.leader import LeaseHolder
from service.monitor.listener import listening
from service.monitor.loop import Monitor
from service.monitor.notify.heartbeat import beating
from service.monitor.notify.webhook import delivering
from service.monitor.probes.http import session
from service.monitor.reload import ServicesFile
from service.monitor.services import resource_warnings, services
from service.settings import Settings
from service.store import open_store
from service.tasks import cancel_and_wait, spawn_guarded

log = logging.getLogger(__name__)


@asynccontextmanager
async def monitoring(settings: Settings) -> AsyncIterator[Callable[[], None]]:
    """Run a monitor, and release its lease at the end.

    Yields a function that reloads the services file. Raises `SettingsError` for services that
    cannot be checked, and `OSError` if its port cannot be opened.
    """
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        store = open_store(settings)
        stack.push_async_callback(store.aclose)
        lease_holder = LeaseHolder(settings, store, metrics)
        monitor = Monitor(
            settings,
            store,
            metrics,
            leader=lease_holder,
            workloads=await _workloads(settings, stack),
            on_check=await stack.enter_async_context(beating(settings.heartbeat_url, metrics)),
            on_event=await stack.enter_async_context(
                delivering(settings.webhook_url, settings.webhook_secret, metrics)
            ),
        )
        if settings.monitor_port is not None:
            listener = listening(
                settings.monitor_host, settings.monitor_port, monitor, lease_holder, metrics
            )
            host, port = await stack.enter_async_context(listener)
            log.info("listening", extra={"host": host, "port": port})
        for warning in resource_warnings(settings):
            log.warning("%s", warning)
        log.info("monitoring", extra={"services": ",".join(settings.service_names)})
        tasks = [
            spawn_guarded(lease_holder.run(), "leadership"),
            spawn_guarded(monitor.run(), "monitor"),
        ]
        services_file = ServicesFile(settings, monitor.reload)
        if settings.services_file is not None:
            tasks.append(spawn_guarded(services_file.watch(), "services-file"))
        try:
            yield services_file.reload
        finally:
            await cancel_and_wait(*tasks)
            await lease_holder.release()


async def check_once(settings: Settings) -> dict[str, Finding]:
    """Check every service once, and record nothing.

    Raises `SettingsError` for services that cannot be checked.
    """
    async with AsyncExitStack() as stack:
        workloads = await _workloads(settings, stack)
        client = await stack.enter_async_context(session())
        return {
            name: await check_service(client, service, workloads, settings.resources_unknown)
            for name, service in services(settings).items()
        }


async def _workloads(settings: Settings, stack: AsyncExitStack) -> WorkloadChecker | None:
    if not settings.monitor_resources:
        return None
    rules = Rules(settings.resources_tolerated / 100, settings.resources_progress)
    checker = workload_checker(
        settings.kubernetes_url, settings.kubernetes_credentials, rules, settings.resources_keep
    )
    return await stack.enter_async_context(checker)
