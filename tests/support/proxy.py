"""A proxy between the service and its store that does what networks do."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import StrEnum, auto

from tests.support.ports import reserve_port

CHUNK = 65_536


class Mode(StrEnum):
    """What the proxy does with connections and bytes."""

    PASS = auto()
    BLACKHOLE = auto()
    """Accepts connections and swallows every byte."""
    REFUSE = auto()
    """Nobody listens, and open connections end."""
    RST = auto()
    """Connections are reset as soon as they are made."""
    MUTE = auto()
    """Requests are executed, their replies are swallowed."""
    DELAY = auto()
    """Each piece takes `delay` seconds each way."""
    SLICE = auto()
    """Replies come byte by byte."""
    TRUNCATE = auto()
    """A reply ends in its middle, and the connection with it."""


class Proxy:
    """Stands before the server of `upstream` (`redis://host:port` or `unix://path`), as `url`.

    `cut` is asked about each piece of a reply while the mode is `PASS`: if it says yes, the
    connection is reset in its stead.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.delay = 0.02
        self.cut: Callable[[bytes], bool] = lambda _: False
        self.accepted = 0
        self._mode = Mode.PASS
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where the proxy listens."""
        return f"redis://127.0.0.1:{self._port}"

    @property
    def open(self) -> int:
        """How many connections of clients there are now."""
        return len(self._open)

    async def set(self, mode: Mode) -> None:
        """Changes the mode for old and new connections. Connections that lost bytes do not outlive
        the mode that took them."""
        damaged = {Mode.BLACKHOLE, Mode.MUTE, Mode.TRUNCATE}
        if mode in {Mode.REFUSE, Mode.RST} or self._mode in damaged:
            self.reset_all()
        self._mode = mode
        if mode is Mode.REFUSE:
            await self._stop_listening()
        elif self._server is None:
            await self._listen()

    def reset_all(self) -> None:
        """Resets all connections of clients."""
        for writer in list(self._open):
            _reset(writer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        """Listens inside it."""
        with (
            reserve_port() as reserved
        ):  # Else another socket may take the port while the mode is `REFUSE`.
            self._port = reserved.getsockname()[1]
            await self._listen()
            try:
                yield self
            finally:
                self.reset_all()
                await self._stop_listening()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, reuse_port=True
        )

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is Mode.RST:
            _reset(writer)
            return
        self._open.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            replies, upstream = await self._connect()
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._requests(reader, upstream))
                pumps.create_task(self._replies(replies, writer))
        except* (OSError, _EndOfConnection):
            pass
        finally:
            self._open.discard(writer)
            _reset(writer)
            if upstream is not None:
                upstream.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        scheme, _, address = self.upstream.partition("://")
        if scheme == "unix":
            return await asyncio.open_unix_connection(address)
        host, _, port = address.partition(":")
        return await asyncio.open_connection(host, int(port))

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            if self._mode is Mode.BLACKHOLE:
                continue
            if self._mode is Mode.DELAY:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        raise _EndOfConnection

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            match self._mode:
                case Mode.BLACKHOLE | Mode.MUTE:
                    continue
                case Mode.DELAY:
                    await asyncio.sleep(self.delay)
                case Mode.TRUNCATE:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    raise _EndOfConnection
                case Mode.SLICE:
                    for n in range(len(data) - 1):
                        writer.write(data[n : n + 1])
                        await asyncio.sleep(0)
                    data = data[-1:]
                case _:
                    if self.cut(data):
                        raise _EndOfConnection
            writer.write(data)
            await writer.drain()
        raise _EndOfConnection


class _EndOfConnection(Exception):
    """One side has gone: the other goes too."""


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
