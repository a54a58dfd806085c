"""Recordings of a real Kubernetes, replayed: the verdict and the first cause of each phase."""

import gzip
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from service.monitor.kubernetes.assess import Rules
from service.monitor.kubernetes.checker import WorkloadChecker, WorkloadHealth, workload_checker
from service.monitor.kubernetes.client import kubernetes_client
from service.monitor.kubernetes.history import MIN_READY_S
from service.monitor.services import Workload
from tests.support.cluster import (
    RECORDINGS,
    Cluster,
    Object,
    closes,
    condition,
    container,
    credentials,
    pod,
    recording,
    workload,
)

PHASES = json.loads((RECORDINGS / "phases.json").read_text(encoding="utf-8"))
TEXTS = RECORDINGS / "texts.md"
AFTER_S = 3 * MIN_READY_S
"""How long the last frame of a recording is looked at, in seconds."""

STEADY = r"3 of 3 (replicas|nodes) available\.$"
ROLL_OUT = r"available; a roll-out is under way: \d of \d updated"
CRASH = r": pod \S+ on node-\w"
MISSING = r"does not exist"
CAUSES: dict[str, list[str]] = {
    "deployment-steady-3of3": [STEADY, STEADY],
    "deployment-rollout-maxunavailable-0": [STEADY, f"3 of 3 replicas {ROLL_OUT}", STEADY],
    "deployment-rollout-maxunavailable-25pct": [
        r"4 of 4 replicas available\.$",
        f"3 of 4 replicas {ROLL_OUT}",
        r"4 of 4 replicas available\.$",
    ],
    "deployment-rollout-stuck-image-pull": [
        STEADY,
        f"3 of 3 replicas {ROLL_OUT}",
        ROLL_OUT + r".*; pod \S+ on node-\w: container app is in \w+.*2\.4\.0-typo: not found",
        r"3 of 3 replicas available, but its roll-out has failed: pod .*2\.4\.0-typo: not found",
        STEADY,
    ],
    "deployment-rollout-crashloop": [
        STEADY,
        f"3 of 3 replicas {ROLL_OUT}",
        ROLL_OUT + r".*; pod \S+ on node-\w.*Error \(exit code 1\)",
        r"3 of 3 replicas available, but its roll-out has failed: pod .*Error \(exit code 1\)",
        STEADY,
    ],
    "deployment-scale-up-3-to-5": [
        STEADY,
        r"3 of 5 replicas available; scaling up; 2 pods are starting",
        r"5 of 5 replicas available\.$",
    ],
    "deployment-scale-up-3-to-4": [
        STEADY,
        r"3 of 4 replicas available; scaling up; pod \S+ is starting",
        r"4 of 4 replicas available\.$",
    ],
    "deployment-scale-down-5-to-3": [r"5 of 5 replicas available\.$", STEADY],
    "deployment-scaled-to-0": [
        STEADY,
        r"scaled to 0 replicas\.$",
        r"0 of 2 replicas available; scaling up; 2 pods are starting",
        r"2 of 2 replicas available\.$",
    ],
    "deployment-paused-mid-rollout": [
        STEADY,
        ROLL_OUT,
        r"3 of 3 replicas available; its roll-out is paused with 2 of 3 updated\.$",
        ROLL_OUT,
        STEADY,
    ],
    "deployment-crashloop-1-of-3": [
        STEADY,
        f"2 of 3 replicas available{CRASH}.*OOMKilled",
        STEADY,
    ],
    "deployment-crashloop-1-of-3-maxunavailable-1": [
        STEADY,
        f"2 of 3 replicas available{CRASH}.*OOMKilled",
        STEADY,
    ],
    "deployment-all-down": [
        STEADY,
        r"0 of 3 replicas available: (3 pods fail, first )?pod .*Error \(exit code 1\)",
        STEADY,
    ],
    "deployment-quota-exceeded": [
        STEADY,
        "3 of 5 replicas available: pods cannot be created: .*exceeded quota",
        "3 of 5 replicas available; scaling up; 2 pods are starting",
        r"5 of 5 replicas available\.$",
    ],
    "deployment-quota-exceeded-rollout": [
        STEADY,
        f"3 of 3 replicas {ROLL_OUT}; pods cannot be created: .*exceeded quota",
        "its roll-out has failed: pods cannot be created: .*exceeded quota",
    ],
    "deployment-podsecurity-refused": [
        MISSING,
        "0 of 2 replicas available: pods cannot be created: .*violates PodSecurity",
        "0 of 2 replicas available: pods cannot be created: .*violates PodSecurity",
    ],
    "deployment-with-job-pod-same-labels": [STEADY, STEADY, STEADY],
    "deployment-with-canary-same-labels": [STEADY, STEADY],
    "deployment-evicted-leftovers": [
        STEADY,
        r"2 of 3 replicas available: pod \S+ on node-\w: it was evicted .*ephemeral-storage",
        STEADY,
    ],
    "deployment-pending-unschedulable": [
        STEADY,
        r"3 of 5 replicas available: 2 pods fail, .*cannot be scheduled .*Insufficient cpu",
        STEADY,
    ],
    "deployment-recreate-strategy": [
        STEADY,
        "0 of 3 replicas available: a roll-out with the strategy Recreate has stopped all pods",
        "0 of 3 replicas available: a roll-out with the strategy Recreate .*3 pods are starting",
        STEADY,
    ],
    "deployment-deleted-and-recreated": [
        STEADY,
        MISSING,
        r"0 of 3 replicas available; a roll-out is under way: .*3 pods are starting\.$",
        STEADY,
    ],
    "deployment-readiness-failing-1-of-3": [
        STEADY,
        r"2 of 3 replicas available: pod .* is not ready .*probe failed: .*statuscode: 503",
        STEADY,
    ],
    "statefulset-steady": [STEADY, STEADY],
    "statefulset-rolling-update-orderedready": [STEADY, ROLL_OUT, STEADY],
    "statefulset-rolling-update-partition": [
        STEADY,
        ROLL_OUT + r" \(partition 2\)",
        r"3 of 3 replicas available; 1 of 3 updated, as its partition says\.$",
        ROLL_OUT,
        STEADY,
    ],
    "statefulset-pod-stuck-terminating-on-lost-node": [
        STEADY,
        "2 of 3 replicas available: pod orders-db-1 on node-d: its node is not ready",
        "2 of 3 .*: pod orders-db-1 on node-d: it is stuck terminating: its node is not ready",
        "2 of 3 replicas available: pod orders-db-1 is starting",
        STEADY,
    ],
    "statefulset-failedcreate": [
        MISSING,
        "0 of 2 replicas available: pods cannot be created: .*violates PodSecurity",
    ],
    "statefulset-crashloop": [
        STEADY,
        ROLL_OUT,
        f"2 of 3 replicas available{CRASH}.*Error",
        f"2 of 3 replicas available{CRASH}.*Error",
        "2 of 3 replicas available: pod orders-db-2 is starting",
        STEADY,
    ],
    "daemonset-steady": [STEADY],
    "daemonset-rollout": [STEADY, ROLL_OUT, STEADY],
    "daemonset-one-down": [
        STEADY,
        r"2 of 3 nodes available: pod \S+ on node-b.*Error \(exit code 1\)",
        STEADY,
    ],
    "deployment-300-pods-one-failing": [
        r"300 of 300 replicas available\.$",
        r"299 of 300 replicas available; pod \S+ on \S+ .*|299 of 300 replicas available; pod",
        r"300 of 300 replicas available\.$",
    ],
}
"""By situation, for each phase: what the first line says."""


