"""Waiting reads: `Prefer: wait=N` (RFC 7240) holds a conditional reply until it would be another
one.

A request that waits costs one future and one timer. Changes wake it, also those that the clock
brings (the replica's heartbeat notices them), and the end of its connection frees it at once.
"""

import asyncio
import re
from collections.abc import Callable, Iterable

from service.tasks import jittered

LONGEST_S = 60
"""Seconds: below what proxies usually allow a reply to take."""

PER_TURN = 16
"""Requests that are woken at one turn of the loop, some 30 µs each: polls are answered in
between."""

_WAIT = re.compile(
    r"(?:^|[,;])[ \t]*wait[ \t]*=[ \t]*\"?([0-9]{1,9})\"?[ \t]*(?:$|[,;])", re.ASCII | re.IGNORECASE
)

Ending = Callable[[], None] | None
OnLost = Callable[[Ending, Ending], None]
"""Has a connection do something at its end, and something when its client sends no more."""


def wait_preference(fields: Iterable[str]) -> int | None:
    """The seconds that the client is ready to wait, at most `LONGEST_S`; `None` if it states no
    such preference."""
    match = _WAIT.search(",".join(fields))
    return min(int(match[1]), LONGEST_S) if match else None


class LongPolls:
    """The requests that wait for a change."""

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[bool]] = set()

    def __len__(self) -> int:
        return len(self._futures)

    def wake(self) -> None:
        """Something has changed: all look again, a few at a turn."""
        self._wake(list(self._futures))

    def _wake(self, futures: "list[asyncio.Future[bool]]", start: int = 0) -> None:
        for future in futures[start : start + PER_TURN]:
            _settle(future, result=True)
        if start + PER_TURN < len(futures):
            asyncio.get_running_loop().call_soon(self._wake, futures, start + PER_TURN)

    async def wait_for_change(self, seconds: float, on_lost: OnLost) -> bool:
        """True at the next change, or when the client sends no more; false after `seconds`.

        Raises `ConnectionResetError` when the client has gone.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(seconds, lambda: _settle(future, result=False))
        on_lost(lambda: _lost(future), lambda: _settle(future, result=True))
        self._futures.add(future)
        try:
            return await future
        finally:
            self._futures.discard(future)
            on_lost(None, None)
            timer.cancel()


def spread(seconds: float) -> float:
    """A little less, so that clients that began together do not all come back together."""
    return jittered(seconds, 0.9, 1.0)


def _settle(future: "asyncio.Future[bool]", *, result: bool) -> None:
    if not future.done():
        future.set_result(result)


def _lost(future: "asyncio.Future[bool]") -> None:
    if not future.done():
        future.set_exception(ConnectionResetError("the client has gone"))
