"""Limits of a request's head (deploy/API.md), and the checks that aiohttp's parsers omit."""

from itertools import chain

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from service import errors
from service.api.aiohttp_internals import respond_in_http11
from service.api.http.hosts import parse_host
from service.errors import (
    BadMessage,
    HeadersTooLarge,
    PayloadTooLarge,
    UnmetExpectation,
    UriTooLong,
    VersionNotSupported,
)

HEADERS_LIMIT = 32_768
"""Bytes of all header fields together; the parser limits each of them."""
FIELD_LIMIT = 8_190
"""Bytes of one header field: enough for a token."""
TARGET_LIMIT = 4_096
"""Bytes of a request target: the longest path of this API has 60."""
FIELDS = 64
"""Header fields of one request, as they are received."""
_CONTINUE = "100-continue"
IGNORED_BODY_LIMIT = 1_024
"""Bytes of a body that a route without a body reads and ignores.

Some clients always send one, which is not worth an error.
"""


def check_message(request: web.BaseRequest, *, takes_body: bool = False) -> None:
    """Checks what aiohttp's parsers accept and this API does not. Raises an `ApiError`."""
    if request.version not in (HttpVersion11, HttpVersion10):
        respond_in_http11(request)
        raise VersionNotSupported
    check_sizes(request)
    headers = request.headers
    if hdrs.TRANSFER_ENCODING in headers:
        codings = ",".join(headers.getall(hdrs.TRANSFER_ENCODING))
        if codings.strip(" \t").lower() != "chunked":
            raise errors.NotImplemented
    if not parse_host(headers.get(hdrs.HOST, "")).valid:
        raise BadMessage
    if hdrs.EXPECT in headers and headers[hdrs.EXPECT].lower() != _CONTINUE:
        raise UnmetExpectation
    if (
        not takes_body
        and request.body_exists
        and (request.content_length or 0) > IGNORED_BODY_LIMIT
    ):
        raise PayloadTooLarge(IGNORED_BODY_LIMIT)


def check_sizes(request: web.BaseRequest) -> None:
    """Raises `UriTooLong` or `HeadersTooLarge`.

    The limits of both parsers are a little higher than these.
    """
    if len(request.raw_path) > TARGET_LIMIT:
        raise UriTooLong(TARGET_LIMIT)
    fields = request.raw_headers
    if len(fields) > FIELDS:
        raise HeadersTooLarge.too_many(FIELDS)
    # The usual case: if all fields together are this short, no limit can be exceeded.
    if len(b"".join(chain.from_iterable(fields))) <= FIELD_LIMIT:
        return
    sizes = [len(name) + len(value) for name, value in fields]
    if max(sizes) > FIELD_LIMIT:
        raise HeadersTooLarge.one_field(FIELD_LIMIT)
    # Each line also has a colon, a space and a line break.
    if sum(sizes) + 4 * len(sizes) > HEADERS_LIMIT:
        raise HeadersTooLarge.together(HEADERS_LIMIT)


async def expect(request: web.Request) -> None:
    """Writes 100 for `Expect: 100-continue`. aiohttp calls it before the handler.

    `check_message` refuses any other expectation.
    """
    # In HTTP/1.0 the field must be ignored (RFC 9110, section 10.1.1).
    if request.headers[hdrs.EXPECT].lower() == _CONTINUE and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
