"""What is worth an event: the decision table, line by line, and what holds for every history."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.events import Status
from service.monitor.recording import (
    MOST_SPACING,
    RecordState,
    after_check,
    after_event,
    reason_to_record,
    status_of,
)

INITIAL, UNHEALTHY, HEALTHY = Status.INITIAL_UNHEALTHY, Status.UNHEALTHY, Status.HEALTHY
INTERVAL_S = 10.0
RECORD_INTERVAL_S = 600.0

GOOD = {"api": HEALTHY, "runner": HEALTHY}
SICK = {"api": HEALTHY, "runner": UNHEALTHY}
NEW = {"api": HEALTHY, "runner": INITIAL}


@pytest.mark.parametrize(
    ("healthy", "recorded", "status"),
    [
        (True, None, HEALTHY),
        (True, INITIAL, HEALTHY),
        (True, UNHEALTHY, HEALTHY),
        (True, HEALTHY, HEALTHY),
        (False, None, INITIAL),
        (False, INITIAL, INITIAL),
        (False, UNHEALTHY, UNHEALTHY),
        (False, HEALTHY, UNHEALTHY),
    ],
)
def test_status_follows_from_the_check_and_the_past(
    healthy: bool, recorded: Status | None, status: Status
) -> None:
    """A service is `InitialUnhealthy` until its first good check, and never again after it."""
    assert status_of(healthy, recorded) is status


@pytest.mark.parametrize(
    ("recorded", "statuses", "now", "reason"),
    [
        # The first check after the start, whatever it sees.
        (RecordState({}), GOOD, 0.0, "first"),
        (RecordState(GOOD), GOOD, 0.0, "first"),
        (RecordState(SICK), SICK, 0.0, "first"),
        (RecordState(GOOD), SICK, 0.0, "first"),
        # A status differs from the recorded one: at once, in either direction, whatever the
        # spacing.
        (RecordState(GOOD, first=False), SICK, 0.1, "change"),
        (RecordState(SICK, first=False), GOOD, 0.1, "change"),
        (RecordState(NEW, first=False), GOOD, 0.1, "change"),
        (
            RecordState(SICK, first=False, checks=3, spacing=60),
            {"api": UNHEALTHY, "runner": UNHEALTHY},
            0.1,
            "change",
        ),
        (
            RecordState(SICK, first=False, spacing=60),
            {"api": UNHEALTHY, "runner": HEALTHY},
            0.1,
            "change",
        ),
        # Another set of services than the recorded one.
        (RecordState({"api": HEALTHY}, first=False), GOOD, 0.1, "change"),
        (RecordState(GOOD, first=False), {"api": HEALTHY}, 0.1, "change"),
        # All healthy, as recorded: by the clock, however many checks there were.
        (RecordState(GOOD, first=False, at=50.0), GOOD, 50.1, None),
        (RecordState(GOOD, first=False, at=50.0, checks=1_000), GOOD, 649.9, None),
        (RecordState(GOOD, first=False, at=50.0), GOOD, 650.0, "interval"),
        (RecordState(GOOD, first=False, at=50.0), GOOD, 9_999.0, "interval"),
        # Unhealthy, as recorded: by the number of checks, whatever the clock.
        (RecordState(SICK, first=False), SICK, 10.0, "unhealthy"),
        (RecordState(SICK, first=False, spacing=2), SICK, 10.0, None),
        (RecordState(SICK, first=False, spacing=2), SICK, 9_999.0, None),
        (RecordState(SICK, first=False, checks=1, spacing=2), SICK, 20.0, "unhealthy"),
        (RecordState(SICK, first=False, checks=2, spacing=4), SICK, 30.0, None),
        (RecordState(SICK, first=False, checks=3, spacing=4), SICK, 40.0, "unhealthy"),
        (RecordState(SICK, first=False, checks=58, spacing=60), SICK, 590.0, None),
        (RecordState(SICK, first=False, checks=59, spacing=60), SICK, 600.0, "unhealthy"),
        (RecordState(NEW, first=False), NEW, 10.0, "unhealthy"),
        (RecordState(NEW, first=False, spacing=2), NEW, 10.0, None),
    ],
)
def test_decision_table(
    recorded: RecordState, statuses: Mapping[str, Status], now: float, reason: str | None
) -> None:
    """Every line of the decision table gives its reason, and on both sides of each limit."""
    assert reason_to_record(recorded, statuses, now, RECORD_INTERVAL_S) == reason


@pytest.mark.parametrize(
    ("reason", "before", "after"),
    [
        ("unhealthy", 1, 2),
        ("unhealthy", 2, 4),
        ("unhealthy", 32, 60),
        ("unhealthy", 60, 60),
        ("change", 60, 1),
        ("first", 8, 1),
        ("interval", 8, 1),
    ],
)
def test_spacing_doubles_until_something_changes(reason: str, before: int, after: int) -> None:
    """The spacing doubles up to its limit while nothing changes, and begins anew with any other
    event."""
    recorded = after_event(
        RecordState(SICK, first=False, checks=7, spacing=before), SICK, 99.0, reason
    )
    assert recorded == RecordState(SICK, first=False, at=99.0, checks=0, spacing=after)


def test_check_without_event_is_counted() -> None:
    """A check that was worth no event changes nothing but the count."""
    recorded = RecordState(SICK, first=False, at=5.0, checks=2, spacing=8)
    assert after_check(recorded) == RecordState(SICK, first=False, at=5.0, checks=3, spacing=8)


@dataclass(frozen=True)
class Step:
    """One check of a history: what it saw, and what came of it."""

    healthy: Mapping[str, bool]
    before: RecordState
    statuses: Mapping[str, Status]
    reason: str | None


def history(checks: Sequence[Mapping[str, bool]]) -> list[Step]:
    """What a monitor makes of these checks, `INTERVAL_S` apart."""
    recorded, steps = RecordState({}), []
    for number, healthy in enumerate(checks):
        now = number * INTERVAL_S
        statuses = {
            name: status_of(good, recorded.statuses.get(name)) for name, good in healthy.items()
        }
        reason = reason_to_record(recorded, statuses, now, RECORD_INTERVAL_S)
        steps.append(Step(healthy, recorded, statuses, reason))
        recorded = (
            after_check(recorded)
            if reason is None
            else after_event(recorded, statuses, now, reason)
        )
    return steps


def test_long_illness_is_recorded_with_exponential_spacing() -> None:
    """While unhealthy, events come after 1, 2, 4, 8, 16, 32 and then every 60 checks."""
    steps = history([{"api": False}] * 240)
    recorded = [number for number, step in enumerate(steps) if step.reason]
    gaps = [later - earlier for earlier, later in pairwise(recorded)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60]


def test_long_health_is_recorded_every_ten_minutes() -> None:
    """While healthy, events come every `record_interval`: 60 checks of 10 s."""
    steps = history([{"api": True}] * 200)
    assert [number for number, step in enumerate(steps) if step.reason] == [0, 60, 120, 180]


@st.composite
def _runs(draw: st.DrawFn) -> list[Mapping[str, bool]]:
    """Histories of two services in runs of equal checks: random single checks would never be ill
    for long."""
    runs = draw(
        st.lists(
            st.tuples(st.booleans(), st.booleans(), st.integers(1, 140)), min_size=1, max_size=8
        )
    )
    return [{"api": api, "runner": runner} for api, runner, length in runs for _ in range(length)]


@given(_runs())
def test_nothing_is_recorded_twice_without_a_reason(checks: list[Mapping[str, bool]]) -> None:
    """Two events with the same statuses are an interval apart if healthy, and at least the
    announced spacing if not."""
    last: tuple[int, Step] | None = None
    for number, step in enumerate(history(checks)):
        if step.reason is None:
            continue
        if last is not None and last[1].statuses == step.statuses:
            gap = number - last[0]
            if all(step.healthy.values()):
                assert gap * INTERVAL_S >= RECORD_INTERVAL_S
            else:
                assert gap >= step.before.spacing
                assert last[1].reason != "unhealthy" or gap >= min(
                    2 * last[1].before.spacing, MOST_SPACING
                )
        last = number, step


@pytest.mark.slow
@given(_runs())
def test_never_more_than_sixty_checks_without_an_event(checks: list[Mapping[str, bool]]) -> None:
    """Whatever happens, the spacing stays within its limit, and 60 checks never pass without an
    event."""
    without = 0
    for step in history(checks):
        without = 0 if step.reason else without + 1
        assert without < MOST_SPACING
        assert 1 <= step.before.spacing <= MOST_SPACING


@given(_runs())
def test_change_is_recorded_at_once(checks: list[Mapping[str, bool]]) -> None:
    """The check that sees a service change is the check that records it."""
    steps = history(checks)
    for earlier, later in pairwise(steps):
        if earlier.healthy != later.healthy:
            assert later.reason == "change"


@pytest.mark.slow
@given(_runs())
def test_initial_unhealthy_never_comes_back(checks: list[Mapping[str, bool]]) -> None:
    """A service that was healthy once is never `InitialUnhealthy` again, and one that was not is
    never `Unhealthy`."""
    good: set[str] = set()
    for step in history(checks):
        good |= {name for name, healthy in step.healthy.items() if healthy}
        for name, status in step.statuses.items():
            assert status is not (INITIAL if name in good else UNHEALTHY)
