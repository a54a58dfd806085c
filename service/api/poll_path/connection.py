"""What stands in front of every connection: the poll path (DESIGN, section 7), and deadlines that
the framework lacks.

Agents send the same bytes again and again. So a request head that was answered the ordinary way,
credential and all, is remembered with a *grant*: which question it asks, until when its credential
holds, on what basis. When the same head comes again and nothing is under way on the connection, the
ready answer is written from `data_received`: no parsing, no task. Everything else goes to the
framework's request handler, which is made when it is first needed, so that a connection that only
polls never pays for one.

It stands on details of the framework's handler: it counts the requests that it has parsed in
`_request_count`, keeps those that it has not begun in `_messages`, and waits for the next one with
a pending future in `_waiter`. `fits_framework` looks whether that is so; elsewhere every request
goes the ordinary way.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import cast

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http_parser import SINGLETON_HEADERS, RawRequestMessage

from service.api.context import ApiContext
from service.api.http import tracing
from service.api.http.access_log import log_access
from service.api.http.conditional import Condition
from service.api.http.limits import FIELDS, TARGET_LIMIT
from service.api.live.event_stream import Watcher
from service.api.poll_path.sendfile import SMALLEST as SENDFILE_SMALLEST
from service.api.poll_path.sendfile import Files
from service.api.responses.cache import Question, matches
from service.auth import Principal

log = logging.getLogger(__name__)

_DETAILS = {
    "_buffer_paused",
    "_message_tail",
    "_messages",
    "_parser",
    "_reading_paused",
    "_request_count",
    "_upgraded",
    "_waiter",
}
FRAMEWORK = (3, 14)
"""The minor version of aiohttp whose details were read."""

MEMO_ENTRIES = 32_768
MEMO_BYTES = 32 * 1024 * 1024
"""What is remembered: more than the agents of one replica, at most 1 KiB each on average."""
SEEN_ENTRIES = 65_536
"""Heads seen once: only the second sight is remembered, so heads that never come again take no
room."""
LONGEST_HEAD = 8_190
"""Bytes of a head that is looked up; longer ones go the ordinary way, which knows the limits."""
MOST_TAGS = 8
"""Entity tags of a head that is remembered: agents send the one that they got, and each takes more
room than in the head."""
TRACING_LINES = 8
"""The most tracing lines that are looked past."""

# Grouped by their first letter, which most other fields do not have: that saves 0.2 µs a request.
_TRACING_NAMES = "|".join(
    f"{letter}(?:{'|'.join(name[1:] for name in names)})"
    for letter, names in groupby(sorted(tracing.FIELDS), itemgetter(0))
)
_TRACING = re.compile(
    rb"\r\n(?:" + _TRACING_NAMES.encode() + rb"):[\t -~]*(?=\r\n[^ \t])",
    re.IGNORECASE,
)
_UNFIT = re.compile(
    rb"\r\n(?:content-length|transfer-encoding|expect|upgrade|content-encoding)[ \t]*:",
    re.IGNORECASE,
)
_BODY = re.compile(
    rb"\r\n(?:content-length|transfer-encoding|expect|content-encoding)[ \t]*:", re.IGNORECASE
)
_SECOND_COMMENT_S = 0.5
"""Seconds between two comments on a half-closed stream: more than a round trip, so a reset can
answer the first."""
_LINE_ENDS = FIELDS + 2
"""In the longest head: of the request line, of each field, and of the empty line."""
_TARGET = re.compile(rb"GET /[!-~]*")
_VERSION = b" HTTP/1.1\r\n"
_NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_FIELD_LINES = re.compile(
    rb"(?:" + _NAME + rb":[\t -~\x80-\xff]*\r\n)*+"  # Whole fields (RFC 9112, section 5), ...
    rb"(?:\r|"
    + _NAME
    + rb"(?::[\t -~\x80-\xff]*+\r?)?)?"  # ... and the beginning of another, or of the last line.
)
_NAMES = re.compile(rb"\r\n(" + _NAME + rb"):")
_SINGLETONS = frozenset(map(str.encode, SINGLETON_HEADERS))


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. `sweep` is how often they are looked at, so each may take that much longer."""

    head: float = 10.0
    """For a request head, from the connection's or the head's beginning."""
    idle: float = 75.0
    """Between two requests (the setting `IDLE_TIMEOUT`)."""
    stuck: float = 15.0
    """For a client to take any byte of what waits for it."""
    reply: float = 60.0
    """For a client to take all that waits for it, from its last request on (the setting
    `REPLY_TIMEOUT`). Streams are exempt."""
    sweep: float = 2.0


