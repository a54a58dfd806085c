"""A connection on which one request after the other is asked without blocking the others."""

import asyncio
from dataclasses import dataclass
from typing import Self

from tests.load.wire import _LENGTH, Reply


@dataclass
class Line:
    """One connection to a server on loopback."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connects. Raises `OSError`."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=8 * 1024 * 1024))

    async def ask(self, request: bytes) -> Reply:
        """Sends a request and reads its reply. Raises `OSError` if the connection ends first."""
        self.writer.write(request)
        try:
            top = await self.reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(top)
            wanted = int(length[1]) if length and top[9:12] != b"304" else 0
            body = await self.reader.readexactly(wanted) if wanted else b""
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the server closed the connection") from error
        return Reply(top[:-2], body)

    def close(self) -> None:
        """Ends the connection."""
        self.writer.close()


def field(reply: Reply, name: str) -> str | None:
    """A header field of a reply, if it is there."""
    return next((value for known, value in reply.headers if known.lower() == name.lower()), None)
