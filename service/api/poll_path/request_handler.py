"""aiohttp's handler of one connection, with our error body and stricter framing."""

import re
from collections.abc import Coroutine
from typing import Any

from aiohttp import HttpVersion10, StreamReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD

from service import errors
from service.api.aiohttp_internals import respond_in_http11
from service.api.http.errors import error_response, internal_error
from service.api.http.limits import (
    FIELD_LIMIT,
    FIELDS,
    HEADERS_LIMIT,
    TARGET_LIMIT,
    check_message,
)
from service.api.poll_path.connection import ConnectionHandler
from service.errors import ApiError, BadMessage, HeadersTooLarge, MethodNotAllowed, UriTooLong

IN_PURE_PYTHON = HttpRequestParser is HttpRequestParserPy
"""Whether aiohttp uses its parser in pure Python: without its C extensions, or with
`AIOHTTP_NO_EXTENSIONS`."""
# The two parsers count differently: one the target, the other the request line; one the fields, the
# other all lines. So these limits allow a little more, and `check_sizes` applies the exact ones.
PARSED_FIELD_LIMIT = FIELD_LIMIT + 8
PARSED_FIELDS = FIELDS + 2
# The parser in pure Python applies the limit of the request line to incomplete lines of any kind.
LINE_LIMIT = PARSED_FIELD_LIMIT + 1 if IN_PURE_PYTHON else TARGET_LIMIT + 64
HEAD_LIMIT = TARGET_LIMIT + HEADERS_LIMIT + 1_024
"""Bytes of an incomplete head: the largest one within the limits, and some white space."""

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
"""Bytes of earlier segments in which the end of a head may begin."""
_CODINGS = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE)
_CODING = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RequestHandler(ConnectionHandler):
    """Parses requests with aiohttp, and closes the connection where a request's end is uncertain.

    Bytes that are not HTTP get our error body.
    """

    __slots__ = (
        "_body",
        "_body_number",
        "_incomplete",
        "_matches_aiohttp",
        "_overlap",
        "_rejection",
        "_responded",
        "_upgrade",
    )

    def __init__(self, *args: Any, matches_aiohttp: bool = True, **kwargs: Any) -> None:
        """`matches_aiohttp` is the result of `aiohttp_internals.matches_aiohttp`.

        Without it, aiohttp alone decides what a request is.
        """
        super().__init__(*args, **kwargs)
        self._matches_aiohttp = matches_aiohttp
        self._body: StreamReader = EMPTY_PAYLOAD
        """The body of the last request that was parsed."""
        self._body_number = 0
        """The number of that request, counted from 1."""
        self._responded = 0
        """The number of the last request whose handler has returned."""
        self._overlap = b""
        """The last bytes received: a segment can end in the middle of a head's end."""
        self._incomplete = 0
        """Bytes of a head whose end has not been received."""
        self._rejection: ApiError | None = None
        self._upgrade: _Upgrade | None = None

    def data_received(self, data: bytes) -> None:
        """Parses bytes, then checks each request whose head ended in them."""
        if not self._matches_aiohttp:
            super().data_received(data)
            return
        before, body = self.request_count, self._body
        # Most requests have no body: this saves a call.
        in_body = body is not EMPTY_PAYLOAD and not body.is_eof()
        super().data_received(data)
        count = self.request_count - before
        if count:
            for index in range(-count, 0):
                self._check_framing(index, data, count)
            self._incomplete = 0
        elif self._upgrade is not None:
            self._check_behind_body(data)
        elif data and not in_body:
            self._incomplete += len(data)
            if self._incomplete > HEAD_LIMIT and self._rejection is None:
                self._rejection = HeadersTooLarge.together(HEADERS_LIMIT)
                super().data_received(b"\0\n")  # Malformed for both parsers: ends the head.
        if self.stopped_for_upgrade:
            self.continue_in_http11()
        tail = data if len(data) >= _OVERLAP else self._overlap + data
        self._overlap = tail[-_OVERLAP:]

    def finish(self) -> None:
        """Handles the end of the client's bytes: closes the connection after the last response."""
        self._close_after_last()
        self._abort_body()

    def _check_framing(self, index: int, data: bytes, count: int) -> None:
        """Checks one of the `count` requests whose heads ended in `data`."""
        message, body = self.queued(index)
        self._upgrade = None
        if not isinstance(message, RawRequestMessage):
            # The error applies to this request; the bytes behind it are not parsed.
            error = rejection(message.exc, data, in_fields=self.parsing_fields)
            self._rejection = self._rejection or error
            self._abort_body()
        elif message.chunked and message.version == HttpVersion10:
            # The end of such a body is not certain (RFC 9112, section 6.1).
            self.close_after(index)
        elif message.method == hdrs.METH_CONNECT:  # It would become a tunnel.
            self.close_after(index)
        elif message.upgrade:
            # The C parser stops behind a request that offers another protocol, and aiohttp drops
            # the rest of the segment: it would go on in the middle of another request.
            if not self._ends_with_heads(data, count):
                self.close_after(index)
            elif not body.is_eof():
                self._upgrade = _Upgrade(message)
        self._body, self._body_number = body, self.request_count + index + 1

    def _check_behind_body(self, data: bytes) -> None:
        """Closes the connection if bytes follow the body of a request that offers a protocol."""
        upgrade, complete = self._upgrade, self._body.is_eof()
        assert upgrade is not None  # noqa: S101  # The caller has checked it.
        # The last chunk of a body ends with the same bytes as a head.
        chunks_followed = complete and upgrade.chunked and not self._ends_with_heads(data, 1)
        if upgrade.exceeded(data) or chunks_followed:
            self._close_after_last()
        if complete:
            self._upgrade = None

    def _ends_with_heads(self, data: bytes, count: int) -> bool:
        """Whether nothing follows the ends of `count` heads. False where that is not certain."""
        received = self._overlap + data
        return received.endswith(HEAD_END) and received.count(HEAD_END) == count

    def _close_after_last(self) -> None:
        """Closes the connection after the response to the last request received."""
        if self.has_queued_requests:
            self.close_after(-1)
        else:
            self.close()

    def _abort_body(self) -> None:
        """Ends an incomplete body: its reader gets `RequestPayloadError`."""
        if self._body.is_eof():
            return
        # After the response aiohttp reads the rest of the body only to skip it.
        if self._responded < self._body_number:
            error = web.RequestPayloadError("the body is malformed or incomplete")
            self._body.set_exception(error)
        self._body.feed_eof()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Responds with our error body; aiohttp's would repeat the client's bytes."""
        del message
        respond_in_http11(request)
        malformed = status == BadMessage.status
        response = (
            error_response(self._rejection or BadMessage())
            if malformed
            else internal_error(request, exc)
        )
        self.connection.note_unrouted("-" if malformed else request.method, response.status)
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Logs an internal error.

        A malformed body that is skipped after the response is none: the connection is closed.
        """
        if not isinstance(kwargs.get("exc_info"), (web.RequestPayloadError, HttpProcessingError)):
            super().log_exception(*args, **kwargs)

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Sends a response, as aiohttp's last step for each request.

        A target that is no path (`OPTIONS *`, CONNECT) has reached none of our routes.
        """
        if isinstance(resp, web.HTTPException):
            resp = error_response(_without_route(request))
            self.connection.note_unrouted(request.method, resp.status)
        if self._matches_aiohttp and self._body is not EMPTY_PAYLOAD:
            self._responded = self.current_request
        return super().finish_response(request, resp, start_time)


class _Upgrade:
    """The body of a request that offers another protocol: what follows the body is lost."""

    __slots__ = ("_left", "chunked")

    def __init__(self, message: RawRequestMessage) -> None:
        self.chunked = message.chunked
        self._left = 0 if self.chunked else int(message.headers[hdrs.CONTENT_LENGTH])

    def exceeded(self, data: bytes) -> bool:
        """Whether the bytes exceed a body of a known length."""
        self._left -= len(data)
        return self._left < 0 and not self.chunked


def rejection(error: BaseException, data: bytes, *, in_fields: bool = False) -> ApiError:
    """The error for bytes that the parser refuses; `data` are the last of them.

    `in_fields` is whether the parser in pure Python was past the first line: it has one limit for
    incomplete lines of any kind.
    """
    if isinstance(error, LineTooLong):
        target = error.args[1] == LINE_LIMIT and not in_fields
        return UriTooLong(TARGET_LIMIT) if target else HeadersTooLarge.one_field(FIELD_LIMIT)
    if isinstance(error, HttpProcessingError) and error.message.startswith("Too many headers"):
        return HeadersTooLarge.too_many(FIELDS)
    values = _CODINGS.findall(data)
    codings = [coding.strip(b" \t") for value in values for coding in value.split(b",")]
    well_formed = codings and all(map(_CODING.fullmatch, codings))
    if well_formed and any(coding.lower() != b"chunked" for coding in codings):
        return errors.NotImplemented()
    return BadMessage()


def _without_route(request: web.BaseRequest) -> ApiError:
    """The error for a target that is no path. A malformed message is reported first."""
    try:
        check_message(request)
    except ApiError as error:
        return error
    return MethodNotAllowed(request.method, ())