@dataclass(slots=True, eq=False)
class MemoEntry:
    """What a remembered head is entitled to.

    `expires` is in seconds since 1970; `verified_against` is what its credential was verified
    against (see `Principal`).
    """

    question: Question
    expires: float
    verified_against: object
    condition: Condition
    close: bool


class RequestHandler(web.RequestHandler):
    """The framework's handler of one connection; it knows what stands in front of it."""

    __slots__ = ("connection",)

    connection: "Connection"

    def finish(self) -> None:
        """The client sends no more: what it has sent is answered, then the connection ends."""
        raise NotImplementedError


def end_after(handler: RequestHandler, index: int) -> None:
    """Ends the connection after the reply to a request that the handler has not begun; `index` is
    its place in the queue."""
    message, payload = handler._messages[index]  # noqa: SLF001  # See the module's docstring.
    if isinstance(message, RawRequestMessage):
        handler._messages[index] = message._replace(should_close=True), payload  # noqa: SLF001


class PollServer:
    """Everything that the connections of one process share: the memo, and the sweep for
    deadlines."""

    def __init__(
        self,
        context: ApiContext,
        make_handler: Callable[[], RequestHandler],
        *,
        memoise: bool,
        fits: bool = True,
        deadlines: Deadlines = Deadlines(),  # Frozen.
    ) -> None:
        """`fits` is what `fits_framework` says; without it nothing is remembered and the handlers
        end idle connections."""
        self.make_handler = make_handler
        self.fits = fits
        self.memoise = memoise and fits
        self.deadlines = deadlines
        self.files = Files.where_supported()
        self.access_log = context.settings.access_log
        self.replica = context.replica
        self.monotonic = context.replica.monotonic
        self._context = context
        self.unrouted = context.metrics.requests.route("unparsed")
        """The counters of what reaches no route, most of it since it could not be parsed."""
        self.authenticator = context.authenticator
        self._wall = context.replica.wall
        self.memo: dict[bytes, MemoEntry] = {}
        self.connections: set[Connection] = set()
        self._counted = 0
        self._memo_bytes = 0
        self._seen: set[int] = set()

    def __call__(self) -> "Connection":
        """The protocol of a new connection."""
        return Connection(self)

    def remember(self, head: bytes, entry: MemoEntry) -> None:
        """Remembers a head (without its tracing lines) at its second sight, the oldest giving
        way."""
        known = hash(head)
        if known not in self._seen:
            if len(self._seen) >= SEEN_ENTRIES:
                self._seen.clear()
            self._seen.add(known)
            return
        if head not in self.memo:
            self._memo_bytes += len(head)
        self.memo[head] = entry
        while len(self.memo) > MEMO_ENTRIES or self._memo_bytes > MEMO_BYTES:
            oldest = next(iter(self.memo))
            self.forget(oldest)

    def forget(self, head: bytes) -> None:
        """Forgets a head."""
        if self.memo.pop(head, None) is not None:
            self._memo_bytes -= len(head)

    def reply(self, head: bytes, entry: MemoEntry, now: float) -> bytes | None:
        """The reply to a remembered head at a monotonic time, or `None` if it must go the ordinary
        way."""
        if self._context.draining:
            return None
        if self._wall() >= entry.expires:
            self.forget(head)
            return None
        question = entry.question
        answer = question.answer
        snapshot = self.replica.snapshot
        if answer is None or answer.snapshot is not snapshot or now >= answer.until:
            try:
                answer = self._context.answers.ready(question)
            except Exception:  # The ordinary way meets it again, and knows how to tell it.
                answer = None
            if (
                answer is None
            ):  # Not current, not in memory, or gone: the ordinary way says what is to be said.
                return None
            snapshot = answer.snapshot
        # A token holds while the signing keys are those of its verification, an API key while the
        # API keys are: one comparison of identities for a token, two for a key. The objects are
        # those that `authenticate` saw, not those of the time when the head was remembered, so a
        # change in between cannot be missed.
        verified_against = entry.verified_against
        if verified_against is not self.authenticator.generation and (
            snapshot is None or verified_against is not snapshot.api_keys
        ):
            self.forget(head)
            return None
        if entry.condition is not None and matches(entry.condition, answer):
            answer.hits_not_modified += 1
            return answer.wires[2 + entry.close] or answer.wire(
                not_modified=True, close=entry.close
            )
        answer.hits += 1
        return answer.wires[entry.close] or answer.wire(not_modified=False, close=entry.close)

    async def sweep(self) -> None:
        """Ends connections whose deadlines have passed, until cancelled."""
        while True:
            await asyncio.sleep(self.deadlines.sweep)
            now = self.monotonic()
            for connection in list(self.connections):
                connection.check_deadlines(now)
            # The API and the metrics may each have a front: both count.
            self._context.metrics.connections.inc(len(self.connections) - self._counted)
            self._counted = len(self.connections)

    def close_idle(self) -> None:
        """Ends the connections that have no request under way."""
        for connection in list(self.connections):
            if connection.idle():
                connection.transport.close()


