"""What a pod says of itself: a small record made from a pod's object, without the object.

A pod's object has 5 to 35 kB, and a workload can have thousands of them. So each page of a list is
reduced to these records before the next one is requested. Times are compared only with other times
of the same object: neither the clock of Kubernetes nor that of the monitor matters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Object = Mapping[str, Any]
"""An object of the Kubernetes API, as JSON."""

STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons of a waiting container that is starting, not failing."""
REPLACED_S = 60.0
"""Seconds within which Kubernetes replaces a pod that has ended."""
HEADLINE_MESSAGE = 300
"""The most characters of a message of Kubernetes in the first line of an info."""
MESSAGE = 1_000
"""The most characters of a message of Kubernetes elsewhere."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a workload.

    `problem` is what is wrong with it, or empty. `crashed` is true if the problem is that a
    container ended. `previous_run` is how long the container that ended last had run, in seconds.
    `leftover` is true for a pod that has ended for good, such as an evicted one: Kubernetes has
    replaced it, but keeps it in the list. `ended` is when it did. `details` are lines about a
    problem.
    """

    name: str
    uid: str
    node: str
    created: str
    grace: int
    ready: bool
    terminating: bool
    leftover: bool
    problem: str
    crashed: bool
    previous_run: float
    restarts: str
    ended: str
    details: tuple[str, ...]

    @property
    def where(self) -> str:
        """The name, and the node if the pod has one, as in `pod api-1 on node-2`."""
        return f"pod {self.name} on {self.node}" if self.node else f"pod {self.name}"

    @property
    def starting(self) -> bool:
        """Whether the pod is not ready yet although nothing is wrong with it."""
        return not (self.ready or self.problem or self.terminating or self.leftover)


def parse_pod(pod: Object) -> Pod:
    """The record of a pod. Raises `KeyError`, `TypeError` and the like for what is no pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    phase = status.get("phase", "Unknown")
    terminating = "deletionTimestamp" in metadata
    node = (pod.get("spec") or {}).get("nodeName") or ""
    problem = _problem(status, phase, terminating=terminating)
    lasts = [last for one in _containers(status) if (last := _last_end(one))]
    restarts = sum(one.get("restartCount", 0) for one in _containers(status))
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
    return Pod(
        name=name_of(pod),
        uid=str(metadata.get("uid", "")),
        node=node,
        created=str(metadata.get("creationTimestamp") or ""),
        grace=int(metadata.get("deletionGracePeriodSeconds") or 0),
        ready=conditions.get("Ready") == "True" and phase == "Running",
        terminating=terminating,
        leftover=phase in {"Failed", "Succeeded"},
        problem=problem,
        crashed=any(_container_problem(one) for one in _containers(status)),
        previous_run=max(map(_run_seconds, lasts), default=0.0),
        restarts=_restart_summary(restarts, lasts),
        ended=_ended_at(status),
        details=tuple(_details(status, phase, node)) if problem else (),
    )


def name_of(item: Object) -> str:
    """The name of an object."""
    return str(item["metadata"]["name"])


def end_of(message: object, limit: int) -> str:
    """A message of Kubernetes without its final full stop, cut to `limit` characters.

    The end is kept: that is where container runtimes and registries put the cause.
    """
    text = str(message or "").strip().rstrip(".")
    return text if len(text) <= limit else f"…{text[-limit + 1 :].lstrip()}"


def with_reason(problem: str, source: Object) -> str:
    """A problem with the reason and the message of a condition or of a pod's status."""
    parts = (source.get("reason"), end_of(source.get("message"), HEADLINE_MESSAGE))
    reason = ": ".join(filter(None, parts))
    return f"{problem} ({reason})" if reason else problem


def describe_condition(condition: Object) -> str:
    """A condition of a workload or a pod, with its reason and message."""
    parts = (condition.get("reason"), end_of(condition.get("message"), MESSAGE))
    reason = ": ".join(filter(None, parts))
    text = f"{condition['type']} is {condition['status'].lower()}"
    return f"{text}: {reason}" if reason else text


def _problem(  # noqa: PLR0911  # A list of problems, the first that applies.
    status: Object, phase: str, *, terminating: bool
) -> str:
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    if phase == "Succeeded":
        return ""
    if phase == "Failed":
        evicted = status.get("reason") == "Evicted"
        return with_reason("it was evicted" if evicted else "it has failed", status)
    if phase == "Unknown":
        return with_reason("its node does not report", status)
    if (ready := conditions.get("Ready")) is not None and _node_is_lost(status, ready):
        return f"{'it is stuck terminating: ' if terminating else ''}its node is not ready"
    for container in _containers(status):
        # The containers of a terminating pod are ended on purpose. Only what was wrong before that
        # counts.
        if (problem := _container_problem(container)) and not (terminating and _ended(container)):
            return f"container {container['name']} {problem}"
    scheduled = conditions.get("PodScheduled")
    if scheduled is not None and scheduled["status"] == "False":
        return with_reason("it cannot be scheduled", scheduled)
    if ready is not None and not terminating and phase == "Running" and _was_ready(status, ready):
        return with_reason("it is not ready", ready)
    return ""


