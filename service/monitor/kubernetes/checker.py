"""Checks workloads: reads them from Kubernetes, and keeps what was last known of each.

What cannot be read is not guessed, and is no change: the last finding is kept for a while, marked
with its time. A verdict rests on what could be read: on the workload without its pods, on pods
without their events.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from service.events import clean_info, rfc3339_seconds
from service.monitor.kubernetes.assess import (
    SHOWN_PODS,
    Assessment,
    Reading,
    Rules,
    assess,
    failing,
    needs_pods,
    seen_at,
)
from service.monitor.kubernetes.client import (
    Expired,
    KubernetesClient,
    NotFound,
    TooLarge,
    Unknown,
    kubernetes_client,
    malformed,
)
from service.monitor.kubernetes.history import History, after_reading
from service.monitor.kubernetes.pods import Object, Pod, parse_pod
from service.monitor.kubernetes.workloads import (
    WorkloadState,
    is_own,
    parse_workload,
    selector_of,
)
from service.monitor.services import Workload

PAGE = 50
"""Pods of one page of a list: a pod has 5 to 35 kB."""
SMALLEST_PAGE = 4
"""A pod cannot have more than 1.5 MiB, the limit of etcd."""
PAGES_AT_ONCE = 2
"""Pages that are requested at the same time, for all services: each may have `BODY_LIMIT` bytes."""
EVENTS = 500
"""The most events about one object that are read. Kubernetes does not sort them."""
SHOWN_EVENTS = 3
"""The most warning events of an object that are shown."""
EVENTS_S = 1.0
"""The most seconds for reading events: they only explain what the pods show."""
_MALFORMED = (KeyError, TypeError, AttributeError, ValueError, IndexError)


@dataclass(frozen=True, slots=True)
class WorkloadHealth:
    """Whether a workload is healthy (`None`: not known), and the resources info.

    `unknown` says why the state is not known now, or is empty. Then `healthy` and `info` are those
    of the last finding, marked with its time, as long as that is kept.
    """

    healthy: bool | None
    info: str
    unknown: str = ""


@dataclass(slots=True)
class _Memory:
    """What is known of the workload of one service."""

    histories: dict[str, History] = field(default_factory=dict)
    """By the uid of the workload's object."""
    last: WorkloadHealth | None = None
    """The last finding."""
    at: float = 0.0
    """When that was made (monotonic seconds)."""
    time: str = ""
    """The same as a time of day (RFC 3339)."""


