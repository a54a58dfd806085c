"""What Kubernetes' objects say, for people: pure functions of a workload, its pods and their
warning events.

The first line says what is wrong and where, as an operator would want to read it at night; then
each failing pod with its containers, conditions and newest warnings.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]

SHOWN_PODS = 5
"""Failing pods that are described: what they have is usually the same."""
STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons for waiting that are no trouble, just not ready yet."""


@dataclass(frozen=True, slots=True)
class WorkloadHealth:
    """What was found: whether the resources are healthy (`None`: cannot be known), and the
    resources info."""

    healthy: bool | None
    info: str


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


def assess(
    workload: Object, kind: str, pods: Sequence[Object], warnings: Mapping[str, Sequence[Object]]
) -> WorkloadHealth:
    """Whether a workload is healthy, and the text. `warnings` are the warning events by pod."""
    named = f"{kind}/{name_of(workload)}"
    rollout = _rollout(workload, kind)
    behind = rollout or _unavailable(workload)
    past = [pod for pod in pods if pod_problem(pod) and _ended(pod)]
    failing = [pod for pod in pods if pod_problem(pod) and not _ended(pod)]
    # Pods that were evicted stay in the list for long; where the replicas agree, others have taken
    # their places.
    told = failing + (past if behind else [])
    desired = workload["spec"].get("replicas", 1)
    available = (workload.get("status") or {}).get("availableReplicas", 0)
    count = f"{available} of {desired} replicas available"
    if not behind and not failing:
        scaled = f"{named}: scaled to 0 replicas." if desired == 0 else f"{named}: {count}."
        return WorkloadHealth(
            True, "\n".join([scaled, *(_short(pod) for pod in pods if _restarts(pod))])
        )
    starting = [name_of(pod) for pod in pods if _starting(pod)]
    if not rollout and not told and starting:
        behind = f"pod {starting[0]} is still starting"
    why = f"pod {name_of(told[0])}: {pod_problem(told[0])}" if told else behind
    lines = [f"{named}: {count}: {why}."]
    if rollout and told:
        lines.append(f"{rollout[0].upper()}{rollout[1:]}.")
    lines += _bad_conditions(workload)
    for pod in told[:SHOWN_PODS]:
        lines += [
            *_described(pod, brief=pod is told[0]),
            *map(_warning, warnings.get(name_of(pod), ())),
        ]
    if len(told) > SHOWN_PODS:
        lines.append(f"{len(told) - SHOWN_PODS} more pods fail.")
    return WorkloadHealth(False, "\n".join(lines))


def _rollout(workload: Object, kind: str) -> str:
    """How the workload is not yet as it is meant to be, or nothing."""
    spec, status = workload["spec"], workload.get("status") or {}
    desired = spec.get("replicas", 1)
    strategy = spec.get("updateStrategy") or {}
    by_hand = (
        strategy.get("type") == "OnDelete"
        or (strategy.get("rollingUpdate") or {}).get("partition", 0) > 0
    )
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
    return f"{condition['type']} is {condition['status'].lower()}" + (
        f": {reason}" if reason else ""
    )


def name_of(thing: Object) -> str:
    """An object's name."""
    return str(thing["metadata"]["name"])


def pod_problem(pod: Object) -> str:
    """What is wrong with a pod, in a few words; nothing if it is well, starting, or on its way
    out."""
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
    return sum(
        container.get("restartCount", 0) for container in _containers(pod.get("status") or {})
    )


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
        not pod_problem(pod)
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
        + ("." if brief else f": {pod_problem(pod)}.")
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
