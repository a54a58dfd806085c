"""What a Deployment, StatefulSet or DaemonSet says of itself, in one form for the three kinds.

Numbers that are 0 are absent from most statuses. A Deployment does not count terminating pods as
available; the other two do while these are ready.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.monitor.kubernetes.pods import (
    MESSAGE,
    Object,
    end_of,
    name_of,
    with_reason,
)

ROLLED_OUT = "NewReplicaSetAvailable"
"""The reason of a Deployment's condition `Progressing` while no roll-out is under way. It stays
during a scale-up, and at first during a roll-out with the strategy Recreate."""
_REVISION = "deployment.kubernetes.io/revision"


@dataclass(frozen=True, slots=True)
class WorkloadState:
    """The state of a workload: numbers of replicas (of a DaemonSet: nodes), and conditions.

    `holds` says whether the workload's own availability holds. `spare` replicas more may be missing
    while a roll-out is under way. `roll_out` is how far that is, or empty. `recreates` is
    true while a roll-out with the strategy Recreate has stopped all pods. `refused` is why no pods
    can be created, and `failed` why the roll-out has failed, or empty. `min_ready` is in seconds.
    """

    kind: str
    name: str
    uid: str
    generation: int
    desired: int
    available: int
    updated: int
    existing: int
    processed: bool
    paused: bool
    holds: bool
    spare: int
    roll_out: str
    recreates: bool
    note: str
    refused: str
    failed: str
    conditions: Sequence[Object]
    min_ready: float

    @property
    def named(self) -> str:
        """The kind and name, as in `deployment/api-server`."""
        return f"{self.kind}/{self.name}"

    @property
    def missing(self) -> int:
        """The number of replicas that are wanted and not available."""
        return max(0, self.desired - self.available)

    @property
    def complete(self) -> bool:
        """Whether all is as wanted: then nothing else needs to be read."""
        return (
            self.processed
            and not (self.missing or self.roll_out or self.refused or self.failed)
            and self.existing <= self.desired
        )


def parse_workload(workload: Object, kind: str) -> WorkloadState:
    """The state of a workload of this kind (`deployment`, `statefulset` or `daemonset`).

    Raises `KeyError`, `TypeError` and the like for what is no workload.
    """
    spec, status = workload["spec"], workload.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    desired = (
        _count(status, "desiredNumberScheduled")
        if kind == "daemonset"
        else (int(spec.get("replicas", 1)))
    )
    available = _available(status, kind)
    updated = _count(status, "updatedNumberScheduled" if kind == "daemonset" else "updatedReplicas")
    roll_out, note = _roll_out(workload, conditions.get("Progressing"), kind, desired, updated)
    recreates = _recreates(workload, conditions, desired, updated, available)
    if recreates and not roll_out:
        roll_out = f"{updated} of {desired} updated"
    metadata = workload["metadata"]
    generation = int(metadata.get("generation") or 0)
    progressing = conditions.get("Progressing")
    refused = conditions.get("ReplicaFailure")
    failed = progressing if progressing and progressing["status"] == "False" else None
    return WorkloadState(
        kind=kind,
        name=name_of(workload),
        uid=str(metadata.get("uid", "")),
        generation=generation,
        desired=desired,
        available=available,
        updated=updated,
        existing=_count(status, "currentNumberScheduled" if kind == "daemonset" else "replicas"),
        processed=int(status.get("observedGeneration") or 0) >= generation,
        paused=bool(spec.get("paused")),
        holds=_holds(conditions, kind, desired, available),
        spare=0 if kind == "deployment" else _spare(spec, desired),
        roll_out=roll_out,
        recreates=recreates,
        note=note,
        refused=_refusal(refused) if refused and refused["status"] == "True" else "",
        failed=with_reason("its roll-out has failed", failed) if failed else "",
        conditions=tuple(conditions.values()),
        min_ready=float(spec.get("minReadySeconds") or 0),
    )


def is_own(workload: Object, kind: str, pod: Object) -> bool:
    """Whether the controller of a pod is the workload, or a ReplicaSet of the Deployment.

    Pods of others can carry the same labels: of a Job, of a canary, of a debug session. The name of
    a Deployment's ReplicaSet is the Deployment's, a hyphen and the label `pod-template-hash`.
    """
    metadata = pod["metadata"]
    owner: Object = next(
        (one for one in metadata.get("ownerReferences") or () if one.get("controller")), {}
    )
    if kind != "deployment":
        return bool(owner.get("uid") == workload["metadata"]["uid"])
    template = (metadata.get("labels") or {}).get("pod-template-hash")
    name = f"{name_of(workload)}-{template}"
    return bool(template) and owner.get("kind") == "ReplicaSet" and owner.get("name") == name


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


def _count(status: Object, name: str) -> int:
    return int(status.get(name) or 0)


def _available(status: Object, kind: str) -> int:
    if kind == "daemonset":
        return _count(status, "numberAvailable")
    # Older versions of Kubernetes give no `availableReplicas` for a StatefulSet.
    fallback = "readyReplicas" if kind == "statefulset" else "availableReplicas"
    return _count(status, "availableReplicas" if "availableReplicas" in status else fallback)


def _refusal(condition: Object) -> str:
    message = end_of(condition.get("message"), MESSAGE)
    return f"pods cannot be created: {message or condition.get('reason') or 'ReplicaFailure'}"


def _roll_out(
    workload: Object, progressing: Object | None, kind: str, desired: int, updated: int
) -> tuple[str, str]:
    """How far a roll-out is, and a note on one that is as far as it may go."""
    spec, status = workload["spec"], workload.get("status") or {}
    progress = f"{updated} of {desired} updated"
    if kind == "deployment":
        # Very old and paused Deployments have no such condition, or one that does not tell.
        if progressing is None or progressing["status"] == "Unknown":
            return (progress, "") if updated < desired else ("", "")
        return ("" if progressing.get("reason") == ROLLED_OUT else progress), ""
    strategy = spec.get("updateStrategy") or {}
    if kind == "daemonset":
        different, target = updated < desired, desired
    else:
        different = status.get("updateRevision") != status.get("currentRevision")
        target = max(0, desired - _partition(strategy))
    if not different:
        return "", ""
    if strategy.get("type") == "OnDelete":
        return "", f"{progress}; the others are updated when they are deleted (OnDelete)"
    if updated >= target and _available(status, kind) >= desired:
        return "", f"{progress}, as its partition says"
    partition = _partition(strategy)
    return f"{progress} (partition {partition})" if partition else progress, ""


def _partition(strategy: Object) -> int:
    return int((strategy.get("rollingUpdate") or {}).get("partition") or 0)


def _recreates(
    workload: Object, conditions: Mapping[str, Object], desired: int, updated: int, available: int
) -> bool:
    """Whether a roll-out with the strategy Recreate has stopped all pods of a Deployment."""
    spec, metadata = workload["spec"], workload["metadata"]
    if (spec.get("strategy") or {}).get("type") != "Recreate" or available or not desired:
        return False
    created = (metadata.get("annotations") or {}).get(_REVISION, "1") == "1"
    reason = (conditions.get("Progressing") or {}).get("reason")
    return updated < desired or (reason != ROLLED_OUT and not created)


def _holds(conditions: Mapping[str, Object], kind: str, desired: int, available: int) -> bool:
    condition = conditions.get("Available") if kind == "deployment" else None
    if condition is None:
        return available >= desired
    return bool(condition["status"] == "True")


def _spare(spec: Object, desired: int) -> int:
    """`maxUnavailable`: a number, or a percentage of the replicas, which Kubernetes rounds up."""
    strategy = (spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
    text = str(strategy.get("maxUnavailable", 1))
    return math.ceil(int(text[:-1]) * desired / 100) if text.endswith("%") else int(text)
