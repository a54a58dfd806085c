"""The listening side: sockets, the framework's settings for hostile networks, draining."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD

from service import errors
from service.api.app import make_app, make_metrics_app
from service.api.context import ApiContext
from service.api.http.errors import error_response, internal_error
from service.api.http.limits import FIELD_LIMIT, FIELDS, HEADERS_LIMIT, TARGET_LIMIT, check_message
from service.api.poll_path import connection as fronts
from service.api.poll_path.connection import Deadlines, PollServer
from service.errors import (
    ApiError,
    BadMessage,
    HeadersTooLarge,
    MethodNotAllowed,
    UriTooLong,
)
from service.sockets import BACKLOG
from service.tasks import cancel_and_wait, spawn_guarded

log = logging.getLogger(__name__)

IN_PURE_PYTHON = HttpRequestParser is HttpRequestParserPy
"""Whether aiohttp runs on its parser in pure Python: where its extensions are not built, or with
`AIOHTTP_NO_EXTENSIONS`."""
# The parsers count differently (one the target, one the whole request line; one the fields, one all
# lines), so they let a little more through than the limits, which `check_sizes` then applies
# exactly.
PARSED_FIELD_LIMIT = FIELD_LIMIT + 8
PARSED_FIELDS = FIELDS + 2
# The parser in pure Python holds the beginning of any line, a field's as well, to the limit of the
# request line.
LINE_LIMIT = PARSED_FIELD_LIMIT + 1 if IN_PURE_PYTHON else TARGET_LIMIT + 64
HEAD_LIMIT = TARGET_LIMIT + HEADERS_LIMIT + 1_024
"""Bytes of a head whose end has not come: as large as the limits allow one to be, and some white
space."""
SHUTDOWN_S = 10.0
"""Seconds for requests under way after the drain; a reply takes milliseconds."""

NEVER_S = 10 * 365 * 86_400.0
"""The handler's own idle timeout: longer than any `IDLE_TIMEOUT`."""
HANDLER_SETTINGS: dict[str, Any] = {
    "max_line_size": LINE_LIMIT,
    "max_field_size": PARSED_FIELD_LIMIT,
    "max_headers": PARSED_FIELDS,
    "read_bufsize": 16_384,  # Half of what is kept of a body before a handler reads it.
    "lingering_time": 2.0,
    "auto_decompress": False,
    "access_log": None,
}


