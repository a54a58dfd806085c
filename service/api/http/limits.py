"""Limits of a request's head (contract, section 3), and the checks that both parsers leave to the
API."""

import re
from functools import lru_cache
from ipaddress import IPv6Address
from itertools import chain

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from service import errors
from service.api.aiohttp_internals import respond_in_http11
from service.errors import (
    BadMessage,
    HeadersTooLarge,
    PayloadTooLarge,
    UnmetExpectation,
    UriTooLong,
    VersionNotSupported,
)

HEADERS_LIMIT = 32_768
"""Bytes of all header fields together; each alone is limited by the parser."""
FIELD_LIMIT = 8_190
"""Bytes of one header field: room for a token."""
TARGET_LIMIT = 4_096
"""Bytes of a request target: the longest path of this API has 60."""
FIELDS = 64
"""Header fields of one request, as they are received."""
_HOST = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)(?:%25[0-9A-Za-z._~-]+)?\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?",
    re.ASCII,
)
"""A host, or none, and a port (RFC 9110, section 7.2; RFC 3986, section 3.2)."""
_CONTINUE = "100-continue"
IGNORED_BODY_LIMIT = 1_024
"""Bytes of a body that a route without one reads and forgets; clients that always send one are not
worth an error."""


def check_message(request: web.BaseRequest, *, takes_body: bool = False) -> None:
    """What the parser lets through and this API does not take. Raises an `ApiError`."""
    if request.version is not HttpVersion11 and request.version not in (
        HttpVersion11,
        HttpVersion10,
    ):
        respond_in_http11(request)
        raise VersionNotSupported
    check_sizes(request)
    headers = request.headers
    if hdrs.TRANSFER_ENCODING in headers:
        codings = ",".join(headers.getall(hdrs.TRANSFER_ENCODING))
        if codings.strip(" \t").lower() != "chunked":
            raise errors.NotImplemented
    if not is_host(headers.get(hdrs.HOST, "")):
        raise BadMessage
    if hdrs.EXPECT in headers and headers[hdrs.EXPECT].lower() != _CONTINUE:
        raise UnmetExpectation
    if (
        not takes_body
        and request.body_exists
        and (request.content_length or 0) > IGNORED_BODY_LIMIT
    ):
        raise PayloadTooLarge(IGNORED_BODY_LIMIT)


@lru_cache(256)
def is_host(value: str) -> bool:
    """Whether the value of a `Host` is a host, or none, and a port (RFC 9112, section 3.2)."""
    match = _HOST.fullmatch(value)
    if match is None:
        return False
    if match[1] is not None:
        try:
            IPv6Address(match[1])
        except ValueError:
            return False
    return True


def check_sizes(request: web.BaseRequest) -> None:
    """Raises `UriTooLong` or `HeadersTooLarge`. Both parsers let a little more through than these
    limits."""
    if len(request.raw_path) > TARGET_LIMIT:
        raise UriTooLong(TARGET_LIMIT)
    fields = request.raw_headers
    if len(fields) > FIELDS:
        raise HeadersTooLarge.too_many(FIELDS)
    if (
        len(b"".join(chain.from_iterable(fields))) <= FIELD_LIMIT
    ):  # Nearly always: then none is too long, nor are all.
        return
    sizes = [len(name) + len(value) for name, value in fields]
    if max(sizes) > FIELD_LIMIT:
        raise HeadersTooLarge.one_field(FIELD_LIMIT)
    if sum(sizes) + 4 * len(sizes) > HEADERS_LIMIT:
        raise HeadersTooLarge.together(HEADERS_LIMIT)


async def expect(request: web.Request) -> None:
    """The framework's hook for `Expect`: it writes 100 for `100-continue`. `check_message` refuses
    any other expectation."""
    if (
        request.headers[hdrs.EXPECT].lower() == _CONTINUE and request.version == HttpVersion11
    ):  # Elsewhere it is to be ignored (RFC 9110, section 10.1.1).
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
