"""Assesses a Kubernetes workload and describes it, from its pods and warning events.

These are pure functions. The first line of the info says what is wrong and where, for an operator
on call. Then follows each failing pod with its containers, conditions and newest warning events.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
"""An object of the Kubernetes API, as JSON."""

SHOWN_PODS = 5
"""The most failing pods that are described: the problem is usually the same for all."""
STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons of a waiting container that is starting, not failing."""


@dataclass(frozen=True, slots=True)
class WorkloadHealth:
    """Whether a workload is healthy (`None`: not known), and the resources info."""

    healthy: bool | None
    info: str


def selector_of(selector: Object) -> str:
    """A label selector in the form of a query parameter."""
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


def assess(
    workload: Object, kind: str, pods: Sequence[Object], warnings: Mapping[str, Sequence[Object]]
) -> WorkloadHealth:
    """Assess a workload. `warnings` are the warning events by pod name."""
    named = f"{kind}/{name_of(workload)}"
    rollout = _rollout(workload, kind)
    shortfall = rollout or _unavailable(workload)
    failing = [pod for pod in pods if pod_problem(pod) and not _failed(pod)]
    # Failed (for example evicted) pods stay in the list long after others have replaced them. They
    # matter only while replicas are missing.
    failed = [pod for pod in pods if pod_problem(pod) and _failed(pod)]
    described = failing + (failed if shortfall else [])
    desired = workload["spec"].get("replicas", 1)
    available = (workload.get("status") or {}).get("availableReplicas", 0)
    count = f"{available} of {desired} replicas available"
    if not shortfall and not failing:
        summary = f"{named}: scaled to 0 replicas." if desired == 0 else f"{named}: {count}."
        restarts = (_restart_summary(pod) for pod in pods if _restarts(pod))
        return WorkloadHealth(True, "\n".join([summary, *restarts]))
    starting = [name_of(pod) for pod in pods if _starting(pod)]
    if not rollout and not described and starting:
        shortfall = f"pod {starting[0]} is still starting"
    reason = f"pod {name_of(described[0])}: {pod_problem(described[0])}" if described else shortfall
    lines = [f"{named}: {count}: {reason}."]
    if rollout and described:
        lines.append(f"{rollout[0].upper()}{rollout[1:]}.")
    lines += _bad_conditions(workload)
    for pod in described[:SHOWN_PODS]:
        # The first line has already named the problem of the first pod.
        lines += [
            *_describe(pod, with_problem=pod is not described[0]),
            *map(_warning, warnings.get(name_of(pod), ())),
        ]
    if len(described) > SHOWN_PODS:
        lines.append(f"{len(described) - SHOWN_PODS} more pods fail.")
    return WorkloadHealth(False, "\n".join(lines))


def _rollout(workload: Object, kind: str) -> str:
    """What a rollout still has to do, or `""` if none is in progress."""
    spec, status = workload["spec"], workload.get("status") or {}
    desired = spec.get("replicas", 1)
    strategy = spec.get("updateStrategy") or {}
    # Pods are then updated by an operator, not by the rollout.
    manual = (
        strategy.get("type") == "OnDelete"
        or (strategy.get("rollingUpdate") or {}).get("partition", 0) > 0
    )
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return "its last change has not been processed yet"
    if status.get("updatedReplicas", 0) < desired and not (kind == "statefulset" and manual):
        updated = status.get("updatedReplicas", 0)
        return f"a rollout is in progress: {updated} of {desired} replicas updated"
    if (existing := status.get("replicas", 0)) > desired:
        surplus = existing - desired
        return f"a rollout is in progress: {surplus} of {existing} pods still have to terminate"
    return ""


def _unavailable(workload: Object) -> str:
    """How many replicas are missing, or `""`."""
    desired, status = workload["spec"].get("replicas", 1), workload.get("status") or {}
    if status.get("replicas", 0) < desired:
        return f"{status.get('replicas', 0)} of {desired} pods exist"
    if status.get("availableReplicas", 0) < desired:
        return "the others are not available"
    return ""


def _bad_conditions(workload: Object) -> Iterator[str]:
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition["status"] == ("True" if condition["type"] == "ReplicaFailure" else "False"):
            yield _condition(condition)


def _condition(condition: Object) -> str:
    reason = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
    return f"{condition['type']} is {condition['status'].lower()}" + (
        f": {reason}" if reason else ""
    )


def name_of(item: Object) -> str:
    """The name of an object."""
    return str(item["metadata"]["name"])


