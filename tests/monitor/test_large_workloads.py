"""Workloads with many pods: all pages are read, and little memory is needed for them."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from service.monitor.kubernetes import checker, client
from service.monitor.kubernetes.assess import Rules
from service.monitor.kubernetes.checker import WorkloadHealth, workload_checker
from service.monitor.services import Workload
from tests.support import needs
from tests.support.cluster import (
    Cluster,
    condition,
    container,
    credentials,
    page_of,
    pod,
    reference,
    refusal,
    terminated,
    workload,
)
from tests.support.environment import environment
from tests.support.processes import started
from tests.support.waiting import until

API = Workload("deployment", "api-server")
AVAILABLE = condition("Available", "True", "MinimumReplicasAvailable")
LAST = terminated("OOMKilled", 137)
CRASHING = container(ready=False, waiting=("CrashLoopBackOff", "back-off 5m"), last=LAST)


def cluster_of(number: int, crashing: int) -> Cluster:
    """A Deployment whose pod with this number crashes."""
    pods = [
        pod(f"api-server-{one:04}", "Running", CRASHING if one == crashing else container())
        for one in range(number)
    ]
    deployment = workload(
        desired=number,
        updated=number,
        replicas=number,
        available=number - 1,
        conditions=[AVAILABLE],
    )
    return Cluster([deployment], pods)


async def checked(cluster: Cluster, folder: Path) -> WorkloadHealth:
    """One check."""
    async with (
        cluster.serving(),
        workload_checker(cluster.url, credentials(folder / "account"), Rules(), 0.0) as made,
    ):
        return await made.check(API, 10.0)


def pages(cluster: Cluster) -> list[tuple[str | None, str]]:
    """Where the requested pages of pods began, and how many pods they should have."""
    return [
        (query.get("continue"), query["limit"])
        for path, query in cluster.asked
        if path.endswith("/pods")
    ]


async def test_every_page_is_read(tmp_path: Path) -> None:
    """A pod that fails on the last page is found."""
    cluster = cluster_of(250, crashing=249)
    found = await checked(cluster, tmp_path)
    assert found.healthy
    assert found.info.startswith(
        "deployment/api-server: 249 of 250 replicas available; pod api-server-0249 on node-1: "
        "container api is in CrashLoopBackOff"
    )
    assert pages(cluster) == [
        (str(start) if start else None, str(checker.PAGE)) for start in range(0, 250, checker.PAGE)
    ]


async def test_list_that_expired_is_begun_anew(tmp_path: Path) -> None:
    """A page that is too old to be continued begins the list once more, and only once."""
    for times, known in ((1, True), (2, None)):
        cluster = cluster_of(150, crashing=149)
        expire(cluster, times)
        found = await checked(cluster, tmp_path)
        assert found.healthy is known
        begun = sum(token is None for token, _ in pages(cluster))
        assert begun == 2
        if known is None:
            assert "the list is too old" in found.unknown


def expire(cluster: Cluster, times: int) -> None:
    """Let the first continuations of the list of pods be refused."""
    left = [times]

    async def answer(request: web.Request) -> web.StreamResponse:
        if "continue" in request.query and left[0]:
            left[0] -= 1
            return refusal(410, "Expired", "the list is too old")
        return page_of(request, cluster.pods)

    cluster.answers["pods"] = answer


async def test_page_that_is_too_large_is_read_in_smaller_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pods are so large that a page exceeds the limit, pages become smaller."""
    cluster = cluster_of(150, crashing=149)
    monkeypatch.setattr(client, "BODY_LIMIT", len(json.dumps(cluster.pods[: checker.PAGE // 2])))
    assert (await checked(cluster, tmp_path)).healthy
    smaller = str(checker.PAGE // 5)
    assert pages(cluster)[:2] == [(None, str(checker.PAGE)), (None, smaller)]
    assert {limit for _, limit in pages(cluster)[1:]} == {smaller}
    monkeypatch.setattr(client, "BODY_LIMIT", len(json.dumps(cluster.workloads[0])) + 1)
    cluster.asked.clear()
    found = await checked(cluster, tmp_path)
    assert found.healthy is None
    assert "longer than" in found.unknown
    limits = [int(limit) for _, limit in pages(cluster)]
    assert limits == [checker.PAGE, checker.PAGE // 5, checker.SMALLEST_PAGE]


MIB = 1024 * 1024
POD_BYTES = 35_000
PODS = 1_000
NAMES = ("one", "two", "three")
MOST_MIB = 100
"""The mark: resident memory of a monitor of three services with 1,000 such pods each."""


def rendered_pages(name: str) -> dict[str, bytes]:
    """The pages of a Deployment's pods, by the token that continues to them."""
    owner = reference("ReplicaSet", f"{name}-5d9c", f"{name}-replica-set")
    template = pod(f"{name}-0000", "Running", CRASHING, owner=owner)
    padding = [{"name": f"VARIABLE_{number}", "value": "x" * 80} for number in range(270)]
    template["spec"]["containers"][0]["env"] = padding
    template["metadata"]["annotations"] = {"notes": "x" * 2_000}
    text = json.dumps(template)
    assert 0.85 * POD_BYTES < len(text) < 1.15 * POD_BYTES
    found = {}
    for start in range(0, PODS, checker.PAGE):
        items = ",".join(
            text.replace(f"{name}-0000", f"{name}-{one:04}")
            for one in range(start, start + checker.PAGE)
        )
        token = str(start + checker.PAGE) if start + checker.PAGE < PODS else ""
        metadata = json.dumps({"continue": token})
        found[str(start)] = f'{{"metadata": {metadata}, "items": [{items}]}}'.encode()
    return found


def peak_mib(pid: int) -> float:
    """The most memory in which a process has resided."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) / 1024


@pytest.mark.slow
async def test_memory_of_three_services_with_a_thousand_pods_each(
    valkey: str, tmp_path: Path
) -> None:
    """A monitor whose workloads have 3,000 failing pods of 35 kB stays within the mark."""
    needs.proc()
    cluster = Cluster(
        [
            workload(name=name, desired=PODS, replicas=PODS, updated=PODS, available=None, uid=name)
            for name in NAMES
        ]
    )
    for one in cluster.workloads:
        one["spec"]["selector"] = {"matchLabels": {"app": one["metadata"]["name"]}}
    found = {name: rendered_pages(name) for name in NAMES}
    read: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        name = request.query["labelSelector"].removeprefix("app=")
        token = request.query.get("continue", "0")
        read.append(f"{name} {token}")
        return web.Response(body=found[name][token], content_type="application/json")

    cluster.answers["pods"] = answer
    cluster.answers["healthz"] = ready
    async with cluster.serving():
        settings: dict[str, Any] = {
            "redis_url": valkey,
            "services": ",".join(f"{name}={cluster.url}/healthz" for name in NAMES),
            "resources": ",".join(f"{name}=deployment/{name}" for name in NAMES),
            "monitor_resources": "on",
            "kubernetes_url": cluster.url,
            "kubernetes_credentials": str(credentials(tmp_path / "account")),
            "check_interval": "5s",
            "check_timeout": "5s",
        }
        command = (sys.executable, "-m", "service", "monitor")
        async with started(*command, env=environment(**settings)) as process:
            two_checks = 2 * len(NAMES) * PODS // checker.PAGE
            await until(lambda: len(read) >= two_checks)
            peak = peak_mib(process.pid)
    assert {one.partition(" ")[0] for one in read} == set(NAMES)
    assert peak <= MOST_MIB, f"{peak:.0f} MiB"


async def ready(_: web.Request) -> web.StreamResponse:
    """A service that is healthy."""
    return web.Response(text="fine")
