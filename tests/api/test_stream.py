"""Server-sent events: nothing missed, nothing twice, nobody slowed down."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest

from service.api import stream
from service.api.front import Deadlines
from service.api.stream import newer_than
from service.store import Entry
from tests.conftest import ALL_GOOD, ONE_BAD, READ, Api

LIST = "/v0/cluster/events"
ACCEPT = READ | {"Accept": "text/event-stream"}


@dataclass
class Listener:
    """A client that is not ours: it reads a stream as the HTML standard says."""

    answer: aiohttp.ClientResponse
    retries: list[int] = field(default_factory=list)
    comments: int = 0

    async def next(self, seconds: float = 2) -> tuple[str, str, Any]:
        """The next event: its type, id and data."""
        kind, event_id, data = "message", "", ""
        async with asyncio.timeout(seconds):
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


async def record(api: Api, count: int) -> list[str]:
    """Events from another writer; their ids, oldest first."""
    return [(await api.store.append(ONE_BAD if number % 2 else ALL_GOOD)).event.id for number in range(count)]


@pytest.mark.parametrize("selector", ["status", "all"])
async def test_events_come_as_they_are_recorded(api: Api, selector: str) -> None:
    """Each event comes once, in order, with its id and its data under the selector; what was before does not."""
    await record(api, 2)
    await api.settle()
    async with listening(api, f"?selector={selector}") as listener:
        ids = await record(api, 3)
        for event_id in ids:
            kind, got, data = await listener.next()
            assert (kind, got, data["id"]) == ("message", event_id, event_id)
            assert ("api_self_info" in data) == (selector == "all")
        assert 1_000 <= listener.retries[0] <= 5_000


async def test_a_stream_begun_before_the_first_event_gets_it(api: Api) -> None:
    """Nothing recorded yet is no reason to miss the first."""
    async with listening(api) as listener:
        ids = await record(api, 2)
        assert await listener.ids(2) == ids


async def test_last_event_id_replays_what_was_missed(api: Api) -> None:
    """A client that comes back, in whatever spelling of the id, gets what it does not have, then goes on."""
    ids = await record(api, 5)
    await api.settle()
    async with listening(api, last=ids[1].upper()) as listener:
        assert await listener.ids(3) == ids[2:]
        more = await record(api, 1)
        assert await listener.ids(1) == more


@pytest.mark.parametrize("last", ["01940000-0000-7000-8000-000000000000", "nonsense"])
async def test_a_lost_place_is_told(api: Api, last: str) -> None:
    """Where the last event is no longer retained, `reset` says so, and all that is retained follows."""
    ids = await record(api, 3)
    await api.settle()
    async with listening(api, last=last) as listener:
        assert (await listener.next())[0] == "reset"
        assert await listener.ids(3) == ids


async def test_a_store_that_lost_everything_resets(api: Api) -> None:
    """A watcher hears that what it has is no longer the history."""
    await record(api, 2)
    await api.settle()
    async with listening(api) as listener:
        await api.store._client.flushall()
        ids = await record(api, 1)
        assert (await listener.next())[0] == "reset"
        assert await listener.ids(1) == ids


async def test_the_same_frames_on_every_replica(make_api: Callable[..., Any]) -> None:
    """A watcher that moves to another process misses nothing and sees nothing twice."""
    one, other = await make_api(), await make_api()
    async with listening(one) as listener:
        ids = await record(one, 4)
        seen = await listener.ids(2)
    async with listening(other, last=seen[-1]) as listener:
        assert seen + await listener.ids(2) == ids


async def test_signs_of_life(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent stream carries comments."""
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.05)
    async with listening(api) as listener:
        await asyncio.sleep(0.3)
        await record(api, 1)
        await listener.next()
        assert listener.comments >= 2


async def test_draining_ends_streams(api: Api) -> None:
    """A process that is to stop ends its streams with a time to come back."""
    async with listening(api) as one, listening(api) as other:
        await api.state.drain()
        for listener in (one, other):
            with pytest.raises(EOFError):
                await listener.next()
            assert 1_000 <= listener.retries[-1] <= 5_000


