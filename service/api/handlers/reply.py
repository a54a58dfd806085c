"""How a question becomes a reply: conditional, coded, waiting, streaming, in ready bytes."""

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import HttpVersion11, hdrs, web
from multidict import istr

from service.api.authorise import authenticate
from service.api.context import ApiContext
from service.api.http.conditional import Condition, parse_if_none_match
from service.api.live.event_stream import Watchers
from service.api.live.long_poll import spread, wait_preference
from service.api.poll_path.connection import Connection
from service.api.responses.cache import Answer, Question, has_what, matches
from service.api.route import PRINCIPAL
from service.errors import ClusterMonitoringDisabled
from service.replica.event_filter import Selection

PREFER, PREFERENCE_APPLIED = istr("Prefer"), istr("Preference-Applied")


async def answer(
    context: ApiContext, request: web.Request, question: Question
) -> web.StreamResponse:
    """The ready answer to a question, or 304 if the client has it: then, if it prefers to wait, at
    the next change."""
    if not context.settings.monitoring:
        raise ClusterMonitoringDisabled
    headers = request.headers
    if hdrs.ACCEPT_ENCODING in headers:
        question = context.answers.coded(question, ",".join(headers.getall(hdrs.ACCEPT_ENCODING)))
    ready = context.answers.ready(question) or await context.answers.get(question)
    condition = condition_of(request)
    if PREFER in headers and condition is not None and question.waits:
        seconds = wait_preference(headers.getall(PREFER))
        if seconds is not None:
            return await wait(context, request, question, condition, seconds)
    if (
        ready is question.answer
        and question.kept
        and not (context.cors is not None and hdrs.ORIGIN in headers)
    ):
        close = not request.keep_alive
        connection_of(request).remember(question, request[PRINCIPAL], condition, close=close)
    return send(request, ready, condition)


async def wait(
    context: ApiContext,
    request: web.Request,
    question: Question,
    condition: Condition,
    seconds: int,
) -> web.StreamResponse:
    """The answer once it is not what the client has, or 304 after so many seconds (RFC 7240,
    section 4.3).

    Raises `AuthenticationFailed` as soon as the request's credential is revoked or has expired.
    """
    monotonic = context.replica.monotonic
    deadline = monotonic() + spread(seconds)
    connection = connection_of(request)
    principal = request[PRINCIPAL]
    while True:
        ready = context.answers.ready(question) or await context.answers.get(question)
        if not context.still_valid(
            principal
        ):  # It has ended, or signing keys have changed and it may be as good as before.
            principal = await authenticate(context, request.headers.getall(hdrs.AUTHORIZATION, ()))
        left = deadline - monotonic()
        if (
            left <= 0
            or context.draining
            or connection.half_closed
            or not has_what(condition, ready)
        ):
            break
        await context.long_polls.wait_for_change(
            min(left, context.seconds_left(principal)), connection.on_lost
        )
    reply = send(request, ready, condition)
    reply.headers[PREFERENCE_APPLIED] = f"wait={seconds}"
    return reply


def send(request: web.Request, ready: Answer, condition: Condition) -> web.StreamResponse:
    """An answer, or 304 if the client has it."""
    not_modified = matches(condition, ready)
    if request.method == hdrs.METH_GET:
        return ReadyResponse(ready, not_modified=not_modified)
    if not_modified:
        return web.Response(status=304, headers=ready.headers_not_modified)
    return web.Response(status=ready.status, body=ready.body, headers=ready.headers)


def condition_of(request: web.Request) -> Condition:
    """What the request says that the client has."""
    if hdrs.IF_NONE_MATCH not in request.headers:
        return None
    return parse_if_none_match(request.headers.getall(hdrs.IF_NONE_MATCH))


def connection_of(request: web.BaseRequest) -> Connection:
    """What stands in front of the framework's handler of this request."""
    handler: Any = request.protocol
    connection: Connection = handler.connection
    return connection


class ReadyResponse(web.StreamResponse):
    """A ready answer, sent in the very bytes that the poll path sends, without the framework's
    rendering."""

    def __init__(self, answer: Answer, *, not_modified: bool) -> None:
        super().__init__(status=304 if not_modified else answer.status)
        self._answer: Answer | None = answer
        self._not_modified = not_modified
        self._connection: Connection | None = None
        self._version = HttpVersion11

    async def prepare(self, request: web.BaseRequest) -> None:
        """Called by the framework before `write_eof`."""
        self._connection = connection_of(request)
        self._version = request.version
        if self._keep_alive is None:  # Unless the connection is to end, the request decides.
            self._keep_alive = request.keep_alive

    async def write_eof(self, data: bytes = b"") -> None:
        """Sends the whole reply. Raises `ConnectionResetError` if the client has gone."""
        del data
        connection = self._connection
        if connection is None or connection.transport.is_closing():
            raise ConnectionResetError("the client has gone")
        if connection.paused:
            await connection.writable()
        # The framework keeps this object until the next request: the answer may be large, and
        # others may wait for its memory.
        answer, self._answer = self._answer, None
        assert answer is not None  # noqa: S101  # The framework calls this once.
        close = not self._keep_alive
        if answer.shared and not self.headers and self._version == HttpVersion11:
            connection.write_reply(answer.wire(not_modified=self._not_modified, close=close))
        else:
            body, reserved = (b"", None) if self._not_modified else (answer.body, answer.reserved)
            connection.write_own(self._head(answer, close=close), body, reserved)
        if self._keep_alive:
            connection.answered()

    def _head(self, answer: Answer, *, close: bool) -> bytes:
        """The head in the request's HTTP version, with the header fields of this response only,
        such as those of CORS."""
        if self._version == HttpVersion11:
            return answer.head(
                not_modified=self._not_modified, close=close, more=rendered(self.headers)
            )
        if not close:
            self.headers[hdrs.CONNECTION] = "keep-alive"
        head = answer.head(
            not_modified=self._not_modified, close=False, more=rendered(self.headers)
        )
        return head.replace(b"HTTP/1.1", b"HTTP/1.0", 1)


def rendered(fields: Mapping[str, str]) -> bytes:
    """Header fields as they follow others."""
    return "".join(f"\r\n{name}: {value}" for name, value in fields.items()).encode("latin-1")


class Streaming(web.StreamResponse):
    """Hands the connection over to a watcher, instead of sending a reply."""

    def __init__(
        self,
        watchers: Watchers,
        selection: Selection,
        last_event_id: str | None,
        seconds_left: Callable[[], float],
    ) -> None:
        super().__init__()
        self._watchers, self._selection, self._last_event_id = watchers, selection, last_event_id
        self._seconds_left = seconds_left
        self._connection: Connection | None = None

    async def prepare(self, request: web.BaseRequest) -> None:
        """Called by the framework before `write_eof`."""
        self._connection = connection_of(request)
        self._keep_alive = False

    async def write_eof(self, data: bytes = b"") -> None:
        """Begins the stream. Raises `ConnectionResetError` if the client has gone."""
        del data
        connection, watchers = self._connection, self._watchers
        if connection is None or connection.transport.is_closing():
            raise ConnectionResetError("the client has gone")
        watcher = watchers.add(
            connection,
            self._selection,
            self._last_event_id,
            rendered(self.headers),
            seconds_left=self._seconds_left,
        )
        connection.watch(watcher, lambda: watchers.discard(watcher))
