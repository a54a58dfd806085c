"""Clients of event streams."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from tests.support.api import Api
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.settings import READ
from tests.support.waiting import PATIENCE_S

LIST = "/v0/cluster/events"
ACCEPT = READ | {"Accept": "text/event-stream"}


@dataclass
class Listener:
    """A client that is not ours: it reads a stream as the HTML standard says."""

    answer: aiohttp.ClientResponse
    retries: list[int] = field(default_factory=list)
    comments: int = 0

    async def next(self) -> tuple[str, str, Any]:
        """The next event: its type, id and data."""
        kind, event_id, data = "message", "", ""
        async with asyncio.timeout(PATIENCE_S):
            async for raw in self.answer.content:
                line = raw.decode().rstrip("\n")
                name, _, value = line.partition(": ")
                if not line and data:
                    return kind, event_id, orjson.loads(data)
                if line.startswith(":"):
                    self.comments += 1
                elif name == "event":
                    kind = value
                elif name == "id":
                    event_id = value
                elif name == "data":
                    data += value
                elif name == "retry":
                    self.retries.append(int(value))
        raise EOFError

    async def ids(self, count: int) -> list[str]:
        """The ids of the next events."""
        return [(await self.next())[1] for _ in range(count)]


@asynccontextmanager
async def listening(api: Api, query: str = "", last: str | None = None) -> AsyncIterator[Listener]:
    """A stream."""
    headers = ACCEPT | ({"Last-Event-ID": last} if last is not None else {})
    async with api.client.get(api.url + LIST + query, headers=headers) as answer:
        assert answer.status == 200, await answer.read()
        assert answer.content_type == "text/event-stream"
        yield Listener(answer)


@dataclass
class Client:
    """The connection of a watcher: it keeps the events that it is sent, or takes nothing for now
    (`paused`)."""

    paused: bool = False
    closed: bool = False
    frames: list[bytes] = field(default_factory=list)
    """What was written that has events in it, one piece for each write."""
    sent: Callable[[], None] = lambda: None
    """Called after each write that has events in it."""

    @property
    def ids(self) -> list[str]:
        """The ids of the events, in the order in which they were sent."""
        lines = b"".join(self.frames).split(b"\n")
        return [line[4:].decode() for line in lines if line.startswith(b"id: ")]

    def write(self, data: bytes) -> None:
        """Keeps the frames of events."""
        if data.startswith(b"id:"):
            self.frames.append(data)
            self.sent()

    def close(self) -> None:
        """Remembers it."""
        self.closed = True


async def record(api: Api, count: int) -> list[str]:
    """Events from another writer; their ids, oldest first."""
    return [
        (await api.store.append(ONE_BAD if number % 2 else ALL_GOOD)).event.id
        for number in range(count)
    ]
