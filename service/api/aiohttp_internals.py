"""The private details of aiohttp's server that this service depends on.

This is the only module that touches them. They were read in aiohttp 3.14; with another minor
version, or without one of them, `matches_aiohttp` is false. The poll path, responses on half-closed
connections and the framing checks of upgrade requests are off then.

To raise the version: read `aiohttp/web_protocol.py` for each attribute of `AiohttpHandler` below,
read `_cache` in `aiohttp/web_request.py`, change `SUPPORTED` and the pin in `pyproject.toml`, and
run the tests.
"""

import logging
from asyncio import Future
from collections import deque
from typing import Any, Final

import aiohttp
from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http_parser import RawRequestMessage

log = logging.getLogger(__name__)

SUPPORTED: Final = (3, 14)
"""The minor version of aiohttp whose details were read."""

_missing: list[str] = []


def _detail(name: str) -> Any:
    """The slot of that name in aiohttp's handler, under a public name here and just as fast."""
    slot = getattr(web.RequestHandler, name, None)
    if slot is None:
        _missing.append(name)
    return slot


class AiohttpHandler(web.RequestHandler):
    """aiohttp's protocol for one connection, with public names for its private state."""

    __slots__ = ()

    request_count: int = _detail("_request_count")
    """Requests parsed on this connection."""
    _queue: "deque[tuple[Any, StreamReader]]" = _detail("_messages")
    """Parsed requests whose handlers have not begun, with their bodies."""
    _next_request: "Future[None] | None" = _detail("_waiter")
    """Pending while aiohttp waits for the next request."""
    _paused_by_body: bool = _detail("_reading_paused")
    _paused_by_queue: bool = _detail("_buffer_paused")
    _offered: bool = _detail("_upgraded")
    _kept_tail: bytes = _detail("_message_tail")
    _http_parser: Any = _detail("_parser")

    @property
    def current_request(self) -> int:
        """The number of the request whose handler has begun last, counted from 1."""
        return self.request_count - len(self._queue)

    @property
    def expects_request(self) -> bool:
        """Whether aiohttp waits for the next request."""
        future = self._next_request
        return future is not None and not future.done()

    @property
    def holds_back_reading(self) -> bool:
        """Whether aiohttp has paused reading: an unread body, or too many queued requests."""
        return self._paused_by_body or self._paused_by_queue

    @property
    def has_queued_requests(self) -> bool:
        """Whether parsed requests wait for their handlers."""
        return bool(self._queue)

    def queued(self, index: int) -> tuple[Any, StreamReader]:
        """A parsed request whose handler has not begun, and its body.

        The request is a `RawRequestMessage`, or an object with the parser's error as `exc`.
        """
        return self._queue[index]

    def close_after(self, index: int) -> None:
        """Closes the connection after the response to a queued request."""
        message, body = self._queue[index]
        if isinstance(message, RawRequestMessage):
            self._queue[index] = message._replace(should_close=True), body

    @property
    def parsing_fields(self) -> bool:
        """Whether aiohttp's parser in pure Python is past the first line of a head."""
        return bool(getattr(self._http_parser, "_lines", ()))

    @property
    def stopped_for_upgrade(self) -> bool:
        """Whether aiohttp has stopped parsing, since the client offered another protocol."""
        return self._offered

    def continue_in_http11(self) -> None:
        """Makes the parser go on after the offer of another protocol.

        Without this, aiohttp keeps what the client sends next as bytes of that protocol.
        """
        self._http_parser.set_upgraded(False)
        self._upgraded, self._message_tail = False, b""


def respond_in_http11(request: web.BaseRequest) -> None:
    """Makes aiohttp respond in HTTP/1.1, the server's own version (RFC 9110, section 6.2).

    aiohttp responds in the version of the request, and assumes HTTP/1.0 for a malformed one.
    """
    request._cache["version"] = HttpVersion11  # noqa: SLF001


def matches_aiohttp() -> bool:
    """Whether the installed aiohttp has the details that are used here. If not, logs an error."""
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:2])
    matches = version == SUPPORTED and not _missing
    if not matches:
        log.error(
            "unsupported aiohttp version: the poll path, responses on half-closed connections "
            "and the framing checks of upgrade requests are off",
            extra={"aiohttp": aiohttp.__version__, "missing": ", ".join(_missing)},
        )
    return matches
