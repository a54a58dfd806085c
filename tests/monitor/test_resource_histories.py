"""Whole histories of a workload: which events a monitor records while Kubernetes is ill itself."""

import logging
import random
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
    RECORDINGS,
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
    recording,
    refusal,
    refuses,
    terminated,
    warning,
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


async def test_unread_pods_end_no_crash_loop(make_history: MakeHistory) -> None:
    """A pod that crashed, and is ready for a moment, still counts while the pods cannot be read."""
    history = await make_history()
    await history.world.check()
    history.crash_loops()
    await history.world.check()
    history.cluster.workloads = [three_of_three()]
    history.cluster.answers["pods"] = refuses(403, "Forbidden", "pods is forbidden")
    await history.world.check(3)
    assert (await history.recorded(), history.known()) == ([HEALTHY, UNHEALTHY], 0)


async def test_pod_must_be_ready_for_twice_as_long_as_it_ran(make_history: MakeHistory) -> None:
    """A pod that crashes after a minute, again and again, is not healthy in between."""
    history = await make_history()
    await history.world.check()
    a_minute = terminated("Error", 1) | {
        "startedAt": "2026-11-24T09:00:00Z",
        "finishedAt": "2026-11-24T09:01:00Z",
    }
    waiting = ("CrashLoopBackOff", "back-off 10s")
    for _ in range(3):
        crashed = container(ready=False, waiting=waiting, last=a_minute, restarts=3)
        history.cluster.workloads = [three_of_three(available=2)]
        history.cluster.pods = [pod("api-server-a", "Running", crashed), *WELL[1:]]
        await history.world.check(3)
        runs = container(last=a_minute, restarts=4)
        history.cluster.workloads = [three_of_three()]
        history.cluster.pods = [pod("api-server-a", "Running", runs), *WELL[1:]]
        await history.world.check(12)
    assert await history.recorded() == [HEALTHY, UNHEALTHY]
    await history.world.check()
    assert await history.recorded() == [HEALTHY, UNHEALTHY, HEALTHY]


async def test_reloaded_services_are_judged_by_what_is_read(make_history: MakeHistory) -> None:
    """After a reload, and for a new leader, a kept finding confirms no status."""
    history = await make_history()
    history.world.services["api"].healthy = False
    await history.world.check(2)
    history.world.services["api"].healthy = True
    history.cluster.answer = closes
    history.world.monitor.reload(history.world.settings)
    await history.world.check(3)
    assert await history.recorded() == [INITIAL]
    history.cluster.answer = None
    await history.world.check()
    assert await history.recorded() == [INITIAL, HEALTHY]


async def test_pods_and_events_of_a_deleted_workload_are_not_its_own(
    make_history: MakeHistory,
) -> None:
    """A workload that was created anew is not judged by what is left of the old one."""
    history = await make_history()
    await history.world.check()
    new = workload(uid="new", conditions=[AVAILABLE, ROLLED_OUT], available=2)
    new["metadata"]["creationTimestamp"] = "2026-11-24T10:00:00Z"
    leaving = pod("api-server-a", "Running", container(ready=False), deleted=True)
    lost = [{"type": "Ready", "status": "False", "lastTransitionTime": SEEN}]
    leaving["status"] |= {"conditions": lost, "containerStatuses": [container()]}
    initializing = container(ready=False, waiting=("PodInitializing", ""))
    starting = pod("api-server-d", "Pending", initializing)
    failing = of_name(CRASHING, "e")
    history.cluster.workloads, history.cluster.pods = [new], [leaving, *WELL[1:], starting]
    await history.world.check(6)
    assert await history.recorded() == [HEALTHY]
    history.cluster.pods = [*WELL[1:], failing]
    event = warning("api-server-e", "BackOff", "of an earlier pod of this name")
    event["involvedObject"]["uid"] = "another"
    history.cluster.events = [event]
    await history.world.check()
    assert await history.recorded() == [HEALTHY, UNHEALTHY]
    assert "of an earlier pod" not in await history.info()


