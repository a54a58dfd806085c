"""What lies between two requests on a connection: limits, upgrades, half-closed connections,
deadlines of responses."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from service.api import aiohttp_internals
from service.api.http.limits import FIELD_LIMIT, FIELDS, TARGET_LIMIT
from service.api.poll_path.request_head import (
    is_one_get,
    is_partial_head,
    is_whole,
    without_tracing,
)
from service.api.poll_path.timeouts import Timeouts
from tests.support import needs
from tests.support.api import Api
from tests.support.observations import ALL_GOOD
from tests.support.raw import EVENT, TOKEN, Line, connected, head, recording, send_head, send_pieces
from tests.support.servers import POST, Server

MakeApi = Callable[..., Any]
AUTHORIZED = f"Authorization: Bearer {TOKEN.decode()}"
LATEST = f"{POST}/latest"


async def latest(line: Line, *fields: str) -> Any:
    """The reply to a request for the latest event."""
    line.send(head("GET", LATEST, AUTHORIZED, *fields))
    return await line.reply()


# -- limits ----------------------------------------------------------------------------------------

LIMITS = {
    "target": (
        head("GET", "/healthz?" + "x" * (TARGET_LIMIT - 9)),
        head("GET", "/healthz?" + "x" * (TARGET_LIMIT - 8)),
    ),
    "field": (
        head("GET", "/healthz", "X: " + "x" * (FIELD_LIMIT - 1)),
        head("GET", "/healthz", "X: " + "x" * FIELD_LIMIT),
    ),
    "fields": (
        head("GET", "/healthz", *["X: x"] * (FIELDS - 1)),
        head("GET", "/healthz", *["X: x"] * FIELDS),
    ),
    "fields with tracing": (
        head("GET", "/healthz", *["X: x"] * (FIELDS - 9), *["traceparent: 0"] * 8),
        head("GET", "/healthz", *["X: x"] * (FIELDS - 8), *["traceparent: 0"] * 8),
    ),
}
"""For each limit a request that just keeps it, and one that is one byte or field beyond."""
REFUSED = {
    "target": (414, "UriTooLong", {"limit_bytes": 4_096}),
    "field": (431, "HeadersTooLarge", {"limit_bytes": 8_190}),
    "fields": (431, "HeadersTooLarge", {"limit_fields": 64}),
    "fields with tracing": (431, "HeadersTooLarge", {"limit_fields": 64}),
}


@pytest.mark.parametrize("name", LIMITS)
async def test_limits_are_exact(server: Server, name: str) -> None:
    """What keeps a limit is answered, what exceeds it by one is refused, by both parsers and on the
    poll path."""
    within, beyond = LIMITS[name]
    async with await connected(server.port) as line:
        for _ in range(
            3
        ):  # The second sight is remembered, the third is answered on the poll path.
            line.send(within)
            assert (await line.reply()).status == 200
    async with await connected(server.port) as line:
        line.send(beyond)
        reply = await line.reply()
        assert (reply.status, reply.error_code, orjson.loads(reply.body)["details"]) == REFUSED[
            name
        ]
        assert (reply.version, reply.headers["Connection"]) == ("HTTP/1.1", "close")
        assert await line.rest() == b""


async def test_remembered_head_with_too_much_tracing_is_refused(api: Api) -> None:
    """Fields count as they are received: 62 fields that are remembered pass no 8 tracing lines
    on."""
    await api.context.replica.append(ALL_GOOD)
    fields = ["X: x"] * (FIELDS - 4)
    async with await connected(api.port) as line:
        for _ in range(3):
            assert (await latest(line, *fields)).status == 200
        assert (await latest(line, *fields, "traceparent: 0")).status == 200
        reply = await latest(line, *fields, *["traceparent: 0"] * 8)
        assert (reply.status, reply.error_code) == (431, "HeadersTooLarge")


async def test_what_cannot_be_parsed_is_counted_and_logged(
    make_api: MakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that reaches no route is in the metrics and the access log all the same."""
    api: Api = await make_api(access_log="on")
    with caplog.at_level(logging.INFO, "service.access"):
        for request in (head("GET", "/" + "x" * 9_000), b"nonsense\r\n\r\n"):
            async with await connected(api.port) as line:
                line.send(request)
                await line.rest()
    metrics = (await api.get("/metrics")).body.decode()
    for status in (414, 400):
        assert (
            f'http_requests_total{{code="{status}",method="other",route="unparsed"}} 1.0' in metrics
        )
    assert [
        getattr(record, "status", 0) for record in caplog.records if record.name == "service.access"
    ][:2] == [
        414,
        400,
    ]


