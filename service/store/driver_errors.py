"""Translates the errors of the Redis client into `StoreUnavailable`."""

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator

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

_LONGEST_CHAIN = 20
"""The most errors of a chain that are examined for a reason."""
_MALFORMED_REPLY = (AttributeError, LookupError, TypeError, ValueError)
"""What decoding raises for a reply that our scripts never send: the server is not our Redis."""


class translate_errors:  # noqa: N801  # It reads as a statement: `with translate_errors():`
    """A context in which driver errors become `StoreUnavailable` and no cancellation is lost.

    It is a class because it is entered at every request, and a generator would be slower.
    """

    __slots__ = ("_cancelled_before",)

    def __enter__(self) -> None:
        self._cancelled_before = _cancellations()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # The driver uses asyncio.wait_for, which before Python 3.12 can swallow a cancellation
        # (cpython#86296): an endless task would then never end.
        if _cancellations() > self._cancelled_before and not isinstance(
            error, asyncio.CancelledError
        ):
            raise asyncio.CancelledError from error
        # A closed pool raises RuntimeError. RedisClusterException is not a RedisError.
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
    """How many times the current task has been cancelled."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _reason(error: BaseException) -> str:
    """The reason that clients see. It never contains an address, a name or a password."""
    reasons: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
        ((RedisTimeoutError, TimeoutError), "it did not answer in time"),
        ((AuthenticationError, AuthorizationError), "it refuses this service's credentials"),
        (NoPermissionError, _REFUSALS["NOPERM"]),
        (BusyLoadingError, "it is loading its data"),
        (ReadOnlyError, _REFUSALS["READONLY"]),
        (OutOfMemoryError, _REFUSALS["OOM"]),
        (ResponseError, _refusal(str(error))),
        (_MALFORMED_REPLY, "it sent a malformed reply"),
    ]
    for kind, reason in reasons:
        if isinstance(error, kind):
            return reason
    causes = tuple(_causes(error))
    return next(
        (reason for kind, reason in _UNREACHED if any(isinstance(one, kind) for one in causes)),
        "it cannot be reached",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised for: the driver wraps errors of the network."""
    following: BaseException | None = error
    # A chain that a library has closed to a ring must not be followed for ever.
    for _ in range(_LONGEST_CHAIN):
        if following is None:
            return
        yield following
        following = following.__cause__ or following.__context__


_UNREACHED: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "it refuses connections"),
    (socket.gaierror, "its name cannot be resolved"),
    (ssl.SSLCertVerificationError, "its certificate is not trusted"),
    (ssl.SSLError, "it does not agree on TLS"),
)
"""Why there is no connection to Redis."""


_REFUSALS = {
    "OOM": "it is out of memory",
    "READONLY": "it is a read-only replica",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "it has too few replicas to take writes",
    "NOPERM": "its ACL denies this service a command, key or channel",
}
"""Why Redis refuses requests, by error code."""
_REFUSAL = re.compile(rf"\b({'|'.join(_REFUSALS)})\b")


def _refusal(message: str) -> str:
    """The reason for an error that has no class in redis-py.

    Before Redis 7, an error inside a script has its code in the middle of the message.
    """
    code = _REFUSAL.search(message)
    return _REFUSALS[code[1]] if code else "it refuses the request"
