"""Whole histories of a workload: which events a monitor records while Kubernetes is ill itself."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from service.events import Status
from service.monitor.kubernetes.assess import Rules
from service.monitor.kubernetes.checker import WorkloadChecker
from service.monitor.kubernetes.client import kubernetes_client
from service.settings import Unknown
from tests.support.cluster import (
    Answer,
    Cluster,
    Object,
    closes,
    condition,
    container,
    credentials,
    hangs,
    pod,
    recording,
    refusal,
    refuses,
    terminated,
    workload,
)
from tests.support.world import MakeWorld, World

INITIAL, UNHEALTHY, HEALTHY = Status.INITIAL_UNHEALTHY, Status.UNHEALTHY, Status.HEALTHY
KEEP_S = 300.0
INTERVAL_S = 10.0

AVAILABLE = condition("Available", "True", "MinimumReplicasAvailable")
ROLLED_OUT = condition("Progressing", "True", "NewReplicaSetAvailable")
WELL = [pod(f"api-server-{letter}", "Running", container()) for letter in "abc"]
CRASHING = pod(
    "api-server-a",
    "Running",
    container(
        ready=False,
        waiting=("CrashLoopBackOff", "back-off 10s"),
        last=terminated("OOMKilled", 137),
        restarts=3,
    ),
)


def three_of_three(**changes: Any) -> Object:
    """A Deployment that is complete, or not quite."""
    return workload(**({"conditions": [AVAILABLE, ROLLED_OUT]} | changes))


class Histories:
    """A monitor of one service and its Deployment."""

    def __init__(self, world: World, cluster: Cluster, checker: WorkloadChecker) -> None:
        self.world = world
        self.cluster = cluster
        self.checker = checker

    def is_well(self) -> None:
        """All replicas are available."""
        self.cluster.workloads, self.cluster.pods = [three_of_three()], WELL

    def crash_loops(self) -> None:
        """One of three pods crashes; the strategy tolerates that."""
        self.cluster.workloads = [three_of_three(available=2)]
        self.cluster.pods = [CRASHING, *WELL[1:]]

    async def recorded(self) -> list[Status | str]:
        """The statuses that were recorded, without repetitions."""
        found: list[Status | str] = []
        for status in await self.world.statuses():
            if not found or found[-1] is not status:
                found.append(status)
        return found

    def known(self) -> float | None:
        """The gauge of the resources' state."""
        return self.world.metrics.registry.get_sample_value(
            "cluster_events_resources_known", {"service": "api"}
        )

    async def info(self) -> str:
        """What the last recorded event says of the resources."""
        finding = self.world.monitor._findings.last["api"]
        return finding.resources


MakeHistory = Callable[..., Awaitable[Histories]]


@pytest.fixture
async def make_history(make_world: MakeWorld, tmp_path: Path) -> AsyncIterator[MakeHistory]:
    """Makes a monitor whose service is healthy and whose Deployment is complete."""
    async with AsyncExitStack() as stack:

        async def make(**values: Any) -> Histories:
            world: World = await make_world(
                "api",
                **({"resources": "api=deployment/api-server", "check_timeout": "5s"} | values),
            )
            cluster = Cluster()
            await stack.enter_async_context(cluster.serving())
            client = await stack.enter_async_context(
                kubernetes_client(cluster.url, credentials(tmp_path / "account"))
            )
            world.workloads = WorkloadChecker(client, Rules(), KEEP_S, lambda: world.now)
            world.start()
            history = Histories(world, cluster, world.workloads)
            history.is_well()
            return history

        yield make


async def text_429(_: Any) -> Any:
    """An API server that is overloaded: it responds in plain text."""
    response = refusal(429, "TooManyRequests", "")
    response.body = b"Too many requests, please try again later.\n"
    return response


