"""Resuming in short: `python -m tests.soak.resume` does the same for a minute."""

import pytest

from tests.soak.resume import run, wrong
from tests.soak.watcher import RESET, Watcher
from tests.soak.writer import Recorded

pytestmark = pytest.mark.slow


async def test_nothing_is_missed_and_nothing_comes_twice() -> None:
    """While connections, replicas and the store are killed, every watcher gets the whole history,
    in order and byte for byte."""
    outcome = await run(3, 150, retention=1_000, watchers=12, pause=0.3)
    assert not outcome.problems
    assert {"stores killed", "connections cut"} <= set(outcome.faults)
    assert {"replicas killed", "replicas ended in order"} & set(outcome.faults)
    assert outcome.connections > 12
    assert outcome.resets == 0


async def test_a_reset_where_retention_cut() -> None:
    """A watcher that stays away for longer than its place is retained is told so, and gets all that
    is."""
    for _ in range(3):  # Chance decides who is cut off, and for how long.
        outcome = await run(2.5, 250, retention=10, watchers=12, writers=1, pause=0.2, away=0.8)
        assert not outcome.problems
        if outcome.resets:
            return
    pytest.fail("nobody was away for long enough")


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