OUTAGE = [HEALTHY, UNHEALTHY, HEALTHY]
RECORDED: dict[str, list[Status]] = {
    "deployment-steady-3of3": [HEALTHY],
    "deployment-rollout-maxunavailable-0": [HEALTHY],
    "deployment-rollout-maxunavailable-25pct": [HEALTHY],
    "deployment-rollout-stuck-image-pull": OUTAGE,
    "deployment-rollout-crashloop": OUTAGE,
    "deployment-scale-up-3-to-5": [HEALTHY],
    "deployment-scale-up-3-to-4": [HEALTHY],
    "deployment-scale-down-5-to-3": [HEALTHY],
    "deployment-scaled-to-0": [HEALTHY],
    "deployment-paused-mid-rollout": [HEALTHY],
    "deployment-crashloop-1-of-3": OUTAGE,
    "deployment-crashloop-1-of-3-maxunavailable-1": OUTAGE,
    "deployment-all-down": OUTAGE,
    "deployment-quota-exceeded": OUTAGE,
    "deployment-quota-exceeded-rollout": [HEALTHY, UNHEALTHY],
    "deployment-podsecurity-refused": [HEALTHY, UNHEALTHY],
    "deployment-with-job-pod-same-labels": [HEALTHY],
    "deployment-with-canary-same-labels": [HEALTHY],
    "deployment-evicted-leftovers": OUTAGE,
    "deployment-pending-unschedulable": OUTAGE,
    "deployment-recreate-strategy": OUTAGE,
    "deployment-deleted-and-recreated": OUTAGE,
    "deployment-readiness-failing-1-of-3": OUTAGE,
    "deployment-300-pods-one-failing": [HEALTHY],
    "statefulset-steady": [HEALTHY],
    "statefulset-rolling-update-orderedready": [HEALTHY],
    "statefulset-rolling-update-partition": [HEALTHY],
    "statefulset-pod-stuck-terminating-on-lost-node": OUTAGE,
    "statefulset-failedcreate": [HEALTHY, UNHEALTHY],
    "statefulset-crashloop": OUTAGE,
    "daemonset-steady": [HEALTHY],
    "daemonset-rollout": [HEALTHY],
    "daemonset-one-down": OUTAGE,
}
"""What is recorded of a service while its workload goes through a recorded situation."""


@pytest.mark.parametrize("situation", RECORDED)
async def test_what_is_recorded_of_a_situation(make_history: MakeHistory, situation: str) -> None:
    """A roll-out, a scale-up or a pause records nothing; an outage records its begin and end."""
    frames = recording(situation)
    found = next(one["workload"] for one in frames if one["workload"])
    namespace, name = found["metadata"]["namespace"], found["metadata"]["name"]
    resources = f"api={namespace}/{found['kind'].lower()}/{name}"
    history = await make_history(resources=resources)
    for frame in frames:
        history.cluster.show(frame)
        history.world.now = 1_000.0 + frame["t"]
        await history.world.monitor.check(history.world.client)
    for _ in range(6):
        history.world.now += 5.0
        await history.world.monitor.check(history.world.client)
    assert await history.recorded() == RECORDED[situation]
    notified = [event.services["api"].status for event in history.world.changes]
    assert notified == RECORDED[situation]


def test_every_situation_has_its_history() -> None:
    """No recording is left out."""
    files = {file.name.partition(".")[0] for file in RECORDINGS.glob("*.json.gz")}
    assert files - {"errors", "paging"} == set(RECORDED)


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


async def test_time_without_readings_is_no_lack_of_progress(make_history: MakeHistory) -> None:
    """What happened while nothing could be read, or another monitor led, is not known."""
    history = await make_history()
    initializing = container(ready=False, waiting=("PodInitializing", ""))
    history.cluster.workloads = [three_of_three(desired=4, replicas=4, updated=4)]
    history.cluster.pods = [*WELL, pod("api-server-d", "Pending", initializing)]
    await history.world.check(2)
    history.world.now += 3_600
    await history.world.check(60)
    assert await history.recorded() == [HEALTHY]
    await history.world.check(2)
    assert await history.recorded() == [HEALTHY, UNHEALTHY]


async def test_paused_roll_out_needs_no_progress(make_history: MakeHistory) -> None:
    """A roll-out that is paused stays healthy however long that takes."""
    history = await make_history()
    await history.world.check()
    paused = condition("Progressing", "Unknown", "DeploymentPaused")
    history.cluster.workloads = [
        three_of_three(replicas=4, updated=2, conditions=[AVAILABLE, paused])
    ]
    history.cluster.workloads[0]["spec"]["paused"] = True
    await history.world.check(100)
    assert await history.recorded() == [HEALTHY]
    assert "its roll-out is paused with 2 of 3 updated" in await history.info()


