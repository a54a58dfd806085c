"""What is told of the resources: the first line says what is wrong and where; what cannot be known
is said to be so."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from service.events import INFO_LIMIT
from service.monitor.check import RESOURCES_INFO, check_service
from service.monitor.kubernetes.assess import Rules
from service.monitor.kubernetes.checker import WorkloadChecker, WorkloadHealth, workload_checker
from service.monitor.kubernetes.workloads import selector_of
from service.monitor.probes.http import session
from service.monitor.services import Service, Workload
from service.settings import Unknown
from tests.support import needs
from tests.support.cluster import (
    SEEN,
    Answer,
    Cluster,
    Object,
    closes,
    condition,
    container,
    credentials,
    hangs,
    pod,
    reference,
    refuses,
    terminated,
    warning,
    workload,
)
from tests.support.services import certificate

API = Workload("deployment", "api-server")


def checking(url: str, account: Path) -> AbstractAsyncContextManager[WorkloadChecker]:
    """A checker that keeps no finding."""
    return workload_checker(url, account, Rules(), keep=0.0)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster in which all is well."""
    made = Cluster(
        [workload()], [pod(f"api-server-{letter}", "Running", container()) for letter in "abc"]
    )
    async with made.serving():
        yield made


@pytest.fixture
async def client(cluster: Cluster, tmp_path: Path) -> AsyncIterator[WorkloadChecker]:
    """The monitor's side."""
    async with checking(cluster.url, credentials(tmp_path / "account")) as made:
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

ROLLING = condition("Progressing", "True", "ReplicaSetUpdated")
PAUSED = condition("Progressing", "Unknown", "DeploymentPaused")
PAUSED_SPEC = workload()["spec"] | {"paused": True}
AVAILABLE = condition("Available", "True", "MinimumReplicasAvailable")
QUOTA = condition(
    "ReplicaFailure", "True", "FailedCreate", "exceeded quota: compute, requested: memory=1Gi"
)
UNAVAILABLE = ": the others are not available."
GOING = CRASHING | {"metadata": CRASHING["metadata"] | {"deletionTimestamp": SEEN}}
OF_A_JOB = CRASHING | {
    "metadata": CRASHING["metadata"] | {"ownerReferences": [reference("Job", "api-server", "job")]}
}
OF_NOBODY = CRASHING | {"metadata": CRASHING["metadata"] | {"ownerReferences": []}}
OF_A_CANARY = CRASHING | {
    "metadata": CRASHING["metadata"]
    | {"ownerReferences": [reference("ReplicaSet", "api-server-canary-5d9c", "canary")]}
}
ON_A_LOST_NODE = pod(
    "api-server-a",
    "Running",
    container(),
    conditions=[{"type": "Ready", "status": "False", "lastTransitionTime": SEEN}],
)
TALKATIVE = pod(
    "api-server-a",
    "Pending",
    container(ready=False, waiting=("ErrImagePull", "x" * 1_000 + ": not found.")),
)
INIT_TOO = INIT | {"metadata": INIT["metadata"] | {"name": "api-server-b", "uid": "uid-b"}}

CRASH_LINE = (
    "deployment/api-server: 2 of 3 replicas available: pod api-server-a on node-1: "
    "container api is in CrashLoopBackOff, after OOMKilled "
    "(exit code 137) at 2026-11-24T09:01:02Z, 12 restarts."
)
PREFIX = "deployment/api-server: 2 of 3 replicas available: pod api-server-a on node-1: "

