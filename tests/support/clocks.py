"""Clocks put forward: what waits for a time runs out at once, on a machine of any speed."""

import asyncio
import time

import pytest

from service.api.context import ApiContext
from service.api.poll_path.poll_server import PollServer
from tests.support.api import Api


def put_forward(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Puts the clock of the running loop forward, so all its timers are due that much earlier."""
    loop = asyncio.get_running_loop()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + seconds)


def put_credentials_forward(
    monkeypatch: pytest.MonkeyPatch, state: ApiContext, seconds: float
) -> None:
    """Puts forward the clock by which the credentials of a process expire, and the loop's clock
    with it."""

    def wall() -> float:
        return time.time() + seconds

    monkeypatch.setattr(state.replica, "wall", wall)
    for owner in (state.authenticator, state.authenticator._jwt):
        monkeypatch.setattr(owner, "_wall", wall)
    put_forward(monkeypatch, seconds)


def set_wall(monkeypatch: pytest.MonkeyPatch, api: Api, now: float) -> None:
    """Stops the clock by which credentials expire, at `now` in seconds since 1970."""

    def wall() -> float:
        return now

    monkeypatch.setattr(api.context.replica, "wall", wall)
    authenticator = api.context.authenticator
    for owner in (authenticator, authenticator._jwt, api.poll_server):
        monkeypatch.setattr(owner, "_wall", wall)


def set_monotonic(monkeypatch: pytest.MonkeyPatch, api: Api, now: float) -> None:
    """Stops the clock by which a process measures how old its snapshot is."""
    for owner in (api.context.replica, api.poll_server):
        monkeypatch.setattr(owner, "monotonic", lambda: now)


def put_timeouts_forward(
    monkeypatch: pytest.MonkeyPatch, server: PollServer, seconds: float
) -> None:
    """Puts forward the clock by which a server times its connections out. It looks at them every
    `Timeouts.sweep` seconds of the real time."""
    now = server.monotonic
    monkeypatch.setattr(server, "monotonic", lambda: now() + seconds)
