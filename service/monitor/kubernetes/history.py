"""What earlier readings of one workload showed, as far as its verdict depends on that.

A single reading cannot tell a scale-up from a loss of replicas, a pod that has recovered from one
that is about to crash again, or a slow roll-out from one that has stopped. All durations are those
that this process observed, by its monotonic clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.monitor.kubernetes.pods import Pod
from service.monitor.kubernetes.workloads import WorkloadState

MIN_READY_S = 10.0
"""Seconds for which a pod must stay ready after a crash before it counts as healthy."""
MAX_READY_S = 600.0
"""The most such seconds. After ten minutes without a crash the kubelet starts anew as well."""
GAP_S = 300.0
"""Seconds without a reading after which it is not known whether there was any progress."""
GRACE_S = 5.0
"""Seconds that a pod may take to end after its grace period."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A pod that crashed: how long it must stay ready (seconds), and since when it is ready."""

    needed: float
    ready_since: float | None = None


@dataclass(frozen=True, slots=True)
class History:
    """The history of the workload with this `uid`. Times are monotonic seconds.

    `served` is the number of replicas that were available at some time and are still wanted.
    `crashes` are the pods that crashed and have not stayed ready for long enough since, by uid.
    `terminating` says since when pods terminate, by uid. `first` is true if there was no reading
    before this one. `rolling` is true while a roll-out is under way, of a DaemonSet until its last
    new pod is available: its status does not tell that. `unchanged_since` is when the numbers of
    the workload last changed.
    """

    uid: str
    read_at: float
    served: int | None = None
    crashes: Mapping[str, Crash] = field(default_factory=dict)
    terminating: Mapping[str, float] = field(default_factory=dict)
    first: bool = True
    rolling: bool = False
    numbers: tuple[int, ...] = ()
    unchanged_since: float = 0.0

    def lost(self, state: WorkloadState) -> bool:
        """Whether fewer replicas are available than were, although these are still wanted."""
        return self.served is not None and state.available < self.served

    def overdue(self, pod: Pod, now: float) -> bool:
        """Whether a pod has been terminating for longer than its grace period."""
        since = self.terminating.get(pod.uid)
        return since is not None and now - since > pod.grace + GRACE_S

    def recovering(self, pod: Pod) -> bool:
        """Whether a pod is ready again after a crash, but not for long enough."""
        return pod.ready and pod.uid in self.crashes


def after_reading(
    before: History | None, state: WorkloadState, pods: Sequence[Pod] | None, now: float
) -> History:
    """The history with one more reading. `pods` is `None` if they could not be read."""
    wanted = min(state.available, state.desired)
    numbers = (state.generation, state.desired, state.available, state.updated, state.existing)
    if before is None or before.uid != state.uid:
        before = History(state.uid, now, numbers=numbers, unchanged_since=now)
        served, first = wanted, True
    else:
        first = False
        # What happened during a long pause is not known.
        if now - before.read_at > GAP_S:
            before = replace(before, unchanged_since=now)
        served = max(wanted, min(before.served or 0, state.desired))
    return replace(
        before,
        read_at=now,
        served=served,
        first=first,
        rolling=bool(state.roll_out) or _last_pods_start(before, state),
        crashes=before.crashes if pods is None else _crashes(before.crashes, pods, now),
        terminating=before.terminating
        if pods is None
        else {pod.uid: before.terminating.get(pod.uid, now) for pod in pods if pod.terminating},
        numbers=numbers,
        unchanged_since=before.unchanged_since if numbers == before.numbers else now,
    )


def _last_pods_start(before: History, state: WorkloadState) -> bool:
    same_template = before.numbers[0] == state.generation
    return state.kind == "daemonset" and before.rolling and same_template and state.missing > 0


def _crashes(before: Mapping[str, Crash], pods: Sequence[Pod], now: float) -> dict[str, Crash]:
    crashes = {}
    for pod in pods:
        if pod.terminating or pod.leftover:
            continue
        if pod.crashed:
            crashes[pod.uid] = Crash(_needed(pod.previous_run))
        elif (crash := before.get(pod.uid)) is not None:
            since = crash.ready_since if crash.ready_since is not None else now
            if not pod.ready:
                crashes[pod.uid] = replace(crash, ready_since=None)
            elif now - since < crash.needed:
                crashes[pod.uid] = replace(crash, ready_since=since)
    return crashes


def _needed(previous_run: float) -> float:
    """Seconds for which a pod must stay ready: in a crash loop, twice as long as it last ran."""
    return max(MIN_READY_S, 2 * previous_run) if 2 * previous_run <= MAX_READY_S else MIN_READY_S