IMAGE_LINE = 'container api is in ImagePullBackOff (Back-off pulling image "registry/api:1.3").'
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
    "starting": (
        ONE_SHORT,
        [STARTING],
        True,
        SHORT + "; scaling up; pod api-server-a is starting.",
    ),
    "evicted now": (
        ONE_SHORT,
        [EVICTED],
        False,
        SHORT
        + ": pod api-server-old on node-1: it was evicted "
        + "(Evicted: The node was low on resource: memory).",
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
    "roll-out": (
        workload(updated=1, replicas=4, conditions=[ROLLING]),
        [STARTING],
        True,
        UP + "; a roll-out is under way: 1 of 3 updated.",
    ),
    "roll-out that has not begun": (
        workload(generation=5),
        [],
        True,
        UP + "; its last change has not been processed yet.",
    ),
    "roll-out that has failed": (
        workload(updated=1, replicas=4, conditions=[DEADLINE]),
        [PULLING],
        False,
        UP + ", but its roll-out has failed: pod api-server-a on node-1: " + IMAGE_LINE,
    ),
    "roll-out that is paused": (
        workload(updated=2, replicas=4, conditions=[PAUSED]) | {"spec": PAUSED_SPEC},
        [],
        True,
        UP + "; its roll-out is paused with 2 of 3 updated.",
    ),
    "old replicas": (workload(replicas=4), [], True, UP + "."),
    "terminating pod that crashed": (ONE_SHORT, [GOING], False, SHORT + UNAVAILABLE),
    "pod of a Job": (ONE_SHORT, [OF_A_JOB], False, SHORT + UNAVAILABLE),
    "pod without a controller": (ONE_SHORT, [OF_NOBODY], False, SHORT + UNAVAILABLE),
    "pod of a canary": (ONE_SHORT, [OF_A_CANARY], False, SHORT + UNAVAILABLE),
    "lost node": (ONE_SHORT, [ON_A_LOST_NODE], False, PREFIX + "its node is not ready."),
    "message that is too long": (
        ONE_SHORT,
        [TALKATIVE],
        False,
        PREFIX + f"container api is in ErrImagePull (…{'x' * 288}: not found).",
    ),
    "restarted and not ready again": (
        ONE_SHORT,
        [pod("api-server-a", "Running", container(ready=False, last=OOM, restarts=2))],
        False,
        PREFIX
        + f"container api was restarted after OOMKilled (exit code 137) at {ENDED_AT}, 2 restarts.",
    ),
    "tolerated failure": (
        workload(desired=10, updated=10, available=9, replicas=10, conditions=[AVAILABLE]),
        [INIT],
        True,
        "deployment/api-server: 9 of 10 replicas available; pod api-server-a on node-1: "
        "container migrate is in CrashLoopBackOff, after Error (exit code 1) at "
        + ENDED_AT
        + ", 1 restart.",
    ),
    "failures beyond what is tolerated": (
        workload(desired=10, updated=10, available=8, replicas=10, conditions=[AVAILABLE]),
        [INIT, INIT_TOO],
        False,
        "deployment/api-server: 8 of 10 replicas available: 2 pods fail, first pod api-server-a "
        "on node-1: container migrate is in CrashLoopBackOff, after Error (exit code 1) at "
        + ENDED_AT
        + ", 1 restart.",
    ),
    "not available for another reason": (
        workload(available=2, conditions=[condition("Available", "False", "Other", "Why")]),
        [],
        False,
        SHORT + UNAVAILABLE,
    ),
    "no pods yet": (
        workload(updated=None, available=None, replicas=None),
        [],
        True,
        (
            "deployment/api-server: 0 of 3 replicas available; "
            "a roll-out is under way: 0 of 3 updated."
        ),
    ),
    "no pods, as they are refused": (
        workload(updated=None, available=None, replicas=None, conditions=[QUOTA]),
        [],
        False,
        (
            "deployment/api-server: 0 of 3 replicas available: pods cannot be created: "
            "exceeded quota: compute, requested: memory=1Gi."
        ),
    ),
}
"""Deployment, pods beside two good ones → healthy, first line."""


