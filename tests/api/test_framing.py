"""Bytes that are not quite HTTP: refused with the one error body, never echoed, and nothing behind
them is run."""

import asyncio
import gzip
import socket
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from service.api.handlers.event_body import body_limit
from service.api.http import bodies
from service.api.poll_path.connection import Connection
from service.api.poll_path.request_handler import HANDLER_SETTINGS
from service.api.poll_path.timeouts import Timeouts
from tests.support import needs
from tests.support.api import Api
from tests.support.clocks import put_timeouts_forward
from tests.support.observations import ALL_GOOD
from tests.support.raw import EVENT, PATIENCE_S, TOKEN, connected, head, recording, send_head
from tests.support.servers import POST, Server
from tests.support.waiting import until

MARK = "zzMARKzz"
"""Stands in the offending bytes; no reply may repeat it."""


def framed(
    *fields: str, body: bytes = b"", method: str = "POST", version: str = "HTTP/1.1"
) -> bytes:
    """A request that ends, in the eyes of whoever reads it wrongly, before another one."""
    return head(method, POST, *fields, version=version) + body + recording()


def chunked(body: bytes) -> bytes:
    """A request whose chunks are wrong."""
    return framed(
        f"Authorization: Bearer {TOKEN.decode()}", "Transfer-Encoding: chunked", body=body
    )


def raw(text: str) -> bytes:
    """A request as it stands, and one to smuggle behind it."""
    return text.encode() + recording()


