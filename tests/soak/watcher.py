"""A client that watches: it reads a stream as the HTML standard says, and comes back to wherever it
is sent."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from tests.load import wire
from tests.soak.rig import LIST, READER

RESET = "reset"


class Stream(asyncio.Protocol):
    """One stream. `heard` is called with the type, id and data of each event, `ended` at the end of
    the connection."""

    def __init__(
        self, request: bytes, heard: Callable[[str, str, bytes], None], ended: Callable[[], None]
    ) -> None:
        self._request, self._heard, self._ended = request, heard, ended
        self._rest = b""
        self._begun = False
        self.status = 0
        self.transport: asyncio.Transport | None = None

    def itself(self) -> "Stream":
        """This protocol, as the event loop asks for one."""
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks for the stream."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Reads what is whole."""
        data = self._rest + data
        if not self._begun:
            top, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = top
                return
            self._begun, self.status = True, int(top[9:12])
        if self.status != 200:
            self.abort()
            return
        *blocks, self._rest = data.split(b"\n\n")
        for block in blocks:
            self._read(block)

    def _read(self, block: bytes) -> None:
        fields = dict(
            line.split(b": ", 1)
            for line in block.split(b"\n")
            if line and not line.startswith(b":")
        )
        if b"data" in fields:
            kind = fields.get(b"event", b"message").decode()
            self._heard(kind, fields.get(b"id", b"").decode(), fields[b"data"])

    def connection_lost(self, _exc: Exception | None) -> None:
        """What was not whole is lost."""
        self._ended()

    def abort(self) -> None:
        """Cuts the connection: what is on the way is lost."""
        if self.transport is not None:
            self.transport.abort()


def request(selector: str = "status", last: str | None = None) -> bytes:
    """The head that asks for a stream."""
    lines = [
        READER,
        "Accept: text/event-stream",
        *([f"Last-Event-ID: {last}"] if last is not None else []),
    ]
    return wire.get(f"{LIST}?selector={selector}", *lines)


@dataclass
class Watcher:
    """Watches one of several replicas at a time, and keeps a log: what came (an id, or `RESET`),
    and how many events were sent to the store until then."""

    ports: Sequence[int]
    selector: str
    sent: Callable[[], int]
    """How many events the writers have sent so far."""
    log: list[tuple[str, int]] = field(default_factory=list)
    data: dict[str, bytes] = field(default_factory=dict)
    last: str = "00000000-0000-0000-0000-000000000000"
    """The id with which it comes back. This one was never recorded: its first stream begins with
    everything."""
    connections: int = 0
    stream: Stream | None = None
    back_at: int = 0
    """How many events must have been sent before it comes back."""

    async def watch(self) -> None:
        """Watches until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            ended = asyncio.Event()
            stream = Stream(request(self.selector, self.last), self._heard, ended.set)
            try:
                port = random.choice(self.ports)
                await loop.create_connection(partial(Stream.itself, stream), "127.0.0.1", port)
                self.connections += 1
                self.stream = stream
                await ended.wait()
            except OSError:
                pass
            finally:
                stream.abort()
            await asyncio.sleep(random.uniform(0.02, 0.2))
            while self.sent() < self.back_at:
                await asyncio.sleep(0.01)

    def cut(self, back_at: int = 0) -> None:
        """Loses the connection, until so many events have been sent."""
        self.back_at = back_at
        if self.stream is not None:
            self.stream.abort()

    def _heard(self, kind: str, event_id: str, data: bytes) -> None:
        self.log.append((event_id if kind == "message" else kind, self.sent()))
        if kind == "message":
            self.last = event_id
            self.data[event_id] = data
