"""The poll path is invisible but for its speed: whatever is sent, the bytes that come back are
those of the ordinary way."""

import asyncio
import contextlib
import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import jwt
import pytest

from service.api import aiohttp_internals
from service.api.poll_path import memo as memos
from service.api.poll_path import sendfile
from service.api.poll_path.memo import Memo, MemoEntry
from service.api.poll_path.timeouts import Timeouts
from service.api.responses.cache import EVENTS
from service.api.responses.model import CacheEntry
from service.auth import Role, mint
from tests.support.api import Api
from tests.support.clocks import put_forward, put_timeouts_forward
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.raw import PATIENCE_S, connected
from tests.support.settings import JWT_SECRET, make_token
from tests.support.waiting import until

EVENT_ROUTE = "/v0/cluster/events/{event_id}"
TOKEN = make_token(Role.READ, 3_600)
LAST = b"GET /healthz HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n"
HEALTHY = b'{"status":"healthy"}'
"""The body of the reply to that request."""


def head(
    path: str = "/v0/cluster/events/latest", *lines: str, token: str = TOKEN, version: str = "1.1"
) -> bytes:
    """A request head as agents send it."""
    fields = ["Host: test", f"Authorization: Bearer {token}", *lines]
    return "\r\n".join([f"GET {path} HTTP/{version}", *fields, "", ""]).encode("latin-1")


async def exchange(
    api: Api, *segments: bytes, answers: int | None = None, pause: float = 0.01
) -> bytes:
    """Everything that one connection answers to segments sent one after the other: until it closes,
    or all answers came."""
    reader, writer = await asyncio.open_connection(api.host, api.port)
    received = b""
    try:
        for number, segment in enumerate(segments):
            if number:  # So that the server reads the segments one by one.
                await asyncio.sleep(pause)
            writer.write(segment)
            await writer.drain()
        expected = len(segments) if answers is None else answers
        while len(re.findall(rb"HTTP/1\.[01] \d\d\d ", received)) < expected or not whole(
            received, segments
        ):
            chunk = await asyncio.wait_for(reader.read(65_536), PATIENCE_S)
            if not chunk:
                return received + b"<closed>"
            received += chunk
        return received + await rest(reader, writer)
    finally:
        writer.close()