class Connection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_active",
        "_answered",
        "_asked",
        "_boundary",
        "_busy_at",
        "_handler",
        "_head",
        "_head_number",
        "_head_since",
        "_held",
        "_on_eof",
        "_on_lost",
        "_reserved",
        "_server",
        "_stuck",
        "_stuck_since",
        "_taken_at",
        "_watcher",
        "_writable",
        "half_closed",
        "paused",
        "transport",
    )

    transport: asyncio.Transport
    paused: bool
    """Whether the client takes no more for now."""

    def __init__(self, front: PollServer) -> None:
        self._server = front
        self._handler: RequestHandler | None = None
        self._held = b""
        """The beginning of a head whose end has not come."""
        self._head: bytes | None = None
        """The head that was last handed on, if it may be remembered, ..."""
        self._head_number = 0
        """... and which of the handler's requests it is, counted from 1."""
        self._answered = 0
        """The last request after whose reply nothing more is to be written."""
        self._boundary = True
        """Whether all that the handler got so far were whole requests without bodies."""
        self._on_lost: Callable[[], None] | None = None
        self._on_eof: Callable[[], None] | None = None
        self._reserved: object = None
        """The memory of a reply that only this client gets, while any of it waits to be sent."""
        self._watcher: Watcher | None = None
        self._writable: asyncio.Future[None] | None = None
        self.paused = False
        self.half_closed = False
        """Whether the client sends no more, and waits for replies."""
        # When the client last sent something, when a request was last under way, and when nothing
        # waited for the client.
        self._active = self._busy_at = self._taken_at = self._head_since = front.monotonic()
        self._asked = 0
        self._stuck = 0
        self._stuck_since = 0.0

    # -- what the transport calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; the framework need not know yet."""
        self.transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:  # noqa: C901  # The hot path: a call more would be felt.
        """Answers a remembered head, or hands the bytes on."""
        front = self._server
        if self._watcher is not None:  # A client that watches has nothing more to say.
            return
        if self._held:
            data, self._held = self._held + data, b""
        self._head = None
        if front.memoise and self._boundary:
            head = data
            entry = front.memo.get(data)
            if entry is None and (plain := without_tracing(data)) is not None:
                head = plain
                entry = front.memo.get(plain)
            if entry is not None and not self.paused and self.idle():
                now = front.monotonic()
                reply = front.reply(head, entry, now)
                if reply is not None:
                    if len(reply) < SENDFILE_SMALLEST:
                        self.transport.write(reply)
                    else:
                        self.write_reply(reply)
                    self._active = now
                    self._head_since = 0.0
                    if front.access_log:
                        self._log(entry.question, reply)
                    if entry.close:
                        self.transport.close()
                    return
            if is_partial_head(data):
                self._held = data
                self._begin_head()
                return
            if self.idle() and is_one_get(
                data
            ):  # Else it could not be told which request it becomes.
                self._head = head
        self._hand_on(data)

    def _hand_on(self, data: bytes) -> None:
        handler = self._handler
        if handler is None:
            handler = self._handler = self._server.make_handler()
            handler.connection = self
            handler.connection_made(self.transport)
            if self.paused:
                handler.pause_writing()
        self._begin_head()
        if not self._server.fits:
            handler.data_received(data)
            return
        parsed = handler._request_count  # noqa: SLF001  # See the module's docstring.
        self._head_number = parsed + 1
        handler.data_received(data)
        parsed = handler._request_count - parsed  # noqa: SLF001
        if parsed != 1:  # It was not parsed, or not as one request.
            self._head = None
        if self._head is None and self._boundary and not is_whole(data, parsed):
            self._boundary = (
                False  # From here on only the framework's parser knows where a request ends.
            )

    def eof_received(self) -> bool:
        """The client sends no more, but may read (RFC 9112, section 9.6). True while there is
        something to send.

        Requests are answered first, a waiting one at once. A stream goes on. Two comments find out
        whether the client still reads: if not, its host answers the first with a reset, and writing
        the second fails.
        """
        self._flush()
        if self._watcher is not None:
            self._watcher.comment()
            asyncio.get_running_loop().call_later(_SECOND_COMMENT_S, self._watcher.comment)
            return True
        if self._handler is None or not self._server.fits or self.idle():
            return False
        self.half_closed = True
        self._handler.finish()
        if self._on_eof is not None:
            self._on_eof()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection has ended."""
        self._server.connections.discard(self)
        self._reserved = None
        if self._on_lost is not None:
            self._on_lost()
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(ConnectionResetError("the client has gone"))
        if self._handler is not None:
            self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than it asks: until it has caught up, it is not heard (the
        framework would go on)."""
        self.paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.paused = False
        if self._reserved is not None:
            self._reserved = None
            self.transport.set_write_buffer_limits()
        handler = self._handler
        # The framework has reasons of its own not to hear a client: bodies that nobody reads,
        # requests queued up.
        held_back = (
            handler is not None
            and self._server.fits
            and (handler._reading_paused or handler._buffer_paused)  # noqa: SLF001
        )
        if not held_back and not self.transport.is_closing():
            self.transport.resume_reading()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._handler is not None:
            self._handler.resume_writing()
        if self._watcher is not None:
            self._watcher.resume()

    # -- what the front and the handlers call ------------------------------------------------------

    def idle(self) -> bool:
        """Whether no request is under way."""
        handler = self._handler
        if handler is None:
            return self._watcher is None
        if not self._server.fits:
            return False
        if handler._request_count == self._answered:  # noqa: SLF001  # See the module's docstring.
            return True
        waiter = handler._waiter  # noqa: SLF001
        return waiter is not None and not waiter.done()

    def answered(self) -> None:
        """Called by a reply that has been written to its end, and after which the connection stays
        open.

        The handler will not wait for the next request until the loop has turned twice more: an
        eager client is faster.
        """
        if self._server.fits:
            self._answered = self._under_way()

    def _under_way(self) -> int:
        """Which of its requests the handler deals with, counted from 1."""
        handler = self._handler
        return handler._request_count - len(handler._messages) if handler is not None else 0  # noqa: SLF001

    def remember(
        self, question: Question, principal: Principal, condition: Condition, *, close: bool
    ) -> None:
        """Called by a handler that answers a question: the head it deals with may be answered from
        the memo next time."""
        head = self._head
        if condition is not None and len(condition) > MOST_TAGS:
            return
        if head is not None and self._head_number == self._under_way():
            self._head = None
            expires = self._server.authenticator.valid_until(principal)
            self._server.remember(
                head, MemoEntry(question, expires, principal.verified_against, condition, close)
            )

    def on_lost(
        self, what: Callable[[], None] | None, on_eof: Callable[[], None] | None = None
    ) -> None:
        """Has something done at the end of the connection, and something when the client sends no
        more."""
        self._on_lost, self._on_eof = what, on_eof

    def watch(self, watcher: "Watcher", on_lost: Callable[[], None]) -> None:
        """From here on the connection is a stream: the framework's handler, which has read the
        request, is let go."""
        handler, self._handler = self._handler, None
        self._watcher, self._on_lost, self._on_eof = watcher, on_lost, None
        if handler is not None:
            handler.transport = None  # It must not close what is no longer its own.
            asyncio.get_running_loop().call_soon(handler.connection_lost, None)

    async def writable(self) -> None:
        """Returns when the client takes more. Raises `ConnectionResetError` when it has gone."""
        while self.paused:
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable

    def write_reply(self, reply: bytes) -> None:
        """Sends a ready reply that others get as well, without a copy of its own if it is long."""
        files = self._server.files
        if files is None or len(reply) < SENDFILE_SMALLEST:
            self.transport.write(reply)
        else:
            files.send(self.transport, reply)

    def write_own(self, head: bytes, body: bytes, reserved: object) -> None:
        """Sends a reply that only this client gets, without joining it. `reserved` is kept while
        any of it waits to be sent."""
        transport = self.transport
        if (
            reserved is not None
        ):  # Until its end, `resume_writing` is to be called when nothing waits any more.
            transport.set_write_buffer_limits(high=0)
        # Not `writelines`: in asyncio before 3.12.9 and 3.13.2 it never pauses the protocol
        # (CVE-2024-12254).
        transport.write(head)
        transport.write(body)
        if self.paused:
            self._reserved = reserved
        elif reserved is not None:
            transport.set_write_buffer_limits()

    def write(self, data: bytes) -> None:
        """Sends bytes of a stream, unless the client has gone."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Ends the connection when everything is sent."""
        self.transport.close()

    def check_deadlines(self, now: float) -> None:
        """Ends the connection if it has outlived one."""
        deadlines, transport = self._server.deadlines, self.transport
        waiting = transport.get_write_buffer_size()
        if waiting != self._stuck or not waiting:
            self._stuck, self._stuck_since = waiting, now
        elif now - self._stuck_since >= deadlines.stuck:
            transport.abort()
            return
        if not waiting:
            self._taken_at = now
        # A client that asks again has taken what it asked for before: while its connection is
        # paused it is not heard.
        elif self._watcher is None and now - max(self._active, self._taken_at) >= deadlines.reply:
            transport.abort()
            return
        if not self.idle():
            self._busy_at, self._head_since = now, 0.0
            return
        asked = self._handler._request_count if self._handler is not None else 0  # noqa: SLF001
        if asked != self._asked:  # What came since was whole.
            self._asked, self._head_since = asked, 0.0
        if (self._head_since and now - self._head_since >= deadlines.head) or self._idle_for(
            now
        ) >= deadlines.idle:
            transport.close()

    def _idle_for(self, now: float) -> float:
        """Seconds since something was received or under way."""
        return now - max(self._active, self._busy_at)

    def note_unrouted(self, method: str, status: int) -> None:
        """Counts and logs a request that reaches no route, which would. Its method is `-` if it
        could not be parsed."""
        self._server.unrouted.add(method if method in hdrs.METH_ALL else "other", status)
        if self._server.access_log:
            log_access(method, "unparsed", status, self._remote())

    def _begin_head(self) -> None:
        self._active = now = self._server.monotonic()
        if not self._head_since:
            self._head_since = now

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._hand_on(held)

    def _log(self, question: Question, reply: bytes) -> None:
        log_access("GET", question.route, int(reply[9:12]), self._remote())

    def _remote(self) -> str | None:
        remote = self.transport.get_extra_info("peername")
        return remote[0] if isinstance(remote, tuple) and remote else None


