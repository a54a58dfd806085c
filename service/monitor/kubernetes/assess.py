"""The verdict on a workload and its description, from what was read of it.

These are pure functions. The first line of the info says how many replicas are available, what is
wrong and where, for an operator on call. Then follow what is under way, the conditions of the
workload, and each failing pod with its containers, conditions and newest warning events
(`service/DESIGN.md`, "Kubernetes", has the rules).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from service.monitor.kubernetes.history import History
from service.monitor.kubernetes.pods import (
    HEADLINE_MESSAGE,
    MESSAGE,
    Object,
    Pod,
    describe_condition,
    end_of,
    is_before,
    is_soon_after,
)
from service.monitor.kubernetes.workloads import WorkloadState

SHOWN_PODS = 5
"""The most failing pods that are described: the problem is usually the same for all."""
SHOWN_RESTARTS = 10
"""The most healthy pods whose restarts are named."""
REFUSALS = frozenset({"FailedCreate", "FailedScheduling"})
"""Reasons of a workload's own warning events that say why there is no pod."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`tolerated` is the share of the wanted replicas that may be missing because pods fail.

    `progress` is how long something may be under way without any progress, in seconds.
    """

    tolerated: float = 0.1
    progress: float = 600.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a workload at one time.

    `pods` are its own pods, `None` if they could not be read; `unread` says why. `warnings` are the
    newest warning events, newest first: of pods by their uid, of the workload by its own.
    """

    state: WorkloadState
    pods: Sequence[Pod] | None = ()
    unread: str = ""
    warnings: Mapping[str, Sequence[Object]] = field(default_factory=dict)

    @property
    def own_warnings(self) -> Sequence[Object]:
        """The warning events of the workload itself."""
        return self.warnings.get(self.state.uid, ())


@dataclass(frozen=True, slots=True)
class Assessment:
    """Whether a workload is healthy, and its description.

    `healthy` is `None` if that cannot be determined from what was read.
    """

    healthy: bool | None
    info: str


@dataclass(frozen=True, slots=True)
class _Faults:
    """The pods that fail, by how; `lacking` replicas are missing, or do not count yet."""

    failing: Sequence[Pod]
    stuck: Sequence[Pod]
    recovering: Sequence[Pod]
    gone: Sequence[Pod]
    lacking: int

    @property
    def described(self) -> Sequence[Pod]:
        return [*self.failing, *self.gone]

    @property
    def missing(self) -> int:
        """How many replicas are missing because pods fail."""
        fail = len(self.failing) + len(self.stuck) + len(self.recovering) + len(self.gone)
        return min(self.lacking, fail)


def needs_pods(state: WorkloadState, history: History) -> bool:
    """Whether the verdict depends on the pods, so that they must be read."""
    return not state.complete or bool(history.crashes)


def failing(pods: Sequence[Pod], state: WorkloadState) -> list[Pod]:
    """The pods with a problem that have not been replaced.

    A terminating pod of a Deployment has been replaced already, that of another kind has not.
    """
    return [
        pod
        for pod in pods
        if pod.problem and not pod.leftover and (not pod.terminating or state.kind != "deployment")
    ]


def assess(reading: Reading, history: History, now: float, rules: Rules) -> Assessment:
    """Assess a workload. `history` includes this reading; `now` is in monotonic seconds."""
    state, faults = reading.state, _faults(reading, history, now)
    refused = _refused(reading)
    stalled = _stalled(state, faults, history, now, rules)
    healthy = _healthy(reading, faults, history, rules, refused=bool(refused), stalled=stalled)
    cause = refused if refused and (faults.lacking or state.refused) else ""
    cause = cause or _cause(reading, faults, history)
    way = _under_way(reading, faults, history)
    if stalled:
        way = f"{way or 'it makes no progress'}, without progress for {rules.progress:g} s"
    unit = "nodes" if state.kind == "daemonset" else "replicas"
    # A pod that may be about to crash again does not count, although Kubernetes counts it.
    available = min(state.available - len(faults.recovering), state.desired)
    count = f"{available} of {state.desired} {unit}"
    lines = [f"{state.named}: {count} available"]
    if not state.desired and not state.missing and not cause:
        lines = [f"{state.named}: scaled to 0 {unit}"]
    if healthy is False:
        why = cause or state.failed or way or _unavailable(state)
        if state.failed and cause and not faults.lacking:
            lines[0] += f", but its roll-out has failed: {cause}"
        else:
            lines[0] += f": {why}"
        lines += [_sentence(text) for text in (way, state.failed) if text and text not in why]
        lines += _bad_conditions(state, "\n".join(lines))
    else:
        lines[0] += "".join(f"; {text}" for text in (way, cause) if text)
    lines[0] += "."
    if reading.pods is None:
        lines.append(f"Its pods could not be read: {reading.unread}.")
    lines += _described(faults, reading)
    lines += [_warning(event) for event in reading.own_warnings if faults.lacking]
    lines += _restarts(reading.pods or (), history)
    return Assessment(healthy, "\n".join(lines))