class WorkloadChecker:
    """Checks workloads of a cluster."""

    def __init__(
        self,
        client: KubernetesClient,
        rules: Rules,
        keep: float,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`keep` is how long a finding is kept while nothing new is known, in seconds."""
        self._client = client
        self._rules = rules
        self._keep = keep
        self._monotonic = monotonic
        self._wall = wall
        self._pages = asyncio.Semaphore(PAGES_AT_ONCE)
        self._memory: dict[Workload, _Memory] = {}

    async def check(self, workload: Workload, deadline: float) -> WorkloadHealth:
        """Check the workload of one service within `deadline` seconds.

        Never raises for what Kubernetes does.
        """
        memory = self._memory.setdefault(workload, _Memory())
        until = asyncio.get_running_loop().time() + deadline
        try:
            found = await self._check(workload, memory, until)
        except TimeoutError:
            found = _unknown(workload, f"Kubernetes did not answer within {deadline:g} s")
        except Unknown as error:
            found = _unknown(workload, str(error))
        except _MALFORMED as error:
            found = _unknown(workload, str(malformed(error)))
        if found.unknown:
            return self._kept(found, memory)
        memory.last, memory.at, memory.time = found, self._monotonic(), self._time()
        return found

    def _kept(self, found: WorkloadHealth, memory: _Memory) -> WorkloadHealth:
        """The last finding, marked as such, if it is recent enough; otherwise `found`."""
        last = memory.last
        if last is None:
            return found
        if self._monotonic() - memory.at > self._keep:
            info = f"{found.info}\nIt was last known at {memory.time}: {last.info}"
            return WorkloadHealth(None, clean_info(info), found.unknown)
        first, _, rest = last.info.partition("\n")
        info = f"As of {memory.time}: {first}\nNot known now: {found.unknown}.\n{rest}"
        return WorkloadHealth(last.healthy, clean_info(info.rstrip()), found.unknown)

    def _missing(self, workload: Workload, memory: _Memory, namespace: str) -> WorkloadHealth:
        """The finding for a workload that does not exist.

        One that has never existed, as far as this process knows, is a mistake in the settings.
        """
        where = f"{_named(workload)} does not exist in namespace {namespace}"
        if memory.last is None:
            reason = f"{where}, and has not since this monitor started: check the setting RESOURCES"
            return WorkloadHealth(None, clean_info(f"{reason}."), reason)
        return WorkloadHealth(False, clean_info(f"{where}: it was deleted."))

    async def _check(self, workload: Workload, memory: _Memory, until: float) -> WorkloadHealth:
        namespace = workload.namespace or self._client.namespace()
        try:
            async with asyncio.timeout_at(until):
                objects = await self._objects(workload, namespace)
        except NotFound:
            return self._missing(workload, memory, namespace)
        readings = [
            await self._read(one, workload.kind, namespace, memory, until) for one in objects
        ]
        uids = {reading.state.uid for reading in readings}
        memory.histories = {uid: memory.histories[uid] for uid in uids}
        return self._combined(workload, readings, memory)

    def _combined(
        self, workload: Workload, readings: Sequence[Reading], memory: _Memory
    ) -> WorkloadHealth:
        """One finding for all objects of a workload: the unhealthy ones come first in the info."""
        now = self._monotonic()
        assessed: list[Assessment] = [
            assess(one, memory.histories[one.state.uid], now, self._rules) for one in readings
        ]
        assessed.sort(key=lambda one: (one.healthy is not False, one.healthy is not None))
        verdicts = {one.healthy for one in assessed}
        info = clean_info("\n".join(one.info for one in assessed))
        if False in verdicts:
            return WorkloadHealth(False, info)
        if None in verdicts:
            why = next(one.unread for one in readings if one.unread)
            return WorkloadHealth(
                None, info, f"the pods of {_named(workload)} cannot be read: {why}"
            )
        return WorkloadHealth(True, info)

    async def _objects(self, workload: Workload, namespace: str) -> Sequence[Object]:
        """The workload's objects: one by its name, or all with its labels."""
        path = f"/apis/apps/v1/namespaces/{quote(namespace)}/{workload.kind}s"
        if workload.name:
            return [await self._client.get(f"{path}/{quote(workload.name)}", {})]
        found = await self._client.get(path, {"labelSelector": workload.selector})
        if not found["items"]:
            raise NotFound
        return list(found["items"])

    async def _read(
        self, workload: Object, kind: str, namespace: str, memory: _Memory, until: float
    ) -> Reading:
        """Read what the verdict on a workload needs, and add it to the history."""
        state = parse_workload(workload, kind)
        before = memory.histories.get(state.uid)
        now = self._monotonic()
        pods: Sequence[Pod] | None = ()
        unread = ""
        if needs_pods(state, after_reading(before, state, None, now)):
            pods, unread = await self._own_pods(workload, kind, namespace, until)
        memory.histories[state.uid] = after_reading(before, state, pods, now)
        warnings = await self._warnings(state, pods or (), namespace, until)
        return Reading(state, pods, unread, warnings)

    async def _own_pods(
        self, workload: Object, kind: str, namespace: str, until: float
    ) -> tuple[Sequence[Pod] | None, str]:
        """The workload's own pods, or `None` and why they cannot be read."""
        try:
            async with asyncio.timeout_at(until):
                try:
                    return await self._all_pages(workload, kind, namespace), ""
                except Expired:
                    return await self._all_pages(workload, kind, namespace), ""
        except TimeoutError:
            return None, "Kubernetes did not answer in time"
        except NotFound:
            return None, "Kubernetes does not know them"
        except Unknown as error:
            return None, str(error)
        except _MALFORMED as error:
            return None, str(malformed(error))

    async def _all_pages(self, workload: Object, kind: str, namespace: str) -> list[Pod]:
        path = f"/api/v1/namespaces/{quote(namespace)}/pods"
        selector = selector_of(workload["spec"]["selector"])
        pods: list[Pod] = []
        limit, token = PAGE, ""
        while True:
            query = {"labelSelector": selector, "limit": str(limit)}
            if token:
                query["continue"] = token
            try:
                async with self._pages:
                    page = await self._client.get(path, query)
                    pods += [parse_pod(pod) for pod in page["items"] if is_own(workload, kind, pod)]
                    token = page["metadata"].get("continue") or ""
                    # Free the page before another one is requested.
                    del page
            except TooLarge:
                if limit == SMALLEST_PAGE:
                    raise
                limit = max(SMALLEST_PAGE, limit // 5)
                continue
            if not token:
                return pods

    async def _warnings(
        self, state: WorkloadState, pods: Sequence[Pod], namespace: str, until: float
    ) -> dict[str, Sequence[Object]]:
        """The newest warning events by the uid of their object.

        They are optional: there are none of an object if they cannot be read in time.
        """
        wanted = [("Pod", pod.name, pod.uid) for pod in failing(pods, state)[:SHOWN_PODS]]
        wanted += [("Pod", pod.name, pod.uid) for pod in pods if pod.leftover and pod.problem]
        wanted = wanted[:SHOWN_PODS]
        if state.missing:
            wanted.append((_KINDS[state.kind], state.name, state.uid))
        left = min(EVENTS_S, until - asyncio.get_running_loop().time())
        if not wanted or left <= 0:
            return {}
        tasks = {
            uid: asyncio.create_task(self._events(kind, name, uid, namespace))
            for kind, name, uid in wanted
        }
        try:
            await asyncio.wait(tasks.values(), timeout=left)
        finally:
            for task in tasks.values():
                task.cancel()
        return {
            uid: task.result()
            for uid, task in tasks.items()
            if task.done() and not task.cancelled() and task.exception() is None
        }

    async def _events(self, kind: str, name: str, uid: str, namespace: str) -> Sequence[Object]:
        """The newest warning events about an object, newest first."""
        selector = f"involvedObject.name={name},involvedObject.kind={kind},type=Warning"
        found = await self._client.get(
            f"/api/v1/namespaces/{quote(namespace)}/events",
            {"fieldSelector": selector, "limit": str(EVENTS)},
        )
        # A deleted object of the same name may have left events.
        own = [one for one in found["items"] if one["involvedObject"].get("uid", uid) == uid]
        return sorted(own, key=seen_at, reverse=True)[:SHOWN_EVENTS]

    def _time(self) -> str:
        return rfc3339_seconds(round(self._wall() * 1_000_000))


_KINDS = {"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}


@asynccontextmanager
async def workload_checker(
    url: str | None, credentials: Path, rules: Rules, keep: float
) -> AsyncIterator[WorkloadChecker]:
    """A checker with a client for `url`, by default of the cluster in which this process runs."""
    async with kubernetes_client(url, credentials) as client:
        yield WorkloadChecker(client, rules, keep)


def _named(workload: Workload) -> str:
    return (
        f"{workload.kind}/{workload.name}"
        if workload.name
        else f"{workload.kind} with {workload.selector}"
    )


def _unknown(workload: Workload, reason: str) -> WorkloadHealth:
    info = f"The state of the resources ({_named(workload)}) is not known: {reason}."
    return WorkloadHealth(None, clean_info(info), reason)