UNREADABLE: dict[str, tuple[str | None, Answer]] = {
    "restart": (None, closes),
    "401": (None, refuses(401, "Unauthorized", "Unauthorized")),
    "403": (None, refuses(403, "Forbidden", "forbidden")),
    "429": (None, text_429),
    "500": (None, refuses(500, "InternalError", "etcdserver: leader changed")),
    "403 on pods": ("pods", refuses(403, "Forbidden", "pods is forbidden")),
    "429 on pods": ("pods", text_429),
    "410 on pods": ("pods", refuses(410, "Expired", "too old")),
    "pods time out": ("pods", hangs),
    "the Deployment times out": ("deployments", hangs),
    "events time out": ("events", hangs),
    "403 on events": ("events", refuses(403, "Forbidden", "events is forbidden")),
}


@pytest.mark.parametrize(("kind", "answer"), UNREADABLE.values(), ids=UNREADABLE)
async def test_what_cannot_be_read_is_no_recovery(
    make_history: MakeHistory, kind: str | None, answer: Answer
) -> None:
    """While a pod crash-loops, Kubernetes fails in some way: the service stays unhealthy.

    The service recovers when Kubernetes says so, and not before.
    """
    history = await make_history(check_timeout="200ms")
    await history.world.check()
    history.crash_loops()
    await history.world.check(2)
    if kind is None:
        history.cluster.answer = answer
    else:
        history.cluster.answers[kind] = answer
    await history.world.check(3)
    assert await history.recorded() == [HEALTHY, UNHEALTHY]
    assert "CrashLoopBackOff, after OOMKilled" in await history.info()
    assert history.known() == (1 if kind == "events" else 0)
    history.cluster.answer = None
    history.cluster.answers.clear()
    await history.world.check()
    assert history.known() == 1
    history.is_well()
    await history.world.check(3)
    assert await history.recorded() == [HEALTHY, UNHEALTHY, HEALTHY]
    assert [event.services["api"].status for event in history.world.changes] == [
        HEALTHY,
        UNHEALTHY,
        HEALTHY,
    ]


async def test_kept_finding_is_marked(
    make_history: MakeHistory, caplog: pytest.LogCaptureFixture
) -> None:
    """A kept finding names its time and the reason; the log has one line per change."""
    history = await make_history()
    with caplog.at_level(logging.INFO, "service.monitor.loop"):
        await history.world.check()
        history.cluster.answer = closes
        await history.world.check(4)
        info = await history.info()
        history.cluster.answer = None
        await history.world.check(2)
    first, second = info.splitlines()
    assert first.startswith("As of 20")
    assert first.endswith("Z: deployment/api-server: 3 of 3 replicas available.")
    assert second == "Not known now: Kubernetes cannot be reached: ServerDisconnectedError."
    lines = [
        (record.levelname, record.getMessage(), vars(record).get("reason"))
        for record in caplog.records
        if "resources" in record.getMessage()
    ]
    assert lines == [
        (
            "WARNING",
            "the state of the resources of api is not known",
            "Kubernetes cannot be reached: ServerDisconnectedError",
        ),
        ("INFO", "the state of the resources of api is known again", None),
    ]
    assert await history.recorded() == [HEALTHY]


@pytest.mark.parametrize("unknown", Unknown)
async def test_finding_is_kept_for_a_bounded_time(
    make_history: MakeHistory, unknown: Unknown
) -> None:
    """After `RESOURCES_KEEP` the state is not known, and `RESOURCES_UNKNOWN` decides."""
    history = await make_history(resources_unknown=unknown)
    await history.world.check()
    history.cluster.answer = closes
    await history.world.check(int(KEEP_S / INTERVAL_S))
    assert await history.recorded() == [HEALTHY]
    await history.world.check(2)
    assert await history.recorded() == (
        [HEALTHY] if unknown is Unknown.IGNORE else [HEALTHY, UNHEALTHY]
    )
    info = await history.info()
    assert info.startswith("The state of the resources (deployment/api-server) is not known: ")
    assert "It was last known at 20" in info