def _faults(reading: Reading, history: History, now: float) -> _Faults:
    state, pods = reading.state, reading.pods or ()
    recovering = [pod for pod in pods if history.recovering(pod)]
    lacking = max(0, state.desired - (state.available - len(recovering)))
    fail = failing(pods, state)
    stuck = [pod for pod in pods if history.overdue(pod, now) and pod not in fail]
    replaceable = state.kind == "deployment" and not state.recreates
    return _Faults(
        failing=fail,
        stuck=[] if replaceable else stuck,
        recovering=recovering,
        gone=_not_replaced(pods) if lacking else [],
        lacking=min(lacking, state.desired),
    )


def _not_replaced(pods: Sequence[Pod]) -> list[Pod]:
    """The pods that have failed for good and whose replacements are not ready.

    An evicted pod stays in the list long after another has replaced it. Its replacement is created
    at once: a pod that is starting, but was created much later, has another cause.
    """
    starting = [pod for pod in pods if pod.starting]
    return [
        gone
        for gone in pods
        if gone.leftover
        and gone.problem
        and (not starting or any(is_soon_after(pod.created, gone.ended) for pod in starting))
    ]


def _refused(reading: Reading) -> str:
    """Why no pods can be created, or `""`.

    A Deployment has a condition for that, the other kinds have events only. Events are kept for an
    hour: one that is older than the newest pod is of the past.
    """
    state = reading.state
    if state.refused:
        return state.refused
    if state.kind == "deployment" or reading.pods is None:
        return ""
    newest = max((pod.created for pod in reading.pods), default="")
    for event in reading.own_warnings:
        if event.get("reason") in REFUSALS and not is_before(seen_at(event), newest):
            return f"pods cannot be created: {end_of(event.get('message'), MESSAGE)}"
    return ""


def _healthy(  # noqa: PLR0911  # A list of rules, the first that applies.
    reading: Reading,
    faults: _Faults,
    history: History,
    rules: Rules,
    *,
    refused: bool,
    stalled: bool,
) -> bool | None:
    state = reading.state
    if state.desired == 0:
        return True
    if state.failed or stalled or (refused and faults.lacking):
        return False
    if faults.missing > rules.tolerated * state.desired:
        return False
    spare = state.spare if history.rolling else 0
    if state.kind != "deployment":
        spare = max(spare, int(rules.tolerated * state.desired))
    enough = state.holds or state.missing <= spare
    if not enough and (state.recreates or history.lost(state)):
        return False
    if reading.pods is not None:
        return enough or _explained(state, reading.pods)
    # Without its pods, a workload that lacks replicas may fail or be starting.
    if not faults.lacking and not history.crashes:
        return True
    return None if enough or not history.first else False


def _explained(state: WorkloadState, pods: Sequence[Pod]) -> bool:
    """Whether all missing replicas are pods that are starting or have not been created yet."""
    starting = sum(pod.starting for pod in pods)
    # Ready, but not for `minReadySeconds`.
    young = max(0, sum(pod.ready and not pod.terminating for pod in pods) - state.available)
    return state.missing <= starting + young + max(0, state.desired - state.existing)


def _stalled(
    state: WorkloadState, faults: _Faults, history: History, now: float, rules: Rules
) -> bool:
    """Whether something is under way that has made no progress for too long."""
    under_way = history.rolling or not state.processed or faults.lacking > faults.missing
    unchanged = now - history.unchanged_since
    return under_way and not state.paused and unchanged > rules.progress + state.min_ready


