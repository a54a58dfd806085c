"""What Kubernetes says of the objects behind a service: a Deployment or StatefulSet, its pods, their warning events.

Four kinds of GET on a plain HTTP client, so no client library. The first line of the text says what is wrong and where, as an
operator would want to read it at night; then each failing pod with its containers, conditions and newest warnings. When
Kubernetes cannot be asked, that is said, and nothing is made up.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from service.events import clean_info
from service.monitor.services import Workload

Object = Mapping[str, Any]

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes of one answer: a pod is 5 to 20 kB, and `PODS` of them are asked for."""
PODS = 250
"""Pods of one workload that are looked at."""
SHOWN_PODS = 5
"""Failing pods that are described: what they have is usually the same."""
SHOWN_EVENTS = 3
STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons for waiting that are no trouble, just not ready yet."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was found: whether the resources are healthy (`None`: cannot be known), and the resources info."""

    healthy: bool | None
    info: str


class _CannotKnow(Exception):
    """Kubernetes did not give a usable answer; the message says why."""


class _Gone(Exception):
    """There is no such object."""


class Kubernetes:
    """A cluster's API, as a pod's service account sees it."""

    def __init__(self, client: aiohttp.ClientSession, url: str, credentials: Path) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._credentials = credentials
        self._tls: ssl.SSLContext | None = None
        self._tls_of: tuple[int, int] | None = None

    async def look(self, workload: Workload, deadline: float) -> Look:
        """Looks at one service's workload within `deadline` seconds. Never raises for what Kubernetes does."""
        named = f"{workload.kind}/{workload.name}" if workload.name else f"{workload.kind} with {workload.selector}"
        try:
            async with asyncio.timeout(deadline):
                return await self._look(workload)
        except TimeoutError:
            wrong = f"Kubernetes did not answer within {deadline:g} s"
        except _Gone as error:
            return Look(False, clean_info(f"{named} does not exist in namespace {error}."))
        except _CannotKnow as error:
            wrong = str(error)
        except aiohttp.ClientError as error:
            wrong = f"Kubernetes cannot be reached: {getattr(error, 'strerror', None) or type(error).__name__}"
        except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            wrong = f"Kubernetes' answer makes no sense: {type(error).__name__}"
        return Look(None, clean_info(f"The resources ({named}) cannot be known: {wrong}."))

    async def _look(self, workload: Workload) -> Look:
        namespace = workload.namespace or self._read("namespace")
        path = f"/apis/apps/v1/namespaces/{quote(namespace)}/{workload.kind}s"
        if workload.name:
            found = [await self._get(f"{path}/{quote(workload.name)}", {}, namespace)]
        else:
            found = (await self._get(path, {"labelSelector": workload.selector}, namespace))["items"]
        if not found:
            raise _Gone(namespace)
        looks = [await self._look_at(one, workload.kind, namespace) for one in found]
        looks.sort(key=lambda look: bool(look.healthy))  # What is wrong comes first.
        return Look(all(look.healthy for look in looks), clean_info("\n".join(look.info for look in looks)))

    async def _look_at(self, workload: Object, kind: str, namespace: str) -> Look:
        selector = selector_of(workload["spec"]["selector"])
        pods = await self._get(
            f"/api/v1/namespaces/{quote(namespace)}/pods", {"labelSelector": selector, "limit": str(PODS)}, namespace
        )
        troubled = [pod for pod in pods["items"] if trouble(pod)]
        warnings = await asyncio.gather(*(self._warnings(pod, namespace) for pod in troubled[:SHOWN_PODS]))
        return judge(
            workload, kind, pods["items"], dict(zip((name_of(pod) for pod in troubled), warnings, strict=False))
        )

    async def _warnings(self, pod: Object, namespace: str) -> Sequence[Object]:
        """The newest warnings about a pod; none where they cannot be read, since all else is worth telling without them."""
        selector = f"involvedObject.name={name_of(pod)},type=Warning"
        try:
            found = await self._get(
                f"/api/v1/namespaces/{quote(namespace)}/events", {"fieldSelector": selector}, namespace
            )
        except (_CannotKnow, _Gone):
            return ()
        return sorted(found["items"], key=seen_at, reverse=True)[:SHOWN_EVENTS]

    async def _get(self, path: str, query: Mapping[str, str], namespace: str) -> Any:
        headers = {"Authorization": f"Bearer {self._read('token')}", "Accept": "application/json"}
        async with self._client.get(
            self._url + path, params=query, headers=headers, ssl=self._trust(), allow_redirects=False
        ) as answer:
            body = await _read(answer)
        if answer.status == 404:  # noqa: PLR2004
            raise _Gone(namespace)
        if answer.status != 200:  # noqa: PLR2004
            raise _CannotKnow(_refusal(answer.status, answer.reason or "", body))
        return orjson.loads(body)

    def _read(self, name: str) -> str:
        """A file of the service account: read at each use, since Kubernetes replaces them while the pod runs."""
        try:
            return (self._credentials / name).read_text(encoding="ascii").strip()
        except OSError as error:
            raise _CannotKnow(f"there is no service account: {self._credentials / name}: {error.strerror}") from error

    def _trust(self) -> ssl.SSLContext | bool:
        """The cluster's own authority; read again when the file is replaced."""
        file = self._credentials / "ca.crt"
        try:
            state = file.stat()
        except OSError:
            return True
        if self._tls is None or self._tls_of != (state.st_ino, state.st_mtime_ns):
            try:
                self._tls = ssl.create_default_context(cafile=file)
            except ssl.SSLError as error:
                raise _CannotKnow(f"{file} holds no certificate") from error
            self._tls_of = state.st_ino, state.st_mtime_ns
        return self._tls


