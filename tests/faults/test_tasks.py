"""A background task that dies takes its process with it; nothing goes on half-alive."""

import asyncio
import logging
import signal

import pytest

from service.tasks import cancel_and_wait, spawn_guarded


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[signal.Signals]:
    """The signals that the process would have sent to itself."""
    sent: list[signal.Signals] = []
    monkeypatch.setattr(signal, "raise_signal", sent.append)
    return sent


@pytest.mark.parametrize("error", [ValueError("a bug"), None], ids=["fails", "returns"])
async def test_an_ended_task_ends_the_process(
    error: Exception | None, signals: list[signal.Signals], caplog: pytest.LogCaptureFixture
) -> None:
    """A task that fails, or just ends, is logged with its name and its reason, and asks for an
    orderly end."""

    async def work() -> None:
        if error is not None:
            raise error

    await asyncio.wait([spawn_guarded(work(), "some-work")])
    await asyncio.sleep(0)
    assert signals == [signal.SIGTERM]
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert record.getMessage() == "a background task ended: some-work"
    assert (record.exc_info is not None and record.exc_info[1]) is (
        error if error is not None else False
    )


async def test_a_cancelled_task_ends_quietly(
    signals: list[signal.Signals], caplog: pytest.LogCaptureFixture
) -> None:
    """Tasks that are told to end have ended when `cancel_and_wait` returns, and nothing else
    happens."""
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    tasks = [spawn_guarded(work(), f"work-{n}") for n in range(3)]
    await asyncio.sleep(0)
    await cancel_and_wait(*tasks)
    assert cleaned == [True] * 3
    assert all(task.cancelled() for task in tasks)
    assert signals == []
    assert not caplog.records
