"""What is told of the resources: the first line says what is wrong and where; what cannot be known
is said to be so."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from service.events import INFO_LIMIT
from service.monitor.check import RESOURCES_INFO, check_service
from service.monitor.kubernetes.client import Kubernetes, kubernetes
from service.monitor.kubernetes.workloads import WorkloadHealth, selector_of
from service.monitor.probes.http import session
from service.monitor.services import Service, Workload
from service.settings import Unknown
from tests.support import needs
from tests.support.cluster import (
    Cluster,
    Object,
    condition,
    container,
    credentials,
    pod,
    refusal,
    terminated,
    warning,
    workload,
)
from tests.support.services import certificate

API = Workload("deployment", "api-server")
STATEFUL = Workload("statefulset", "api-server")


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster in which all is well."""
    made = Cluster(
        [workload()], [pod(f"api-server-{letter}", "Running", container()) for letter in "abc"]
    )
    async with made.serving():
        yield made


@pytest.fixture
async def client(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Kubernetes]:
    """The monitor's side."""
    async with kubernetes(cluster.url, credentials(tmp_path / "account")) as made:
        yield made


def first(look: WorkloadHealth) -> str:
    """The first line."""
    return look.info.partition("\n")[0]


# -- what the objects say --------------------------------------------------------------------------

OOM = terminated("OOMKilled", 137)
BACK_OFF = (
    "CrashLoopBackOff",
    "back-off 5m0s restarting failed container=api pod=api-server-a_platform",
)
CRASHING = pod(
    "api-server-a",
    "Running",
    container(ready=False, waiting=BACK_OFF, last=OOM, restarts=12),
    conditions=[
        condition("Ready", "False", "ContainersNotReady", "containers with unready status: [api]")
    ],
)
PULLING = pod(
    "api-server-a",
    "Pending",
    container(
        ready=False, waiting=("ImagePullBackOff", 'Back-off pulling image "registry/api:1.3"')
    ),
)
UNSCHEDULABLE = pod(
    "api-server-a",
    "Pending",
    conditions=[
        condition(
            "PodScheduled",
            "False",
            "Unschedulable",
            "0/3 nodes are available: 3 Insufficient memory.",
        )
    ],
)
NOT_READY = pod(
    "api-server-a",
    "Running",
    container(ready=False),
    conditions=[
        condition("Ready", "False", "ContainersNotReady", "containers with unready status: [api]")
    ],
)
STARTING = pod("api-server-a", "Pending", container(ready=False, waiting=("ContainerCreating", "")))
EVICTED = pod(
    "api-server-old",
    "Failed",
    status={"reason": "Evicted", "message": "The node was low on resource: memory."},
)
LOST = pod("api-server-a", "Unknown", status={"reason": "NodeLost"})
INIT = pod(
    "api-server-a",
    "Pending",
    status={
        "initContainerStatuses": [
            container(
                "migrate",
                ready=False,
                waiting=("CrashLoopBackOff", "back-off"),
                last=terminated("Error", 1),
                restarts=1,
            )
        ]
    },
)
ENDED = pod(
    "api-server-a", "Running", container(ready=False, ended=terminated("Error", 2), restarts=3)
)
LEAVING = pod(
    "api-server-z",
    "Running",
    container(ready=False),
    deleted=True,
    conditions=NOT_READY["status"]["conditions"],
)
WELL = [pod(f"api-server-{letter}", "Running", container()) for letter in "bc"]
ONE_SHORT = workload(available=2)
DEADLINE = condition(
    "Progressing",
    "False",
    "ProgressDeadlineExceeded",
    'ReplicaSet "api-server-5d" has timed out progressing.',
)

CRASH_LINE = (
    "deployment/api-server: 2 of 3 replicas available: pod api-server-a: container api is in "
    "CrashLoopBackOff, after OOMKilled "
    "(exit code 137) at 2026-11-24T09:01:02Z, 12 restarts."
)
PREFIX = "deployment/api-server: 2 of 3 replicas available: pod api-server-a: "