NOT_ROUTED = {
    "unmet expectation": (head("POST", POST, "Expect: x"), ("POST", POST, 417)),
    "OPTIONS *": (head("OPTIONS", "*"), ("OPTIONS", "unparsed", 405)),
    "CONNECT": (head("CONNECT", "here:443"), ("CONNECT", "unparsed", 405)),
}


@pytest.mark.parametrize(("request_", "expected"), NOT_ROUTED.values(), ids=NOT_ROUTED)
async def test_every_reply_is_counted_and_logged(
    make_api: MakeApi,
    caplog: pytest.LogCaptureFixture,
    request_: bytes,
    expected: tuple[str, str, int],
) -> None:
    """What is answered ahead of the handlers, or without one, is in the metrics and the access log,
    once."""
    api: Api = await make_api(access_log="on")
    with caplog.at_level(logging.INFO, "service.access"):
        async with await connected(api.port) as line:
            line.send(request_)
            await line.reply()
    method, route, status = expected
    metrics = (await api.get("/metrics")).body.decode()
    assert (
        f'http_requests_total{{code="{status}",method="{method}",route="{route}"}} 1.0' in metrics
    )
    logged = [vars(record) for record in caplog.records if record.name == "service.access"]
    assert [(line["method"], line["route"], line["status"]) for line in logged] == [expected]