@dataclass
class Moment:
    """What the monitor concluded at one time of a recording (seconds)."""

    at: float
    phase: int
    found: WorkloadHealth

    @property
    def line(self) -> str:
        """The first line of the info."""
        return self.found.info.partition("\n")[0]


def moments(frames: list[Object]) -> Iterator[tuple[float, Object]]:
    """Two looks at each frame, and some at the last one, which holds on."""
    for frame, following in pairwise(frames):
        yield frame["t"], frame
        yield (frame["t"] + following["t"]) / 2, frame
    last = frames[-1]
    steps = int(AFTER_S / 5)
    yield from ((last["t"] + 5.0 * step, last) for step in range(steps + 1))


@asynccontextmanager
async def replaying(situation: str, folder: Path) -> AsyncIterator[AsyncIterator[Moment]]:
    """The conclusions of a monitor while a recording is replayed."""
    frames, now = recording(situation), [0.0]
    objects: list[Any] = [frame["workload"] for frame in frames if frame["workload"]]
    workload = Workload(
        objects[0]["kind"].lower(),
        objects[0]["metadata"]["name"],
        namespace=objects[0]["metadata"]["namespace"],
    )
    cluster = Cluster()
    async with (
        cluster.serving(),
        kubernetes_client(cluster.url, credentials(folder / "account")) as client,
    ):
        checker = WorkloadChecker(client, Rules(), keep=300.0, monotonic=lambda: now[0])

        async def conclusions() -> AsyncIterator[Moment]:
            for at, frame in moments(frames):
                now[0] = at
                cluster.show(frame)
                phase = max(
                    number for number, phase in enumerate(PHASES[situation]) if phase["from"] <= at
                )
                yield Moment(at, phase, await checker.check(workload, 10.0))

        yield conclusions()


RECOVERING = (
    "deployment-crashloop-1-of-3",
    "deployment-crashloop-1-of-3-maxunavailable-1",
    "deployment-all-down",
    "daemonset-one-down",
    "deployment-300-pods-one-failing",
)
"""Situations that end with the recovery of a crashed pod, which must stay ready for a while."""


def test_every_recording_is_replayed() -> None:
    """No situation is without its causes."""
    files = {file.name.partition(".")[0] for file in RECORDINGS.glob("*.json.gz")}
    assert files - {"errors", "paging"} == set(PHASES) == set(CAUSES)
    assert {name: len(PHASES[name]) for name in PHASES} == {
        name: len(causes) for name, causes in CAUSES.items()
    }