IMAGE_LINE = (
    'container api is in ImagePullBackOff (Back-off pulling image "registry/api:1.3"), 0 restarts.'
)
UP = "deployment/api-server: 3 of 3 replicas available"
SHORT = "deployment/api-server: 2 of 3 replicas available"
ENDED_AT = "2026-11-24T09:01:02Z"

WORKLOADS = {
    "well": (workload(), [], True, UP + "."),
    "one replica by default": (
        workload(desired=None, updated=1, available=1, replicas=1),
        [],
        True,
        "deployment/api-server: 1 of 1 replicas available.",
    ),
    "scaled to zero": (
        workload(desired=0, updated=None, available=None, replicas=None),
        [],
        True,
        "deployment/api-server: scaled to 0 replicas.",
    ),
    "a pod on its way out": (workload(), [LEAVING], True, UP + "."),
    "an old eviction": (workload(), [EVICTED], True, UP + "."),
    "crash loop": (ONE_SHORT, [CRASHING], False, CRASH_LINE),
    "image pull": (ONE_SHORT, [PULLING], False, PREFIX + IMAGE_LINE),
    "unschedulable": (
        ONE_SHORT,
        [UNSCHEDULABLE],
        False,
        PREFIX
        + "it cannot be scheduled (Unschedulable: 0/3 nodes are available: 3 Insufficient memory).",
    ),
    "not ready": (
        ONE_SHORT,
        [NOT_READY],
        False,
        PREFIX + "it is not ready (ContainersNotReady: containers with unready status: [api]).",
    ),
    "starting": (ONE_SHORT, [STARTING], False, SHORT + ": pod api-server-a is still starting."),
    "evicted now": (
        ONE_SHORT,
        [EVICTED],
        False,
        SHORT
        + ": pod api-server-old: it has failed (Evicted: The node was low on resource: memory).",
    ),
    "node lost": (ONE_SHORT, [LOST], False, PREFIX + "its node does not report (NodeLost)."),
    "init container": (
        ONE_SHORT,
        [INIT],
        False,
        PREFIX
        + "container migrate is in CrashLoopBackOff, after Error (exit code 1) at "
        + ENDED_AT
        + ", 1 restart.",
    ),
    "ended": (
        ONE_SHORT,
        [ENDED],
        False,
        PREFIX
        + "container api has terminated: Error (exit code 2) at 2026-11-24T09:01:02Z, 3 restarts.",
    ),
    "rollout": (
        workload(updated=1, replicas=4),
        [],
        False,
        UP + ": a rollout is in progress: 1 of 3 replicas updated.",
    ),
    "rollout not begun": (
        workload(generation=5),
        [],
        False,
        UP + ": its last change has not been processed yet.",
    ),
    "old replicas": (
        workload(replicas=4),
        [],
        False,
        UP + ": a rollout is in progress: 1 of 4 pods still have to terminate.",
    ),
    "no pods": (
        workload(updated=3, available=None, replicas=None),
        [],
        False,
        "deployment/api-server: 0 of 3 replicas available: 0 of 3 pods exist.",
    ),
}
"""Deployment, pods beside two good ones → healthy, first line."""


@pytest.mark.parametrize(
    ("deployment", "pods", "healthy", "line"), WORKLOADS.values(), ids=WORKLOADS
)
async def test_first_line_says_what_is_wrong_and_where(  # noqa: PLR0917  # A table's columns.
    cluster: Cluster,
    client: Kubernetes,
    deployment: Object,
    pods: Sequence[Object],
    healthy: bool,
    line: str,
) -> None:
    """Each state of a Deployment gives its verdict and a first line to act on."""
    cluster.workloads, cluster.pods = [deployment], [*WELL, *pods]
    look = await client.check(API, 2.0)
    assert (look.healthy, first(look)) == (healthy, line)


async def test_stuck_rollout_shows_the_pod_first(cluster: Cluster, client: Kubernetes) -> None:
    """A rollout that a broken image holds up names the pod, then the rollout, then what the
    Deployment says."""
    cluster.workloads = [workload(updated=1, replicas=4, conditions=[DEADLINE])]
    cluster.pods = [*WELL, PULLING]
    look = await client.check(API, 2.0)
    assert look.info.splitlines()[:3] == [
        "deployment/api-server: 3 of 3 replicas available: pod api-server-a: " + IMAGE_LINE,
        "A rollout is in progress: 1 of 3 replicas updated.",
        'Progressing is false: ProgressDeadlineExceeded: ReplicaSet "api-server-5d" has timed out progressing.',  # noqa: E501
    ]