@asynccontextmanager
async def kubernetes(url: str | None, credentials: Path) -> AsyncIterator[Kubernetes]:
    """The API of the cluster in which this process runs, or of the one at `url`."""
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc"),
        os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
    )
    bracketed = f"[{host}]" if ":" in host else host
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as client:
        yield Kubernetes(client, url or f"https://{bracketed}:{port}", credentials)


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise _CannotKnow(f"Kubernetes' answer is longer than {BODY_LIMIT} bytes")
    return bytes(body)


def _refusal(status: int, reason: str, body: bytes) -> str:
    """An answer other than 200, with Kubernetes' own words where it has any."""
    try:
        message = str(orjson.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = ""
    said = f"HTTP {status} {reason}".strip() + (f": {message}" if message else "")
    hints = {401: "the service account's token is not accepted", 403: "the Role does not allow it"}
    return f"{hints[status]} ({said})" if status in hints else said


# -- what the objects say: pure ---------------------------------------------------------------------------------------


def selector_of(selector: Object) -> str:
    """A label selector as a query has it."""
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression["key"], ",".join(expression.get("values") or ())
        parts.append(
            {
                "In": f"{key} in ({values})",
                "NotIn": f"{key} notin ({values})",
                "Exists": key,
                "DoesNotExist": f"!{key}",
            }[expression["operator"]]
        )
    return ",".join(parts)


def judge(workload: Object, kind: str, pods: Sequence[Object], warnings: Mapping[str, Sequence[Object]]) -> Look:
    """Whether a workload is healthy, and the text. `warnings` are the warning events by pod."""
    named = f"{kind}/{name_of(workload)}"
    rollout = _rollout(workload, kind)
    behind = rollout or _unavailable(workload)
    past = [pod for pod in pods if trouble(pod) and _ended(pod)]
    failing = [pod for pod in pods if trouble(pod) and not _ended(pod)]
    # Pods that were evicted stay in the list for long; where the replicas agree, others have taken their places.
    told = failing + (past if behind else [])
    desired = workload["spec"].get("replicas", 1)
    available = (workload.get("status") or {}).get("availableReplicas", 0)
    count = f"{available} of {desired} replicas available"
    if not behind and not failing:
        scaled = f"{named}: scaled to 0 replicas." if desired == 0 else f"{named}: {count}."
        return Look(True, "\n".join([scaled, *(_short(pod) for pod in pods if _restarts(pod))]))
    starting = [name_of(pod) for pod in pods if _starting(pod)]
    if not rollout and not told and starting:
        behind = f"pod {starting[0]} is still starting"
    why = f"pod {name_of(told[0])}: {trouble(told[0])}" if told else behind
    lines = [f"{named}: {count}: {why}."]
    if rollout and told:
        lines.append(f"{rollout[0].upper()}{rollout[1:]}.")
    lines += _bad_conditions(workload)
    for pod in told[:SHOWN_PODS]:
        lines += [*_described(pod, brief=pod is told[0]), *map(_warning, warnings.get(name_of(pod), ()))]
    if len(told) > SHOWN_PODS:
        lines.append(f"{len(told) - SHOWN_PODS} more pods fail.")
    return Look(False, "\n".join(lines))


def _rollout(workload: Object, kind: str) -> str:
    """How the workload is not yet as it is meant to be, or nothing."""
    spec, status = workload["spec"], workload.get("status") or {}
    desired = spec.get("replicas", 1)
    strategy = spec.get("updateStrategy") or {}
    by_hand = strategy.get("type") == "OnDelete" or (strategy.get("rollingUpdate") or {}).get("partition", 0) > 0
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return "its last change has not been acted on yet"
    if status.get("updatedReplicas", 0) < desired and not (kind == "statefulset" and by_hand):
        return f"a rollout is under way: {status.get('updatedReplicas', 0)} of {desired} replicas updated"
    if status.get("replicas", 0) > desired:
        return f"a rollout is under way: {status['replicas'] - desired} more than {desired} replicas, still to end"
    return ""


def _unavailable(workload: Object) -> str:
    """How many replicas are missing, or nothing."""
    desired, status = workload["spec"].get("replicas", 1), workload.get("status") or {}
    if status.get("replicas", 0) < desired:
        return f"{status.get('replicas', 0)} of {desired} pods exist"
    if status.get("availableReplicas", 0) < desired:
        return "the others are not"
    return ""


def _bad_conditions(workload: Object) -> Iterator[str]:
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition["status"] == ("True" if condition["type"] == "ReplicaFailure" else "False"):
            yield _condition(condition)


def _condition(condition: Object) -> str:
    reason = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
    return f"{condition['type']} is {condition['status'].lower()}" + (f": {reason}" if reason else "")


def name_of(thing: Object) -> str:
    """An object's name."""
    return str(thing["metadata"]["name"])


def trouble(pod: Object) -> str:
    """What is wrong with a pod, in a few words; nothing if it is well, starting, or on its way out."""
    status = pod.get("status") or {}
    phase = status.get("phase", "Unknown")
    if pod["metadata"].get("deletionTimestamp") or phase == "Succeeded":
        return ""
    if phase == "Failed":
        return _because("it has failed", status)
    if phase == "Unknown":
        return _because("its node is not heard of", status)
    for container in _containers(status):
        if found := _container_trouble(container):
            return f"container {container['name']} {found}"
    return _condition_trouble(status, phase)


def _condition_trouble(status: Object, phase: str) -> str:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _because("it cannot be scheduled", condition)
        if condition["type"] == "Ready" and condition["status"] == "False" and phase == "Running":
            return _because("it is not ready", condition)
    return ""


def _because(what: str, said: Object) -> str:
    reason = ": ".join(filter(None, (said.get("reason"), said.get("message"))))
    return f"{what} ({reason.rstrip('.')})" if reason else what


def _ended(pod: Object) -> bool:
    return bool((pod.get("status") or {}).get("phase") == "Failed")


def _containers(status: Object) -> list[Object]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _container_trouble(container: Object) -> str:
    state = container.get("state") or {}
    waiting, ended = state.get("waiting"), state.get("terminated")
    if waiting and waiting.get("reason") not in STARTING:
        last = (container.get("lastState") or {}).get("terminated")
        said = (waiting.get("message") or "")[:200].rstrip(".")
        why = f", after {_termination(last)}" if last else f" ({said})" if said else ""
        return f"is in {waiting.get('reason', 'an unknown state')}{why}, {_times(container)}"
    if ended and ended.get("exitCode"):
        return f"has ended: {_termination(ended)}, {_times(container)}"
    return ""


def _times(container: Object) -> str:
    count = container.get("restartCount", 0)
    return f"{count} restart{'' if count == 1 else 's'}"


def _termination(ended: Object) -> str:
    signal = f", signal {ended['signal']}" if ended.get("signal") else ""
    at = f" at {ended['finishedAt']}" if ended.get("finishedAt") else ""
    return f"{ended.get('reason') or 'Error'} (exit code {ended.get('exitCode', '?')}{signal}){at}"


def _restarts(pod: Object) -> int:
    return sum(container.get("restartCount", 0) for container in _containers(pod.get("status") or {}))


def _short(pod: Object) -> str:
    """A healthy pod that has been restarted."""
    lasts = [(one.get("lastState") or {}).get("terminated") for one in _containers(pod["status"])]
    last = f", last after {_termination(next(filter(None, lasts)))}" if any(lasts) else ""
    count = _restarts(pod)
    return f"Pod {name_of(pod)}: {count} restart{'' if count == 1 else 's'}{last}."


def _starting(pod: Object) -> bool:
    """Whether a pod is not ready, and nothing is wrong with it."""
    status = pod.get("status") or {}
    ready = all(container.get("ready") for container in status.get("containerStatuses") or ())
    return (
        not trouble(pod)
        and not pod["metadata"].get("deletionTimestamp")
        and (status.get("phase") == "Pending" or not ready)
    )


def _described(pod: Object, *, brief: bool) -> Iterator[str]:
    """All that is worth knowing of a failing pod; `brief` if its trouble has been told already."""
    status = pod.get("status") or {}
    node = (pod.get("spec") or {}).get("nodeName")
    yield (
        f"Pod {name_of(pod)}: {status.get('phase', 'Unknown')}"
        + (f" on {node}" if node else "")
        + ("." if brief else f": {trouble(pod)}.")
    )
    for container in _containers(status):
        message = ((container.get("state") or {}).get("waiting") or {}).get("message")
        last = (container.get("lastState") or {}).get("terminated") or {}
        if message:
            yield f"  container {container['name']}: {message}"
        if last.get("message"):
            yield f"  container {container['name']} said at its end: {last['message'].strip()}"
    for condition in status.get("conditions") or ():
        if condition["status"] == "False":
            yield f"  {_condition(condition)}"


def seen_at(event: Object) -> str:
    """When an event was last seen, as Kubernetes writes it."""
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
    )
    return str(next(filter(None, times), ""))


def _warning(event: Object) -> str:
    count = (event.get("series") or {}).get("count") or event.get("count") or 1
    times = f" (x{count})" if count > 1 else ""
    return f"  {seen_at(event)} {event.get('reason', '')}{times}: {(event.get('message') or '').strip()}"
