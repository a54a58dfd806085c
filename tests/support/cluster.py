"""A Kubernetes API on loopback, and objects in the shapes in which it sends them."""

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.folders import ROOT

Object = dict[str, Any]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""A function that answers a request to the API."""

STARTED, SEEN, ENDED = "2026-11-24T08:00:00Z", "2026-11-24T09:03:10Z", "2026-11-24T09:01:02Z"
LABELS = {"app": "api-server", "tier": "backend"}
TEMPLATE_HASH = "5d9c"
RECORDINGS = ROOT / "tests/monitor/recordings"
"""Recordings of a real Kubernetes 1.36: `README.md` there says what they contain."""


def workload(
    kind: str = "Deployment",
    *,
    desired: int | None = 3,
    updated: int | None = 3,
    available: int | None = 3,
    replicas: int | None = 3,
    generation: int = 4,
    observed: int = 4,
    conditions: Sequence[Object] = (),
    strategy: Object | None = None,
    name: str = "api-server",
    uid: str = "7c4a",
    revisions: tuple[str, str] = ("a", "a"),
) -> Object:
    """A workload. Kubernetes leaves out the numbers that are 0: `None`.

    `revisions` are the current and the new one of a StatefulSet.
    """
    counts = {
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": available,
        "availableReplicas": available,
    }
    if kind == "DaemonSet":
        counts = {
            "currentNumberScheduled": replicas,
            "desiredNumberScheduled": desired,
            "updatedNumberScheduled": updated,
            "numberReady": available,
            "numberAvailable": available,
        }
    template = {
        "metadata": {"labels": LABELS},
        "spec": {"containers": [{"name": "api", "image": "registry/api:1.2"}]},
    }
    spec: Object = {"selector": {"matchLabels": LABELS}, "template": template}
    if desired is not None and kind != "DaemonSet":
        spec["replicas"] = desired
    if kind == "StatefulSet":
        spec["serviceName"] = name
    if strategy is not None:
        spec["strategy" if kind == "Deployment" else "updateStrategy"] = strategy
    status: Object = {"observedGeneration": observed} | {
        key: count for key, count in counts.items() if count
    }
    if conditions:
        status["conditions"] = list(conditions)
    if kind == "StatefulSet":
        status |= {"currentRevision": revisions[0], "updateRevision": revisions[1]}
        status.setdefault("replicas", 0)
    if kind == "DaemonSet":
        for required in ("currentNumberScheduled", "desiredNumberScheduled", "numberReady"):
            status.setdefault(required, 0)
        status.setdefault("numberMisscheduled", 0)
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "platform",
            "uid": uid,
            "generation": generation,
            "creationTimestamp": STARTED,
        },
        "spec": spec,
        "status": status,
    }


def condition(type_: str, status: str, reason: str, message: str = "") -> Object:
    """A condition, of a workload or a pod."""
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": SEEN,
    }


def terminated(reason: str, code: int, message: str = "") -> Object:
    """The end of a container."""
    said = {"message": message} if message else {}
    return {
        "exitCode": code,
        "reason": reason,
        "startedAt": STARTED,
        "finishedAt": ENDED,
        "containerID": "containerd://1",
    } | said


def container(
    name: str = "api",
    *,
    ready: bool = True,
    waiting: tuple[str, str] | None = None,
    ended: Object | None = None,
    last: Object | None = None,
    restarts: int = 0,
) -> Object:
    """The status of a container."""
    state: Object = {"running": {"startedAt": STARTED}}
    if waiting:
        state = {
            "waiting": {"reason": waiting[0]} | ({"message": waiting[1]} if waiting[1] else {})
        }
    elif ended:
        state = {"terminated": ended}
    return {
        "name": name,
        "image": "registry/api:1.2",
        "imageID": "",
        "ready": ready and "running" in state,
        "started": "running" in state,
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": last} if last else {},
    }


def pod(
    name: str = "api-server-5d9c-abcde",
    phase: str = "Running",
    *containers: Object,
    conditions: Sequence[Object] = (),
    deleted: bool = False,
    status: Object | None = None,
    owner: Object | None = None,
    created: str = STARTED,
) -> Object:
    """A pod, by default of the newest ReplicaSet of the Deployment `api-server`."""
    metadata: Object = {
        "name": name,
        "namespace": "platform",
        "labels": LABELS | {"pod-template-hash": TEMPLATE_HASH},
        "uid": f"uid-{name}",
        "creationTimestamp": created,
        "ownerReferences": [
            owner or reference("ReplicaSet", f"api-server-{TEMPLATE_HASH}", "replica-set")
        ],
    }
    if deleted:
        metadata |= {"deletionTimestamp": SEEN, "deletionGracePeriodSeconds": 30}
    if not conditions and containers and all(one["ready"] for one in containers):
        conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": STARTED}]
    found: Object = {
        "phase": phase,
        "conditions": list(conditions),
        "startTime": STARTED,
        "qosClass": "Burstable",
    }
    if containers:
        found["containerStatuses"] = list(containers)
    spec = {"containers": [{"name": "api", "image": "registry/api:1.2"}], "nodeName": "node-1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec,
        "status": found | (status or {}),
    }


def reference(kind: str, name: str, uid: str) -> Object:
    """The reference to the controller of a pod."""
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def warning(
    of: str, reason: str, message: str, *, at: str = SEEN, count: int = 1, kind: str = "Pod"
) -> Object:
    """A warning event about a pod or a workload."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{of}.17a{count}", "namespace": "platform"},
        "involvedObject": {"kind": kind, "name": of, "namespace": "platform"},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": count,
        "firstTimestamp": STARTED,
        "lastTimestamp": at,
    }


