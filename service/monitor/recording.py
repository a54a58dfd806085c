"""What to record when: pure functions of what was seen and what was recorded before.

| what the check saw                                   | event?                                                    |
|------------------------------------------------------|-----------------------------------------------------------|
| the first check after the start                      | yes                                                       |
| any service's status differs from the recorded one   | yes, at once; the spacing below begins anew               |
| all healthy, as recorded                             | every `record_interval` (10 minutes)                      |
| unhealthy, as recorded                               | after 1, 2, 4, … checks since the last event, at most 60  |

Whether a service is healthy is what its last check found, or where it has thresholds, what the last
so many in a row found. What could not be recorded counts as not recorded: the next check sees the
same difference and tries again, if it is still true.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from service.events import Status

MOST_SPACING = 60
"""Checks: with a check every 10 s, an unhealthy cluster is recorded at least every 10 minutes, as a
healthy one is."""


@dataclass(frozen=True, slots=True)
class RecordState:
    """What the monitor knows of the past.

    `statuses` are those of the last event, whoever recorded it; `first` is whether this monitor has
    recorded nothing yet that is still there; `at` is when it last did (monotonic seconds), `checks`
    how many checks were completed since, `spacing` how many are to pass.
    """

    statuses: Mapping[str, Status | str]
    first: bool = True
    at: float = 0.0
    checks: int = 0
    spacing: int = 1


def status_of(
    healthy: bool, recorded: Status | str | None
) -> Status:  # The one fact that a check finds.
    """A service's status: `InitialUnhealthy` until its first good check."""
    if healthy:
        return Status.HEALTHY
    return (
        Status.INITIAL_UNHEALTHY
        if recorded in {None, Status.INITIAL_UNHEALTHY}
        else Status.UNHEALTHY
    )


@dataclass(frozen=True, slots=True)
class Streak:
    """The last checks of a service that found the same: what they found, and how many there were in
    a row."""

    healthy: bool
    checks: int = 1

    def then(self, healthy: bool) -> "Streak":
        """The run after one more check."""
        return Streak(healthy, self.checks + 1) if healthy is self.healthy else Streak(healthy)

    def counts_as_healthy(
        self, recorded: Status | str | None, unhealthy_after: int, healthy_after: int
    ) -> bool:
        """Whether the service counts as healthy after so many checks in a row.

        One that was never recorded as healthy counts as its last check says: the thresholds are
        against flapping.
        """
        if recorded is Status.HEALTHY:
            return self.healthy or self.checks < unhealthy_after
        if recorded is Status.UNHEALTHY:
            return self.healthy and self.checks >= healthy_after
        return self.healthy


def reason_to_record(
    recorded: RecordState, statuses: Mapping[str, Status | str], now: float, record_interval: float
) -> str | None:
    """Why the check is worth an event (`first`, `change`, `interval`, `unhealthy`), or `None`.
    Times in seconds."""
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
    """The past after an event of these statuses."""
    spacing = min(2 * recorded.spacing, MOST_SPACING) if reason == "unhealthy" else 1
    return RecordState(statuses, first=False, at=now, checks=0, spacing=spacing)


def after_check(recorded: RecordState) -> RecordState:
    """The past after a check that was worth no event."""
    return replace(recorded, checks=recorded.checks + 1)