def pod_problem(pod: Object) -> str:
    """What is wrong with a pod, or `""` if it is healthy, starting or terminating."""
    status = pod.get("status") or {}
    phase = status.get("phase", "Unknown")
    if pod["metadata"].get("deletionTimestamp") or phase == "Succeeded":
        return ""
    if phase == "Failed":
        return _with_reason("it has failed", status)
    if phase == "Unknown":
        return _with_reason("its node does not report", status)
    for container in _containers(status):
        if found := _container_problem(container):
            return f"container {container['name']} {found}"
    return _condition_problem(status, phase)


def _condition_problem(status: Object, phase: str) -> str:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _with_reason("it cannot be scheduled", condition)
        if condition["type"] == "Ready" and condition["status"] == "False" and phase == "Running":
            return _with_reason("it is not ready", condition)
    return ""


def _with_reason(problem: str, source: Object) -> str:
    reason = ": ".join(filter(None, (source.get("reason"), source.get("message"))))
    return f"{problem} ({reason.rstrip('.')})" if reason else problem


def _failed(pod: Object) -> bool:
    return bool((pod.get("status") or {}).get("phase") == "Failed")


def _containers(status: Object) -> list[Object]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _container_problem(container: Object) -> str:
    state = container.get("state") or {}
    waiting, ended = state.get("waiting"), state.get("terminated")
    if waiting and waiting.get("reason") not in STARTING:
        last = (container.get("lastState") or {}).get("terminated")
        message = (waiting.get("message") or "")[:200].rstrip(".")
        why = f", after {_termination(last)}" if last else f" ({message})" if message else ""
        return f"is in {waiting.get('reason', 'an unknown state')}{why}, {_times(container)}"
    if ended and ended.get("exitCode"):
        return f"has terminated: {_termination(ended)}, {_times(container)}"
    return ""


def _times(container: Object) -> str:
    count = container.get("restartCount", 0)
    return f"{count} restart{'' if count == 1 else 's'}"


def _termination(ended: Object) -> str:
    signal = f", signal {ended['signal']}" if ended.get("signal") else ""
    at = f" at {ended['finishedAt']}" if ended.get("finishedAt") else ""
    return f"{ended.get('reason') or 'Error'} (exit code {ended.get('exitCode', '?')}{signal}){at}"


def _restarts(pod: Object) -> int:
    return sum(
        container.get("restartCount", 0) for container in _containers(pod.get("status") or {})
    )


def _restart_summary(pod: Object) -> str:
    """One line about a healthy pod that was restarted."""
    lasts = [(one.get("lastState") or {}).get("terminated") for one in _containers(pod["status"])]
    last = f", last after {_termination(next(filter(None, lasts)))}" if any(lasts) else ""
    count = _restarts(pod)
    return f"Pod {name_of(pod)}: {count} restart{'' if count == 1 else 's'}{last}."


def _starting(pod: Object) -> bool:
    """Whether a pod is not ready although nothing is wrong with it."""
    status = pod.get("status") or {}
    ready = all(container.get("ready") for container in status.get("containerStatuses") or ())
    return (
        not pod_problem(pod)
        and not pod["metadata"].get("deletionTimestamp")
        and (status.get("phase") == "Pending" or not ready)
    )


def _describe(pod: Object, *, with_problem: bool) -> Iterator[str]:
    """The lines about a failing pod: phase, node, problem, messages and conditions."""
    status = pod.get("status") or {}
    node = (pod.get("spec") or {}).get("nodeName")
    yield (
        f"Pod {name_of(pod)}: {status.get('phase', 'Unknown')}"
        + (f" on {node}" if node else "")
        + (f": {pod_problem(pod)}." if with_problem else ".")
    )
    for container in _containers(status):
        message = ((container.get("state") or {}).get("waiting") or {}).get("message")
        last = (container.get("lastState") or {}).get("terminated") or {}
        if message:
            yield f"  container {container['name']}: {message}"
        if last.get("message"):
            message = last["message"].strip()
            yield f"  container {container['name']}, termination message: {message}"
    for condition in status.get("conditions") or ():
        if condition["status"] == "False":
            yield f"  {_condition(condition)}"


def seen_at(event: Object) -> str:
    """When an event was last seen, in the notation of Kubernetes."""
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
    message = (event.get("message") or "").strip()
    return f"  {seen_at(event)} {event.get('reason', '')}{times}: {message}"