async def test_quota_shows_as_the_replica_failure(cluster: Cluster, client: Kubernetes) -> None:
    """Pods that cannot even be made show by the Deployment's own condition."""
    forbidden = condition(
        "ReplicaFailure", "True", "FailedCreate", "exceeded quota: compute, requested: memory=1Gi"
    )
    cluster.workloads = [
        workload(available=None, replicas=None, updated=None, conditions=[forbidden])
    ]
    cluster.pods = []
    look = await client.check(API, 2.0)
    assert (
        "ReplicaFailure is true: FailedCreate: exceeded quota: compute, requested: memory=1Gi"
        in look.info.splitlines()
    )


async def test_failing_pod_is_described(cluster: Cluster, client: Kubernetes) -> None:
    """Below the first line: the pod's phase and node, its containers' words, bad conditions, its
    newest three warnings."""
    cluster.workloads = [ONE_SHORT]
    cluster.pods = [*WELL, CRASHING]
    cluster.events = [
        warning(
            "api-server-a",
            "BackOff",
            f"Back-off {minute}",
            at=f"2026-11-24T09:0{minute}:00Z",
            count=minute + 1,
        )
        for minute in range(5)
    ]
    look = await client.check(API, 2.0)
    assert look.info.splitlines()[1:] == [
        "Pod api-server-a: Running on node-1.",
        "  container api: back-off 5m0s restarting failed container=api pod=api-server-a_platform",
        "  Ready is false: ContainersNotReady: containers with unready status: [api]",
        "  2026-11-24T09:04:00Z BackOff (x5): Back-off 4",
        "  2026-11-24T09:03:00Z BackOff (x4): Back-off 3",
        "  2026-11-24T09:02:00Z BackOff (x3): Back-off 2",
    ]


async def test_restarts_of_healthy_pods_are_told(cluster: Cluster, client: Kubernetes) -> None:
    """A pod that is well again after an end that it did not wish for keeps that in the info."""
    cluster.pods = [*WELL, pod("api-server-a", "Running", container(last=OOM, restarts=2))]
    look = await client.check(API, 2.0)
    assert look == WorkloadHealth(
        True,
        "deployment/api-server: 3 of 3 replicas available.\n"
        "Pod api-server-a: 2 restarts, last after OOMKilled (exit code 137) at "
        "2026-11-24T09:01:02Z.",
    )


async def test_many_failing_pods_are_cut_with_the_important_first(
    cluster: Cluster, client: Kubernetes
) -> None:
    """However many pods fail and however much they say, the info keeps to its limit, and its first
    line is whole."""
    talkative = [
        pod(
            f"api-server-{number:03}",
            "Running",
            container(ready=False, waiting=("CrashLoopBackOff", "x" * 3_000), last=OOM),
        )
        for number in range(200)
    ]
    cluster.workloads, cluster.pods = (
        [workload(desired=200, available=None, updated=200, replicas=200)],
        talkative,
    )
    look = await client.check(API, 2.0)
    assert INFO_LIMIT - 3 <= len(look.info.encode()) <= INFO_LIMIT
    assert first(look).startswith(
        "deployment/api-server: 0 of 200 replicas available: pod api-server-000: container "
        "api is in"
    )


STATEFUL_SETS = {
    "well": (workload("StatefulSet"), True),
    "rolling": (workload("StatefulSet", updated=1), False),
    "by hand": (workload("StatefulSet", updated=None, strategy={"type": "OnDelete"}), True),
    "partitioned": (
        workload(
            "StatefulSet",
            updated=1,
            strategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 2}},
        ),
        True,
    ),
    "short": (workload("StatefulSet", available=2), False),
}


