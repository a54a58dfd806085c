"""Translating the errors of the Redis client into `StoreUnavailable`."""

import asyncio
import re

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.errors import StoreUnavailable

_MALFORMED_REPLY = (AttributeError, LookupError, TypeError, ValueError)
"""What comes of reading a reply that no script of ours gives: another server is at the address."""


class translate_errors:  # noqa: N801  # It reads as a statement: `with translate_errors():`
    """Inside it, driver errors become `StoreUnavailable`, and no cancellation is lost. A class,
    since it is entered at every request."""

    __slots__ = ("_cancelled_before",)

    def __enter__(self) -> None:
        self._cancelled_before = _cancellations()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # The driver waits with asyncio.wait_for, which below Python 3.12 may swallow a cancellation
        # (cpython#86296): a task that goes on for ever would then go on for ever.
        if _cancellations() > self._cancelled_before and not isinstance(
            error, asyncio.CancelledError
        ):
            raise asyncio.CancelledError from error
        # A closed pool raises RuntimeError, and RedisClusterException is no RedisError.
        if isinstance(
            error,
            (
                RedisError,
                RedisClusterException,
                OSError,
                TimeoutError,
                RuntimeError,
                *_MALFORMED_REPLY,
            ),
        ):
            raise StoreUnavailable(_reason(error)) from error


def _cancellations() -> int:
    """How often the current task has been told to end."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _reason(error: BaseException) -> str:
    """What a client may know: never an address, a name or a password."""
    reasons: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
        ((RedisTimeoutError, TimeoutError), "it did not answer in time"),
        (
            (AuthenticationError, AuthorizationError, NoPermissionError),
            "it refuses this service's credentials",
        ),
        (BusyLoadingError, "it is loading its data"),
        (ReadOnlyError, _REFUSALS["READONLY"]),
        (OutOfMemoryError, _REFUSALS["OOM"]),
        (ResponseError, _refusal(str(error))),
        (_MALFORMED_REPLY, "its answer makes no sense"),
    ]
    return next(
        (reason for kind, reason in reasons if isinstance(error, kind)), "it cannot be reached"
    )


_REFUSALS = {
    "OOM": "it is out of memory",
    "READONLY": "it is a read-only replica",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "it has too few replicas to take writes",
}
"""Why Redis refuses every write, by the code of its error."""
_REFUSAL = re.compile(rf"\b({'|'.join(_REFUSALS)})\b")


def _refusal(message: str) -> str:
    """The reason for an error without a class of its own; before Redis 7, an error in a script has
    its code in the middle."""
    code = _REFUSAL.search(message)
    return _REFUSALS[code[1]] if code else "it refuses the request"