def _cause(reading: Reading, faults: _Faults, history: History) -> str:
    """What is wrong with the first of the pods that fail, or `""`."""
    for pods in (faults.failing, faults.gone):
        if pods:
            return _pods_fail(pods, reading.warnings)
    if faults.stuck:
        pod = faults.stuck[0]
        grace = f"its grace period ({pod.grace} s)"
        return f"{pod.where} has been terminating for longer than {grace}"
    if faults.recovering:
        pod = faults.recovering[0]
        needed = history.crashes[pod.uid].needed
        many = len(faults.recovering)
        crashed = f"{many} pods crashed, first {pod.where}" if many > 1 else f"{pod.where} crashed"
        return (
            f"{crashed} ({pod.restarts}), and is ready again, "
            f"but has not stayed so for {needed:g} s"
        )
    return ""


def _pods_fail(pods: Sequence[Pod], warnings: Mapping[str, Sequence[Object]]) -> str:
    """The problem of the first pod, and how many more there are.

    Of an unready pod, only the event of its probe says more than that it is not ready.
    """
    first = pods[0]
    text = f"{first.where}: {first.problem}"
    for event in warnings.get(first.uid, ()):
        if event.get("reason") == "Unhealthy" and not first.crashed:
            text += f": {end_of(event.get('message'), HEADLINE_MESSAGE)}"
            break
    return text if len(pods) == 1 else f"{len(pods)} pods fail, first {text}"


def _under_way(reading: Reading, faults: _Faults, history: History) -> str:
    """What is under way or on hold, or `""`."""
    state, starting = reading.state, _starting(reading, faults)
    far = state.roll_out or f"{state.updated} of {state.desired} updated"
    if not state.desired:
        return ""
    if state.failed:
        return far
    if state.paused:
        text = f"its roll-out is paused with {far}"
    elif not state.processed:
        text = "its last change has not been processed yet"
    elif state.recreates:
        text = f"a roll-out with the strategy Recreate has stopped all pods: {far}"
    elif history.rolling:
        text = f"a roll-out is under way: {far}"
    elif starting and not history.lost(state):
        text = "scaling up"
    else:
        text = state.note
    return "; ".join(filter(None, (text, starting)))


def _starting(reading: Reading, faults: _Faults) -> str:
    """Which pods are starting while replicas are missing, or `""`."""
    names = [pod.name for pod in reading.pods or () if pod.starting]
    if not names or faults.lacking <= faults.missing:
        return ""
    return f"pod {names[0]} is starting" if len(names) == 1 else f"{len(names)} pods are starting"


def _unavailable(state: WorkloadState) -> str:
    if state.existing < state.desired:
        return f"{state.existing} of {state.desired} pods exist"
    return "the others are not available"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _bad_conditions(state: WorkloadState, said: str) -> Iterator[str]:
    """The conditions that are not as they should be, without those that have been named."""
    for condition in state.conditions:
        bad = "True" if condition["type"] == "ReplicaFailure" else "False"
        message = end_of(condition.get("message"), MESSAGE)
        if condition["status"] == bad and not (message and message in said):
            yield f"{describe_condition(condition)}."


def _described(faults: _Faults, reading: Reading) -> Iterator[str]:
    """The lines about failing pods; the first line has named the problem of the first one."""
    described = faults.described
    for number, pod in enumerate(described[:SHOWN_PODS]):
        first, *rest = pod.details
        yield f"Pod {pod.name}: {first}{f': {pod.problem}' if number else ''}."
        yield from (f"  {line}" for line in rest)
        yield from map(_warning, reading.warnings.get(pod.uid, ()))
    if len(described) > SHOWN_PODS:
        yield f"{len(described) - SHOWN_PODS} more pods fail."
    if faults.gone and reading.pods is not None:
        yield from (f"Pod {pod.name} is starting." for pod in reading.pods if pod.starting)


def _restarts(pods: Sequence[Pod], history: History) -> Iterator[str]:
    """One line about each healthy pod that was restarted."""
    well = [pod for pod in pods if pod.ready and not (pod.terminating or history.recovering(pod))]
    shown = [pod for pod in well if pod.restarts]
    for pod in shown[:SHOWN_RESTARTS]:
        yield f"Pod {pod.name}: {pod.restarts}."


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
    message = end_of(event.get("message"), MESSAGE)
    return f"  {seen_at(event)} {event.get('reason', '')}{times}: {message}"
