"""Pages that wait to be sent: counted until the client has taken them, bounded for the process,
kept once."""

import asyncio
import gc
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from service.api.responses.memory import MemoryBudget
from service.errors import ServerBusy
from tests.support.api import Api
from tests.support.observations import ALL_GOOD, LONG
from tests.support.raw import Line, head
from tests.support.settings import READ
from tests.support.waiting import until

LIST = "/v0/cluster/events"
PAGE = f"{LIST}?selector=all&limit=10"
EVERY_LOOP = True
"""These tests run on each event loop that serves: their transports keep what waits in ways of their
own."""
PAGE_BYTES = 480_000
"""Ten events of 48 KB, or a little more."""
MIB = 1024 * 1024


def test_what_is_reserved_is_given_back() -> None:
    """A reservation counts while it is referenced, as much as it was last resized to; what is too
    much changes nothing."""
    memory = MemoryBudget(100, "REPLY_MEMORY")
    one, other = memory.reserve(60), memory.reserve()
    assert memory.used == 60
    other.resize(40)
    with pytest.raises(ServerBusy) as caught:
        other.resize(41)
    assert caught.value.details == {"limit": "REPLY_MEMORY"}
    with pytest.raises(ServerBusy):
        memory.reserve(1)
    assert memory.used == 100
    other.resize(10)
    assert memory.used == 70
    del one
    assert memory.used == 10
    del other, caught  # An error has its traceback, which refers to what raised it.
    assert memory.used == 0


@pytest.fixture
async def full(make_api: Callable[..., Any]) -> Api:
    """A process with ten long events, and memory for two pages of them."""
    api: Api = await make_api(reply_memory=3 * MIB // 2)
    for _ in range(10):
        await api.store.append(LONG)
    await api.settle()
    return api


@asynccontextmanager
async def slow(api: Api, *requests: bytes) -> AsyncIterator[Line]:
    """A client that sends requests in one segment and reads nothing yet. The kernels have little
    room for what it gets."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    known = set(api.poll_server.connections)
    await asyncio.get_running_loop().sock_connect(sock, (api.host, api.port))
    await until(lambda: len(api.poll_server.connections - known) == 1)
    (connection,) = api.poll_server.connections - known
    connection.transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096
    )
    reader, writer = await asyncio.open_connection(sock=sock, limit=2_048)
    async with Line(reader, writer) as line:
        line.send(b"".join(requests))
        yield line


def get(target: str, *fields: str, version: str = "HTTP/1.1") -> bytes:
    """A request with a credential."""
    return head("GET", target, f"Authorization: {READ['Authorization']}", *fields, version=version)


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_pages_beyond_the_memory_are_refused(full: Api, version: str) -> None:
    """While pages wait for slow clients, the next one is 503; all else is answered, and pages are
    once the clients have gone."""
    memory = full.context.responses.memory
    async with AsyncExitStack() as stack:
        for number in (1, 2):
            await stack.enter_async_context(slow(full, get(PAGE, version=version)))
            await until(lambda number=number: memory.used > number * PAGE_BYTES)  # type: ignore[misc]
        got = await full.get(PAGE)
        assert (got.status, got.json["error_code"], got.json["details"]) == (
            503,
            "ServerBusy",
            {"limit": "REPLY_MEMORY"},
        )
        assert int(got.headers["Retry-After"]) >= 1
        assert (await full.get(f"{LIST}?limit=10")).status == 200
        for path in (LIST, f"{LIST}/latest?selector=all", "/v0/cluster_healthz", "/metrics"):
            assert (await full.get(path)).status == 200
    await until(lambda: memory.used == 0)
    assert (await full.get(PAGE)).status == 200


async def test_a_page_counts_until_it_is_taken(full: Api) -> None:
    """A client that reads it to its end frees it, and can go on on the same connection."""
    memory = full.context.responses.memory
    async with slow(full, get(PAGE)) as line:
        await until(lambda: memory.used > PAGE_BYTES)
        for _ in range(3):
            reply = await line.reply()
            assert (reply.status, len(reply.body)) == (200, int(reply.headers["Content-Length"]))
            await until(lambda: memory.used == 0)
            (connection,) = full.poll_server.connections
            assert not connection.paused
            limits = getattr(
                connection.transport, "get_write_buffer_limits", None
            )  # uvloop has no such method.
            assert limits is None or min(limits()) > 0
            line.send(get(PAGE))


async def test_a_page_counts_before_it_can_be_sent(full: Api) -> None:
    """A page that waits for the one before it on the same connection has its memory as well."""
    memory = full.context.responses.memory
    async with slow(full, get(PAGE) * 2) as line:
        await until(lambda: memory.used > 2 * PAGE_BYTES)
        assert [(await line.reply()).status for _ in range(2)] == [200, 200]
    await until(lambda: memory.used == 0)


async def test_one_full_event_counts_as_well(full: Api) -> None:
    """A reply that is not kept for others is one client's alone, also one that is shorter than a
    transport's usual buffer."""
    memory = full.context.responses.memory
    event_id = (await full.get(f"{LIST}?limit=10")).json[-1]["id"]
    async with slow(full, get(f"{LIST}/{event_id}?selector=all")):
        await until(lambda: any(connection.paused for connection in full.poll_server.connections))
        assert memory.used > 40_000


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"Origin": "https://status.example"}])
async def test_what_others_get_as_well_does_not_count(
    make_api: Callable[..., Any], more: dict[str, str]
) -> None:
    """The whole list is there once, however many wait for it; a page of another origin gets the
    same body."""
    api: Api = await make_api(cors_origins="https://status.example")
    for _ in range(900):
        await api.store.append(ALL_GOOD)
    await api.settle()
    fields = [f"{name}: {value}" for name, value in more.items()]
    async with slow(api, get(LIST, *fields) * 40) as line:
        await until(lambda: any(connection.paused for connection in api.poll_server.connections))
        assert api.context.responses.memory.used == 0
        reply = await line.reply()
        assert reply.body == (await api.get(LIST)).body
        assert reply.headers.get("Access-Control-Allow-Origin") == more.get("Origin")


