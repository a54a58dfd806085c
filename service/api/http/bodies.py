"""Request bodies: reading one within limits, and the fields of a JSON object."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import orjson
from aiohttp import hdrs, web

from service.errors import (
    ApiError,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)

BODY_TIMEOUT_S = 5.0
"""Seconds for a whole body: it has a few kilobytes and comes from a program, not an upload."""
_MOST_UNKNOWN = 10
"""Unknown fields that an error lists: the response to a large body stays small."""

FieldError = tuple[str, str]
"""The name of a field, empty for the whole body, and what is wrong with it."""


async def read_body(request: web.Request, limit: int, reserve: Callable[[int], None]) -> bytes:
    """The request's body, of at most `limit` bytes.

    `reserve` is called with the number of bytes received so far, and raises `ServerBusy` if other
    bodies use all the memory. Raises `UnsupportedMediaType`, `PayloadTooLarge`, `RequestTimeout`,
    and what `reserve` raises.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedMediaType
    if (request.content_length or 0) > limit:
        raise PayloadTooLarge(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise PayloadTooLarge(limit)
                reserve(len(body))
    except TimeoutError:
        raise RequestTimeout(BODY_TIMEOUT_S) from None
    return bytes(body)


class JsonFields:
    """The fields of a JSON object, and the errors in them.

    The caller takes each field that it knows, rejects invalid values, and then calls `finish`. So
    the client gets all errors in one response.
    """

    def __init__(self, body: bytes, invalid: Callable[[Sequence[FieldError]], ApiError]) -> None:
        """Parses a body. Raises `invalid` if it is not a JSON object."""
        self._invalid = invalid
        self._errors: list[FieldError] = []
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise invalid([("", "the body is not JSON")]) from None
        if not isinstance(fields, dict):
            raise invalid([("", "expected a JSON object")])
        self._fields: dict[str, Any] = fields

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def take(self, name: str, default: object = None) -> Any:
        """Removes a field and returns its value, or the default if there is no such field."""
        return self._fields.pop(name, default)

    def reject(self, name: str, error: str) -> None:
        """Records what is wrong with a field."""
        self._errors.append((name, error))

    def finish(self) -> None:
        """Rejects the fields that were not taken. Raises `invalid` if there is any error."""
        for name in islice(self._fields, _MOST_UNKNOWN):
            self.reject(name, "unknown field")
        if self._errors:
            raise self._invalid(self._errors)