async def rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What comes before the reply to a last request, most likely nothing, or the end of the
    connection where there is no such reply."""
    received = b""
    with contextlib.suppress(ConnectionError):
        writer.write(LAST)
        received = await asyncio.wait_for(reader.read(-1), PATIENCE_S)
    before, found, last = received.rpartition(b"HTTP/1.1 200 OK\r\n")
    return before if found and last.endswith(b"\r\n\r\n" + HEALTHY) else received + b"<closed>"


def whole(received: bytes, segments: tuple[bytes, ...]) -> bool:
    """Whether the last answer has come to its end."""
    start = received.rfind(b"HTTP/1.")
    top, ended, body = received[start:].partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", top)
    if length is None or segments[-1].startswith(b"HEAD"):
        return bool(ended)
    return len(body) >= int(length[1])


def masked(received: bytes) -> bytes:
    """Without what may differ between two moments."""
    return re.sub(rb"(Date|Cluster-Checked-At|Age): [^\r]*", rb"\1", received)


async def warm(api: Api, *heads: bytes) -> None:
    """Sends heads often enough to be remembered."""
    for _ in range(3):
        for one in heads:
            await exchange(api, one)


@pytest.fixture
async def both(make_api: Callable[..., Any]) -> tuple[Api, Api]:
    """Two processes on one store: with the poll path, and without."""
    fast, plain = await make_api(), await make_api(poll_path="off")
    await fast.store.append(ALL_GOOD)
    await fast.store.append(ONE_BAD)
    await fast.settle()
    await plain.settle()
    return fast, plain


ETAG_OF_NOTHING = '"000000000000000000000000"'
TRACE = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

CASES: dict[str, list[bytes]] = {
    "a poll": [head()],
    "a poll three times": [head(), head(), head()],
    "all fields": [head("/v0/cluster/events/latest?selector=all")],
    "the list": [head("/v0/cluster/events")],
    "the verdict": [head("/v0/cluster_healthz")],
    "an entity tag that does not match": [
        head("/v0/cluster/events/latest", f"If-None-Match: {ETAG_OF_NOTHING}")
    ],
    "any entity tag": [head("/v0/cluster/events/latest", "If-None-Match: *")],
    "the end of the connection": [head("/v0/cluster/events/latest", "Connection: close")],
    "the end of the connection, after others": [
        head(),
        head("/v0/cluster/events/latest", "connection: Close"),
    ],
    "an old protocol": [head(version="1.0")],
    "an old protocol that stays": [
        head("/v0/cluster/events/latest", "Connection: keep-alive", version="1.0")
    ],
    "two heads in one segment": [head() + head("/v0/cluster_healthz")],
    "a head in two segments": [head()[:40], head()[40:]],
    "a head byte by byte": [head()[i : i + 1] for i in range(60)] + [head()[60:]],
    "a head cut in its last line": [head()[:-2], head()[-2:]],
    "a head and half of the next": [head() + head()[:50], head()[50:]],
    "tracing lines": [head("/v0/cluster/events/latest", TRACE, "X-Request-Id: 42")],
    "a folded tracing line": [head("/v0/cluster/events/latest", "traceparent: a\r\n b")],
    "a tracing line with a control character": [
        head("/v0/cluster/events/latest", "traceparent: a\x00b")
    ],
    "a body on a GET": [head("/v0/cluster/events/latest", "Content-Length: 3") + b"abc", head()],
    "a body without an end": [
        head("/v0/cluster/events/latest", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head(),
    ],
    "an unknown head first": [head("/v0/cluster/events/latest", "X-New: 1"), head(), head()],
    "another method": [head().replace(b"GET", b"HEAD", 1)],
    "a bad token": [head(token="a.b.c")],
    "no such event": [head("/v0/cluster/events/00000000-0000-7000-8000-000000000000")],
    "a bad id": [head("/v0/cluster/events/x")],
    "a selector that is none": [head("/v0/cluster/events/latest?selector=none")],
    "no such path": [head("/v0/nothing")],
    "bare line feeds": [head().replace(b"\r\n", b"\n")],
    "not HTTP": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
    "an empty line first": [b"\r\n" + head()],
    "an upgrade": [head("/v0/cluster/events/latest", "Connection: Upgrade", "Upgrade: h2c")],
    "an expectation": [head("/v0/cluster/events/latest", "Expect: 100-continue")],
}


@pytest.mark.parametrize("name", CASES)
async def test_both_ways_give_the_same_bytes(both: tuple[Api, Api], name: str) -> None:
    """Each case, sent often enough to be remembered, is answered as without the poll path, the
    connection's end included."""
    fast, plain = both
    segments = CASES[name]
    pause = 0.002 if len(segments) > 10 else 0.01
    answers = {
        "two heads in one segment": 2,
        "a head in two segments": 1,
        "a head byte by byte": 1,
        "a head cut in its last line": 1,
        "an expectation": 2,
    }.get(name)
    expected = masked(await exchange(plain, *segments, answers=answers, pause=pause))
    assert expected.startswith(b"HTTP/1.")
    for _ in range(3):
        assert masked(await exchange(fast, *segments, answers=answers, pause=pause)) == expected


async def test_a_known_head_needs_no_handler(both: tuple[Api, Api]) -> None:
    """From its third sight a head is answered without the framework's handler, and is counted all
    the same."""
    fast, _ = both
    await warm(fast, head())
    stats = fast.context.metrics.requests.route(EVENT_ROUTE)
    fast.context.responses.count_all_hits()
    before, handled = stats.counts["GET", 200], sum(stats.buckets)
    await exchange(fast, head(), head())
    fast.context.responses.count_all_hits()
    assert stats.counts["GET", 200] == before + 2
    assert sum(stats.buckets) == handled


@pytest.mark.parametrize("accept", ["identity", "gzip"])
async def test_replies_about_an_event_that_is_trimmed_stay_counted(
    make_api: Callable[..., Any], accept: str
) -> None:
    """What the poll path answered in any coding is in the metrics, also once the event is gone."""
    api: Api = await make_api(retention_events=1)
    event = (await api.store.append(ALL_GOOD)).event
    await api.settle()
    ask = head(f"/v0/cluster/events/{event.id}", f"Accept-Encoding: {accept}")
    await warm(api, ask)
    stats = api.context.metrics.requests.route(EVENT_ROUTE)
    api.context.responses.count_all_hits()
    before = stats.counts["GET", 200]
    await exchange(api, ask, ask)
    await api.store.append(ALL_GOOD)
    await api.settle()
    assert b" 404 " in await exchange(api, ask)
    api.context.responses.count_all_hits()
    assert stats.counts["GET", 200] == before + 2


async def test_a_tracing_line_makes_no_new_head(both: tuple[Api, Api]) -> None:
    """Heads that differ in tracing lines only are one head to the memo."""
    fast, _ = both
    await warm(fast, head("/v0/cluster/events/latest", TRACE))
    stats = fast.context.metrics.requests.route(EVENT_ROUTE)
    handled = sum(stats.buckets)
    assert await exchange(fast, head("/v0/cluster/events/latest", TRACE.replace("-01", "-00")))
    assert sum(stats.buckets) == handled