HEAD_END = b"\r\n\r\n"
_OVERLAP = len(HEAD_END) - 1
"""Bytes of what came before in which the end of a head may have begun."""
_CODINGS = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE)
_CODING = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RequestHandler(fronts.RequestHandler):
    """The handler of one connection: our error body for bytes that are not HTTP, and requests after
    which it must end."""

    __slots__ = (
        "_before",
        "_body",
        "_body_of",
        "_fits",
        "_rejection",
        "_replied",
        "_unfinished",
        "_upgrade",
    )

    def __init__(self, *args: Any, fits: bool = True, **kwargs: Any) -> None:
        """`fits` is what `fits_framework` says."""
        super().__init__(*args, **kwargs)
        self._fits = fits
        self._body: StreamReader = EMPTY_PAYLOAD
        """Of the last request, ..."""
        self._body_of = 0
        """... and which one that is, counted from 1."""
        self._replied = 0
        """The last request whose handler has come to its end."""
        self._before = b""
        """The last bytes received: the end of a head may be cut anywhere."""
        self._unfinished = 0
        """Bytes of a head whose end has not come."""
        self._rejection: ApiError | None = None
        self._upgrade: _Upgrade | None = None

    def data_received(self, data: bytes) -> None:
        """Parses what was received, and ends the connection after requests behind which bytes are
        not what they seem."""
        if not self._fits:
            super().data_received(data)
            return
        parsed, in_body = self._request_count, not self._body.is_eof()
        super().data_received(data)
        count = self._request_count - parsed
        for index in range(-count, 0):
            self._look_at(index, data, count)
        if count:
            self._unfinished = 0
        elif self._upgrade is not None:
            self._look_behind_body(data)
        elif data and not in_body:
            self._unfinished += len(data)
            if self._unfinished > HEAD_LIMIT and self._rejection is None:
                self._rejection = HeadersTooLarge.together(HEADERS_LIMIT)
                super().data_received(b"\0\n")  # In a head no parser takes either.
        if self._upgraded:
            self._ignore_upgrade()
        self._before = (
            data[-_OVERLAP:] if len(data) >= _OVERLAP else (self._before + data)[-_OVERLAP:]
        )

    def finish(self) -> None:
        """The client sends no more: what it has sent is answered, then the connection ends."""
        self._end()
        self._break_off()

    def _look_at(self, index: int, data: bytes, count: int) -> None:
        """Looks at a request that was just parsed: one of `count` that came to their heads' ends in
        `data`."""
        message, payload = self._messages[index]
        self._upgrade = None
        if not isinstance(message, RawRequestMessage):
            in_fields = bool(getattr(self._parser, "_lines", ()))
            # What comes behind it fails in its turn.
            self._rejection = self._rejection or rejection(message.exc, data, in_fields=in_fields)
            self._break_off()
        elif message.method == hdrs.METH_CONNECT or (
            message.chunked and message.version == HttpVersion10
        ):
            # The first would become a tunnel, the second has no certain end (RFC 9112, section
            # 6.1).
            fronts.end_after(self, index)
        elif message.upgrade:
            # The C parser stops at the end of a request that offers another protocol, and the
            # framework drops what follows in the same bytes: it would go on in the middle of
            # another request.
            if not self._ends_with_heads(data, count):
                fronts.end_after(self, index)
            elif not payload.is_eof():
                self._upgrade = _Upgrade(message)
        self._body, self._body_of = payload, self._request_count + index + 1

    def _look_behind_body(self, data: bytes) -> None:
        """Ends the connection if bytes follow the body of a request that offers another
        protocol."""
        assert self._upgrade is not None  # noqa: S101  # Else the caller does not ask.
        complete = self._body.is_eof()
        # The end of a chunked body looks like that of a head.
        if self._upgrade.exceeded(data) or (
            complete and self._upgrade.chunked and not self._ends_with_heads(data, 1)
        ):
            self._end()
        if complete:
            self._upgrade = None

    def _ends_with_heads(self, data: bytes, count: int) -> bool:
        """Whether nothing follows the ends of so many heads in the bytes. False where that is not
        certain."""
        seen = self._before + data
        return seen.endswith(HEAD_END) and seen.count(HEAD_END) == count

    def _ignore_upgrade(self) -> None:
        """Has the parser go on in HTTP/1.1. The framework would keep what comes before the reply,
        and look at it unseen."""
        assert self._parser is not None  # noqa: S101  # It goes with the connection only.
        self._parser.set_upgraded(False)
        self._upgraded, self._message_tail = False, b""

    def _end(self) -> None:
        """Ends the connection after the last request that was received."""
        if self._messages:
            fronts.end_after(self, -1)
        else:
            self.close()

    def _break_off(self) -> None:
        """The last request's body will not be complete: its reader gets `RequestPayloadError`."""
        if self._body.is_eof():
            return
        # After the reply there is no reader any more: the framework waits for the rest only to skip
        # it.
        if self._replied < self._body_of:
            self._body.set_exception(
                web.RequestPayloadError("the body is malformed or not complete")
            )
        self._body.feed_eof()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The one error body, in the server's own version (RFC 9110, section 6.2); the framework's
        would repeat the bytes."""
        del message
        request._cache["version"] = HttpVersion11  # noqa: SLF001  # For want of a request the framework assumes HTTP/1.0.
        unparsed = status == BadMessage.status
        response = (
            error_response(self._rejection or BadMessage())
            if unparsed
            else internal_error(request, exc)
        )
        self.connection.note_unrouted("-" if unparsed else request.method, response.status)
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Logs an internal error. A malformed body that is skipped after the reply is none: its
        connection just ends."""
        if not isinstance(kwargs.get("exc_info"), (web.RequestPayloadError, HttpProcessingError)):
            super().log_exception(*args, **kwargs)

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """The framework's last step. A target that is no path (`OPTIONS *`, CONNECT) has come past
        all our routes."""
        if isinstance(resp, web.HTTPException):
            resp = error_response(_without_route(request))
            self.connection.note_unrouted(request.method, resp.status)
        if self._fits:
            self._replied = self._request_count - len(self._messages)
        return super().finish_response(request, resp, start_time)


