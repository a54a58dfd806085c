"""A forward proxy on loopback, as companies have them between their networks and the world."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.services import service


@dataclass
class ForwardProxy:
    """Forwards requests with absolute-form targets, and tunnels CONNECT (RFC 9110, section 9.3.6).

    `flood` is what it sends for ever instead of a response, if it is set.
    """

    asked: list[str] = field(default_factory=list)
    """The method and target of each request."""
    credentials: list[str] = field(default_factory=list)
    """The `Proxy-Authorization` of each request that has one."""
    heads: list[str] = field(default_factory=list)
    flood: bytes = b""
    port: int = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """On a free port of loopback."""
        async with service(self._connected) as self.port:
            yield

    @property
    def url(self) -> str:
        """The proxy's URL with credentials, as in `HTTP_PROXY`."""
        return f"http://operator:hunter2@127.0.0.1:{self.port}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        method, target, _ = head.partition("\r\n")[0].split(" ")
        self.asked.append(f"{method} {target}")
        for line in head.split("\r\n"):
            if line.lower().startswith("proxy-authorization: "):
                self.credentials.append(line.partition(": ")[2])
        while self.flood:
            writer.write(self.flood)
            await writer.drain()
        connect = method == "CONNECT"
        parts = urlsplit(f"//{target}" if connect else target)
        upstream = await asyncio.open_connection(parts.hostname, parts.port)
        if connect:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            origin_form = parts._replace(scheme="", netloc="").geturl() or "/"
            upstream[1].write(head.replace(target, origin_form, 1).encode("latin-1"))
        try:
            await asyncio.gather(pass_on(reader, upstream[1]), pass_on(upstream[0], writer))
        finally:
            upstream[1].transport.abort()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send what one side sends to the other, until it ends."""
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