@pytest.mark.parametrize("situation", PHASES)
async def test_each_phase_gives_its_verdict_and_its_first_cause(
    situation: str, tmp_path: Path
) -> None:
    """At each frame the verdict is that of the phase, and the first line says the first cause.

    After a crash loop the verdict stays unhealthy until the pod has been ready for a while.
    """
    async with replaying(situation, tmp_path) as conclusions:
        async for moment in conclusions:
            phase = PHASES[situation][moment.phase]
            verdict = re.split(r"[,†‡]", phase["verdict"])[0].strip()
            expected: bool | None = verdict == "healthy"
            if phase["verdict"] == "does not exist" and moment.phase == 0:
                # It has never existed: nothing is known of it.
                expected = None
            cause = CAUSES[situation][moment.phase]
            recovering = situation in RECOVERING and phase["to"] is None
            if recovering and moment.at < phase["from"] + MIN_READY_S:
                tolerated = "300" in situation
                expected, cause = tolerated, "ready again, but has not stayed so for 10 s"
            shown = f"{situation} at {moment.at}: {moment.line}"
            assert moment.found.healthy is expected, shown
            assert re.search(cause, moment.line), f"{shown}\nexpected: {cause}"


async def test_texts(tmp_path: Path) -> None:
    """What operators read in each situation is what somebody has read and found good."""
    parts = ["# What the monitor says in each recorded situation\n"]
    for number, situation in enumerate(PHASES):
        parts.append(f"\n## {situation}\n")
        said = ""
        folder = tmp_path / str(number)
        folder.mkdir()
        async with replaying(situation, folder) as conclusions:
            async for moment in conclusions:
                if moment.found.info != said:
                    said = moment.found.info
                    verdict = {True: "healthy", False: "unhealthy", None: "not known"}
                    parts.append(f"\n{moment.at:g} s, {verdict[moment.found.healthy]}:\n")
                    parts.append("".join(f"\n    {line}" for line in said.splitlines()) + "\n")
    text = "".join(parts)
    if os.environ.get("UPDATE_TEXTS"):
        TEXTS.write_text(text, encoding="utf-8")
    assert text == TEXTS.read_text(encoding="utf-8")


def recorded(name: str) -> list[Any]:
    """The recorded exchanges of a file."""
    with gzip.open(RECORDINGS / f"{name}.json.gz") as file:
        return list(json.load(file))


ERRORS = {
    one["name"]: one
    for one in recorded("errors")
    if one["status"] != 200 and re.search(r"/(deployments|rollouts|pods|events)\b", one["request"])
}
NOT_FOUND = {"404 workload", "404 namespace that does not exist"}
"""The only responses that say that the workload does not exist."""


@pytest.mark.parametrize("name", ERRORS)
async def test_recorded_errors(name: str, tmp_path: Path) -> None:
    """No error of a real API server is a finding, except that the workload does not exist."""
    error = ERRORS[name]
    requested = re.search(r"/(deployments|rollouts|pods|events)\b", error["request"])
    assert requested
    kind = requested[1].replace("rollouts", "deployments")
    available = condition("Available", "True", "MinimumReplicasAvailable")
    cluster = Cluster([workload(conditions=[available])], [pod("a", "Running", container())])

    async def answer(request: web.Request) -> web.StreamResponse:
        if error["status"] is None:
            return await closes(request)
        body = error["body"]
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=error["status"], text=text, content_type="application/json")

    async with (
        cluster.serving(),
        workload_checker(cluster.url, credentials(tmp_path / "a"), Rules(), 300.0) as checker,
    ):
        api = Workload("deployment", "api-server")
        assert (await checker.check(api, 10.0)).healthy
        cluster.workloads = [workload(available=2, conditions=[available])]
        cluster.answers[kind] = answer
        found = await checker.check(api, 10.0)
    if name in NOT_FOUND:
        assert (found.healthy, found.unknown) == (False, "")
    elif kind == "events":
        assert (found.healthy, found.unknown) == (True, "")
    else:
        assert found.healthy
        assert found.unknown
        assert found.info.startswith("As of ")


async def test_recorded_pages(tmp_path: Path) -> None:
    """The 130 pods of a real list in pages, with the tokens of a real API server, are all read."""
    pages = [one for one in recorded("paging") if "labelSelector" in one["request"]]
    assert [len(page["body"]["items"]) for page in pages] == [50, 50, 30]
    by_token: dict[str | None, Any] = {}
    token = None
    for page in pages:
        by_token[token] = page["body"]
        token = page["body"]["metadata"].get("continue")
    (owner,) = pages[0]["body"]["items"][0]["metadata"]["ownerReferences"]
    name = owner["name"].rpartition("-")[0]
    found = workload(name=name, desired=130, replicas=130, updated=130, available=129)
    cluster = Cluster([found])

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.query["limit"] == "50"
        return web.json_response(by_token[request.query.get("continue")])

    cluster.answers["pods"] = answer
    async with (
        cluster.serving(),
        kubernetes_client(cluster.url, credentials(tmp_path / "a")) as client,
    ):
        checker = WorkloadChecker(client, Rules(), keep=0.0)
        pods = await checker._all_pages(found, "deployment", "platform")
    assert len({one.uid for one in pods}) == 130