MALFORMED_ASTERISK = {
    "Host": (b"OPTIONS * HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "fields": (head("OPTIONS", "*", *["X: x"] * FIELDS), 431),
    "coding": (head("OPTIONS", "*", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501),
    "version": (head("OPTIONS", "*", version="HTTP/2.0"), 505),
}


@pytest.mark.parametrize(
    ("request_", "status"), MALFORMED_ASTERISK.values(), ids=MALFORMED_ASTERISK
)
async def test_target_without_a_path_passes_no_limit_on(
    server: Server,
    request_: bytes,
    status: int,
) -> None:
    """A request that reaches no route is held to the same rules as one that does."""
    async with await connected(server.port) as line:
        line.send(request_)
        reply = await line.reply()
        assert (reply.status, reply.version) == (status, "HTTP/1.1")
        assert await line.rest() == b""


@pytest.mark.parametrize("size", [4_000, 6_000, 8_000])
async def test_long_field_may_come_in_pieces(server: Server, size: int) -> None:
    """A token of several kilobytes, which comes in more than one segment, is within the limits,
    whichever parser reads it."""
    request = head("HEAD", "/healthz", "X: " + "x" * size)
    async with await connected(server.port) as line:
        await send_pieces(line, request[: size // 2], request[size // 2 : -20], request[-20:])
        assert (await line.reply("HEAD")).status == 200


TOO_LONG = {
    "target": (b"POST /" + b"x" * 9_000, 414, {"limit_bytes": 4_096}),
    "name": (b"POST / HTTP/1.1\r\n" + b"x" * 9_000, 431, {"limit_bytes": 8_190}),
    "value": (b"POST / HTTP/1.1\r\nX: " + b"x" * 9_000, 431, {"limit_bytes": 8_190}),
    "fields": (b"POST / HTTP/1.1\r\n" + b"X: x\r\n" * (FIELDS + 5), 431, {"limit_fields": 64}),
    "together": (
        b"POST / HTTP/1.1\r\n" + (b"X: " + b"x" * 8_000 + b"\r\n") * 5,
        431,
        {"limit_bytes": 32_768},
    ),
}


@pytest.mark.parametrize(("beginning", "status", "details"), TOO_LONG.values(), ids=TOO_LONG)
async def test_limits_hold_before_the_end_of_a_head(
    server: Server,
    beginning: bytes,
    status: int,
    details: dict[str, int],
) -> None:
    """A head that does not end is refused at the limit, not kept until its deadline."""
    async with await connected(server.port) as line:
        line.send(beginning)
        reply = await line.reply()
        assert (reply.status, orjson.loads(reply.body)["details"]) == (status, details)
        assert await line.rest() == b""


async def test_body_behind_a_waiting_request_is_not_taken_in(make_api: MakeApi) -> None:
    """Of a body whose handler has not begun, the process keeps little more than it receives at
    once."""
    api: Api = await make_api()
    await api.context.replica.append(ALL_GOOD)
    async with await connected(api.port) as line:
        etag = (await latest(line)).headers["ETag"]
        size = 8 * 1024 * 1024
        line.send(head("GET", LATEST, AUTHORIZED, f"If-None-Match: {etag}", "Prefer: wait=60"))
        line.send(head("POST", POST, AUTHORIZED, f"Content-Length: {size}") + b"x" * size)
        (connection,) = api.poll_server.connections
        while connection.transport.is_reading():
            await asyncio.sleep(0.005)
        assert connection._handler is not None
        ((_, body),) = connection._handler._messages
        assert body.total_bytes < 400_000


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "a/b",
        "a@b",
        "user@here",
        "here:port",
        "here:80:80",
        "[::1",
        "::1",
        "[here]",
        "[1]",
        "[:::]",
        "[1:2:3]",
        "[::1]here",
        "a\\b",
        "a?b",
        "%zz",
        "h\u00e9re",
    ],
)
async def test_invalid_host_is_refused(server: Server, host: str) -> None:
    """A Host that is no host and port gets 400 (RFC 9112, section 3.2)."""
    async with await connected(server.port) as line:
        line.send(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() + recording())
        reply = await line.reply()
        assert (reply.status, reply.error_code) == (400, "BadMessage")
        assert await line.rest() == b""
    assert await server.recorded() == 0


@pytest.mark.parametrize(
    "host",
    [
        "",
        "here",
        "here:",
        "here:80",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:80",
        "a_b.example.",
        "[fe80::1%25eth0]",
        "%41",
    ],
)
async def test_valid_host_is_fine(server: Server, host: str) -> None:
    """Names, addresses, ports, and none at all are hosts."""
    async with await connected(server.port) as line:
        line.send(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (await line.reply()).status == 200


@pytest.mark.parametrize("codings", ["gzip, chunked", "gzip", "identity", "deflate,chunked"])
async def test_other_transfer_codings_are_not_implemented(server: Server, codings: str) -> None:
    """A body in a coding besides `chunked` is refused with 501 and the end of the connection (RFC
    9112, section 6.1)."""
    async with await connected(server.port) as line:
        line.send(
            head("POST", POST, AUTHORIZED, f"Transfer-Encoding: {codings}")
            + b"0\r\n\r\n"
            + recording()
        )
        reply = await line.reply()
        assert (reply.status, reply.error_code) == (501, "NotImplemented")
        assert await line.rest() == b""
    assert await server.recorded() == 0


# -- upgrades --------------------------------------------------------------------------------------


PROTOCOLS = ["h2c", "websocket", "TLS/1.0", "h2c, websocket", "nonsense"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_offered_protocol_changes_nothing(server: Server, protocol: str) -> None:
    """A request that offers another protocol is answered, and the connection goes on, with bodies
    and without."""
    upgrade = ("Connection: Upgrade", f"Upgrade: {protocol}")
    async with await connected(server.port) as line:
        for _ in range(2):
            line.send(head("GET", "/healthz", *upgrade))
            reply = await line.reply()
            assert (reply.status, reply.headers.get("Connection")) == (200, None)
        await send_head(
            line, head("POST", POST, AUTHORIZED, f"Content-Length: {len(EVENT)}", *upgrade)
        )
        line.send(EVENT)
        assert (await line.reply()).status == 201
        line.send(head("GET", "/healthz"))
        assert (await line.reply()).status == 200
    assert await server.recorded() == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("target", ["/healthz", LATEST])
async def test_nothing_is_read_from_the_middle(server: Server, protocol: str, target: str) -> None:
    """What follows such a request in the same bytes is answered as the request that it is, or the
    connection ends; its body never runs as a request."""
    hidden = recording()
    outer = head("POST", POST, AUTHORIZED, f"Content-Length: {len(hidden)}") + hidden
    async with await connected(server.port) as line:
        line.send(
            head("GET", target, AUTHORIZED, "Connection: Upgrade", f"Upgrade: {protocol}") + outer
        )
        assert (await line.reply()).status in {200, 404}
        await line.finish()
    assert await server.recorded() == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("together", [True, False])
async def test_nothing_is_read_from_the_middle_after_a_body(
    server: Server,
    framing: str,
    together: bool,
) -> None:
    """The same behind the body of such a request, whether that came with its head or later."""
    body = EVENT if framing == "length" else b"%x\r\n%s\r\n0\r\n\r\n" % (len(EVENT), EVENT)
    field = f"Content-Length: {len(EVENT)}" if framing == "length" else "Transfer-Encoding: chunked"
    hidden = recording()
    outer = head("POST", f"{POST}/x", AUTHORIZED, f"Content-Length: {len(hidden)}") + hidden
    async with await connected(server.port) as line:
        first = head("POST", POST, AUTHORIZED, field, "Connection: Upgrade", "Upgrade: h2c")
        if together:
            line.send(first + body + outer)
        else:
            await send_head(line, first)
            line.send(body + outer)
        assert (await line.reply()).status == 201
        await line.finish()
    assert await server.recorded() == 1


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("target", ["/healthz", LATEST])
async def test_nothing_is_read_from_the_middle_of_a_head_in_pieces(
    server: Server,
    target: str,
    cut: int,
) -> None:
    """The same where the end of such a head is cut, and where the body that must not run comes
    last."""
    hidden = recording()
    first = head("GET", target, AUTHORIZED, "Connection: Upgrade", "Upgrade: h2c")
    outer = head("POST", POST, AUTHORIZED, f"Content-Length: {len(hidden)}")
    async with await connected(server.port) as line:
        await send_pieces(line, first[:-cut], first[-cut:] + outer)
        assert (await line.reply()).status in {200, 404}
        line.send(hidden)
        await line.finish()
    assert await server.recorded() == 0


@pytest.mark.parametrize("cut", [1, 2, 3, 8])
async def test_nothing_is_read_from_the_middle_after_a_body_in_pieces(
    server: Server,
    cut: int,
) -> None:
    """The same where the end of a chunked body is cut."""
    hidden = recording()
    outer = head("POST", f"{POST}/x", AUTHORIZED, f"Content-Length: {len(hidden)}")
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(EVENT), EVENT)
    upgrade = ("Transfer-Encoding: chunked", "Connection: Upgrade", "Upgrade: h2c")
    async with await connected(server.port) as line:
        await send_head(line, head("POST", POST, AUTHORIZED, *upgrade))
        await send_pieces(line, body[:-cut], body[-cut:] + outer)
        assert (await line.reply()).status == 201
        line.send(hidden)
        await line.finish()
    assert await server.recorded() == 1


async def test_nothing_is_read_from_the_middle_before_the_reply(make_api: MakeApi) -> None:
    """A request that offers a protocol which the framework knows does not hide another one that
    comes before its reply."""
    api: Api = await make_api()
    await api.context.replica.append(ALL_GOOD)
    hidden = recording()
    outer = head("POST", POST, AUTHORIZED, f"Content-Length: {len(hidden)}")
    async with await connected(api.port) as line:
        etag = (await latest(line)).headers["ETag"]
        waits = (f"If-None-Match: {etag}", "Prefer: wait=60")
        line.send(
            head("GET", LATEST, AUTHORIZED, "Connection: Upgrade", "Upgrade: websocket", *waits)
        )
        while not len(api.context.long_polls):
            await asyncio.sleep(0.005)
        await send_pieces(
            line, head("GET", LATEST, AUTHORIZED, "Connection: Upgrade", "Upgrade: h2c") + outer
        )
        await api.context.replica.append(ALL_GOOD)
        assert [(await line.reply()).status for _ in range(2)] == [200, 200]
        line.send(hidden)
        assert await line.rest() == b""
    assert len((await api.store.read()).entries or ()) == 2


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_connection_goes_on_after_an_offer_with_a_body(server: Server, framing: str) -> None:
    """After such a request, whose body comes in pieces, the next ones are answered however they are
    cut."""
    body = EVENT if framing == "length" else b"%x\r\n%s\r\n0\r\n\r\n" % (len(EVENT), EVENT)
    field = f"Content-Length: {len(EVENT)}" if framing == "length" else "Transfer-Encoding: chunked"
    async with await connected(server.port) as line:
        await send_head(
            line, head("POST", POST, AUTHORIZED, field, "Connection: Upgrade", "Upgrade: h2c")
        )
        await send_pieces(line, body[:9], body[9:])
        reply = await line.reply()
        assert (reply.status, reply.headers.get("Connection")) == (201, None)
        for next_ in (head("HEAD", "/healthz"), head("HEAD", "/readyz")):
            await send_pieces(line, next_[:20], next_[20:-1], next_[-1:])
            assert (await line.reply("HEAD")).status == 200


NO_CERTAIN_END = {
    "CONNECT": head("CONNECT", "example.org:443"),
    "HTTP/1.0": head("GET", "/healthz", "Transfer-Encoding: chunked", version="HTTP/1.0")
    + b"0\r\n\r\n",
}


@pytest.mark.parametrize("request_", NO_CERTAIN_END.values(), ids=NO_CERTAIN_END)
async def test_connection_ends_where_a_message_has_no_certain_end(
    server: Server,
    request_: bytes,
) -> None:
    """CONNECT, and a transfer coding in HTTP/1.0, end the connection."""
    async with await connected(server.port) as line:
        line.send(request_ + recording())
        assert (await line.reply()).status in {200, 400, 405}
        assert await line.rest() == b""
    assert await server.recorded() == 0


# -- half-closed connections -----------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_half_closed_reads_are_answered(server: Server, times: int) -> None:
    """A client that sends its requests and closes its side gets all replies, then the end,
    remembered or not."""
    for _ in range(3):
        async with await connected(server.port) as line:
            line.send(head("GET", POST, AUTHORIZED) * times)
            line.writer.write_eof()
            for _ in range(times):
                assert (await line.reply()).status == 200
            assert await line.rest() == b""


async def test_half_closed_posts_are_answered(server: Server) -> None:
    """An event that is recorded is acknowledged: of ten clients that close their side, ten get
    201."""
    for _ in range(10):
        async with await connected(server.port) as line:
            line.send(recording())
            line.writer.write_eof()
            assert (await line.reply()).status == 201
            assert await line.rest() == b""
    assert await server.recorded() == 10


async def test_half_of_a_body_is_refused_at_once(server: Server) -> None:
    """A body that ends before its announced length gets 400, without waiting for what cannot
    come."""
    async with await connected(server.port) as line:
        line.send(recording()[:-10])
        line.writer.write_eof()
        reply = await line.reply()
        assert (reply.status, reply.error_code) == (400, "BadMessage")
        assert await line.rest() == b""
    assert await server.recorded() == 0


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_half_of_a_body_that_is_not_read(
    server: Server,
    framing: str,
) -> None:
    """A request whose body does not matter is answered though that ends too soon, before the reply
    or after it."""
    for piece in (b"", b"5"):
        async with await connected(server.port) as line:
            line.send(head("GET", "/healthz", framing) + piece)
            if piece:
                line.writer.write_eof()
            assert (await line.reply()).status == 200
            if not piece:
                line.writer.write_eof()
            assert await line.rest() == b""
    assert not server.complaints()


async def test_half_closed_pipeline_is_answered_to_its_end(server: Server) -> None:
    """More requests than the framework queues are all answered, then the connection ends."""
    async with await connected(server.port) as line:
        line.send(head("HEAD", POST, AUTHORIZED) * 200)
        line.writer.write_eof()
        for _ in range(200):
            assert (await line.reply("HEAD")).status == 200
        assert await line.rest() == b""


async def test_half_closed_connection_ends_with_another_framework(
    make_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the framework's details are not known, a connection of which only one side is left
    ends."""
    monkeypatch.setattr(aiohttp_internals, "SUPPORTED", (2, 0))
    api: Api = await make_api()
    async with await connected(api.port) as line:
        line.send(head())
        assert (await line.reply()).status == 200
        line.writer.write_eof()
        assert await line.rest() == b""


async def test_half_of_a_head_is_no_request(server: Server) -> None:
    """A head without its end is not answered; the connection ends."""
    async with await connected(server.port) as line:
        line.send(head("GET", "/healthz")[:-4])
        line.writer.write_eof()
        assert await line.rest() == b""


async def test_half_closed_waiting_read_is_answered_at_once(server: Server) -> None:
    """A client that asks to wait and closes its side gets what there is."""
    async with await connected(server.port) as line:
        line.send(recording())
        assert (await line.reply()).status == 201
        etag = (await latest(line)).headers["ETag"]
        line.send(head("GET", LATEST, AUTHORIZED, f"If-None-Match: {etag}", "Prefer: wait=60"))
        line.writer.write_eof()
        assert (await line.reply()).status == 304
        assert await line.rest() == b""


async def test_half_closed_stream_goes_on(server: Server) -> None:
    """A client that watches and closes its side still gets what is recorded."""
    async with await connected(server.port) as line:
        line.send(head("GET", POST, AUTHORIZED, "Accept: text/event-stream"))
        await line.reader.readuntil(b"\r\n\r\n")
        line.writer.write_eof()
        async with await connected(server.port) as other:
            other.send(recording())
            event_id = orjson.loads((await other.reply()).body)["id"]
        assert await line.reader.readuntil(b"id: " + event_id.encode())


# -- what the poll path takes for a request --------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "one"),
    [
        (head("GET", "/abc"), True),
        (b"GET /abc\r\nHost: here\r\n\r\n", False),
        (b"GET /\r\n\r\n", False),
        (head("GET", "/abc", version="HTTP/1.0"), False),
        (head("GET", "/abc", version="HTTP/1.1 "), False),
        (b"GET /abc HTTP/2.0\r\nX: HTTP/1.1\r\n\r\n", False),
        (head("GET", "/abc") * 2, False),
        (head("GET", "/abc", "Upgrade: h2c"), False),
    ],
)
def test_one_get(data: bytes, one: bool) -> None:
    """Only one whole GET in HTTP/1.1 may be remembered."""
    assert is_one_get(data) is one


def test_tracing_lines_count() -> None:
    """Looking past tracing lines looks past no limit."""
    within, beyond = LIMITS["fields with tracing"]
    assert without_tracing(within) is not None
    assert without_tracing(beyond) is None


def test_what_the_parser_did_not_take_is_not_whole() -> None:
    """The head of the HTTP/2 preface ends like a request, and is none: the parser waits for
    more."""
    assert not is_whole(b"PRI * HTTP/2.0\r\n\r\n", 0)
    assert is_whole(head() * 2, 2)
    assert not is_whole(head() * 2, 1)
    assert not is_whole(head()[:-1], 1)


async def test_preface_of_http2_in_two_pieces(server: Server) -> None:
    """What follows the first half of the preface is no request, though the same bytes are
    remembered as one."""
    async with await connected(server.port) as line:
        line.send(recording())
        assert (await line.reply()).status == 201
        for _ in range(3):
            assert (await latest(line)).status == 200
    async with await connected(server.port) as line:
        line.send(b"PRI * HTTP/2.0\r\n\r\n")
        await asyncio.sleep(0.05)
        line.send(head("GET", LATEST, AUTHORIZED))
        assert (await line.reply()).status in {400, 505}
        assert await line.rest() == b""


@pytest.mark.parametrize(
    ("data", "held"),
    [
        (b"G", True),
        (b"GET /abc", True),
        (b"GET /abc HTT", True),
        (head("GET", "/abc", "X: y")[:-2], True),
        (head("GET", "/abc", "X: y")[:-1], True),
        (head("GET", "/abc", "X: y")[:-5], True),
        (b"GET /abc HTTP/1.1\r\nHo", True),
        (b"POST /abc", False),
        (b"GET /a b", False),
        (b"GET /abc HTTP/1.0\r\n", False),
        (b"GET /abc\x00", False),
        (b"GET /abc HTTP/1.1\r\nno colon\r\n", False),
        (b"GET /abc HTTP/1.1\r\nna me", False),
        (b"GET /abc HTTP/1.1\r\nX: a\x00", False),
        (b"GET /abc HTTP/1.1\r\nX: a\nY", False),
        (b"GET /abc HTTP/1.1\r\n folded: a", False),
        (b"GET /abc HTTP/1.1\r\nX: a\rY", False),
        (b"GET /abc HTTP/1.1\r\nX: a\r", True),
        (b"GET /abc HTTP/1.1\r\nX\r", False),
        (b"GET /abc HTTP/1.1\r\n: a", False),
        (b"GET /abc HTTP/1.1\r\nVia: a\r\nVia: b\r\n", True),
        (b"GET /abc HTTP/1.1\r\nHost: a\r\nhOST: b\r\n", False),
        (b"GET /abc HTTP/1.1\r\nContent-Length: x\r\n", False),
        (b"GET /abc HTTP/1.1\r\nTransfer-Encoding: gzip\r\n", False),
        (b"GET /" + b"x" * TARGET_LIMIT, False),
        (b"GET /abc HTTP/1.1\r\n" + b"X: x\r\n" * (FIELDS + 2), False),
    ],
)
def test_only_what_may_become_a_request_is_held_back(data: bytes, held: bool) -> None:
    """The beginning of a GET head is held back until its end, unless it is malformed or beyond a
    limit already."""
    assert is_partial_head(data) is held


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\nX",
        b"GET /healthz HTTP/1.1\r\nContent-Length: x\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n",
        b"GET /a b",
        b"GET /healthz HTTP/1.1\r\nX\x00",
        b"GET /" + b"x" * 9_000,
    ],
)
async def test_malformed_beginning_is_refused_at_once(server: Server, beginning: bytes) -> None:
    """What can no longer become a request is refused when that is seen, not when its time is
    over."""
    if server.pure_python and b"\r\n\r\n" not in beginning and len(beginning) < TARGET_LIMIT:
        needs.absent("the parser in C: the one in pure Python looks at whole heads only")
    async with await connected(server.port) as line:
        line.send(beginning)
        assert (await line.reply()).status in {400, 414}
        assert await line.rest() == b""


# -- deadlines -------------------------------------------------------------------------------------


def test_the_settings_reach_the_deadlines() -> None:
    """By default a connection may be idle for 75 s, and a client may take 60 s for a response."""
    assert (Timeouts().idle, Timeouts().response) == (75.0, 60.0)


async def test_deadlines_are_settings(make_api: MakeApi) -> None:
    """`IDLE_TIMEOUT` and `REPLY_TIMEOUT` are what connections are held to."""
    api: Api = await make_api(idle_timeout="600s", reply_timeout="7s")
    assert (api.poll_server.timeouts.idle, api.poll_server.timeouts.response) == (600.0, 7.0)


async def test_client_that_takes_a_byte_now_and_then_is_ended(make_api: MakeApi) -> None:
    """A response must be taken within `REPLY_TIMEOUT`, however often any of it is; a client that
    asks again has taken it."""
    api: Api = await make_api()
    for connection in range(2):
        reader, writer = await asyncio.open_connection(api.host, api.port, limit=2_048)
        writer.write(head("GET", "/healthz"))
        await reader.readuntil(b"\r\n\r\n")
        (ours,) = api.poll_server.connections
        waiting = [300_000]
        ours.transport = _Transport(ours.transport, waiting)  # type: ignore[assignment]
        start = api.poll_server.monotonic()
        for tick in range(1, 40):
            waiting[0] -= 64  # Every 3 s it takes 64 bytes.
            if connection == 1 and tick % 10 == 0:
                ours._active_at = (
                    start + 3 * tick
                )  # It asks again: it has taken what it asked for before.
            ours.check_timeouts(start + 3 * tick)
            if ours.transport.aborted:  # type: ignore[attr-defined]
                break
        assert ours.transport.aborted is (connection == 0)  # type: ignore[attr-defined]
        assert tick == (20 if connection == 0 else 39)
        writer.close()
        api.poll_server.connections.clear()


class _Transport:
    """A transport in which bytes wait."""

    def __init__(self, transport: Any, waiting: list[int]) -> None:
        self._transport, self._waiting, self.aborted = transport, waiting, False

    def get_write_buffer_size(self) -> int:
        """What waits."""
        return self._waiting[0]

    def abort(self) -> None:
        """Notes the end."""
        self.aborted = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