@pytest.mark.parametrize(("found", "healthy"), STATEFUL_SETS.values(), ids=STATEFUL_SETS)
async def test_stateful_sets(
    cluster: Cluster, client: Kubernetes, found: Object, healthy: bool
) -> None:
    """StatefulSets are judged likewise, but for those that are updated by hand or in part, as
    somebody wished."""
    cluster.workloads = [found]
    look = await client.check(STATEFUL, 2.0)
    assert look.healthy is healthy
    assert first(look).startswith("statefulset/api-server: ")


async def test_by_label(cluster: Cluster, client: Kubernetes) -> None:
    """A label finds the workloads; all of them must be well, and what is wrong comes first."""
    cluster.workloads = [workload(), workload(available=2, name="api-blue")]
    look = await client.check(Workload("deployment", selector="app=api-server"), 2.0)
    assert not look.healthy
    assert [line.partition(":")[0] for line in look.info.splitlines()] == [
        "deployment/api-blue",
        "deployment/api-server",
    ]
    assert cluster.asked[0] == (
        "/apis/apps/v1/namespaces/platform/deployments",
        {"labelSelector": "app=api-server"},
    )


def test_selectors_as_queries() -> None:
    """Every kind of label selector has its form as a query."""
    expressions = [
        {"key": "a", "operator": "In", "values": ["x", "y"]},
        {"key": "b", "operator": "NotIn", "values": ["z"]},
        {"key": "c", "operator": "Exists"},
        {"key": "d", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"app": "api"}, "matchExpressions": expressions}
    assert selector_of(selector) == "app=api,a in (x,y),b notin (z),c,!d"


# -- what cannot be known --------------------------------------------------------------------------

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refuses(status: int, reason: str, message: str) -> Answer:
    """An API that says no."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return refusal(status, reason, message)

    return answer


def says(body: bytes, status: int = 200) -> Answer:
    """An API, or something before it, that answers with these bytes."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status)

    return answer


async def hangs(_: web.Request) -> web.StreamResponse:
    """An API that does not answer."""
    await asyncio.sleep(5)
    return web.Response()


async def breaks_off(request: web.Request) -> web.StreamResponse:
    """An API whose answer ends in the middle."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"items": [')
    assert request.transport is not None
    request.transport.close()
    return response


FORBIDDEN = (
    'pods is forbidden: User "system:serviceaccount:platform:monitor" cannot list resource "pods"'
)
UNKNOWNS: dict[str, tuple[str, Answer, str]] = {
    "forbidden": (
        "pods",
        refuses(403, "Forbidden", FORBIDDEN),
        f"the Role does not allow it (HTTP 403 Forbidden: {FORBIDDEN}).",
    ),
    "unauthorized": (
        "deployments",
        refuses(401, "Unauthorized", "Unauthorized"),
        "the service account's token is not accepted (HTTP 401 Unauthorized: Unauthorized).",
    ),
    "gone": (
        "pods",
        refuses(410, "Expired", "The provided continue parameter is too old"),
        "HTTP 410 Gone: The provided continue parameter is too old.",
    ),
    "overloaded": (
        "pods",
        refuses(429, "TooManyRequests", "please try again later"),
        "HTTP 429 Too Many Requests: please try again later.",
    ),
    "broken": ("deployments", says(b"<html>502</html>", 502), "HTTP 502 Bad Gateway."),
    "no json": (
        "deployments",
        says(b"<html>hello</html>"),
        "Kubernetes sent a malformed response: JSONDecodeError.",
    ),
    "another shape": (
        "deployments",
        says(b"[1, 2]"),
        "Kubernetes sent a malformed response: TypeError.",
    ),
    "null": ("pods", says(b"null"), "Kubernetes sent a malformed response: TypeError."),
    "hangs": ("pods", hangs, "Kubernetes did not answer within 0.5 s."),
    "breaks off": ("pods", breaks_off, "Kubernetes cannot be reached: ClientPayloadError."),
}


@pytest.mark.parametrize(("kind", "answer", "why"), UNKNOWNS.values(), ids=UNKNOWNS)
async def test_what_cannot_be_known_is_said(
    cluster: Cluster, client: Kubernetes, kind: str, answer: Answer, why: str
) -> None:
    """Whatever Kubernetes does instead of answering, nothing is made up, and the info says what it
    did."""
    cluster.answers[kind] = answer
    look = await client.check(API, 0.5)
    assert look == WorkloadHealth(
        None, f"The state of the resources (deployment/api-server) is not known: {why}"
    )


async def test_huge_answer_is_not_read(
    cluster: Cluster, client: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer beyond the limit is given up on."""
    monkeypatch.setattr("service.monitor.kubernetes.client.BODY_LIMIT", 100)
    look = await client.check(API, 2.0)
    assert look.healthy is None
    assert "Kubernetes' response is longer than 100 bytes" in look.info