@pytest.mark.parametrize(
    "request_",
    [get(PAGE, "If-None-Match: *"), get(PAGE).replace(b"GET", b"HEAD", 1)],
    ids=["304", "HEAD"],
)
async def test_a_reply_without_the_body_keeps_nothing(full: Api, request_: bytes) -> None:
    """What is not sent does not wait."""
    async with slow(full, request_) as line:
        assert (await line.reply("HEAD")).status in {200, 304}
        await until(lambda: full.context.responses.memory.used == 0)


async def test_clients_that_go_before_their_page_free_it(full: Api) -> None:
    """Whatever ends a request, its memory comes back."""
    for _ in range(5):
        async with slow(full, get(PAGE) * 3):
            await until(lambda: full.context.responses.memory.used > 0)
    await until(lambda: not full.poll_server.connections)
    gc.collect()
    assert full.context.responses.memory.used == 0


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_memory_does_not_wait_for_the_garbage_collector(full: Api, coding: str) -> None:
    """A reply for one client alone is in no reference cycle, compressed or not."""
    event_id = (await full.get(f"{LIST}?limit=10")).json[-1]["id"]
    gc.disable()
    try:
        for path in (PAGE, f"{LIST}/{event_id}?selector=all"):
            assert (await full.get(path, {"Accept-Encoding": coding})).status == 200
            await until(lambda: full.context.responses.memory.used == 0)
    finally:
        gc.enable()


async def kept_for_slow_clients(full: Api, count: int) -> int:
    """The bytes that this process keeps for so many clients that read nothing of their pages."""
    memory = full.context.responses.memory
    async with AsyncExitStack() as stack:
        await full.get(PAGE)
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(count):
                await stack.enter_async_context(slow(full, get(PAGE)))
                await until(lambda number=number: memory.used > (number + 1) * PAGE_BYTES)  # type: ignore[misc]
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return after - before


async def test_a_page_is_kept_once(full: Api) -> None:
    """Neither the prepared response, nor the framework, nor the transport keeps a copy beside the
    one that is sent."""
    assert await kept_for_slow_clients(full, 2) < 2 * 1.3 * PAGE_BYTES