@pytest.mark.parametrize(
    ("deployment", "pods", "healthy", "line"), WORKLOADS.values(), ids=WORKLOADS
)
async def test_first_line_says_what_is_wrong_and_where(  # noqa: PLR0917  # A table's columns.
    cluster: Cluster,
    client: WorkloadChecker,
    deployment: Object,
    pods: Sequence[Object],
    healthy: bool,
    line: str,
) -> None:
    """Each state of a Deployment gives its verdict and a first line to act on."""
    cluster.workloads, cluster.pods = [deployment], [*WELL, *pods]
    look = await client.check(API, 2.0)
    assert (look.healthy, first(look)) == (healthy, line)


async def test_failed_roll_out_is_described(cluster: Cluster, client: WorkloadChecker) -> None:
    """Below the cause: how far the roll-out is, and what the Deployment says of it."""
    cluster.workloads = [workload(updated=1, replicas=4, conditions=[DEADLINE])]
    cluster.pods = [*WELL, PULLING]
    look = await client.check(API, 2.0)
    assert look.info.splitlines()[1:3] == [
        "1 of 3 updated.",
        (
            "Its roll-out has failed (ProgressDeadlineExceeded: "
            'ReplicaSet "api-server-5d" has timed out progressing).'
        ),
    ]


async def test_failing_pod_is_described(cluster: Cluster, client: WorkloadChecker) -> None:
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


async def test_pods_of_a_complete_workload_are_not_read(
    cluster: Cluster, client: WorkloadChecker
) -> None:
    """While all replicas are available and updated, one request is enough."""
    assert await client.check(API, 2.0) == WorkloadHealth(True, UP + ".")
    assert (cluster.asked_for("deployments"), len(cluster.asked)) == (1, 1)


