"""Several monitors under faults: nothing is written by one that does not lead. And the checker of
that, on what it must find."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from tests.faults.monitors import FAULTS, Entry, rig, silence, violations

pytestmark = pytest.mark.slow


def entry(
    kind: str,
    owner: str,
    epoch: int,
    at: float = 0.0,
    *,
    holder: str | None = None,
    event: str = "",
) -> Entry:
    """An entry of the journal; the lease is the writer's unless another holds it."""
    return Entry(kind, owner, epoch, epoch, owner if holder is None else holder, at, event)


GOOD = [
    entry("lease", "a", 1),
    entry("event", "a", 1, 1.0, event="1"),
    entry("check", "a", 1, 2.0),
    entry("lease", "b", 2),
    entry("event", "b", 2, 5.0, event="2"),
    entry("lease", "a", 3),
    entry("check", "a", 3, 6.0),
]


def test_an_orderly_history_has_no_violations() -> None:
    """Leaders that follow each other, one per epoch, are as it should be, also when one leads for
    the second time."""
    assert violations(GOOD, ["1", "2"]) == []


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (entry("check", "b", 2, holder=""), "check by b in epoch 2 after epoch 3 had begun"),
        (entry("check", "b", 3, holder="a"), "check by b in epoch 3 while a held the lease"),
        (entry("lease", "b", 3), "lease by b in epoch 3, which was a's"),
        (entry("lease", "c", 1), "lease by c in epoch 1 after epoch 3 had begun"),
        (
            entry("event", "a", 3, event="3"),
            "the store has 2 events, 3 were appended, or in another order",
        ),
    ],
)
def test_the_checker_finds_it(extra: Entry, found: str) -> None:
    """Each thing that must not happen is found, and named."""
    assert found in violations([*GOOD, extra], ["1", "2"])


def test_the_checker_finds_interleaved_writes() -> None:
    """Two leaders that take turns within their terms are found, even where all else looks right."""
    journal = [entry("check", "a", 1), entry("check", "b", 1), entry("check", "a", 1)]
    assert "writes of two leaders are interleaved: 3 runs in 2 terms" in violations(journal, [])


def test_silence_ends_with_another_monitors_check() -> None:
    """Silence lasts until another than the former leader has completed a check; a lease alone does
    not end it."""
    assert silence(GOOD, 1.5, "a") == 3.5
    assert silence(GOOD, 5.5, "b") == 0.5


async def test_faults_at_random_moments() -> None:
    """Kills, orderly ends, pauses beyond the lease and pauses of the store: no write by a former
    leader, no long silence.

    Each rig meets half of the kinds; the moments are random, by a seed that is printed.
    """
    with rig(2) as two, rig(3) as three:
        await asyncio.gather(two.run(FAULTS[::2]), three.run(FAULTS[1::2]))
        for one, kinds in ((two, FAULTS[::2]), (three, FAULTS[1::2])):
            assert len(one.faults) == 3
            assert tuple(fault.kind for fault in one.faults) == kinds
            assert one.violations() == []
            assert max(one.silences("terminate"), default=0) <= 1.5
            assert (
                max(one.silences("kill"), default=0) <= 2.5
            )  # The lease (1 s), asking for it, and a check.


async def until_found(without: Sequence[str], limit_s: float) -> tuple[list[str], int]:
    """What is wrong, and how many writes were refused, once there is either, with leaders paused in
    their checks."""
    with rig(2, without=tuple(without)) as two:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            await two.run(["pause in a check"])
            if two.violations() or two.refused():
                break
        return two.violations(), two.refused()


async def test_the_fence_alone_suffices() -> None:
    """Monitors that do not know their own deadline write nothing as former leaders either: the
    store refuses it."""
    wrong, refused = await until_found(["deadline"], 40)
    assert wrong == []
    assert refused > 0


async def test_the_checker_finds_a_missing_fence() -> None:
    """With the fence and the deadline taken out, writes of former leaders are found."""
    wrong, refused = await until_found(["deadline", "fence"], 40)
    assert any("after epoch" in one for one in wrong)
    assert refused == 0