async def test_a_client_that_goes_is_forgotten(api: Api) -> None:
    """Nothing is kept of a watcher whose connection has ended."""
    async with listening(api):
        assert len(api.state.watchers) == 1
    async with asyncio.timeout(2):
        while len(api.state.watchers):
            await asyncio.sleep(0.01)


async def test_a_slow_client_is_bounded_and_slows_nobody(make_api: Callable[..., Any]) -> None:
    """Who does not read holds no more than a connection's buffer; when it reads on, it gets everything or a `reset`."""
    api: Api = await make_api(retention_events=50)
    big = {name: type(seen)(seen.status, "x" * 8_000, "y" * 8_000) for name, seen in ALL_GOOD.items()}
    slow, writer = await asyncio.open_connection(api.host, api.port, limit=2_048)
    fields = "".join(f"{name}: {value}\r\n" for name, value in ACCEPT.items())
    writer.write(f"GET {LIST}?selector=all HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
    await slow.readline()
    (connection,) = api.front.connections
    async with listening(api, "?selector=all") as quick:
        ids = []
        for _ in range(300):
            ids.append((await api.store.append(big)).event.id)
            assert (await quick.next())[1] == ids[-1]
        assert connection.paused
        assert connection.transport.get_write_buffer_size() < 500_000
    received = b""
    async with asyncio.timeout(10):
        while f"id: {ids[-1]}".encode() not in received:
            received += await slow.read(1_000_000)
    writer.close()
    got = [line[4:].decode() for line in received.splitlines() if line.startswith(b"id: ")]
    assert received.count(b"event: reset") == 1
    after = [
        line[4:].decode() for line in received[received.index(b"event: reset") :].splitlines() if line[:4] == b"id: "
    ]
    assert after == ids[-50:]
    before = got[: len(got) - len(after)]
    assert before == ids[: len(before)]


async def test_the_list_is_given_to_others(api: Api) -> None:
    """Only a client that accepts a stream gets one."""
    await api.state.replica.append(ALL_GOOD)
    for accept in ("*/*", "application/json", "text/event-stream;q=0", "text/html"):
        got = await api.get(LIST, {"Accept": accept})
        assert got.headers["Content-Type"] == "application/json", accept


async def test_a_stream_needs_a_credential_and_a_selector(api: Api) -> None:
    """A stream is refused as the list is."""
    assert (await api.request("GET", LIST, {"Accept": "text/event-stream"})).status == 401
    assert (await api.get(f"{LIST}?selector=none", {"Accept": "text/event-stream"})).status == 400


async def test_connections_that_stream_are_not_idle(make_api: Callable[..., Any]) -> None:
    """The idle deadline is for connections that ask nothing."""
    api: Api = await make_api(deadlines=Deadlines(head=0.2, idle=0.2, sweep=0.05))
    async with listening(api) as listener:
        await asyncio.sleep(0.5)
        ids = await record(api, 1)
        assert await listener.ids(1) == ids


def test_what_is_newer() -> None:
    """The events after a place, oldest first; all of them if the place is not there."""
    entries = [Entry(name, number, b"") for number, name in ((3, "c"), (2, "b"), (1, "a"))]
    assert [entry.id for entry in newer_than(entries, "a")] == ["b", "c"]
    assert [entry.id for entry in newer_than(entries, "c")] == []
    assert [entry.id for entry in newer_than(entries, "")] == ["a", "b", "c"]


async def test_the_head_says_how_fresh_the_state_is(make_api: Callable[..., Any]) -> None:
    """A stream begins with when the monitor last checked, and with a warning if that is too long ago."""
    api: Api = await make_api(stale_after="1s")
    await record(api, 1)
    await api.settle()
    async with listening(api) as listener:
        assert "Cluster-Checked-At" in listener.answer.headers
        assert "Cluster-Stale" not in listener.answer.headers
    await asyncio.sleep(1.1)
    async with listening(api) as listener:
        assert listener.answer.headers["Cluster-Stale"] == "monitor-silent"


async def test_a_stream_that_comes_while_draining_is_sent_away(api: Api) -> None:
    """Whoever begins to watch a process that is to stop is told at once when to come back."""
    await api.state.drain()
    async with listening(api) as listener:
        with pytest.raises(EOFError):
            await listener.next()
        assert listener.retries
