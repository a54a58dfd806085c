"""From a resource to the response of one request: conditional, encoded, held, or a stream."""

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import HttpVersion11, hdrs, web
from multidict import istr

from service.api.authorise import authenticate
from service.api.context import ApiContext
from service.api.http.conditional import Condition, names, parse_if_none_match
from service.api.live.event_stream import Watchers
from service.api.live.long_poll import spread, wait_preference
from service.api.poll_path.connection import Connection
from service.api.responses.model import CacheEntry, PreparedResponse, ResourceKey, matches
from service.api.route import PRINCIPAL
from service.errors import ClusterMonitoringDisabled
from service.replica.event_filter import Selection

PREFER, PREFERENCE_APPLIED = istr("Prefer"), istr("Preference-Applied")


async def respond(
    context: ApiContext, request: web.Request, key: ResourceKey
) -> web.StreamResponse:
    """The response for a resource: its content, or 304 (RFC 9110, section 13).

    With `Prefer: wait`, the response is held until it is not 304 (see `long_poll`). From the third
    request with the same head on, the poll path responds.
    """
    if not context.settings.monitoring:
        raise ClusterMonitoringDisabled
    headers, responses = request.headers, context.responses
    if hdrs.ACCEPT_ENCODING in headers:
        key = responses.encoded(key, ",".join(headers.getall(hdrs.ACCEPT_ENCODING)))
    entry = responses.entry(key)
    response = responses.current(entry) or await responses.read(entry)
    condition = condition_of(request)
    if PREFER in headers and condition is not None and key.supports_wait:
        seconds = wait_preference(headers.getall(PREFER))
        if seconds is not None:
            return await long_poll(context, request, entry, condition, seconds)
    # With CORS, a response to another origin has fields that are not in the cache.
    if response.shared and not (context.cors is not None and hdrs.ORIGIN in headers):
        close = not request.keep_alive
        connection_of(request).remember(entry, request[PRINCIPAL], condition, close=close)
    return send(request, response, condition)


async def long_poll(
    context: ApiContext,
    request: web.Request,
    entry: CacheEntry,
    condition: Condition,
    seconds: int,
) -> web.StreamResponse:
    """The response when its ETag no longer matches, or 304 after `seconds` (RFC 7240, section 4.3).

    Raises `AuthenticationFailed` as soon as the request's credential is revoked or expires.
    """
    responses, monotonic = context.responses, context.replica.monotonic
    deadline = monotonic() + spread(seconds)
    connection = connection_of(request)
    principal = request[PRINCIPAL]
    while True:
        response = responses.current(entry) or await responses.read(entry)
        if not context.still_valid(principal):
            # The credential has ended, or the signing keys have changed and may include the old
            # ones: only another authentication can tell.
            principal = await authenticate(context, request.headers.getall(hdrs.AUTHORIZATION, ()))
        left = deadline - monotonic()
        changed = not names(condition, response.etag)
        if changed or left <= 0 or context.draining or connection.half_closed:
            break
        timeout = min(left, context.seconds_left(principal))
        await context.long_polls.wait_for_change(timeout, connection.on_lost)
    reply = send(request, response, condition)
    reply.headers[PREFERENCE_APPLIED] = f"wait={seconds}"
    return reply


def send(
    request: web.Request, response: PreparedResponse, condition: Condition
) -> web.StreamResponse:
    """A prepared response, or 304 if the client has it."""
    not_modified = matches(condition, response)
    if request.method == hdrs.METH_GET:
        return CachedResponse(response, not_modified=not_modified)
    if not_modified:
        return web.Response(status=304, headers=response.headers_not_modified)
    return web.Response(status=response.status, body=response.body, headers=response.headers)


def condition_of(request: web.Request) -> Condition:
    """The entity tags that the client has, by `If-None-Match`."""
    if hdrs.IF_NONE_MATCH not in request.headers:
        return None
    return parse_if_none_match(request.headers.getall(hdrs.IF_NONE_MATCH))


