"""The per-connection asyncio protocol, in front of aiohttp's.

It answers repeated GETs from a cache before aiohttp parses them (service/DESIGN.md, "Poll path").
It enforces timeouts that aiohttp 3.14 does not have: for a request head, for idle connections, and
for clients that do not take their responses. And it responds on half-closed connections.

aiohttp's handler is created when a connection first needs it: a connection that only polls costs
no handler and no task.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from aiohttp import hdrs

from service.api.aiohttp_internals import AiohttpHandler
from service.api.http.access_log import log_access
from service.api.http.conditional import Condition
from service.api.live.event_stream import Watcher
from service.api.poll_path.memo import MemoEntry
from service.api.poll_path.request_head import (
    is_one_get,
    is_partial_head,
    is_whole,
    without_tracing,
)
from service.api.poll_path.sendfile import SMALLEST as SENDFILE_SMALLEST
from service.api.responses.model import CacheEntry
from service.auth import Principal

if TYPE_CHECKING:
    from service.api.poll_path.poll_server import PollServer

MAX_TAGS = 8
"""Entity tags in a head that is remembered. Agents send one: that of their last response. A parsed
tag takes more memory than its bytes in the head."""
_SECOND_COMMENT_S = 0.5
"""Seconds between two comments on a half-closed stream: more than a round trip, so that a reset can
arrive in between."""


class ConnectionHandler(AiohttpHandler):
    """aiohttp's handler of one connection, which knows the protocol in front of it."""

    __slots__ = ("connection",)

    connection: "Connection"

    def finish(self) -> None:
        """Handles the end of the client's bytes: closes the connection after the last response."""
        raise NotImplementedError