async def test_pod_that_is_ended_on_purpose(make_history: MakeHistory) -> None:
    """A container that a roll-out ends may exit with an error: that is no failure."""
    history = await make_history(resources="api=statefulset/api-server")
    owner = {"kind": "StatefulSet", "name": "api-server", "uid": "7c4a", "controller": True}
    history.cluster.workloads = [workload("StatefulSet")]
    await history.world.check()
    history.cluster.workloads = [workload("StatefulSet", available=2, revisions=("a", "b"))]
    ended = container(ready=False, ended=terminated("Error", 143))
    history.cluster.pods = [pod("api-server-2", "Running", ended, deleted=True, owner=owner)]
    await history.world.check(2)
    assert await history.recorded() == [HEALTHY]


async def test_daemon_set_that_loses_a_pod_after_its_roll_out(make_history: MakeHistory) -> None:
    """The last new pods of a roll-out may start; a pod that is missing later is an outage."""
    history = await make_history(resources="api=daemonset/api-server")
    steps: list[tuple[dict[str, Any], Status]] = [
        ({}, HEALTHY),
        ({"updated": 2, "available": 2, "generation": 5, "observed": 5}, HEALTHY),
        ({"updated": 3, "available": 2, "generation": 5, "observed": 5}, HEALTHY),
        ({"updated": 3, "available": 2, "generation": 6, "observed": 6}, UNHEALTHY),
        ({"generation": 6, "observed": 6}, HEALTHY),
        ({"available": 2, "generation": 6, "observed": 6}, UNHEALTHY),
    ]
    for changes, status in steps:
        history.cluster.workloads = [workload("DaemonSet", **changes)]
        await history.world.check()
        assert (await history.recorded())[-1] is status, changes


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


class Model:
    """What a Deployment is, and whether what could last be read of it was well."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._crashing = 0
        self.last_read_well = True

    def step(self) -> None:
        """One random change, of the Deployment or of what the API server lets the monitor read."""
        match self._random.choice(["crash", "mend", "mend", "hide", "show", "show"]):
            case "crash":
                self._crashing = min(3, self._crashing + 1)
            case "mend":
                self._crashing = max(0, self._crashing - 1)
            case "hide":
                self._show()
                kind, answer = self._random.choice(QUICK)
                if kind is None:
                    self._cluster.answer = answer
                else:
                    self._cluster.answers[kind] = answer
            case _:
                self._show()
        crashing = [of_name(CRASHING, letter) for letter in "abc"[: self._crashing]]
        self._cluster.pods = [*crashing, *WELL[self._crashing :]]
        holds = condition("Available", str(self._crashing < 2), "MinimumReplicas")
        self._cluster.workloads = [
            workload(available=3 - self._crashing or None, conditions=[holds, ROLLED_OUT])
        ]
        if self._cluster.answer is None:
            self.last_read_well = not self._crashing

    def _show(self) -> None:
        self._cluster.answer = None
        self._cluster.answers.clear()


QUICK = [(kind, answer) for kind, answer in UNREADABLE.values() if answer is not hangs]


def of_name(found: Object, letter: str) -> Object:
    """The same pod under the name of one of the healthy ones."""
    name = f"api-server-{letter}"
    return found | {"metadata": found["metadata"] | {"name": name, "uid": f"uid-{name}"}}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
async def test_no_recovery_contradicts_what_was_read(make_history: MakeHistory, seed: int) -> None:
    """In a thousand random steps, no event is `Healthy` while what was last read was not well."""
    history = await make_history()
    model = Model(history.cluster, seed)
    await history.world.check()
    changes = history.world.changes
    for number in range(1_000):
        before = len(changes)
        model.step()
        await history.world.check()
        recovered = any(one.services["api"].status is HEALTHY for one in changes[before:])
        assert model.last_read_well or not recovered, f"step {number}"
    # It is no proof if nothing happens.
    assert len([one for one in changes if one.services["api"].status is UNHEALTHY]) >= 20
