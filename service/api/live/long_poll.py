"""Long polls: `Prefer: wait=N` (RFC 7240) holds a conditional response until it would change.

The loop that holds a request is in `handlers/reply.py`. A long poll costs one future and one timer.
It ends when the state changes, also by the clock (the replica's heartbeat notices that), and when
its connection is closed.
"""

import asyncio
import re
from collections.abc import Callable, Iterable

from service.api.live.turns import in_turns
from service.tasks import jittered

MAX_WAIT_S = 60
"""Seconds (contract). Proxies usually allow a response to take longer."""

PER_TURN = 16
"""Long polls that end in one turn of the event loop. Each takes some 30 µs."""

_WAIT = re.compile(
    r"(?:^|[,;])[ \t]*wait[ \t]*=[ \t]*\"?([0-9]{1,9})\"?[ \t]*(?:$|[,;])", re.ASCII | re.IGNORECASE
)

Callback = Callable[[], None] | None
OnLost = Callable[[Callback, Callback], None]
"""Sets a connection's callbacks: for its end, and for the end of the client's side."""


def wait_preference(fields: Iterable[str]) -> int | None:
    """The seconds that the client accepts to wait, at most `MAX_WAIT_S`; `None` without any.

    `fields` are the values of the `Prefer` fields.
    """
    match = _WAIT.search(",".join(fields))
    return min(int(match[1]), MAX_WAIT_S) if match else None


class LongPolls:
    """The requests of one process that wait for a change."""

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[bool]] = set()

    def __len__(self) -> int:
        return len(self._futures)

    def wake(self) -> None:
        """Makes all waiting requests compare their ETags again."""
        in_turns(self._futures, lambda future: _settle(future, result=True), PER_TURN)

    async def wait_for_change(self, seconds: float, on_lost: OnLost) -> bool:
        """Waits for the next `wake`, or for the end of the client's side (true), or `seconds`.

        Raises `ConnectionResetError` if the connection is closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(seconds, lambda: _settle(future, result=False))
        on_lost(lambda: _fail(future), lambda: _settle(future, result=True))
        self._futures.add(future)
        try:
            return await future
        finally:
            self._futures.discard(future)
            on_lost(None, None)
            timer.cancel()


def spread(seconds: float) -> float:
    """Up to a tenth less, so that clients that began together do not return together."""
    return jittered(seconds, 0.9, 1.0)


def _settle(future: "asyncio.Future[bool]", *, result: bool) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[bool]") -> None:
    if not future.done():
        future.set_exception(ConnectionResetError("the client closed the connection"))
