"""A Kubernetes API on loopback, and objects in the shapes that it really answers with (`kubectl get
-o json`)."""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

Object = dict[str, Any]

STARTED, SEEN, ENDED = "2026-11-24T08:00:00Z", "2026-11-24T09:03:10Z", "2026-11-24T09:01:02Z"
LABELS = {"app": "api-server", "tier": "backend"}


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
) -> Object:
    """A Deployment or StatefulSet. Kubernetes leaves out the numbers that are 0: `None`."""
    counts = {
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": available,
        "availableReplicas": available,
    }
    template = {
        "metadata": {"labels": LABELS},
        "spec": {"containers": [{"name": "api", "image": "registry/api:1.2"}]},
    }
    spec: Object = {"selector": {"matchLabels": LABELS}, "template": template}
    if desired is not None:
        spec["replicas"] = desired
    if kind == "StatefulSet":
        spec["serviceName"] = name
    if strategy is not None:
        spec["updateStrategy"] = strategy
    status: Object = {"observedGeneration": observed} | {
        key: count for key, count in counts.items() if count
    }
    if kind == "StatefulSet" or conditions:
        status["conditions"] = list(conditions)
    status.setdefault("replicas", 0)
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "platform",
            "uid": "7c4a",
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
) -> Object:
    """A pod."""
    metadata: Object = {
        "name": name,
        "namespace": "platform",
        "labels": LABELS,
        "uid": "9d1f",
        "creationTimestamp": STARTED,
    }
    if deleted:
        metadata |= {"deletionTimestamp": SEEN, "deletionGracePeriodSeconds": 30}
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


def warning(of: str, reason: str, message: str, *, at: str = SEEN, count: int = 1) -> Object:
    """A warning event about a pod."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{of}.17a{count}", "namespace": "platform"},
        "involvedObject": {"kind": "Pod", "name": of, "namespace": "platform"},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": count,
        "firstTimestamp": STARTED,
        "lastTimestamp": at,
    }


@dataclass
class Cluster:
    """What the API answers; `answers` by path come first: whole answers of its own."""

    workloads: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {"token-1"})
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
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

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rpartition("/namespaces/platform/")[2].lstrip("/")
        self.asked.append((request.path, dict(request.query)))
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return refusal(401, "Unauthorized", "Unauthorized")
        kind, _, name = path.partition("/")
        if (made := self.answers.get(kind)) is not None:
            answer: web.StreamResponse = await made(request)
            return answer
        if kind in {"deployments", "statefulsets"}:
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
        items = self.pods
        if kind == "events":
            of = (
                request.query["fieldSelector"]
                .partition("involvedObject.name=")[2]
                .partition(",")[0]
            )
            items = [one for one in self.events if one["involvedObject"]["name"] == of]
        return web.json_response(
            {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}
        )


def refusal(status: int, reason: str, message: str) -> web.Response:
    """Kubernetes' way of saying no."""
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