class Connection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_active_at",
        "_answered",
        "_busy_at",
        "_handler",
        "_head",
        "_head_number",
        "_head_since",
        "_in_sync",
        "_on_eof",
        "_on_lost",
        "_partial",
        "_progress_at",
        "_reserved",
        "_server",
        "_swept_count",
        "_taken_at",
        "_unsent",
        "_watcher",
        "_writable",
        "half_closed",
        "paused",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, server: "PollServer") -> None:
        self._server = server
        self._handler: ConnectionHandler | None = None
        self._partial = b""
        """The beginning of a head whose end has not been received."""
        self._head: bytes | None = None
        """The head that was passed to the handler last, if it may be remembered."""
        self._head_number = 0
        """The number of its request among the handler's, counted from 1."""
        self._answered = 0
        """The number of the last request whose response has been written to its end."""
        self._in_sync = True
        """Whether the next bytes begin a request: all so far were whole requests without bodies."""
        self._on_lost: Callable[[], None] | None = None
        self._on_eof: Callable[[], None] | None = None
        self._reserved: object = None
        """The reserved memory of a response that only this client gets, until all of it is sent."""
        self._watcher: Watcher | None = None
        self._writable: asyncio.Future[None] | None = None
        self.paused = False
        """Whether the transport's buffer is full (back-pressure)."""
        self.half_closed = False
        """Whether the client has closed its side and waits for responses."""
        now = server.monotonic()
        self._active_at = now
        """When bytes were last received."""
        self._busy_at = now
        """When a request was last in progress."""
        self._taken_at = now
        """When nothing waited to be sent."""
        self._head_since = now
        """Since when a head is awaited; 0 if none is."""
        self._progress_at = 0.0
        """When the number of unsent bytes last changed."""
        self._unsent = 0
        self._swept_count = 0
        """The handler's number of requests at the last sweep."""

    # -- called by the transport -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins a connection. aiohttp's handler is not created yet."""
        self.transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:  # noqa: C901  # The hot path: calls cost time.
        """Responds to a remembered head, or passes the bytes to aiohttp's handler."""
        server = self._server
        if self._watcher is not None:  # Nothing that a client sends changes its stream.
            return
        if self._partial:
            data, self._partial = self._partial + data, b""
        self._head = None
        if server.poll_path and self._in_sync:
            head = data
            # 1. Look the head up: as it is, then without its tracing fields.
            entries = server.memo.entries
            entry = entries.get(data)
            if entry is None and (stripped := without_tracing(data)) is not None:
                head = stripped
                entry = entries.get(stripped)
            # 2. Respond, if no earlier request on this connection is in progress.
            if entry is not None and not self.paused and self.idle():
                now = server.monotonic()
                response = server.respond(head, entry, now)
                if response is not None:
                    if len(response) < SENDFILE_SMALLEST:
                        self.transport.write(response)
                    else:
                        self.write_shared(response)
                    self._active_at = now
                    self._head_since = 0.0
                    if server.access_log:
                        self._log(entry.cached, response)
                    if entry.close:
                        self.transport.close()
                    return
            # 3. Wait for the rest of a head, so that the whole head can be looked up.
            if is_partial_head(data):
                self._partial = data
                self._begin_head()
                return
            # 4. Keep the head, to remember it once it has been authenticated. With another request
            #    in progress it would not be certain which of the two is authenticated.
            if self.idle() and is_one_get(data):
                self._head = head
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        """Passes bytes to aiohttp's handler, and notes whether they end where a request ends."""
        handler = self._handler
        if handler is None:
            handler = self._handler = self._server.make_handler()
            handler.connection = self
            handler.connection_made(self.transport)
            if self.paused:
                handler.pause_writing()
        self._begin_head()
        if not self._server.matches_aiohttp:
            handler.data_received(data)
            return
        before = handler.request_count
        self._head_number = before + 1
        handler.data_received(data)
        parsed = handler.request_count - before
        if parsed != 1:  # The bytes were no request, or more than one.
            self._head = None
        if self._head is None and self._in_sync and not is_whole(data, parsed):
            # From here on only aiohttp's parser knows where a request ends.
            self._in_sync = False

    def eof_received(self) -> bool:
        """Handles a half-closed connection (RFC 9112, section 9.6). True keeps it open.

        Requests are answered before the connection is closed, a long poll at once. An event stream
        continues. Two comments find out whether its client still reads: if not, the client's host
        answers the first with a reset, and writing the second fails.
        """
        if self._partial:
            data, self._partial = self._partial, b""
            self._pass_on(data)
        if self._watcher is not None:
            self._watcher.comment()
            asyncio.get_running_loop().call_later(_SECOND_COMMENT_S, self._watcher.comment)
            return True
        if self._handler is None or not self._server.matches_aiohttp or self.idle():
            return False
        self.half_closed = True
        self._handler.finish()
        if self._on_eof is not None:
            self._on_eof()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends the connection."""
        self._server.connections.discard(self)
        self._reserved = None
        if self._on_lost is not None:
            self._on_lost()
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(ConnectionResetError("the client closed the connection"))
        if self._handler is not None:
            self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        """Stops reading while the write buffer is full (back-pressure).

        aiohttp alone would continue to read requests, and to queue responses.
        """
        self.paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Reads again: the write buffer has room."""
        self.paused = False
        if self._reserved is not None:
            self._reserved = None
            self.transport.set_write_buffer_limits()
        handler, matches = self._handler, self._server.matches_aiohttp
        held_back = handler is not None and matches and handler.holds_back_reading
        if not held_back and not self.transport.is_closing():
            self.transport.resume_reading()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if handler is not None:
            handler.resume_writing()
        if self._watcher is not None:
            self._watcher.resume()

    # -- called by the server and the handlers -----------------------------------------------------

    def idle(self) -> bool:
        """Whether no request is in progress."""
        handler = self._handler
        if handler is None:
            return self._watcher is None
        if not self._server.matches_aiohttp:
            return False
        return handler.request_count == self._answered or handler.expects_request

    def response_written(self) -> None:
        """Notes that the current response has been written, and that the connection stays open.

        aiohttp expects the next request only two turns of the event loop later. A client can be
        faster than that.
        """
        if self._server.matches_aiohttp and self._handler is not None:
            self._answered = self._handler.current_request

    def remember(
        self, cached: CacheEntry, principal: Principal, condition: Condition, *, close: bool
    ) -> None:
        """Remembers the current request's head, if it was seen before, for the poll path."""
        head, handler = self._head, self._handler
        if head is None or handler is None or (condition and len(condition) > MAX_TAGS):
            return
        if self._head_number != handler.current_request:
            return
        self._head = None
        server = self._server
        if server.memo.seen(head):
            expires = server.authenticator.valid_until(principal)
            entry = MemoEntry(cached, expires, principal.verified_against, condition, close)
            server.memo.remember(head, entry)

    def on_lost(
        self, callback: Callable[[], None] | None, on_eof: Callable[[], None] | None = None
    ) -> None:
        """Sets the callbacks for the end of the connection and for the end of the client's side."""
        self._on_lost, self._on_eof = callback, on_eof

    def watch(self, watcher: Watcher, on_lost: Callable[[], None]) -> None:
        """Makes the connection an event stream, and releases aiohttp's handler."""
        handler, self._handler = self._handler, None
        self._watcher, self._on_lost, self._on_eof = watcher, on_lost, None
        if handler is not None:
            handler.transport = None  # It must not close the connection, which it no longer owns.
            asyncio.get_running_loop().call_soon(handler.connection_lost, None)

    async def writable(self) -> None:
        """Waits until the write buffer has room.

        Raises `ConnectionResetError` if the client closes the connection.
        """
        while self.paused:
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable

    def write_shared(self, response: bytes) -> None:
        """Sends a response that other clients get too; a long one is not copied."""
        files = self._server.files
        if files is None or len(response) < SENDFILE_SMALLEST:
            self.transport.write(response)
        else:
            files.send(self.transport, response)

    def write_unshared(self, head: bytes, body: bytes, reserved: object) -> None:
        """Sends a response that only this client gets; a long body is not copied.

        `reserved` is kept until all of it is sent.
        """
        transport = self.transport
        if reserved is not None:
            # With this limit, `resume_writing` is called when nothing waits to be sent any more.
            transport.set_write_buffer_limits(high=0)
        if len(body) < SENDFILE_SMALLEST:  # Cheaper than a second system call.
            transport.write(head + body)
        else:
            # Not `writelines`: in asyncio before 3.12.9 and 3.13.2 it never pauses the protocol
            # (CVE-2024-12254).
            transport.write(head)
            transport.write(body)
        if self.paused:
            self._reserved = reserved
        elif reserved is not None:
            transport.set_write_buffer_limits()

    def write(self, data: bytes) -> None:
        """Sends bytes of an event stream, unless the connection is closing."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Closes the connection when everything is sent."""
        self.transport.close()

    def check_timeouts(self, now: float) -> None:
        """Closes the connection if one of its timeouts has passed."""
        timeouts, transport = self._server.timeouts, self.transport
        unsent = transport.get_write_buffer_size()
        if unsent != self._unsent or not unsent:
            self._unsent, self._progress_at = unsent, now
        elif now - self._progress_at >= timeouts.no_progress:
            transport.abort()
            return
        if not unsent:
            self._taken_at = now
        # A client that sends a request has taken the responses before: while the connection is
        # paused, nothing is read.
        elif (
            self._watcher is None
            and now - max(self._active_at, self._taken_at) >= timeouts.response
        ):
            transport.abort()
            return
        if not self.idle():
            self._busy_at, self._head_since = now, 0.0
            return
        count = self._handler.request_count if self._handler is not None else 0
        if count != self._swept_count:  # The heads received since the last sweep were whole.
            self._swept_count, self._head_since = count, 0.0
        head_late = self._head_since and now - self._head_since >= timeouts.head
        if head_late or now - max(self._active_at, self._busy_at) >= timeouts.idle:
            transport.close()

    def note_unrouted(self, method: str, status: int) -> None:
        """Counts and logs a request that reaches no route. `-` is the method of a malformed one."""
        self._server.unrouted.add(method if method in hdrs.METH_ALL else "other", status)
        if self._server.access_log:
            log_access(method, "unparsed", status, self._remote())

    def _begin_head(self) -> None:
        self._active_at = now = self._server.monotonic()
        if not self._head_since:
            self._head_since = now

    def _log(self, cached: CacheEntry, response: bytes) -> None:
        log_access("GET", cached.key.route, int(response[9:12]), self._remote())

    def _remote(self) -> str | None:
        remote = self.transport.get_extra_info("peername")
        return remote[0] if isinstance(remote, tuple) and remote else None