def connection_of(request: web.BaseRequest) -> Connection:
    """The protocol of the request's connection."""
    handler: Any = request.protocol
    connection: Connection = handler.connection
    return connection


class _RawResponse(web.StreamResponse):
    """A response that writes its own bytes, without aiohttp's rendering."""

    _connection: Connection | None = None
    _keeps_alive: bool | None = None

    @property
    def keep_alive(self) -> bool | None:
        """Whether aiohttp keeps the connection open after the response."""
        return self._keeps_alive

    def force_close(self) -> None:
        """Closes the connection after the response."""
        self._keeps_alive = False

    def _open_connection(self) -> Connection:
        """The connection. Raises `ConnectionResetError` if it is closing."""
        connection = self._connection
        if connection is None or connection.transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        return connection


class CachedResponse(_RawResponse):
    """A prepared response, sent as the poll path sends it."""

    def __init__(self, response: PreparedResponse, *, not_modified: bool) -> None:
        super().__init__(status=304 if not_modified else response.status)
        self._response: PreparedResponse | None = response
        self._not_modified = not_modified
        self._version = HttpVersion11

    async def prepare(self, request: web.BaseRequest) -> None:
        """Called by aiohttp before `write_eof`."""
        self._connection = connection_of(request)
        self._version = request.version
        if self._keeps_alive is None:  # Unless `force_close` was called, the request decides.
            self._keeps_alive = request.keep_alive

    async def write_eof(self, data: bytes = b"") -> None:
        """Sends the whole response. Raises `ConnectionResetError` if the connection is closing."""
        del data
        connection = self._open_connection()
        if connection.paused:
            await connection.writable()
        # aiohttp keeps this object until the next request. The response may be large, and other
        # requests may wait for its reserved memory.
        response, self._response = self._response, None
        assert response is not None  # noqa: S101  # aiohttp calls this once.
        close, not_modified = not self._keeps_alive, self._not_modified
        # Fields of this response alone, such as those of CORS, are not in the shared bytes.
        if response.shared and not self.headers and self._version == HttpVersion11:
            shared = response.serialize(not_modified=not_modified, close=close)
            connection.write_shared(shared)
        elif not_modified:
            connection.write_unshared(self._head(response, close=close), b"", None)
        else:
            head = self._head(response, close=close)
            connection.write_unshared(head, response.body, response.reserved)
        if self._keeps_alive:
            connection.response_written()

    def _head(self, response: PreparedResponse, *, close: bool) -> bytes:
        """The head in the request's HTTP version, with the fields of this response alone."""
        not_modified = self._not_modified
        if self._version == HttpVersion11:
            more = serialized_fields(self.headers)
            return response.head(not_modified=not_modified, close=close, more=more)
        if not close:  # The default of HTTP/1.0 is to close.
            self.headers[hdrs.CONNECTION] = "keep-alive"
        more = serialized_fields(self.headers)
        head = response.head(not_modified=not_modified, close=False, more=more)
        return head.replace(b"HTTP/1.1", b"HTTP/1.0", 1)


def serialized_fields(fields: Mapping[str, str]) -> bytes:
    """Header fields, each preceded by its line break."""
    return "".join(f"\r\n{name}: {value}" for name, value in fields.items()).encode("latin-1")


class EventStreamResponse(_RawResponse):
    """Turns the connection into an event stream."""

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

    async def prepare(self, request: web.BaseRequest) -> None:
        """Called by aiohttp before `write_eof`."""
        self._connection = connection_of(request)
        self._keeps_alive = False

    async def write_eof(self, data: bytes = b"") -> None:
        """Begins the stream. Raises `ConnectionResetError` if the connection is closing."""
        del data
        connection, watchers = self._open_connection(), self._watchers
        watcher = watchers.add(
            connection,
            self._selection,
            self._last_event_id,
            serialized_fields(self.headers),
            seconds_left=self._seconds_left,
        )
        connection.watch(watcher, lambda: watchers.discard(watcher))