async def test_a_change_is_seen_at_once(both: tuple[Api, Api]) -> None:
    """A poll after a POST to the same process gets the new event, remembered head or not."""
    fast, _ = both
    await warm(fast, head())
    event = (await fast.context.replica.append(ALL_GOOD)).event
    assert event.id.encode() in await exchange(fast, head())


async def test_a_matching_entity_tag_gets_304_until_the_change(both: tuple[Api, Api]) -> None:
    """A remembered conditional head turns from 304 to 200 with the change."""
    fast, _ = both
    etag = re.search(rb"ETag: ([^\r]+)", await exchange(fast, head()))
    assert etag is not None
    conditional = head("/v0/cluster/events/latest", f"If-None-Match: W/{etag[1].decode()}")
    await warm(fast, conditional)
    unchanged = await exchange(fast, conditional)
    assert unchanged.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert unchanged.endswith(b"\r\n\r\n")
    await fast.context.replica.append(ALL_GOOD)
    assert (await exchange(fast, conditional)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_remembered_token_expires(
    both: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment at which a token ends, with the leeway, is its last also for a remembered head."""
    fast, _ = both
    expires = int(time.time()) + 1_000
    token = jwt.encode({"exp": expires - 5}, JWT_SECRET)
    await warm(fast, head(token=token))
    clock = [expires - 0.001]
    authenticator = fast.context.authenticator
    for owner in (fast.poll_server, authenticator, authenticator._jwt):
        monkeypatch.setattr(owner, "_wall", lambda: clock[0])
    assert (await exchange(fast, head(token=token))).startswith(b"HTTP/1.1 200")
    clock[0] = expires
    assert (await exchange(fast, head(token=token))).startswith(b"HTTP/1.1 401")


async def test_a_revoked_key_is_refused(both: tuple[Api, Api]) -> None:
    """A remembered head with an API key is worth nothing once the key is gone, on every process,
    without a restart."""
    fast, _ = both
    key, stored = mint("agent", Role.READ, 0)
    await fast.store.create_api_key(stored)
    await fast.settle()
    await warm(fast, head(token=key))
    assert (await exchange(fast, head(token=key))).startswith(b"HTTP/1.1 200")
    await fast.store.delete_api_key("agent")
    async with asyncio.timeout(PATIENCE_S):
        while not (await exchange(fast, head(token=key))).startswith(b"HTTP/1.1 401"):
            pass


async def test_the_date_moves(both: tuple[Api, Api]) -> None:
    """A remembered head gets the Date of its second."""
    fast, _ = both
    await warm(fast, head())
    dates: set[bytes] = set()
    async with asyncio.timeout(PATIENCE_S):
        while len(dates) < 2:
            match = re.search(rb"Date: ([^\r]+)", await exchange(fast, head()))
            assert match
            dates.add(match[1])


async def test_draining_ends_every_connection(both: tuple[Api, Api]) -> None:
    """Once the process drains, a remembered head is answered with `Connection: close`, and
    `/readyz` fails."""
    fast, _ = both
    await warm(fast, head())
    fast.context.draining = True
    answer = await exchange(fast, head())
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"<closed>")
    assert (await fast.get("/readyz")).status == 503


async def test_a_slow_reader_of_lists_is_not_fed_without_end(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks and never reads is cut off, and what waits for it stays bounded."""
    timeouts = Timeouts(head=1e9, idle=1e9, no_progress=300, response=1e9, sweep=0.01)
    api: Api = await make_api(timeouts=timeouts)
    for _ in range(300):
        await api.store.append(ONE_BAD)
    await api.settle()
    ask = head("/v0/cluster/events")
    await warm(api, ask)
    before = set(api.poll_server.connections)
    _, writer = await asyncio.open_connection(api.host, api.port, limit=1_024)
    (connection,) = await until(lambda: api.poll_server.connections - before)
    most = 0

    async def ask_on() -> None:
        while True:
            writer.write(ask)
            await writer.drain()
            nonlocal most
            most = max(most, connection.transport.get_write_buffer_size())
            await asyncio.sleep(0)

    def cut_off() -> bool:
        put_timeouts_forward(monkeypatch, api.poll_server, 300)
        return asking.done()

    asking = asyncio.create_task(ask_on())
    try:
        # Nothing more is read of what it asks, and nothing is taken of what it is sent.
        await until(lambda: connection.paused and writer.transport.get_write_buffer_size())
        most = max(most, connection.transport.get_write_buffer_size())
        await until(cut_off)
        with pytest.raises(ConnectionError):
            await asking
    finally:
        asking.cancel()
        writer.close()
    assert 0 < most < 2_000_000


async def test_a_polling_connection_is_not_idle(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is only ever served from the memo outlives the idle timeout; a silent one
    does not."""
    api: Api = await make_api(timeouts=Timeouts(head=30, idle=30, sweep=0.01))
    await api.store.append(ALL_GOOD)
    await api.settle()
    await warm(api, head())
    async with await connected(api.port) as silent, await connected(api.port) as polling:
        await until(lambda: len(api.poll_server.connections) >= 2)
        for _ in range(2):
            polling.send(head())
            assert (await polling.reply()).status == 200
            put_timeouts_forward(monkeypatch, api.poll_server, 20)
        assert await silent.rest() == b""
        polling.send(head())
        assert (await polling.reply()).status == 200


async def test_a_slow_head_is_cut_off(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that does not come to its end in time ends the connection, however busily its bytes
    drip."""
    api: Api = await make_api(timeouts=Timeouts(head=30, sweep=0.01))
    async with await connected(api.port) as line:
        await until(lambda: api.poll_server.connections)
        for byte in head()[:12]:
            line.send(bytes([byte]))
            await asyncio.sleep(0)
            put_timeouts_forward(monkeypatch, api.poll_server, 3)
        assert await line.rest() == b""


def test_heads_that_never_come_again_are_not_kept() -> None:
    """Unique heads leave the memo as it is."""
    memo = Memo()
    for number in range(100):
        assert not memo.seen(head("/v0/cluster/events", f"X-Run: {number}"))
    assert memo.seen(head("/v0/cluster/events", "X-Run: 1"))


def test_the_memo_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest head gives way when there are too many, or too many bytes."""
    monkeypatch.setattr(memos, "MAX_ENTRIES", 10)
    memo = Memo()
    entry = MemoEntry(CacheEntry(EVENTS), float("inf"), None, None, close=False)
    for number in range(30):
        memo.remember(head("/v0/cluster/events", f"X-Run: {number}"), entry)
    assert len(memo.entries) == 10
    assert memo._bytes == sum(map(len, memo.entries))
    monkeypatch.setattr(memos, "MAX_BYTES", 1_000)
    memo.remember(head("/v0/cluster/events", "X-Run: 29"), entry)
    assert memo._bytes <= 1_000


async def test_another_framework_switches_it_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On an aiohttp whose details were not read, the poll path is off and the log says so."""
    assert aiohttp_internals.matches_aiohttp()
    monkeypatch.setattr(aiohttp, "__version__", "3.15.0")
    assert not aiohttp_internals.matches_aiohttp()
    assert "unsupported aiohttp version" in caplog.text


async def test_an_eager_client_reaches_the_memo(both: tuple[Api, Api]) -> None:
    """A client that asks again the moment it has its answer is served from the memo as well, not
    only one that pauses."""
    fast, _ = both
    stats = fast.context.metrics.requests.route(EVENT_ROUTE)
    reader, writer = await asyncio.open_connection(fast.host, fast.port)
    handled = sum(stats.buckets)
    for _ in range(50):
        writer.write(head())
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}")
    writer.close()
    assert sum(stats.buckets) - handled <= 3


async def test_it_works_with_another_framework(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the framework's details are not known, everything is answered all the same, and idle
    connections end."""
    monkeypatch.setattr(aiohttp_internals, "SUPPORTED", (2, 0))
    api: Api = await make_api(timeouts=Timeouts(head=300, idle=300, sweep=0.01))
    await api.context.replica.append(ALL_GOOD)
    answers = await exchange(api, head(), head(), head())
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert not api.poll_server.memo.entries
    async with await connected(api.port) as line:
        line.send(head())
        assert (await line.reply()).status == 200
        put_forward(monkeypatch, 301)  # The framework's own timeout.
        assert await line.rest() == b""


@pytest.mark.slow
async def test_a_long_list_comes_whole_however_slowly_it_is_read(both: tuple[Api, Api]) -> None:
    """A list longer than any buffer, asked for several times at once and read in small pieces, is
    the list each time."""
    fast, plain = both
    for _ in range(1_000):
        await fast.store.append(ONE_BAD)
    await fast.settle()
    await plain.settle()
    ask = head("/v0/cluster/events", "Accept-Encoding: identity")
    expected = masked(await exchange(plain, ask))
    assert len(expected) > 150_000
    await warm(fast, ask)
    reader, writer = await asyncio.open_connection(fast.host, fast.port, limit=4_096)
    for _ in range(30):
        writer.write(ask)
        await writer.drain()
        await asyncio.sleep(0.001)
    received = b""
    while received.count(b"HTTP/1.1 200 OK") < 30 or not whole(received, (ask,)):
        received += await asyncio.wait_for(reader.read(50_000), PATIENCE_S)
    writer.close()
    assert set(re.split(rb"(?=HTTP/1\.1 200 OK)", masked(received))) == {b"", expected}


@pytest.mark.slow
async def test_long_replies_without_files_in_memory(
    both: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no files in memory, or the transport no socket, long replies are written
    as ever."""
    fast, plain = both
    for _ in range(400):
        await fast.store.append(ONE_BAD)
    await fast.settle()
    await plain.settle()
    ask = head("/v0/cluster/events", "Accept-Encoding: identity")
    expected = masked(await exchange(plain, ask))
    await warm(fast, ask)
    monkeypatch.setattr(sendfile, "_descriptor", lambda _: -1)
    assert masked(await exchange(fast, ask)) == expected
    monkeypatch.setattr(fast.poll_server, "files", None)
    assert masked(await exchange(fast, ask)) == expected
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert sendfile.Files.where_supported() is None


@pytest.mark.slow
async def test_no_head_gets_the_grant_of_another(make_api: Callable[..., Any]) -> None:
    """A head that comes behind many others, on a connection that was held back meanwhile, is not
    remembered as one of them: not even `/readyz`, which needs no credential, ever answers with an
    event."""
    api: Api = await make_api()
    for _ in range(400):
        await api.store.append(ONE_BAD)
    await api.settle()
    plain_list = head("/v0/cluster/events", "Accept-Encoding: identity")
    etag = (await api.get("/v0/cluster/events/latest")).headers["ETag"]
    hold = head("/v0/cluster/events/latest", f"If-None-Match: {etag}", "Prefer: wait=1")
    tail = b"".join(head("/v0/cluster/events/latest", f"X-N: {number}") for number in range(60))
    victim = b"GET /readyz HTTP/1.1\r\nHost: probe\r\nUser-Agent: kube-probe\r\n\r\n"
    for _ in range(2):
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        small.setblocking(False)
        await asyncio.get_running_loop().sock_connect(small, (api.host, api.port))
        reader, writer = await asyncio.open_connection(sock=small)
        writer.write(
            plain_list * 30 + hold + tail
        )  # More than its buffer takes, and than the framework queues.
        await asyncio.sleep(0.1)
        reading = asyncio.create_task(reader.read(50_000_000))
        await asyncio.sleep(0.3)
        writer.write(victim)
        await asyncio.sleep(1.2)
        reading.cancel()
        writer.close()
    assert victim not in api.poll_server.memo.entries
    for _ in range(3):
        assert (await exchange(api, victim)).endswith(b'{"status":"ready"}')


async def test_who_does_not_read_is_not_heard(make_api: Callable[..., Any]) -> None:
    """Many requests for long replies in one go, and none of the replies read: a few replies wait,
    not all of them."""
    api: Api = await make_api()
    big = {
        name: type(seen)(seen.status, "x" * 8_000, "y" * 8_000) for name, seen in ALL_GOOD.items()
    }
    for _ in range(60):
        await api.store.append(big)
    await api.settle()
    _, writer = await asyncio.open_connection(api.host, api.port, limit=1_024)
    writer.write(head("/v0/cluster/events?selector=all", "Accept-Encoding: identity") * 30)
    (connection,) = await until(lambda: list(api.poll_server.connections))
    await until(lambda: connection.paused)
    for _ in range(20):  # Time in which it would go on, measured in requests.
        assert (await api.get("/healthz")).status == 200
    assert connection.transport.get_write_buffer_size() < 10_000_000  # Of 30 replies of 2.9 MB.
    writer.close()


async def test_many_entity_tags_are_answered_but_not_remembered(both: tuple[Api, Api]) -> None:
    """A condition that is larger in memory than in the head is no reason to keep it."""
    fast, _ = both
    tags = ", ".join(f'"{number}"' for number in range(100))
    await warm(fast, head("/v0/cluster/events/latest", f"If-None-Match: {tags}"))
    assert not fast.poll_server.memo.entries


async def test_a_bug_on_the_poll_path_is_told_the_ordinary_way(
    both: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in making a ready answer, the client gets the one error body, not a
    broken connection."""
    fast, _ = both
    await warm(fast, head())

    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fast.context.responses, "current", broken)
    await fast.context.replica.append(ALL_GOOD)
    assert b'"error_code":"InternalError"' in await exchange(fast, head())