async def test_unhealthy_finding_is_kept_for_a_bounded_time(make_history: MakeHistory) -> None:
    """After `RESOURCES_KEEP`, resources that are ignored if unknown hold no service unhealthy."""
    history = await make_history()
    history.crash_loops()
    await history.world.check()
    history.cluster.answer = closes
    await history.world.check(int(KEEP_S / INTERVAL_S))
    assert await history.recorded() == [INITIAL]
    await history.world.check(2)
    assert await history.recorded() == [INITIAL, HEALTHY]


async def test_kept_findings_count_in_no_streak(make_history: MakeHistory, tmp_path: Path) -> None:
    """Only checks that read the resources count towards `healthy_after` and `unhealthy_after`."""
    file = tmp_path / "services.toml"
    file.write_text("[api]\nhealthy_after = 3\nunhealthy_after = 3\n")
    history = await make_history(services_file=str(file))
    await history.world.check()
    history.crash_loops()
    await history.world.check(2)
    history.cluster.answer = closes
    await history.world.check(5)
    assert await history.recorded() == [HEALTHY]
    history.cluster.answer = None
    await history.world.check()
    assert await history.recorded() == [HEALTHY, UNHEALTHY]
    history.is_well()
    await history.world.check(3)  # The pod must be ready for a while, then one check counts.
    history.cluster.answer = closes
    await history.world.check(10)
    assert await history.recorded() == [HEALTHY, UNHEALTHY]
    finding = history.world.monitor._findings.last["api"]
    assert (finding.healthy, finding.fresh) == (True, False)
    observed = history.world.monitor._observed("api")
    assert observed.self_info.startswith(
        "The state of its Kubernetes resources is not known now, so it still counts as unhealthy: "
    )
    history.cluster.answer = None
    await history.world.check(3)
    assert await history.recorded() == [HEALTHY, UNHEALTHY, HEALTHY]


async def test_failing_service_needs_no_resources(make_history: MakeHistory) -> None:
    """A service whose own check fails is unhealthy, whatever is known of its resources.

    It recovers with its check only when the resources can be read again.
    """
    history = await make_history()
    await history.world.check()
    history.cluster.answer = closes
    await history.world.check()
    history.world.services["api"].healthy = False
    await history.world.check(2)
    assert await history.recorded() == [HEALTHY, UNHEALTHY]
    history.world.services["api"].healthy = True
    await history.world.check(2)
    assert await history.recorded() == [HEALTHY, UNHEALTHY]
    history.cluster.answer = None
    await history.world.check()
    assert await history.recorded() == [HEALTHY, UNHEALTHY, HEALTHY]


async def test_workload_that_never_existed_is_no_outage(make_history: MakeHistory) -> None:
    """A name that is wrong in the settings is told, and makes nothing unhealthy."""
    history = await make_history()
    history.cluster.workloads = []
    await history.world.check(2)
    assert (await history.recorded(), history.known()) == ([HEALTHY], 0)
    assert "check the setting RESOURCES" in await history.info()
    history.is_well()
    await history.world.check()
    history.cluster.workloads = []
    await history.world.check()
    assert (await history.recorded(), history.known()) == ([HEALTHY, UNHEALTHY], 1)


async def test_gauge_is_that_of_the_checking_monitor(make_history: MakeHistory) -> None:
    """A monitor that reloads its services, or waits for leadership, shows no old state."""
    history = await make_history()
    assert history.known() is None
    await history.world.check()
    assert history.known() == 1
    history.world.monitor.reload(history.world.settings)
    assert history.known() is None


