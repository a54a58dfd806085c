"""One service's check: what it says of itself, what the platform says of the resources behind it,
and both together."""

import asyncio
from dataclasses import dataclass

import aiohttp

from service.events import clean_info
from service.monitor.kubernetes.client import Kubernetes
from service.monitor.kubernetes.workloads import WorkloadHealth
from service.monitor.probes.http import Result, probe
from service.monitor.probes.tcp import probe_redis, probe_tcp
from service.monitor.services import Service, scheme
from service.settings import Unknown

RESOURCES_INFO = "Resources are not monitored."
"""The resources info where nothing is known of the resources behind a service."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: whether the service is healthy, its self info and its resources info."""

    healthy: bool
    info: str
    resources: str = RESOURCES_INFO


async def check_service(
    client: aiohttp.ClientSession,
    service: Service,
    kubernetes: Kubernetes | None = None,
    unknown: Unknown = Unknown.IGNORE,
) -> Finding:
    """Checks a service and its resources at the same time, within the service's time-out. Never
    raises for what they do."""
    result, look = await asyncio.gather(_itself(client, service), _resources(service, kubernetes))
    healthy_resources = look.healthy if look.healthy is not None else unknown is Unknown.IGNORE
    info = result.info
    if (
        result.healthy and not healthy_resources
    ):  # The self info is what the verdict shows: it must not say that all is well.
        first, _, rest = info.partition("\n")
        info = clean_info(
            f"{first} But its resources are not well: {look.info.partition(chr(10))[0]}\n{rest}".rstrip()
        )
    return Finding(result.healthy and healthy_resources, info, look.info)


async def _itself(client: aiohttp.ClientSession, service: Service) -> Result:
    match scheme(service.url):
        case "tcp":
            return await probe_tcp(service.url, service.timeout)
        case "redis" | "rediss":
            return await probe_redis(service.url, service.timeout, service.tls)
        case _:
            return await probe(
                client,
                service.url,
                service.timeout,
                headers=service.headers,
                tls=service.tls,
                expects=service.expects,
            )


async def _resources(service: Service, kubernetes: Kubernetes | None) -> WorkloadHealth:
    if kubernetes is None or service.workload is None:
        return WorkloadHealth(True, RESOURCES_INFO)
    return await kubernetes.look(service.workload, service.timeout)