def _node_is_lost(status: Object, ready: Object) -> bool:
    """Whether Kubernetes made the pod unready because its node does not report.

    Then the condition has neither reason nor message, and the last report of the containers stays.
    """
    containers = status.get("containerStatuses") or ()
    return (
        ready["status"] == "False"
        and not ready.get("reason")
        and bool(containers)
        and all(one.get("ready") for one in containers)
    )


def _was_ready(status: Object, ready: Object) -> bool:
    """Whether an unready pod has been ready before, so that it is not starting.

    The kubelet sets the pod's start and the condition at the same moment; the condition's time
    changes when its status does.
    """
    if ready["status"] != "False":
        return False
    start, since = _time(status.get("startTime")), _time(ready.get("lastTransitionTime"))
    return start is not None and since is not None and (since - start).total_seconds() > 1


def _containers(status: Object) -> list[Object]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _ended(container: Object) -> Object | None:
    """How a container has ended that does not run now, if that was a failure."""
    ended: Object | None = (container.get("state") or {}).get("terminated")
    return ended if ended and ended.get("exitCode") else None


def _last_end(container: Object) -> Object | None:
    """The end of a container's last finished run."""
    ended: Object | None = _ended(container)
    last: Object | None = (container.get("lastState") or {}).get("terminated")
    return ended or last


def _container_problem(container: Object) -> str:
    waiting = (container.get("state") or {}).get("waiting")
    ended = _ended(container)
    last = (container.get("lastState") or {}).get("terminated")
    if waiting and waiting.get("reason") not in STARTING:
        message = end_of(waiting.get("message"), HEADLINE_MESSAGE)
        why = f", after {_end(last)}" if last else f" ({message})" if message else ""
        return f"is in {waiting.get('reason', 'an unknown state')}{why}{_times(container)}"
    if ended:
        return f"has terminated: {_end(ended)}{_times(container)}"
    # Between two ends of a crash loop the container is started, and runs for a moment.
    if last and last.get("exitCode") and not container.get("ready"):
        return f"was restarted after {_end(last)}{_times(container)}"
    return ""


def _times(container: Object) -> str:
    count = container.get("restartCount", 0)
    return f", {count} restart{'' if count == 1 else 's'}" if count else ""


def _end(ended: Object) -> str:
    signal = f", signal {ended['signal']}" if ended.get("signal") else ""
    at = f" at {ended['finishedAt']}" if ended.get("finishedAt") else ""
    return f"{ended.get('reason') or 'Error'} (exit code {ended.get('exitCode', '?')}{signal}){at}"


def is_before(time: str, other: str) -> bool:
    """Whether one time of Kubernetes is before another; an unknown one is before no other."""
    one, two = _time(time), _time(other)
    return one is not None and two is not None and one < two


def is_soon_after(time: str, other: str) -> bool:
    """Whether one time of Kubernetes is not long after another; an unknown one is."""
    one, two = _time(time), _time(other)
    return one is None or two is None or abs((one - two).total_seconds()) < REPLACED_S


def _ended_at(status: Object) -> str:
    """When a pod that has ended became unready."""
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    return str((conditions.get("Ready") or {}).get("lastTransitionTime") or "")


def _run_seconds(ended: Object) -> float:
    start, end = _time(ended.get("startedAt")), _time(ended.get("finishedAt"))
    return max(0.0, (end - start).total_seconds()) if start and end else 0.0


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _restart_summary(restarts: int, lasts: list[Object]) -> str:
    if not restarts:
        return ""
    last = f", last after {_end(lasts[0])}" if lasts else ""
    return f"{restarts} restart{'' if restarts == 1 else 's'}{last}"


def _details(status: Object, phase: str, node: str) -> Iterator[str]:
    """Lines about a pod with a problem: the phase and node, messages of containers, conditions."""
    yield f"{phase} on {node}" if node else phase
    for container in _containers(status):
        message = ((container.get("state") or {}).get("waiting") or {}).get("message")
        last = _last_end(container) or {}
        if message:
            yield f"container {container['name']}: {end_of(message, MESSAGE)}"
        if last.get("message"):
            text = end_of(last["message"], MESSAGE)
            yield f"container {container['name']}, termination message: {text}"
    for condition in status.get("conditions") or ():
        # `ContainersReady` says what `Ready` says.
        if condition["status"] == "False" and condition["type"] != "ContainersReady":
            yield describe_condition(condition)
