"""The check of one service: a probe of the service and the state of its workload."""

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
"""The resources info of a service without a monitored workload."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: whether the service is healthy, its self info and resources info."""

    healthy: bool
    info: str
    resources: str = RESOURCES_INFO


async def check_service(
    client: aiohttp.ClientSession,
    service: Service,
    kubernetes: Kubernetes | None = None,
    unknown: Unknown = Unknown.IGNORE,
) -> Finding:
    """Check a service and its workload at the same time, within the service's timeout.

    `unknown` says what a workload whose state is not known counts as. Never raises for what the
    service or Kubernetes does.
    """
    result, workload = await asyncio.gather(_probe(client, service), _workload(service, kubernetes))
    healthy_workload = (
        workload.healthy if workload.healthy is not None else unknown is Unknown.IGNORE
    )
    info = result.info
    # The verdict shows the self info, so that must not say that everything is healthy.
    if result.healthy and not healthy_workload:
        first, _, rest = info.partition("\n")
        problem = workload.info.partition("\n")[0]
        info = clean_info(
            f"{first} But its Kubernetes resources are not healthy: {problem}\n{rest}".rstrip()
        )
    return Finding(result.healthy and healthy_workload, info, workload.info)


async def _probe(client: aiohttp.ClientSession, service: Service) -> Result:
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


async def _workload(service: Service, kubernetes: Kubernetes | None) -> WorkloadHealth:
    if kubernetes is None or service.workload is None:
        return WorkloadHealth(True, RESOURCES_INFO)
    return await kubernetes.check(service.workload, service.timeout)