ROLL_OUTS = {
    "deployment-rollout-maxunavailable-0": [HEALTHY],
    "deployment-rollout-maxunavailable-25pct": [HEALTHY],
    "deployment-scale-up-3-to-5": [HEALTHY],
    "deployment-scaled-to-0": [HEALTHY],
    "deployment-paused-mid-rollout": [HEALTHY],
    "deployment-with-job-pod-same-labels": [HEALTHY],
    "deployment-with-canary-same-labels": [HEALTHY],
    "deployment-300-pods-one-failing": [HEALTHY],
    "deployment-rollout-stuck-image-pull": [HEALTHY, UNHEALTHY, HEALTHY],
    "deployment-crashloop-1-of-3": [HEALTHY, UNHEALTHY, HEALTHY],
    "deployment-all-down": [HEALTHY, UNHEALTHY, HEALTHY],
    "deployment-evicted-leftovers": [HEALTHY, UNHEALTHY, HEALTHY],
    "deployment-recreate-strategy": [HEALTHY, UNHEALTHY, HEALTHY],
    "deployment-quota-exceeded": [HEALTHY, UNHEALTHY, HEALTHY],
    "deployment-podsecurity-refused": [HEALTHY, UNHEALTHY],
    "deployment-deleted-and-recreated": [HEALTHY, UNHEALTHY, HEALTHY],
}


@pytest.mark.parametrize("situation", ROLL_OUTS)
async def test_what_is_recorded_of_a_situation(make_history: MakeHistory, situation: str) -> None:
    """A roll-out, a scale-up or a pause records nothing; an outage records its begin and end."""
    frames = recording(situation)
    namespace = next(one["workload"] for one in frames if one["workload"])["metadata"]["namespace"]
    history = await make_history(resources=f"api={namespace}/deployment/checkout")
    for frame in frames:
        history.cluster.show(frame)
        history.world.now = 1_000.0 + frame["t"]
        await history.world.monitor.check(history.world.client)
    for _ in range(6):
        history.world.now += 5.0
        await history.world.monitor.check(history.world.client)
    assert await history.recorded() == ROLL_OUTS[situation]
    assert [event.services["api"].status for event in history.world.changes] == (
        ROLL_OUTS[situation]
    )


async def test_roll_out_without_progress(make_history: MakeHistory) -> None:
    """A scale-up that makes no progress is unhealthy after `RESOURCES_PROGRESS`."""
    history = await make_history()
    await history.world.check()
    starting = pod(
        "api-server-d", "Pending", container(ready=False, waiting=("PodInitializing", ""))
    )
    history.cluster.workloads = [three_of_three(desired=4, replicas=4, updated=4)]
    history.cluster.pods = [*WELL, starting]
    await history.world.check(60)
    assert await history.recorded() == [HEALTHY]
    await history.world.check(2)
    assert await history.recorded() == [HEALTHY, UNHEALTHY]
    assert "without progress for 600 s" in await history.info()
    history.cluster.workloads = [three_of_three(desired=4, replicas=4, updated=4, available=4)]
    await history.world.check()
    assert await history.recorded() == [HEALTHY, UNHEALTHY, HEALTHY]


async def test_pod_that_does_not_end(make_history: MakeHistory) -> None:
    """A StatefulSet's pod that terminates for longer than its grace period is named."""
    history = await make_history(resources="api=statefulset/api-server")
    owner = {"kind": "StatefulSet", "name": "api-server", "uid": "7c4a", "controller": True}
    history.cluster.workloads = [workload("StatefulSet")]
    await history.world.check()
    history.cluster.workloads = [workload("StatefulSet", available=2, revisions=("a", "b"))]
    history.cluster.pods = [
        pod("api-server-2", "Running", container(ready=False), deleted=True, owner=owner)
    ]
    await history.world.check(4)
    assert await history.recorded() == [HEALTHY]
    await history.world.check()
    assert await history.recorded() == [HEALTHY, UNHEALTHY]
    assert (await history.info()).startswith(
        "statefulset/api-server: 2 of 3 replicas available: pod api-server-2 on node-1 has been "
        "terminating for longer than its grace period (30 s)."
    )
