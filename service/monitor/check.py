"""The check of one service: a probe of the service and the state of its workload."""

import asyncio
from dataclasses import dataclass

import aiohttp

from service.events import clean_info
from service.monitor.kubernetes.checker import WorkloadChecker, WorkloadHealth
from service.monitor.probes.http import Result, probe
from service.monitor.probes.tcp import probe_redis, probe_tcp
from service.monitor.services import Service, scheme
from service.settings import Unknown

RESOURCES_INFO = "Resources are not monitored."
"""The resources info of a service without a monitored workload."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: whether the service is healthy, its self info and resources info.

    `resources_known` is `None` if no resources are monitored. If it is false, `resources_unknown`
    says why. `fresh` is false if the finding rests on an earlier one about the resources: then it
    confirms neither status.
    """

    healthy: bool
    info: str
    resources: str = RESOURCES_INFO
    resources_known: bool | None = None
    resources_unknown: str = ""
    fresh: bool = True


async def check_service(
    client: aiohttp.ClientSession,
    service: Service,
    workloads: WorkloadChecker | None = None,
    unknown: Unknown = Unknown.IGNORE,
) -> Finding:
    """Check a service and its workload at the same time, within the service's timeout.

    `unknown` says what a workload whose state is not known counts as. Never raises for what the
    service or Kubernetes does.
    """
    monitored = workloads is not None and service.workload is not None
    result, workload = await asyncio.gather(_probe(client, service), _workload(service, workloads))
    healthy_workload = (
        workload.healthy if workload.healthy is not None else unknown is Unknown.IGNORE
    )
    kept = workload.healthy is not None and bool(workload.unknown)
    info = result.info
    # The verdict shows the self info, so that must not say that everything is healthy.
    if result.healthy and not healthy_workload:
        first, _, rest = info.partition("\n")
        problem = workload.info.partition("\n")[0]
        info = clean_info(
            f"{first} But its Kubernetes resources are not healthy: {problem}\n{rest}".rstrip()
        )
    return Finding(
        healthy=result.healthy and healthy_workload,
        info=info,
        resources=workload.info,
        resources_known=not workload.unknown if monitored else None,
        resources_unknown=workload.unknown,
        # A failure of the service itself needs no resources.
        fresh=not (kept and result.healthy),
    )


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


async def _workload(service: Service, workloads: WorkloadChecker | None) -> WorkloadHealth:
    if workloads is None or service.workload is None:
        return WorkloadHealth(True, RESOURCES_INFO)
    return await workloads.check(service.workload, service.timeout)
