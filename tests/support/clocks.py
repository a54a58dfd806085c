"""The event loop's clock, put forward: what waits for a time runs out at once, on a machine of any speed."""

import asyncio

import pytest


def put_forward(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Puts the clock of the running loop forward, so all its timers are due that much earlier."""
    loop = asyncio.get_running_loop()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + seconds)