class _Upgrade:
    """A request that offers another protocol and whose body is still to come; what follows that in
    the same bytes is lost."""

    __slots__ = ("_left", "chunked")

    def __init__(self, message: RawRequestMessage) -> None:
        self.chunked = message.chunked
        self._left = 0 if self.chunked else int(message.headers[hdrs.CONTENT_LENGTH])

    def exceeded(self, data: bytes) -> bool:
        """Whether the bytes go further than a body of a known length."""
        self._left -= len(data)
        return self._left < 0 and not self.chunked


def rejection(error: BaseException, data: bytes, *, in_fields: bool = False) -> ApiError:
    """What to answer to bytes that the parser does not take; `data` are the last of them.

    `in_fields` is whether a parser in pure Python, which has one limit for the beginnings of all
    lines, was past the first.
    """
    if isinstance(error, LineTooLong):
        target = error.args[1] == LINE_LIMIT and not in_fields
        return UriTooLong(TARGET_LIMIT) if target else HeadersTooLarge.one_field(FIELD_LIMIT)
    if isinstance(error, HttpProcessingError) and error.message.startswith("Too many headers"):
        return HeadersTooLarge.too_many(FIELDS)
    codings = [
        coding.strip(b" \t") for value in _CODINGS.findall(data) for coding in value.split(b",")
    ]
    if (
        codings
        and all(map(_CODING.fullmatch, codings))
        and any(coding.lower() != b"chunked" for coding in codings)
    ):
        return errors.NotImplemented()
    return BadMessage()


def _without_route(request: web.BaseRequest) -> ApiError:
    """The error for a target that is no path: it takes no method, but what is wrong with the
    message comes first."""
    try:
        check_message(request)
    except ApiError as error:
        return error
    return MethodNotAllowed(request.method, ())


@asynccontextmanager
async def serving(
    context: ApiContext, sock: socket.socket, deadlines: Deadlines | None = None
) -> AsyncIterator[PollServer]:
    """Serves the API on a listening socket while it is entered.

    On leaving, requests under way are finished first. Without `deadlines` they are those of the
    settings.
    """
    async with _serving(
        context, make_app(context), sock, deadlines, memoise=context.settings.poll_path
    ) as poll_server:
        yield poll_server


@asynccontextmanager
async def serving_metrics(
    context: ApiContext, sock: socket.socket, deadlines: Deadlines | None = None
) -> AsyncIterator[None]:
    """Serves the metrics on a listening socket, with the limits and deadlines of the API."""
    async with _serving(context, make_metrics_app(context), sock, deadlines, memoise=False):
        host, port = sock.getsockname()[:2]
        log.info("serving metrics", extra={"host": host, "port": port})
        yield


@asynccontextmanager
async def _serving(
    context: ApiContext,
    app: web.Application,
    sock: socket.socket,
    deadlines: Deadlines | None,
    *,
    memoise: bool,
) -> AsyncIterator[PollServer]:
    settings = context.settings
    deadlines = deadlines or Deadlines(idle=settings.idle_timeout, reply=settings.reply_timeout)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    assert runner.server is not None  # noqa: S101  # After the setup it is there.
    loop = asyncio.get_running_loop()
    fits = fronts.fits_framework()
    # The front ends idle connections: it knows of polls that the handler never sees.
    keepalive_timeout = NEVER_S if fits else deadlines.idle
    make_handler = partial(
        RequestHandler,
        runner.server,
        loop=loop,
        fits=fits,
        keepalive_timeout=keepalive_timeout,
        **HANDLER_SETTINGS,
    )
    poll_server = PollServer(context, make_handler, memoise=memoise, fits=fits, deadlines=deadlines)
    server = await loop.create_server(poll_server, sock=sock, backlog=BACKLOG)
    sweep = spawn_guarded(poll_server.sweep(), "connection-deadlines")
    try:
        yield poll_server
    finally:
        await context.drain()
        server.close()
        poll_server.close_idle()
        await cancel_and_wait(sweep)
        await runner.cleanup()