def without_tracing(data: bytes) -> bytes | None:
    """The bytes without well-formed tracing lines, or `None` if there are none, or if there are
    more fields than a request may have."""
    if len(data) > LONGEST_HEAD:
        return None
    plain, lines = _TRACING.subn(b"", data)
    return plain if 0 < lines <= TRACING_LINES and data.count(b"\r\n") <= _LINE_ENDS else None


def is_whole(data: bytes, parsed: int) -> bool:
    """Whether bytes that were parsed into so many requests end where a request ends, and none of
    these has a body.

    Then what comes next begins a request.
    """
    return (
        data.endswith(b"\r\n\r\n")
        and data.count(b"\r\n\r\n") == parsed
        and _BODY.search(data) is None
    )


def is_one_get(data: bytes) -> bool:
    """Whether the bytes are one whole GET request in HTTP/1.1, short enough to be remembered."""
    line = data.find(b"\r\n")
    return (
        len(data) <= LONGEST_HEAD
        and data.startswith(b"GET /")
        and data.find(b"\r\n\r\n") == len(data) - 4
        and data[max(line - 9, 0) : line + 2] == _VERSION
        and _UNFIT.search(data) is None
    )


def is_partial_head(data: bytes) -> bool:
    """Whether the bytes are the well-formed beginning of a GET head, within the limits: only such
    are held back from the framework's parser, which refuses all others at once."""
    if data.endswith(b"\r\n\r\n") or len(data) > LONGEST_HEAD or b"\r\n\r\n" in data:
        return False
    target = _TARGET.match(data)
    if target is None:
        return b"GET /".startswith(data)
    end = target.end()
    if end - len(b"GET ") > TARGET_LIMIT or data.count(b"\r\n") > _LINE_ENDS:
        return False
    version = data[end : end + len(_VERSION)]
    if not _VERSION.startswith(version) or _FIELD_LINES.fullmatch(data, end + len(version)) is None:
        return False
    single = [name for name in _NAMES.findall(data.lower()) if name in _SINGLETONS]
    return len(single) == len(set(single)) and _UNFIT.search(data) is None


def fits_framework() -> bool:
    """Whether this is the framework that was read; says so loudly if not."""
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:2])
    slots = {slot for kind in web.RequestHandler.__mro__ for slot in getattr(kind, "__slots__", ())}
    fits = version == FRAMEWORK and slots >= _DETAILS
    if not fits:
        log.error(
            "the poll path is off: it does not know this aiohttp",
            extra={"aiohttp": aiohttp.__version__},
        )
    return fits
