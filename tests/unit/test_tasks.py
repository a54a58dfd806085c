"""Shared work, outage logs and jitter."""

import asyncio
import gc
import logging
from typing import Any

import pytest

from service.tasks import OutageLog, SingleFlight, jittered


class Work:
    """Work that takes until it is released, and counts how often it was started."""

    def __init__(self, error: Exception | None = None) -> None:
        self.starts = 0
        self.released = asyncio.Event()
        self.error = error

    async def __call__(self) -> int:
        """Wait, then fail or return the number of the start."""
        self.starts += 1
        number = self.starts
        await self.released.wait()
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture
def flight() -> SingleFlight[int]:
    """A single flight."""
    return SingleFlight("some-work")


async def test_callers_at_the_same_time_share_one_task(flight: SingleFlight[int]) -> None:
    """Two callers get one result; a caller after the end starts the work again."""
    work = Work()
    callers = [asyncio.create_task(flight.run(work)) for _ in range(2)]
    await asyncio.sleep(0)
    task = flight.in_progress()
    assert task is not None
    assert task.get_name() == "some-work"
    work.released.set()
    assert await asyncio.gather(*callers) == [1, 1]
    assert flight.in_progress() is None
    assert await flight.run(work) == 2


async def test_a_caller_right_after_the_end_starts_anew(flight: SingleFlight[int]) -> None:
    """A task that has ended is not joined, also before its callbacks have run; the new one stays
    known."""
    work = Work()
    work.released.set()
    first = flight.start(work)
    while not first.done():
        await asyncio.sleep(0)
    work.released.clear()
    second = flight.start(work)
    await asyncio.sleep(0)
    assert second is not first
    assert flight.in_progress() is second
    work.released.set()
    assert await second == 2


async def test_keys_do_not_share(flight: SingleFlight[int]) -> None:
    """Each key has a task of its own."""
    work = Work()
    tasks = [flight.start(work, key) for key in ("a", "b", "a")]
    assert tasks[0] is tasks[2]
    assert tasks[0] is not tasks[1]
    assert flight.in_progress("c") is None
    work.released.set()
    await asyncio.gather(*tasks)
    assert work.starts == 2


async def test_a_cancelled_caller_does_not_cancel_the_work(flight: SingleFlight[int]) -> None:
    """The other callers get the result."""
    work = Work()
    one, other = (asyncio.create_task(flight.run(work)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.wait([one])
    work.released.set()
    assert await other == 1
    assert one.cancelled()


async def test_each_caller_gets_the_exception(flight: SingleFlight[int]) -> None:
    """A failure reaches all callers."""
    work = Work(ValueError("broken"))
    work.released.set()
    results = await asyncio.gather(flight.run(work), flight.run(work), return_exceptions=True)
    assert [str(result) for result in results] == ["broken", "broken"]
    assert work.starts == 1


async def test_an_exception_without_callers_is_dropped(flight: SingleFlight[int]) -> None:
    """When every caller was cancelled, asyncio reports no exception that was never retrieved."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    work = Work(ValueError("broken"))
    caller = asyncio.create_task(flight.run(work))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    task = flight.in_progress()
    assert task is not None
    work.released.set()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    del task
    gc.collect()
    assert not reports


async def test_cancelled_work_is_over(flight: SingleFlight[int]) -> None:
    """After the task itself was cancelled, the next caller starts the work again."""
    work = Work()
    task = flight.start(work)
    task.cancel()
    await asyncio.wait([task])
    work.released.set()
    assert await flight.run(work) == 1  # The first task was cancelled before it began.


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Repeated failures and successes add nothing; each line has its own fields."""
    caplog.set_level(logging.INFO)
    outage = OutageLog(logging.getLogger("some.module"), "it is away", "it is back")
    outage.succeeded()
    for _ in range(2):
        for number in range(2):
            outage.failed(reason="refused", number=number)
        for number in range(2):
            outage.succeeded(success=number)
    assert [(line.name, line.levelname, line.getMessage()) for line in caplog.records] == [
        ("some.module", "WARNING", "it is away"),
        ("some.module", "INFO", "it is back"),
    ] * 2
    assert (vars(caplog.records[0])["reason"], vars(caplog.records[0])["number"]) == ("refused", 0)
    assert vars(caplog.records[1])["success"] == 0
    assert {line.filename for line in caplog.records} == {"test_tasks.py"}


def test_each_change_of_the_reason_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Reasons that alternate are logged once a minute, and reasons without end not at all."""
    caplog.set_level(logging.INFO)
    now = 0.0
    outage = OutageLog(logging.getLogger("some.module"), "away", "back", lambda: now)

    def logged() -> list[str]:
        found = [vars(line).get("reason", "back") for line in caplog.records]
        caplog.clear()
        return found

    for reason in ("refused", "refused", "timeout", "timeout", "refused", "timeout"):
        outage.failed(reason=reason)
    assert logged() == ["refused", "timeout"]
    now = OutageLog.REPEAT_S
    for reason in ("timeout", "refused", "refused", "timeout", "refused"):
        outage.failed(reason=reason)
    assert logged() == ["refused", "timeout"]
    for number in range(100):
        outage.failed(reason=f"reason {number}")
    assert len(logged()) == OutageLog.MOST_REASONS - 2
    outage.succeeded()
    outage.failed(reason="refused")
    assert logged() == ["back", "refused"]


def test_a_quiet_outage_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An outage whose first failure is quiet stays unlogged; without `ends`, no end is logged."""
    caplog.set_level(logging.INFO)
    outage = OutageLog(logging.getLogger("some.module"), "it is away")
    outage.failed(quiet=True)
    outage.failed()
    outage.succeeded()
    assert not caplog.records


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.1), (0.0, 1.0)])
def test_jitter_stays_within_its_bounds(low: float, high: float) -> None:
    """The durations differ, and lie between the two fractions."""
    durations = {jittered(10.0, low, high) for _ in range(200)}
    assert len(durations) > 100
    assert 10 * low <= min(durations) < max(durations) <= 10 * high