NOT_WELL_FORMED = {
    "Content-Length and Transfer-Encoding": framed(
        "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "Transfer-Encoding and Content-Length": framed(
        "Transfer-Encoding: chunked", "Content-Length: 5", body=b"0\r\n\r\n"
    ),
    "two equal Content-Lengths": framed("Content-Length: 0", "Content-Length: 0"),
    "two Content-Lengths": framed("Content-Length: 0", "Content-Length: 7", body=b"0123456"),
    "Content-Length +5": framed("Content-Length: +5", body=b"01234"),
    "Content-Length 0x5": framed("Content-Length: 0x5", body=b"01234"),
    "Content-Length -1": framed("Content-Length: -1"),
    "Content-Length 1_0": framed("Content-Length: 1_0", body=b"0123456789"),
    "Content-Length list": framed("Content-Length: 0, 0"),
    "Content-Length empty": framed("Content-Length: "),
    "Content-Length in Arabic digits": framed("Content-Length: \u0665", body=b"01234"),
    "Content-Length of 30 digits": framed("Content-Length: " + "9" * 30),
    "Transfer-Encoding xchunked": framed("Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "Transfer-Encoding chunked, identity": framed(
        "Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"
    ),
    "Transfer-Encoding twice": framed(
        "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "Transfer-Encoding vertical tab": framed("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "Transfer-Encoding in HTTP/1.0": framed(
        "Transfer-Encoding: chunked", body=b"0\r\n\r\n", version="HTTP/1.0"
    ),
    "folded line": framed("X-One: 1", f"  {MARK}"),
    "folded Content-Length": framed("Content-Length:", " 0"),
    "folded first field": framed(f" X-One: {MARK}"),
    "space before the colon": framed(f"X-{MARK} : 1"),
    "space before the colon of Content-Length": framed("Content-Length : 7", body=b"0123456"),
    "tab before the colon": framed(f"X-{MARK}\t: 1"),
    "no colon": framed(f"{MARK}"),
    "no name": framed(f": {MARK}"),
    "name with a bracket": framed(f"X({MARK}): 1"),
    "name in UTF-8": framed(f"X-é{MARK}: 1"),
    "bare LF between fields": raw(f"GET /healthz HTTP/1.1\r\nHost: here\nX-One: {MARK}\r\n\r\n"),
    "bare LF everywhere": raw(f"GET /healthz HTTP/1.1\nHost: here\nX-One: {MARK}\n\n"),
    "bare LF at the end": raw(f"GET /healthz HTTP/1.1\r\nHost: here\r\nX-One: {MARK}\r\n\n"),
    "bare CR in a value": framed(f"X-One: 1\r{MARK}: 2"),
    "bare CR between fields": raw(f"GET /healthz HTTP/1.1\rHost: here\rX-One: {MARK}\r\r"),
    "NUL in a value": framed(f"X-One: {MARK}\x00"),
    "NUL in a name": framed(f"X-{MARK}\x00: 1"),
    "NUL in the path": raw(f"GET /{MARK}\x00 HTTP/1.1\r\nHost: here\r\n\r\n"),
    "LF in a chunk extension": chunked(b"5;a\nb\r\n01234\r\n0\r\n\r\n"),
    "size of a chunk too large": chunked(b"1" + b"0" * 16 + b"\r\n01234\r\n0\r\n\r\n"),
    "size of a chunk negative": chunked(b"-5\r\n01234\r\n0\r\n\r\n"),
    "size of a chunk 0x5": chunked(b"0x5\r\n01234\r\n0\r\n\r\n"),
    "size of a chunk with an underscore": chunked(b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
    "size of a chunk missing": chunked(b"\r\n01234\r\n0\r\n\r\n"),
    "size of a chunk ended by LF": chunked(b"5\n01234\r\n0\r\n\r\n"),
    "chunk longer than its size": chunked(b"5\r\n0123456\r\n0\r\n\r\n"),
    "no Host": raw("GET /healthz HTTP/1.1\r\n\r\n"),
    "two Hosts": framed("Host: there"),
    "HTTP/1.2": head(version="HTTP/1.2") + recording(),
    "HTTP/3.7": head(version="HTTP/3.7") + recording(),
    "HTTP/1.10": head(version="HTTP/1.10") + recording(),
    "lower-case version": head(version="http/1.1") + recording(),
    "no such protocol": head(version=f"{MARK}/1.1") + recording(),
    "lower-case method": head("get") + recording(),
    "unknown method": head(MARK.upper()) + recording(),
    "space in the path": head("GET", f"/{MARK} and more") + recording(),
    "raw UTF-8 path": head("GET", f"/é{MARK}") + recording(),
    "TLS hello": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(range(32)) + b"\r\n\r\n",
    "long request line": head("GET", "/" + "x" * 9_000) + recording(),
    "long name": framed("X" * 9_000 + ": 1"),
    "long value": framed("X-One: " + "x" * 9_000),
    "too many fields": framed(*[f"X-{n}: {MARK}" for n in range(130)]),
    "120 fields of 4 kB": framed(*[f"X-{n}: {'x' * 4_000}" for n in range(120)]),
}

OTHER_ERRORS: dict[str, tuple[int, str, dict[str, int]]] = {
    "Transfer-Encoding xchunked": (501, "NotImplemented", {}),
    "Transfer-Encoding chunked, identity": (501, "NotImplemented", {}),
    "long request line": (414, "UriTooLong", {"limit_bytes": 4_096}),
    "long name": (431, "HeadersTooLarge", {"limit_bytes": 8_190}),
    "long value": (431, "HeadersTooLarge", {"limit_bytes": 8_190}),
    "too many fields": (431, "HeadersTooLarge", {"limit_fields": 64}),
    "120 fields of 4 kB": (431, "HeadersTooLarge", {"limit_bytes": 32_768}),
}
"""What is refused with another error than 400."""

IN_PURE_PYTHON = {
    "HTTP/1.2": (505, "VersionNotSupported"),
    "HTTP/3.7": (505, "VersionNotSupported"),
    "unknown method": (405, "MethodNotAllowed"),
    "raw UTF-8 path": (404, "UnknownEndpoint"),
    "Content-Length of 30 digits": (401, "AuthenticationFailed"),
}
"""Where the parser in pure Python understands what the other one refuses: the API's own answer
stands, and no harm is done."""
FINE_IN_PURE_PYTHON = {"size of a chunk too large", "lower-case method"}
"""Its integers do not overflow, so it waits for that chunk until the deadline for bodies; and it
folds the case of methods."""


@pytest.mark.parametrize("name", NOT_WELL_FORMED)
async def test_malformed_request_is_refused_and_nothing_behind_it_runs(
    server: Server, name: str
) -> None:
    """What is not well-formed HTTP gets one error with the one body, in our own version, then the
    end of the connection."""
    if server.pure_python and name in IN_PURE_PYTHON.keys() | FINE_IN_PURE_PYTHON:
        needs.absent("the parser in C: the one in pure Python takes this as well-formed")
    async with await connected(server.port) as line:
        line.send(NOT_WELL_FORMED[name])
        reply = await line.reply()
        details = orjson.loads(reply.body)["details"]
        assert (reply.status, reply.error_code, details) == OTHER_ERRORS.get(
            name, (400, "BadMessage", {})
        )
        assert (reply.version, reply.headers["Connection"]) == ("HTTP/1.1", "close")
        assert MARK.lower() not in str(reply).lower()
        assert await line.rest() == b""
    assert await server.recorded() == 0


@pytest.mark.parametrize("name", IN_PURE_PYTHON)
async def test_what_only_pure_python_understands_gets_an_error_of_the_api(
    pure_python_port: int, name: str
) -> None:
    """What the parser in pure Python lets through still gets no more than an error with the one
    body."""
    async with await connected(pure_python_port) as line:
        line.send(NOT_WELL_FORMED[name])
        reply = await line.reply()
    assert (reply.status, reply.error_code) == IN_PURE_PYTHON[name]


OTHER_VERSIONS = {
    "no version": b"GET /healthz\r\n\r\n",
    "no version, no path": b"GET /\r\n\r\n",
    "HTTP/0.9": b"GET /healthz HTTP/0.9\r\n\r\n",
    "HTTP/2.0": head(version="HTTP/2.0"),
    "HTTP/2.0 without a Host": b"GET /v0/cluster/events/latest HTTP/2.0\r\n\r\n",
}


@pytest.mark.parametrize("name", OTHER_VERSIONS)
async def test_other_versions_of_http_are_not_spoken(server: Server, name: str) -> None:
    """A request in HTTP/0.9 or 2.0 is told so in HTTP/1.1, and the connection ends."""
    if server.pure_python and name.startswith("no version"):
        needs.absent("the parser in C: the one in pure Python takes this as malformed")
    async with await connected(server.port) as line:
        line.send(OTHER_VERSIONS[name])
        reply = await line.reply()
        assert (reply.status, reply.error_code, reply.version) == (
            505,
            "VersionNotSupported",
            "HTTP/1.1",
        )
        assert reply.headers["Connection"] == "close"
        assert await line.rest() == b""


@pytest.mark.parametrize("name", OTHER_VERSIONS)
async def test_nothing_runs_behind_another_version_of_http(server: Server, name: str) -> None:
    """A request that follows one in HTTP/0.9 or 2.0 is not run: the connection ends before it."""
    async with await connected(server.port) as line:
        line.send(OTHER_VERSIONS[name] + recording())
        assert (await line.reply()).error_code in {"BadMessage", "VersionNotSupported"}
        assert await line.rest() == b""
    assert await server.recorded() == 0


async def test_preface_of_http2_ends_the_connection(server: Server) -> None:
    """A client that begins HTTP/2 with prior knowledge gets an error in HTTP/1.x, then the end."""
    async with await connected(server.port) as line:
        line.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        reply = await line.reply()
        assert (reply.status, reply.error_code) in {
            (400, "BadMessage"),
            (505, "VersionNotSupported"),
        }
        assert await line.rest() == b""


async def test_headers_are_bounded_together(server: Server) -> None:
    """Fields that each are within bounds are refused with 431 when they are too many bytes
    together."""
    async with await connected(server.port) as line:
        line.send(framed(*[f"X-{n}: {MARK}{'x' * 4_000}" for n in range(60)]))
        reply = await line.reply()
        assert (reply.status, reply.error_code) == (431, "HeadersTooLarge")
        assert MARK.encode() not in reply.body
        assert await line.rest() == b""
    assert await server.recorded() == 0


async def test_many_headers_within_bounds_are_fine(server: Server) -> None:
    """What a browser or a mesh adds to a request is not held against it."""
    async with await connected(server.port) as line:
        line.send(head("GET", "/healthz", *[f"X-{n}: {'x' * 500}" for n in range(60)]))
        assert (await line.reply()).status == 200


async def test_unrelated_bytes_in_a_field_are_ignored(server: Server) -> None:
    """A field that nobody asks for may hold any bytes that a field can hold."""
    async with await connected(server.port) as line:
        line.send(b"GET /healthz HTTP/1.1\r\nHost: here\r\nX-Name: caf\xe9 \xff\xfe\r\n\r\n")
        assert (await line.reply()).status == 200


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("TRACE", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
        ("OPTIONS", "*", ""),
        ("CONNECT", "example.org:443", ""),
        ("DELETE", "/metrics", "GET, HEAD"),
    ],
)
async def test_methods_that_no_route_takes(
    server: Server, method: str, target: str, allow: str
) -> None:
    """TRACE and OPTIONS get 405 like every other method that the path does not take."""
    async with await connected(server.port) as line:
        line.send(head(method, target, f"X-One: {MARK}"))
        reply = await line.reply(method)
        assert (reply.status, reply.error_code) == (405, "MethodNotAllowed")
        assert reply.headers["Allow"] == allow
        assert MARK.encode() not in reply.body


@pytest.mark.slow
async def test_unknown_expectation_is_refused(server: Server) -> None:
    """An `Expect` other than `100-continue` gets 417 and the end of the connection."""
    async with await connected(server.port) as line:
        line.send(head("POST", POST, f"Expect: {MARK}", f"Content-Length: {len(EVENT)}"))
        reply = await line.reply()
        assert (reply.status, reply.error_code) == (417, "UnmetExpectation")
        assert MARK.encode() not in reply.body
        assert await line.rest() == b""


async def test_expectation_100_continue_is_met(server: Server) -> None:
    """A client that waits for leave to send its body gets it."""
    request = recording().removesuffix(EVENT)
    async with await connected(server.port) as line:
        line.send(request.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert await line.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(EVENT)
        assert (await line.reply()).status == 201


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("query", ["", "?limit=1"], ids=["kept", "made for one client"])
async def test_replies_are_in_the_version_of_the_request(
    server: Server, query: str, version: str
) -> None:
    """Whichever parser read it, a request in HTTP/1.1 is answered in HTTP/1.1, and keeps its
    connection."""
    async with await connected(server.port) as line:
        line.send(
            head(
                "GET", f"{POST}{query}", f"Authorization: Bearer {TOKEN.decode()}", version=version
            )
        )
        reply = await line.reply()
    assert (reply.status, reply.version) == (200, version)
    assert "Connection" not in reply.headers


async def test_expectation_in_http10_is_ignored(server: Server) -> None:
    """HTTP/1.0 knows no 100, so an expectation in it is not answered with one (RFC 9110, section
    10.1.1)."""
    async with await connected(server.port) as line:
        line.send(head("GET", "/healthz", "Expect: 100-continue", version="HTTP/1.0"))
        assert (await line.reply()).status == 200


async def test_upgrade_is_ignored(server: Server) -> None:
    """A client that offers HTTP/2 is answered in HTTP/1.1, as if it had not offered it."""
    async with await connected(server.port) as line:
        line.send(
            head(
                "GET",
                "/healthz",
                "Connection: Upgrade, HTTP2-Settings",
                "Upgrade: h2c",
                "HTTP2-Settings: AAMAAABk",
            )
        )
        reply = await line.reply()
        assert reply.status == 200
        assert "Upgrade" not in reply.headers


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """A hundred requests in one write get a hundred replies in their order."""
    authorization = f"Authorization: Bearer {TOKEN.decode()}"
    async with await connected(server.port) as line:
        line.send(b"".join(head("GET", f"{POST}/bad-{n}", authorization) for n in range(100)))
        replies = [await line.reply() for _ in range(100)]
    assert [orjson.loads(reply.body)["details"]["value"] for reply in replies] == [
        f"bad-{n}" for n in range(100)
    ]


async def test_compressed_body_is_not_inflated(server: Server) -> None:
    """A body in a content coding is refused before a byte of it is inflated."""
    body = gzip.compress(EVENT)
    async with await connected(server.port) as line:
        fields = (
            f"Authorization: Bearer {TOKEN.decode()}",
            "Content-Encoding: gzip",
            f"Content-Length: {len(body)}",
        )
        line.send(head("POST", POST, *fields) + body)
        reply = await line.reply()
        assert (reply.status, reply.error_code) == (415, "UnsupportedMediaType")
    assert await server.recorded() == 0


@pytest.mark.parametrize("announced", [True, False], ids=["Content-Length", "chunked"])
async def test_body_of_two_mebibytes_is_refused(server: Server, announced: bool) -> None:
    """A body that no event can need is refused without being read to its end, announced or not."""
    body = b"x" * 2 * 1024 * 1024
    framing = f"Content-Length: {len(body)}" if announced else "Transfer-Encoding: chunked"
    data = body if announced else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with await connected(server.port) as line:
        line.send(
            head("POST", POST, f"Authorization: Bearer {TOKEN.decode()}", framing)
            + data
            + recording()
        )
        reply = await line.reply()
        assert (reply.status, reply.error_code) == (413, "PayloadTooLarge")
        assert orjson.loads(reply.body)["details"] == {"limit_bytes": body_limit(3)}
        assert await line.rest() == b""
    assert await server.recorded() == 0


async def test_large_body_on_a_route_without_one_is_refused(server: Server) -> None:
    """A route that takes no body does not read a large one."""
    async with await connected(server.port) as line:
        line.send(head("GET", "/healthz", "Content-Length: 2000") + b"x" * 2_000 + recording())
        reply = await line.reply()
        assert (reply.status, reply.error_code) == (413, "PayloadTooLarge")
        assert await line.rest() == b""
    assert await server.recorded() == 0


async def test_small_body_on_a_route_without_one_is_skipped(server: Server) -> None:
    """A client that sends a body with every GET is served, and the body is never taken for a
    request."""
    body = head("GET", "/no-such-path")
    async with await connected(server.port) as line:
        line.send(
            head("GET", "/healthz", f"Content-Length: {len(body)}") + body + head("GET", "/readyz?")
        )
        assert (await line.reply()).body == b'{"status":"healthy"}'
        assert b"status" in (await line.reply()).body


@pytest.mark.parametrize(
    "broken",
    [b"5\r\n01234\r\nnonsense\r\n", b"zz\r\n", b"5\r\n012345\r\n", b"0\r\nno colon\r\n\r\n"],
)
async def test_broken_chunk_after_the_head_is_no_bug_of_ours(server: Server, broken: bytes) -> None:
    """A body that breaks while its handler reads it is refused at once, never recorded, and no
    traceback is logged."""
    async with await connected(server.port) as line:
        await send_head(
            line,
            head(
                "POST",
                POST,
                f"Authorization: Bearer {TOKEN.decode()}",
                "Transfer-Encoding: chunked",
            ),
        )
        line.send(broken + recording())
        reply = await line.reply()
        assert (reply.status, reply.error_code) == (400, "BadMessage")
        assert await line.rest() == b""
    assert await server.recorded() == 0
    assert not server.complaints()


async def test_broken_chunk_after_the_reply_is_no_bug_of_ours(server: Server) -> None:
    """A body that breaks when the reply without it is out ends the connection, and no traceback is
    logged."""
    async with await connected(server.port) as line:
        line.send(head("GET", "/healthz", "Transfer-Encoding: chunked"))
        assert (await line.reply()).status == 200
        line.send(b"zz\r\n" + recording())
        await line.rest()
    assert await server.recorded() == 0
    assert not server.complaints()


async def test_client_that_leaves_in_its_body_is_no_bug_of_ours(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that closes the connection in the middle of its body is not logged as an error."""
    async with await connected(api.port) as line:
        line.send(recording()[:-10])
        await until(lambda: any(not one.idle() for one in api.poll_server.connections))
    await until(lambda: all(one.idle() for one in api.poll_server.connections))
    async with await connected(api.port) as line:
        await line.finish()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert not (await api.store.read()).entries


# -- deadlines -------------------------------------------------------------------------------------

TIMEOUTS = Timeouts(head=30, idle=60, no_progress=0.2, sweep=0.01)
"""Heads and idle connections run out of time when a test puts the clock forward. Only a client that
takes nothing is waited for."""


@pytest.fixture(params=["on", "off"])
async def hasty(request: pytest.FixtureRequest, make_api: Callable[..., Any]) -> Api:
    """An API process with these timeouts, with the poll path on and off."""
    api: Api = await make_api(timeouts=TIMEOUTS, poll_path=request.param)
    return api


async def head_ended(connection: Connection) -> None:
    """Waits until the server takes the head for a whole one."""
    await until(lambda: not connection._head_since)


async def test_silent_connection_is_ended(hasty: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing is said ends."""
    async with await connected(hasty.port) as line:
        await until(lambda: hasty.poll_server.connections)
        put_timeouts_forward(monkeypatch, hasty.poll_server, 30)
        assert await line.rest() == b""


@pytest.mark.parametrize(
    "pace", [b"GET /healthz HTTP/1.1", b"POST /v0/cluster/events", b"\x16\x03\x01"]
)
async def test_slow_head_is_ended(hasty: Api, monkeypatch: pytest.MonkeyPatch, pace: bytes) -> None:
    """A head that comes a byte at a time ends with the connection, however steadily it comes."""
    async with await connected(hasty.port) as line:
        await until(lambda: hasty.poll_server.connections)
        ended = asyncio.create_task(line.rest())
        for byte in (pace + b"\r\nHost: here\r\n" + b"X-One: 1\r\n" * 100)[:200]:
            line.send(bytes([byte]))
            await asyncio.sleep(0.01)  # So that it comes alone.
            put_timeouts_forward(monkeypatch, hasty.poll_server, 2)
            if ended.done():
                break
        else:
            pytest.fail("the connection was not ended after 400 s")
        await ended


async def test_slow_second_head_is_ended(hasty: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has been answered once gets no more time for its next head."""
    async with await connected(hasty.port) as line:
        line.send(head())
        assert (await line.reply()).status == 200
        (connection,) = hasty.poll_server.connections
        await head_ended(connection)
        line.send(head()[:-2])
        await until(lambda: connection._head_since)
        put_timeouts_forward(monkeypatch, hasty.poll_server, 30)
        assert await line.rest() == b""


async def test_connection_in_use_outlives_the_deadlines(
    hasty: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timeouts count from the last request: an agent that polls keeps its connection."""
    async with await connected(hasty.port) as line:
        for _ in range(6):
            line.send(head())
            assert (await line.reply()).status == 200
            (connection,) = hasty.poll_server.connections
            await head_ended(connection)
            put_timeouts_forward(monkeypatch, hasty.poll_server, 20)
            await asyncio.sleep(2 * TIMEOUTS.sweep)  # So that the timeouts are looked at.


@pytest.mark.parametrize("begun", [b"", EVENT[:10]], ids=["absent", "slow"])
async def test_body_that_does_not_come_is_timed_out(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    """A body that was announced and does not come in time gets 408 and the end of the
    connection."""
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.1)
    monkeypatch.setitem(HANDLER_SETTINGS, "lingering_time", 0.1)
    api = await make_api()
    async with await connected(api.port) as line:
        line.send(recording().removesuffix(EVENT) + begun)
        reply = await line.reply()
        assert (reply.status, reply.error_code) == (408, "RequestTimeout")
        assert await line.rest() == b""
    assert not (await api.store.read()).entries


async def test_body_that_trickles_is_timed_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for the whole body: bytes that keep coming do not extend it."""
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.2)
    async with await connected(api.port) as line:
        line.send(recording().removesuffix(EVENT))
        for _ in range(15):
            line.send(b"{")
            await asyncio.sleep(0.02)
        assert (await line.reply()).status == 408


@pytest.mark.slow
async def test_announced_body_on_a_route_without_one_is_not_waited_for(server: Server) -> None:
    """A GET is answered at once though its announced body never comes, and the connection ends soon
    after."""
    async with await connected(server.port) as line:
        line.send(head("GET", "/healthz", "Content-Length: 10"))
        assert (await line.reply()).status == 200
        assert await line.rest() == b""


async def test_client_that_does_not_read_is_cut_off(hasty: Api) -> None:
    """A client that asks and asks, and takes nothing of the replies, loses the connection and the
    memory it holds."""
    for _ in range(3):
        await hasty.store.append(ALL_GOOD)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    with sock:
        await loop.sock_connect(sock, ("127.0.0.1", hasty.port))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await asyncio.wait_for(
                loop.sock_sendall(sock, head("GET", "/openapi.json") * 400_000), PATIENCE_S
            )
    async with await connected(hasty.port) as line:
        line.send(head())
        assert (await line.reply()).status == 200
