"""A connector for outgoing HTTP that bounds what is read around the body of a response.

aiohttp 3.14 bounds each line of a head and the number of its fields. It skips without end: interim
responses (RFC 9110, section 15.2), empty lines before a status line (RFC 9112, section 2.2), and
chunk extensions (RFC 9112, section 7.1.1). Until the request's timeout they can use one core, and
interim responses hundreds of MiB. Every outgoing HTTP request of the service uses this connector.
Each caller sets its own timeout and its own limit for the body.
"""

import re
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

HEAD_LIMIT = 256 * 1024
"""Bytes of a response's head, including all interim responses. Servers send a few hundred; curl
accepts 300 KB."""
FIELD_LIMIT = 64 * 1024
"""Bytes of one header field of a checked service. aiohttp's own limit is 8,190."""
FIELDS_LIMIT = 256
"""Header fields of a checked service. aiohttp's own limit is 128."""
INTERIM_LIMIT = 16
"""Interim responses before the final one. Servers send one or two; `102 Processing` may come every
few seconds."""
FRAMING = 16
"""Bytes received for each byte of a body, beyond `HEAD_LIMIT`. A chunk of one byte takes six."""

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_PIECE = 4 * 1024
"""Bytes passed to the parser at a time until the final head is complete. In the worst case it makes
an object of every 16 bytes."""


def proxy_for(url: str) -> str | None:
    """The proxy for a URL by `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` (either case), or `None`.

    These are read here and not by aiohttp, which with `trust_env` also reads credentials from a
    netrc file. `NO_PROXY` lists host names, which stand for their subdomains too, or is `*`.
    """
    parts = urlsplit(url)
    proxy = getproxies_environment().get(parts.scheme)
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


async def read_at_most(content: StreamReader, limit: int) -> bytes:
    """The body of a response, or its first `limit` bytes.

    Raises what aiohttp raises if the body ends too soon.
    """
    body = bytearray()
    while len(body) < limit and (chunk := await content.read(limit - len(body))):
        body += chunk
    return bytes(body)


class BoundedConnector(aiohttp.TCPConnector):
    """A `TCPConnector` whose connections fail once they exceed the limits above.

    A head that is too large is a `ClientResponseError`, a body with too much framing a
    `ClientPayloadError`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # The only private attribute of aiohttp used here. `tests/test_outgoing.py` fails if aiohttp
        # no longer uses it.
        self._factory = cast(
            "partial[ResponseHandler]", partial(_BoundedResponses, loop=self._loop)
        )


class _BoundedResponses(ResponseHandler):
    """A client connection that counts what it receives for one response.

    Bytes after a complete response are dropped, as other clients do: a service that sends a body
    with a 204 is healthy. The connection is then not used again.
    """

    _received = 0
    _interim = 0
    _body: StreamReader | None = None
    _left: int | None = None
    """How many bytes of the body are still to come; `None` if its framing tells."""
    _tail = b""
    """The last bytes received before the end of the head."""
    _failed = False

    def set_response_params(self, **params: Any) -> None:
        """Begins a response."""
        self._received = self._interim = 0
        self._body = self._left = None
        self._tail = b""
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Parses what was received, within the limits."""
        while data and not self._failed:
            if self._body is None:
                piece = data[: self._end_of_head(data[:_PIECE])]
                data = data[len(piece) :]
                self._parse(piece)
            elif self._complete:
                self.force_close()
                return
            else:
                piece = data if self._left is None else data[: self._left]
                data = data[len(piece) :]
                if self._left is not None:
                    self._left -= len(piece)
                self._parse(piece)

    @property
    def _complete(self) -> bool:
        """Whether the response has been received."""
        body = self._body
        return body is not None and not self.upgraded and (body.is_eof() or self._left == 0)

    def _end_of_head(self, piece: bytes) -> int:
        """How many bytes of this piece belong to the head: all, unless the head ends in it."""
        known = len(self._tail)
        found = _END_OF_HEAD.search(self._tail + piece)
        self._tail = (self._tail + piece)[-3:] if found is None else b""
        return len(piece) if found is None else found.end() - known

    def _parse(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        body_bytes = self._body.total_bytes if self._body is not None else 0
        if self._received > HEAD_LIMIT + FRAMING * body_bytes and not self.upgraded:
            self._fail(f"more than {HEAD_LIMIT:,} bytes outside the body")

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Takes a parsed head and its body, which may not have been received yet."""
        message, body = data
        # aiohttp skips these interim responses.
        if 100 <= message.code < 200 and message.code != 101:  # noqa: PLR2004
            self._interim += 1
            if self._interim > INTERIM_LIMIT:
                self._fail(f"more than {INTERIM_LIMIT} interim responses")
        elif self._body is None:
            self._body = body
            length = message.headers.get("Content-Length", "")
            if not (message.chunked or message.upgrade) and length.isdecimal():
                self._left = int(length)
        if not self._failed:
            super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Takes an error of the connection. One after a complete response changes nothing."""
        if self._complete and not self._failed:
            self.force_close()
        else:
            super().set_exception(exc, *cause)

    def _fail(self, reason: str) -> None:
        if self._failed:
            return
        self._failed = True
        if self._body is not None and not self._body.is_eof():
            self._body.set_exception(aiohttp.ClientPayloadError(reason))
        self.set_exception(HttpProcessingError(message=reason))
        if self.transport is not None:
            self.transport.abort()