@dataclass
class Cluster:
    """What the API responds with. A function in `answers`, by kind of object, comes first."""

    workloads: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {"token-1"})
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    answer: Answer | None = None
    """Answers every request, if it is set: for example `closes`, while the API server restarts."""
    url: str = ""

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        """On a free port of loopback."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    def show(self, frame: Object) -> None:
        """From now on respond with the objects of a frame of a recording."""
        self.workloads = [frame["workload"]] if frame["workload"] else []
        self.pods, self.events = frame["pods"], frame["events"]

    def asked_for(self, kind: str) -> int:
        """The number of requests for objects of this kind."""
        return sum(f"/{kind}" in path for path, _ in self.asked)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.partition("/namespaces/")[2].partition("/")[2]
        self.asked.append((request.path, dict(request.query)))
        kind, _, name = (path or request.path.lstrip("/")).partition("/")
        if (answer := self.answer or self.answers.get(kind)) is not None:
            return await answer(request)
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return refusal(401, "Unauthorized", "Unauthorized")
        if kind in {"deployments", "statefulsets", "daemonsets"}:
            return self._workloads(kind, name)
        return page_of(request, self.pods if kind == "pods" else self._selected_events(request))

    def _workloads(self, kind: str, name: str) -> web.Response:
        found = [one for one in self.workloads if f"{one['kind'].lower()}s" == kind]
        if not name:
            return web.json_response(
                {"kind": "List", "apiVersion": "apps/v1", "metadata": {}, "items": found}
            )
        named = [one for one in found if one["metadata"]["name"] == name]
        return (
            web.json_response(named[0])
            if named
            else refusal(404, "NotFound", f'{kind}.apps "{name}" not found')
        )

    def _selected_events(self, request: web.Request) -> list[Object]:
        """The events with the fields that the request selects."""
        pairs = (part.partition("=") for part in request.query["fieldSelector"].split(","))
        fields = {key: value for key, _, value in pairs}

        def value(event: Object, key: str) -> str:
            object_, _, name = key.rpartition(".")
            return str((event[object_] if object_ else event)[name])

        return [
            one
            for one in self.events
            if all(value(one, key) == wanted for key, wanted in fields.items())
        ]


def page_of(request: web.Request, items: Sequence[Object]) -> web.Response:
    """A list, or the page of it that `limit` and `continue` name."""
    start = int(request.query.get("continue", "0"))
    limit = int(request.query.get("limit", len(items) or 1))
    metadata = {"continue": str(start + limit)} if start + limit < len(items) else {}
    page = {"kind": "List", "apiVersion": "v1", "metadata": metadata}
    return web.json_response(page | {"items": items[start : start + limit]})


async def hangs(_: web.Request) -> web.StreamResponse:
    """An API that does not answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def closes(request: web.Request) -> web.StreamResponse:
    """An API whose process ends: it closes the connection."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def refuses(status: int, reason: str, message: str) -> Answer:
    """An API that refuses requests."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return refusal(status, reason, message)

    return answer


def recording(situation: str) -> list[Object]:
    """The frames of a recorded situation."""
    with gzip.open(RECORDINGS / f"{situation}.json.gz") as file:
        return list(json.load(file))


def refusal(status: int, reason: str, message: str) -> web.Response:
    """The response with which Kubernetes refuses a request."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
    }
    return web.json_response(body | {"code": status}, status=status)


def credentials(folder: Path, token: str = "token-1") -> Path:
    """A service account's folder."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(token)
    (folder / "namespace").write_text("platform")
    return folder