async def test_missing_workload_is_unhealthy(cluster: Cluster, client: Kubernetes) -> None:
    """A workload that does not exist is no lack of knowledge: the service has nothing behind it."""
    cluster.workloads = []
    assert await client.check(API, 2.0) == WorkloadHealth(
        False, "deployment/api-server does not exist in namespace platform."
    )
    by_label = await client.check(Workload("deployment", selector="app=x"), 2.0)
    assert by_label == WorkloadHealth(
        False, "deployment with app=x does not exist in namespace platform."
    )


async def test_warnings_that_cannot_be_read_are_left_out(
    cluster: Cluster, client: Kubernetes
) -> None:
    """Without the right to read events, all else is told."""
    cluster.workloads, cluster.pods = [ONE_SHORT], [*WELL, CRASHING]
    cluster.answers["events"] = refuses(403, "Forbidden", "events is forbidden")
    look = await client.check(API, 2.0)
    assert (look.healthy, first(look)) == (False, CRASH_LINE)
    assert "forbidden" not in look.info


async def test_no_service_account(cluster: Cluster, tmp_path: Path) -> None:
    """Outside a pod there is no account, which is said."""
    async with kubernetes(cluster.url, tmp_path / "nowhere") as outside:
        look = await outside.check(API, 2.0)
    assert look.healthy is None
    assert "there is no service account" in look.info


async def test_unreachable_api(tmp_path: Path) -> None:
    """An API server that nobody reaches is said to be so."""
    async with kubernetes("http://127.0.0.1:1", credentials(tmp_path / "account")) as outside:
        look = await outside.check(API, 2.0)
    assert look.healthy is None
    assert "Kubernetes cannot be reached" in look.info


async def test_rotated_token_is_read_again(cluster: Cluster, tmp_path: Path) -> None:
    """When Kubernetes replaces the token, the next check uses the new one."""
    account = credentials(tmp_path / "account")
    async with kubernetes(cluster.url, account) as made:
        assert (await made.check(API, 2.0)).healthy
        cluster.tokens = {"token-2"}
        assert (await made.check(API, 2.0)).healthy is None
        credentials(account, "token-2")
        assert (await made.check(API, 2.0)).healthy


@pytest.mark.parametrize("name", ["token", "namespace"])
async def test_byte_order_mark_of_a_credential(cluster: Cluster, tmp_path: Path, name: str) -> None:
    """A byte order mark and a line break in a file of the service account are no part of what it
    says; UTF-16 is named."""
    account = credentials(tmp_path / "account")
    file = account / name
    text = file.read_text()
    async with kubernetes(cluster.url, account) as made:
        file.write_text(f" {text}\r\n", encoding="utf-8-sig")
        assert (await made.check(API, 2.0)).healthy
        file.write_text(text, encoding="utf-16")
        assert f"{file} is UTF-16: save it as UTF-8" in (await made.check(API, 2.0)).info


async def test_the_clusters_own_authority(tmp_path: Path) -> None:
    """The API is trusted by `ca.crt` of the service account, which is read again when it is
    replaced."""
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    (tls, cert), (_, other) = (certificate(folder, "localhost") for folder in folders)
    account = credentials(tmp_path / "account")
    cluster = Cluster([workload()])
    looks = []
    async with (
        cluster.serving(tls),
        kubernetes(cluster.url.replace("127.0.0.1", "localhost"), account) as made,
    ):
        marked = b"\xef\xbb\xbf" + cert.read_bytes()
        for content in (cert.read_bytes(), other.read_bytes(), b"nothing", marked):
            replace(account / "ca.crt", content)
            looks.append(await made.check(API, 2.0))
    assert [look.healthy for look in looks] == [True, None, None, True]
    assert "Kubernetes cannot be reached" in looks[1].info
    assert looks[2].info.endswith("ca.crt contains no certificate.")


