"""When to record an event: pure functions of the findings and of what was recorded before.

| what the check found                   | event?                                                |
|----------------------------------------|-------------------------------------------------------|
| the first check after the start        | yes                                                   |
| a status differs from the recorded one | yes, at once; the spacing below restarts              |
| all healthy, as recorded               | every `record_interval` (10 minutes)                  |
| unhealthy, as recorded                 | after 1, 2, 4, … up to 60 checks since the last event |

A service is healthy if its last check found so; with thresholds, if enough checks in a row did. An
event that could not be recorded counts as not recorded: the next check tries again, if it still
finds the difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from service.events import Status

MOST_SPACING = 60
"""The most checks between two events. With a check every 10 s, an unhealthy cluster is recorded at
least every 10 minutes, like a healthy one."""


@dataclass(frozen=True, slots=True)
class RecordState:
    """What the rules need to know about the past.

    `statuses` are those of the last event of any writer. `first` is true until this monitor has
    recorded an event that is still in the store. `at` is when it last did so (monotonic seconds),
    `checks` the number of checks completed since then without an event, and `spacing` the number of
    checks until the next event while a service is unhealthy.
    """

    statuses: Mapping[str, Status | str]
    first: bool = True
    at: float = 0.0
    checks: int = 0
    spacing: int = 1


def status_of(healthy: bool, recorded: Status | str | None) -> Status:
    """The status of a service: `InitialUnhealthy` until its first healthy check."""
    if healthy:
        return Status.HEALTHY
    return (
        Status.INITIAL_UNHEALTHY
        if recorded in {None, Status.INITIAL_UNHEALTHY}
        else Status.UNHEALTHY
    )


@dataclass(frozen=True, slots=True)
class Streak:
    """The last checks of a service with the same result: the result and their number.

    The number is 0 if there is only a result that no check has confirmed.
    """

    healthy: bool
    checks: int = 1

    def with_check(self, healthy: bool) -> "Streak":
        """The streak after one more check."""
        return Streak(healthy, self.checks + 1) if healthy is self.healthy else Streak(healthy)

    def counts_as_healthy(
        self, recorded: Status | str | None, unhealthy_after: int, healthy_after: int
    ) -> bool:
        """Whether the service counts as healthy, by its recorded status and its two thresholds.

        The thresholds are for flapping services. A service that was never recorded as healthy
        counts as what its last check found.
        """
        if recorded is Status.HEALTHY:
            return self.healthy or self.checks < unhealthy_after
        if recorded is Status.UNHEALTHY:
            return self.healthy and self.checks >= healthy_after
        return self.healthy and self.checks > 0


def reason_to_record(
    recorded: RecordState, statuses: Mapping[str, Status | str], now: float, record_interval: float
) -> str | None:
    """Why an event is due (`first`, `change`, `interval`, `unhealthy`), or `None`.

    `now` (monotonic) and `record_interval` are in seconds.
    """
    if recorded.first:
        return "first"
    if statuses != recorded.statuses:
        return "change"
    if all(status is Status.HEALTHY for status in statuses.values()):
        return "interval" if now - recorded.at >= record_interval else None
    return "unhealthy" if recorded.checks + 1 >= recorded.spacing else None


def after_event(
    recorded: RecordState, statuses: Mapping[str, Status | str], now: float, reason: str
) -> RecordState:
    """The state after an event with these statuses was recorded."""
    spacing = min(2 * recorded.spacing, MOST_SPACING) if reason == "unhealthy" else 1
    return RecordState(statuses, first=False, at=now, checks=0, spacing=spacing)


def after_check(recorded: RecordState) -> RecordState:
    """The state after a check without an event."""
    return replace(recorded, checks=recorded.checks + 1)
