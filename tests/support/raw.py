"""Raw bytes on a real socket, and the replies read back byte by byte: what no HTTP client would
send."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import orjson
from multidict import CIMultiDict

from service.auth import Role
from tests.support.settings import make_token

PATIENCE_S = 20.0
"""Seconds for a reply, or for the end of the connection: a bound for a test that hangs, not a
measure of speed."""

TOKEN = make_token(Role.WRITE, 3_600).encode()
EVENT = orjson.dumps({f"{name}_status": "Healthy" for name in ("api", "compiler", "runner")})


@dataclass(frozen=True)
class Reply:
    """One reply, as it came."""

    version: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error_code(self) -> str:
        """The code in the one error body; fails if the reply is not exactly that."""
        assert self.version in {"HTTP/1.1", "HTTP/1.0"}
        fields = orjson.loads(self.body)
        assert list(fields) == ["message", "error_code", "details"]
        assert isinstance(fields["message"], str)
        assert isinstance(fields["details"], dict)
        assert self.headers["Content-Type"] == "application/json"
        assert self.headers["Server"] == "cluster-events"
        assert self.headers["X-Content-Type-Options"] == "nosniff"
        assert self.headers["Cache-Control"] == "no-store"
        code = fields["error_code"]
        assert isinstance(code, str)
        return code


class Line:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.writer.write(data)

    async def reply(self, method: str = "GET") -> Reply:
        """The next reply. Raises `asyncio.IncompleteReadError` where there is none."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            version, status, _ = first.split(" ", 2)
            headers = CIMultiDict(
                [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
            )
            has_body = method != "HEAD" and int(status) >= 200 and int(status) not in {204, 304}
            body = (
                await self.reader.readexactly(int(headers["Content-Length"])) if has_body else b""
            )
        return Reply(version, int(status), headers, body)

    async def rest(self) -> bytes:
        """What comes before the other side ends the connection. Raises `TimeoutError` if it does
        not."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:  # It was closed with bytes of ours unread.
                return b""

    async def finish(self) -> None:
        """Sends a last request, and returns after its reply or at the end of the connection:
        whatever was sent before has run."""
        self.send(head("GET", "/healthz", "Connection: close"))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while (await self.reply()).headers.get("Connection") != "close":
                pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()


async def send_head(line: Line, request: bytes) -> None:
    """Sends a head, and returns when it has been parsed alone."""
    line.send(request.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert await line.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"


async def send_pieces(line: Line, *pieces: bytes) -> None:
    """Sends bytes so that they are most likely received in these pieces."""
    for piece in pieces:
        line.send(piece)
        await asyncio.sleep(0.02)


async def connected(port: int) -> Line:
    """A new connection to a server on this machine: `async with await connected(port) as line`."""
    return Line(*await asyncio.open_connection("127.0.0.1", port, limit=2**24))


def head(
    method: str = "GET", target: str = "/healthz", *fields: str, version: str = "HTTP/1.1"
) -> bytes:
    """A request head with a Host and the fields given."""
    return "\r\n".join([f"{method} {target} {version}", "Host: here", *fields, "", ""]).encode()


def recording() -> bytes:
    """A whole request that records an event: what a smuggler would want to run."""
    fields = (f"Authorization: Bearer {TOKEN.decode()}", f"Content-Length: {len(EVENT)}")
    return head("POST", "/v0/cluster/events", *fields) + EVENT