def replace(file: Path, content: bytes) -> None:
    """Puts another file in its place, as Kubernetes does."""
    (file.parent / "next").write_bytes(content)
    (file.parent / "next").rename(file)


# -- together with the service's own check ---------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "unknown", "healthy"),
    [
        (3, Unknown.IGNORE, True),
        (2, Unknown.IGNORE, False),
        (None, Unknown.IGNORE, True),
        (None, Unknown.UNHEALTHY, False),
    ],
)
async def test_service_is_healthy_when_both_say_so(
    cluster: Cluster, client: Kubernetes, available: int | None, unknown: Unknown, healthy: bool
) -> None:
    """A service that answers is healthy unless its resources are not; a setting decides what is
    when they are not known."""
    if available is None:
        cluster.answers["pods"] = refuses(403, "Forbidden", "pods is forbidden")
    cluster.workloads = [workload(available=available)]
    cluster.answers["healthz"] = says(b"fine")
    service = Service(
        "api",
        f"{cluster.url}/healthz",
        2.0,
        headers={"Authorization": "Bearer token-1"},
        workload=API,
    )
    async with session() as http:
        finding = await check_service(http, service, client, unknown)
    assert finding.healthy is healthy
    said = finding.info.splitlines()
    assert said[0].startswith(
        "Reachable: HTTP 200 OK."
        if healthy
        else "Reachable: HTTP 200 OK. But its Kubernetes resources are not healthy: "
    )
    assert said[1] == "fine"
    assert finding.resources.startswith(
        "deployment/api-server"
        if available
        else "The state of the resources (deployment/api-server)"
    )


async def test_resources_that_nobody_looks_at(cluster: Cluster, client: Kubernetes) -> None:
    """Without Kubernetes, or without a workload, the info says that resources are not monitored."""
    port = cluster.url.rpartition(":")[2]
    for service, api in (
        (Service("a", f"tcp://127.0.0.1:{port}", 2.0, workload=API), None),
        (Service("a", f"tcp://127.0.0.1:{port}", 2.0), client),
    ):
        async with session() as http:
            finding = await check_service(http, service, api)
        assert (finding.healthy, finding.resources) == (True, RESOURCES_INFO)
    assert cluster.asked == []


# -- shapes ----------------------------------------------------------------------------------------


def _unknown_fields(models: Any, found: Any, type_: str) -> list[str]:
    """The fields that the published schema does not have, or requires and misses, as Kubernetes'
    own client knows them."""
    if type_.startswith("list["):
        return [wrong for one in found for wrong in _unknown_fields(models, one, type_[5:-1])]
    model = getattr(models, type_, None)
    if model is None or not hasattr(model, "openapi_types"):
        return []
    names = {
        json: (attribute, model.openapi_types[attribute])
        for attribute, json in model.attribute_map.items()
    }
    wrong = [f"{type_}.{key}" for key in found if key not in names]
    for key, value in found.items():
        if key in names:
            wrong += _unknown_fields(models, value, names[key][1])
    return wrong


def test_shapes_are_those_of_kubernetes() -> None:
    """The objects above fit the published schemas, as the official client has them. Skips where
    that is not installed."""
    models = needs.package("kubernetes.client.models")
    deployments = [found for found, *_ in WORKLOADS.values()]
    pods = [one for _, many, *_ in WORKLOADS.values() for one in many] + WELL
    assert _unknown_fields(models, deployments, "list[V1Deployment]") == []
    assert (
        _unknown_fields(
            models, [found for found, _ in STATEFUL_SETS.values()], "list[V1StatefulSet]"
        )
        == []
    )
    assert _unknown_fields(models, pods, "list[V1Pod]") == []
    assert _unknown_fields(models, [warning("a", "b", "c")], "list[CoreV1Event]") == []
