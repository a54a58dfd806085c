"""Resuming in short: `python -m tests.soak.resume` does the same for a minute."""

import pytest

from tests.soak.resume import CUT, ENDED, KILLED, STORE, plan, run, wrong
from tests.soak.watcher import RESET, Watcher
from tests.soak.writer import Recorded

pytestmark = pytest.mark.slow


async def test_nothing_is_missed_and_nothing_comes_twice() -> None:
    """While connections, replicas and the store are killed, every watcher gets the whole history,
    in order and byte for byte."""
    outcome = await run(3, 150, retention=1_000, watchers=12, faults=8)
    assert not outcome.problems
    assert set(outcome.faults) == {CUT, ENDED, KILLED, STORE}
    assert sum(outcome.faults.values()) == 8
    assert outcome.connections > 12
    assert outcome.resets == 0


async def test_a_reset_where_retention_cut() -> None:
    """A watcher that stays away for longer than its place is retained is told so, and gets all that
    is."""
    outcome = await run(2.5, 250, retention=20, watchers=12, writers=1, faults=8, away=80)
    assert not outcome.problems
    assert outcome.resets > 0


def test_a_seed_plans_the_same_faults() -> None:
    """A plan can be repeated: it depends on its seed alone, and has all kinds of faults."""
    size = {"events": 1_000, "watchers": 8, "replicas": 2, "away": 50}
    for seed in range(100):
        found = plan(seed, 6, **size)
        assert found == plan(seed, 6, **size)
        assert len(found) == 6
        assert {fault.kind for fault in found} == {CUT, ENDED, KILLED, STORE}
        assert all(0 < fault.at < 1_000 for fault in found)
    assert plan(1, 6, **size) != plan(2, 6, **size)


@pytest.mark.parametrize(
    ("log", "retention", "complaint"),
    [
        ("R0 0 1 2 3", 9, None),
        ("0 1 3", 9, "event 3 after 1"),
        ("0 1 1 2 3", 9, "event 1 after 1"),
        ("0 2 1 3", 9, "event 2 after 0"),
        ("0 1 2", 9, "it ends with event 2"),
        ("0 1 R4 2 3", 9, "a reset after event 1"),
        ("0 R4 2 3", 2, None),
        ("0 R4 3", 2, "it begins with event 3"),
        ("0 1 R4 1 2 3", 2, "event 1 after 1"),
    ],
)
def test_wrong_logs_are_found(log: str, retention: int, complaint: str | None) -> None:
    """The comparison sees what is missing, what came twice or late, and a reset out of place."""
    recorded = Recorded(sent=4, full={f"{n}": b'{"recorded_at":"%d"}' % n for n in range(4)})
    watcher = Watcher((), "all", lambda: 4)
    for item in log.split():
        watcher.log.append((RESET, int(item[1:])) if item.startswith("R") else (item, 4))
    found = wrong(watcher, recorded, retention)
    assert (found is None) if complaint is None else (found is not None and complaint in found)