async def test_many_failing_pods_are_cut_with_the_important_first(
    cluster: Cluster, client: WorkloadChecker
) -> None:
    """However many pods fail and however much they say, the info keeps to its limit, and its first
    line is whole."""
    talkative = [
        pod(
            f"api-server-{number:03}",
            "Running",
            *(
                container(name, ready=False, waiting=("CrashLoopBackOff", "x" * 3_000), last=OOM)
                for name in ("api", "proxy")
            ),
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
        "deployment/api-server: 0 of 200 replicas available: 200 pods fail, first pod "
        "api-server-000 on node-1: container api is in"
    )


OF_THE_STATEFUL_SET = reference("StatefulSet", "api-server", "7c4a")
OF_THE_DAEMON_SET = reference("DaemonSet", "api-server", "7c4a")
STARTING_TOO = pod(
    "api-server-2",
    "Pending",
    container(ready=False, waiting=("ContainerCreating", "")),
    owner=OF_THE_STATEFUL_SET,
)
PARTITION = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
NEW = ("a", "b")
STATEFUL = "statefulset/api-server: "
OTHER_WORKLOADS = {
    "StatefulSet that is complete": (workload("StatefulSet"), True, "3 of 3 replicas available."),
    "roll-out": (
        workload("StatefulSet", updated=1, available=2, revisions=NEW),
        True,
        (
            "2 of 3 replicas available; a roll-out is under way: 1 of 3 updated; "
            "pod api-server-2 is starting."
        ),
    ),
    "roll-out of which too much is missing": (
        workload("StatefulSet", updated=1, available=1, revisions=NEW),
        False,
        (
            "1 of 3 replicas available: a roll-out is under way: 1 of 3 updated; "
            "pod api-server-2 is starting."
        ),
    ),
    "roll-out that may stop two at once": (
        workload(
            "StatefulSet",
            updated=1,
            available=1,
            revisions=NEW,
            strategy={"rollingUpdate": {"maxUnavailable": "50%"}},
        ),
        True,
        (
            "1 of 3 replicas available; a roll-out is under way: 1 of 3 updated; "
            "pod api-server-2 is starting."
        ),
    ),
    "pods that are updated when they are deleted": (
        workload("StatefulSet", updated=None, strategy={"type": "OnDelete"}, revisions=NEW),
        True,
        (
            "3 of 3 replicas available; 0 of 3 updated; "
            "the others are updated when they are deleted (OnDelete)."
        ),
    ),
    "as far as the partition allows": (
        workload("StatefulSet", updated=1, strategy=PARTITION, revisions=NEW),
        True,
        "3 of 3 replicas available; 1 of 3 updated, as its partition says.",
    ),
    "fewer updated because one terminates": (
        workload("StatefulSet", updated=2),
        True,
        "3 of 3 replicas available.",
    ),
    "DaemonSet that is complete": (workload("DaemonSet"), True, "3 of 3 nodes available."),
    "DaemonSet that rolls out": (
        workload("DaemonSet", updated=1, available=2),
        True,
        "2 of 3 nodes available; a roll-out is under way: 1 of 3 updated.",
    ),
    "DaemonSet for no node": (
        workload("DaemonSet", desired=None, updated=None, available=None, replicas=None),
        True,
        "scaled to 0 nodes.",
    ),
}


@pytest.mark.parametrize(
    ("found", "healthy", "line"), OTHER_WORKLOADS.values(), ids=OTHER_WORKLOADS
)
async def test_other_kinds_of_workload(
    cluster: Cluster, client: WorkloadChecker, found: Object, healthy: bool, line: str
) -> None:
    """StatefulSets and DaemonSets have no conditions: their numbers and strategy decide."""
    kind = found["kind"].lower()
    owner = OF_THE_STATEFUL_SET if kind == "statefulset" else OF_THE_DAEMON_SET
    starting = STARTING_TOO["metadata"] | {"ownerReferences": [owner]}
    cluster.workloads, cluster.pods = [found], [STARTING_TOO | {"metadata": starting}]
    if kind == "daemonset":
        line = line.replace("1 of 3 updated.", "1 of 3 updated; pod api-server-2 is starting.")
    look = await client.check(Workload(kind, "api-server"), 2.0)
    assert (look.healthy, first(look)) == (healthy, f"{kind}/api-server: {line}")


async def test_refused_pods_of_a_stateful_set(cluster: Cluster, client: WorkloadChecker) -> None:
    """Only its own events say that; an event that is older than a pod is of the past."""
    cluster.workloads = [workload("StatefulSet", available=None, updated=None, replicas=None)]
    cluster.pods = []
    cluster.events = [
        warning("api-server", "FailedCreate", "exceeded quota", kind="StatefulSet", count=9)
    ]
    refused = await client.check(Workload("statefulset", "api-server"), 2.0)
    assert (refused.healthy, first(refused)) == (
        False,
        STATEFUL + "0 of 3 replicas available: pods cannot be created: exceeded quota.",
    )
    created = STARTING_TOO["metadata"] | {"creationTimestamp": "2026-11-24T09:03:11Z"}
    cluster.workloads = [workload("StatefulSet", available=None, updated=None, replicas=1)]
    cluster.pods = [STARTING_TOO | {"metadata": created}]
    later = await client.check(Workload("statefulset", "api-server"), 2.0)
    assert (later.healthy, first(later)) == (
        True,
        STATEFUL + "0 of 3 replicas available; scaling up; pod api-server-2 is starting.",
    )


async def test_by_label(cluster: Cluster, client: WorkloadChecker) -> None:
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


def says(body: bytes, status: int = 200) -> Answer:
    """An API, or something before it, that answers with these bytes."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status)

    return answer


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
        f"the Role does not allow it (HTTP 403 Forbidden: {FORBIDDEN})",
    ),
    "unauthorized": (
        "deployments",
        refuses(401, "Unauthorized", "Unauthorized"),
        "the service account's token is not accepted (HTTP 401 Unauthorized: Unauthorized)",
    ),
    "gone": (
        "pods",
        refuses(410, "Expired", "The provided continue parameter is too old"),
        "HTTP 410 Gone: The provided continue parameter is too old",
    ),
    "overloaded": (
        "pods",
        refuses(429, "TooManyRequests", "please try again later"),
        "HTTP 429 Too Many Requests: please try again later",
    ),
    "broken": ("deployments", says(b"<html>502</html>", 502), "HTTP 502 Bad Gateway"),
    "no json": (
        "deployments",
        says(b"<html>hello</html>"),
        "Kubernetes sent a malformed response: JSONDecodeError",
    ),
    "another shape": (
        "deployments",
        says(b"[1, 2]"),
        "Kubernetes sent a malformed response: ValueError",
    ),
    "null": ("pods", says(b"null"), "Kubernetes sent a malformed response: ValueError"),
    "no items": ("pods", says(b"{}"), "Kubernetes sent a malformed response: KeyError"),
    "no metadata": (
        "pods",
        says(b'{"items": [{}]}'),
        "Kubernetes sent a malformed response: KeyError",
    ),
    "an API that does not exist": (
        "deployments",
        refuses(404, "NotFound", "the server could not find the requested resource"),
        "HTTP 404 Not Found: the server could not find the requested resource",
    ),
    "a page that does not exist": (
        "deployments",
        says(b"404 page not found\n", 404),
        "HTTP 404 Not Found",
    ),
    "closes": ("deployments", closes, "Kubernetes cannot be reached: ServerDisconnectedError"),
    "hangs": ("deployments", hangs, "Kubernetes did not answer within 0.5 s"),
    "pods hang": ("pods", hangs, "Kubernetes did not answer in time"),
    "breaks off": ("pods", breaks_off, "Kubernetes cannot be reached: ClientPayloadError"),
}


SHORT_BUT_AVAILABLE = workload(available=2, conditions=[AVAILABLE])


@pytest.mark.parametrize(("kind", "answer", "why"), UNKNOWNS.values(), ids=UNKNOWNS)
async def test_what_cannot_be_read_is_not_known(
    cluster: Cluster, client: WorkloadChecker, kind: str, answer: Answer, why: str
) -> None:
    """Whatever Kubernetes does instead of responding, nothing is guessed, and the info says why."""
    cluster.workloads = [SHORT_BUT_AVAILABLE]
    cluster.answers[kind] = answer
    look = await client.check(API, 0.5)
    if kind == "deployments":
        info = f"The state of the resources (deployment/api-server) is not known: {why}."
        assert look == WorkloadHealth(None, info, why)
    else:
        info = f"{SHORT}.\nIts pods could not be read: {why}."
        reason = f"the pods of deployment/api-server cannot be read: {why}"
        assert look == WorkloadHealth(None, info, reason)


@pytest.mark.parametrize(
    ("found", "healthy"),
    [
        (workload(), True),
        (workload(updated=1, replicas=4, conditions=[ROLLING]), True),
        (SHORT_BUT_AVAILABLE, None),
        (ONE_SHORT, False),
        (workload(updated=1, replicas=4, conditions=[DEADLINE]), False),
    ],
    ids=["complete", "rolling", "short", "not available", "failed"],
)
async def test_without_its_pods_a_workload_is_judged_by_itself(
    cluster: Cluster, client: WorkloadChecker, found: Object, healthy: bool | None
) -> None:
    """Pods that cannot be read hide no more than they would show."""
    cluster.workloads = [found]
    cluster.answers["pods"] = refuses(403, "Forbidden", FORBIDDEN)
    assert (await client.check(API, 2.0)).healthy is healthy


async def test_unread_events_change_no_verdict(cluster: Cluster, client: WorkloadChecker) -> None:
    """Events that do not come leave the Deployment's and the pods' own words, in time."""
    cluster.workloads, cluster.pods = [ONE_SHORT], [*WELL, CRASHING]
    cluster.answers["events"] = hangs
    look = await client.check(API, 1.5)
    assert (look.healthy, first(look)) == (False, CRASH_LINE)


async def test_huge_answer_is_not_read(
    cluster: Cluster, client: WorkloadChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer beyond the limit is given up on."""
    monkeypatch.setattr("service.monitor.kubernetes.client.BODY_LIMIT", 100)
    look = await client.check(API, 2.0)
    assert look.healthy is None
    assert "Kubernetes' response is longer than 100 bytes" in look.info


async def test_workload_that_never_existed(cluster: Cluster, client: WorkloadChecker) -> None:
    """A workload that has never existed is a mistake in the settings, and no outage."""
    cluster.workloads = []
    for one, named in (
        (API, "deployment/api-server"),
        (Workload("deployment", selector="app=x"), "deployment with app=x"),
    ):
        reason = (
            f"{named} does not exist in namespace platform, and has not since this monitor "
            "started: check the setting RESOURCES"
        )
        assert await client.check(one, 2.0) == WorkloadHealth(None, f"{reason}.", reason)


async def test_workload_that_was_deleted(cluster: Cluster, client: WorkloadChecker) -> None:
    """A workload that existed and was deleted is an outage."""
    assert (await client.check(API, 2.0)).healthy
    cluster.workloads = []
    for _ in range(2):
        assert await client.check(API, 2.0) == WorkloadHealth(
            False, "deployment/api-server does not exist in namespace platform: it was deleted."
        )


async def test_warnings_that_cannot_be_read_are_left_out(
    cluster: Cluster, client: WorkloadChecker
) -> None:
    """Without the right to read events, all else is told."""
    cluster.workloads, cluster.pods = [ONE_SHORT], [*WELL, CRASHING]
    cluster.answers["events"] = refuses(403, "Forbidden", "events is forbidden")
    look = await client.check(API, 2.0)
    assert (look.healthy, first(look)) == (False, CRASH_LINE)
    assert "forbidden" not in look.info


async def test_no_service_account(cluster: Cluster, tmp_path: Path) -> None:
    """Outside a pod there is no account, which is said."""
    async with checking(cluster.url, tmp_path / "nowhere") as outside:
        look = await outside.check(API, 2.0)
    assert look.healthy is None
    assert "there is no service account" in look.info


async def test_unreachable_api(tmp_path: Path) -> None:
    """An API server that nobody reaches is said to be so."""
    async with checking("http://127.0.0.1:1", credentials(tmp_path / "account")) as outside:
        look = await outside.check(API, 2.0)
    assert look.healthy is None
    assert "Kubernetes cannot be reached" in look.info


async def test_rotated_token_is_read_again(cluster: Cluster, tmp_path: Path) -> None:
    """When Kubernetes replaces the token, the next check uses the new one."""
    account = credentials(tmp_path / "account")
    async with checking(cluster.url, account) as made:
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
    async with checking(cluster.url, account) as made:
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
        checking(cluster.url.replace("127.0.0.1", "localhost"), account) as made,
    ):
        marked = b"\xef\xbb\xbf" + cert.read_bytes()
        for content in (cert.read_bytes(), other.read_bytes(), b"nothing", marked):
            replace(account / "ca.crt", content)
            looks.append(await made.check(API, 2.0))
    assert [look.healthy for look in looks] == [True, None, None, True]
    assert "Kubernetes cannot be reached" in looks[1].info
    assert looks[2].unknown.endswith("ca.crt contains no certificate")


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
    cluster: Cluster,
    client: WorkloadChecker,
    available: int | None,
    unknown: Unknown,
    healthy: bool,
) -> None:
    """A service that answers is healthy unless its resources are not; a setting decides what is
    when they are not known."""
    if available is None:
        cluster.answers["deployments"] = refuses(403, "Forbidden", "it is forbidden")
    cluster.workloads, cluster.pods = [workload(available=available)], [*WELL, CRASHING]
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


async def test_resources_that_nobody_looks_at(cluster: Cluster, client: WorkloadChecker) -> None:
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
    for kind in ("StatefulSet", "DaemonSet"):
        found = [one for one, *_ in OTHER_WORKLOADS.values() if one["kind"] == kind]
        assert found
        assert _unknown_fields(models, found, f"list[V1{kind}]") == []
    assert _unknown_fields(models, pods, "list[V1Pod]") == []
    assert _unknown_fields(models, [warning("a", "b", "c")], "list[CoreV1Event]") == []
