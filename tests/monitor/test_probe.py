"""A check against real sockets: whatever a service does, the first line tells an operator what is
wrong and where."""

import asyncio
import gzip
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.resolver import ThreadedResolver

from service.events import INFO_LIMIT
from service.monitor.probes import http as probe_module
from service.monitor.probes.http import Progress, Result, probe, session
from tests.support.clocks import put_forward
from tests.support.services import (
    DEADLINE_S,
    Behaviour,
    certificate,
    check,
    check_of,
    http,
    says,
    service,
)
from tests.support.waiting import PATIENCE_S

SOON_S = 0.2
"""The deadline of a check that is to run out of it."""


async def at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour, doing: str
) -> tuple[Result, str]:
    """One check of such a service whose deadline of 30 s passes while it is `doing` that, and the
    URL that was checked."""
    checks: list[Progress] = []

    class Watched(Progress):
        """Progress that this test can see."""

        def __init__(self) -> None:
            super().__init__()
            checks.append(self)

    monkeypatch.setattr(probe_module, "Progress", Watched)
    async with service(behaviour) as port:
        url = f"http://127.0.0.1:{port}/healthz"
        checking = asyncio.create_task(check(url, 30))
        while not checking.done() and [one.doing for one in checks] != [doing]:
            await asyncio.sleep(0.005)
        put_forward(monkeypatch, 30)
        return await checking, url


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "info"),
    [
        (
            http("200 OK", b'{"status": "healthy"}'),
            'Reachable: HTTP 200 OK.\n{"status": "healthy"}',
        ),
        (http("200 OK"), "Reachable: HTTP 200 OK."),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "Reachable: HTTP 204 No Content."),
        (http("299 Odd", b" \n text \n "), "Reachable: HTTP 299 Odd.\ntext"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", "Reachable: HTTP 200 OK.\nuntil the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + http("200 OK", b"ok"), "Reachable: HTTP 200 OK.\nok"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            "Reachable: HTTP 200 OK.\nabc",
        ),
    ],
)
async def test_success_is_healthy(answer: bytes, info: str) -> None:
    """Any status of the class 2xx is healthy, and the info says what the service said."""
    result, _ = await check_of(says(answer))
    assert result == Result(True, info)


@pytest.mark.parametrize(
    ("answer", "first_line", "rest"),
    [
        (http("500 Internal Server "
        "Error", b'{"error": "no disk"}'), "HTTP 500 Internal Server Error", '{"error": "no disk"}'),  # noqa: E501
        (http("503 Service "
        "Unavailable", b"starting\n"), "HTTP 503 Service Unavailable", "starting"),
        (http("503 Service Unavailable"), "HTTP 503 Service Unavailable", ""),
        (http("503"), "HTTP 503", ""),
        (http("404 Not Found", b"no such page"), "HTTP 404 Not Found", "no such page"),
        (http("500 Oops", b"caf\xc3\xa9 \xff\x00!"), "HTTP 500 Oops", "café � !"),
        (http("500 Oops", "zwölf\n\tKäse".encode()), "HTTP 500 Oops", "zwölf\n\tKäse"),
    ],
)  # fmt: skip
async def test_failure_status_is_unhealthy(answer: bytes, first_line: str, rest: str) -> None:
    """A status that is no success is unhealthy: the first line names it and the URL, the body
    follows as text."""
    result, url = await check_of(says(answer))
    assert not result.healthy
    first, _, body = result.info.partition("\n")
    assert first == f"Reachable, but unhealthy: {first_line} ({url})."
    assert body == rest


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
async def test_control_characters_are_stripped(status: str) -> None:
    """Escape sequences, carriage returns and NULs of a service cannot act on an operator's
    terminal."""
    result, _ = await check_of(
        says(http(status, b"\x1b[31mred\x1b[0m\x07\r\n\x00\xc2\x9b2J\xe2\x80\xa8!"))
    )
    assert result.info.partition("\n")[2] == " [31mred [0m  \n  2J !"
    assert not any(ord(c) < 32 and c != "\n" for c in result.info)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_encoded_body_is_not_inflated(encoding: str) -> None:
    """A compressed body, which was not asked for, is neither inflated nor shown."""
    bomb = gzip.compress(bytes(10_000_000))
    result, _ = await check_of(says(http("200 OK", bomb, f"Content-Encoding: {encoding}")))
    assert result.healthy
    assert result.info.splitlines()[1:] == [
        f"(the body is not shown: it is encoded as {encoding}, which was not requested)"
    ]


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
async def test_long_body_is_read_up_to_the_limit(status: str) -> None:
    """Of ten megabytes a few kilobytes are read, at once, and the info is cut to its limit."""
    sent = 0
    hung_up = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.read(10_000)
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 10000000\r\n\r\n".encode())
        try:
            while sent < 10_000_000:
                writer.write(b"x" * 10_000)
                await writer.drain()
                sent += 10_000
        finally:
            hung_up.set()

    async with service(endless) as port:
        result = await check(f"http://127.0.0.1:{port}/healthz")
        assert result.healthy is status.startswith("200")
        assert len(result.info.encode()) == INFO_LIMIT
        assert result.info.endswith("xxx…")
        await asyncio.wait_for(hung_up.wait(), 2.0)
    assert sent < 10_000_000


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
async def test_redirect_is_not_followed(status: str) -> None:
    """A redirect is unhealthy and says where it points to; the target is never asked."""
    asked = 0

    async def target(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await says(http("200 OK"))(reader, writer)

    async with service(target) as other:
        location = f"http://127.0.0.1:{other}/healthz"
        result, url = await check_of(says(http(status, b"moved", f"Location: {location}")))
    assert result == Result(
        False, f"Redirected, which is not followed: HTTP {status} to {location} ({url}).\nmoved"
    )
    assert asked == 0


async def test_redirect_to_nowhere() -> None:
    """A redirect without a target, and one with a hostile target, are told all the same."""
    result, url = await check_of(says(http("302 Found")))
    assert result == Result(
        False, f"Redirected, which is not followed: HTTP 302 Found to nowhere ({url})."
    )
    result, _ = await check_of(
        says(http("302 Found", b"", "Location: http://x/" + "y" * 5_000 + "\x1b[2J"))
    )
    assert len(result.info) < 400
    assert "\x1b" not in result.info


# -- no answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_connection_refused(host: str) -> None:
    """Where nothing listens, the info says so."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://{host}:{unused.getsockname()[1]}/healthz"
        result = await check(url)
    assert result == Result(False, f"Connection refused: nothing listens there ({url}).")


async def test_address_without_a_route() -> None:
    """What the kernel says of an address that cannot be reached at all is passed on."""
    result = await check("http://255.255.255.255/healthz", 1.0)
    assert not result.healthy
    assert result.info.startswith("Cannot connect: ")
    assert result.info.endswith(" (http://255.255.255.255/healthz).")
    assert "Errno" not in result.info


async def test_unknown_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that DNS does not know is told from a host that is down."""

    async def resolve(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    result = await check("http://compiler.invalid:8080/healthz")
    assert result == Result(
        False,
        "The host name cannot be resolved: Name or service not known (http://compiler.invalid:8080/healthz).",
    )


async def test_silent_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer is named as what the time ran out on."""

    async def resolve(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    result = await check("http://compiler.invalid/healthz", SOON_S)
    assert result == Result(
        False,
        "Timed out after 0.2 s while resolving the host name (http://compiler.invalid/healthz).",
    )


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".test"])
async def test_impossible_host_name(host: str) -> None:
    """A name that cannot be one is told as such, without an encoder's jargon."""
    result = await check(f"http://{host}/healthz")
    assert result == Result(False, f"The host name is not well-formed (http://{host}/healthz).")


async def test_host_that_takes_no_connection() -> None:
    """A host that answers no SYN, as behind a firewall, is told from a service that hangs."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # The backlog is full after these: the kernel drops further SYNs.
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        await asyncio.sleep(0.05)
        result = await check(f"http://127.0.0.1:{port}/healthz", SOON_S)
        for filler in fillers:
            filler.close()
    assert result == Result(
        False, f"Timed out after 0.2 s while connecting (http://127.0.0.1:{port}/healthz)."
    )


@pytest.mark.parametrize(
    ("said", "doing"),
    [
        (b"", "waiting for a response"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "waiting for a response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "reading the body of HTTP 200 OK"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", "reading the body of HTTP 200 OK"),
        (
            b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            "reading the body of HTTP 503 Busy",
        ),
    ],
)
async def test_hanging_service(monkeypatch: pytest.MonkeyPatch, said: bytes, doing: str) -> None:
    """A service that stops talking ends the check at the deadline, and the info says how far it
    came."""
    result, url = await at_the_deadline(monkeypatch, says(said, stays=True), doing)
    assert result == Result(False, f"Timed out after 30 s while {doing} ({url}).")


async def test_trickling_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that sends a byte now and then does not stretch the deadline."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    doing = "reading the body of HTTP 200 OK"
    result, url = await at_the_deadline(monkeypatch, trickle, doing)
    assert result == Result(False, f"Timed out after 30 s while {doing} ({url}).")


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (b"", "The connection was closed while waiting for a response"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Le",
            "The connection was closed while waiting for a response",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
            "The response is incomplete or malformed, found while reading the body of HTTP 200 OK",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            "The response is incomplete or malformed, found while reading the body of HTTP 200 OK",
        ),
    ],
)
async def test_connection_closed(said: bytes, wrong: str) -> None:
    """A service that hangs up is told from one that never took the connection, even if it had said
    200."""
    result, url = await check_of(says(said))
    assert result == Result(False, f"{wrong} ({url}).")


async def test_connection_reset() -> None:
    """A service that dies while it is asked is unhealthy, in words."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        lingering = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
        writer.transport.abort()

    result, url = await check_of(reset)
    assert result == Result(
        False, f"The connection was reset while waiting for a response ({url})."
    )


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "b'SSH-2.0-OpenSSH_9.2'"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "Expected HTTP/"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "Expected HTTP/"),
        (b"hello\n", "b'hello"),
        (b"HTTP/1.1 9x OK\r\n\r\n", "Invalid status code"),
        (b"HTTP/1.1 1000 OK\r\n\r\n", "Invalid response status"),
        (b"HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n", "Invalid HTTP version"),
        (b"HTTP/1.1 200 OK\r\nNo Colon\r\n\r\n", "Invalid header token"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "Duplicate Content-Length",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", "Got more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1_000 + b"\r\n", "Too many headers"),
    ],
)
async def test_garbage_instead_of_http(said: bytes, hint: str) -> None:
    """What is not HTTP is unhealthy, and one short line says what came instead."""
    result, url = await check_of(says(said))
    assert not result.healthy
    assert result.info.startswith("The response is not well-formed HTTP: ")
    assert result.info.endswith(f" ({url}).")
    assert hint in result.info
    assert "\n" not in result.info
    assert len(result.info) < 350


@pytest.mark.parametrize("chunk", [b"X-Header: value\r\n" * 100, b"x" * 1_000])
async def test_endless_headers(chunk: bytes) -> None:
    """Header fields without end, or one without end, end the check before the deadline and fill no
    memory."""
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nX-First: ")
        while True:
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)

    result, url = await check_of(endless, PATIENCE_S)
    assert not result.healthy  # And it says nothing of a deadline.
    assert result.info.startswith(
        (
            "The response is not well-formed HTTP: ",
            "The connection was reset while waiting for a response",
        )
    )
    assert result.info.endswith(f"({url}).")
    assert sent < 20_000_000


# -- TLS -------------------------------------------------------------------------------------------


async def check_trusting(cert_file: Path, url: str) -> Result:
    """A check by a client that trusts this certificate."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(cert_file)))
    async with aiohttp.ClientSession(connector=connector) as client:
        return await probe(client, url, DEADLINE_S)


async def test_untrusted_certificate(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is unhealthy: the check does not look past it."""
    context, _ = certificate(tmp_path, "localhost")
    async with service(says(http("200 OK")), context) as port:
        url = f"https://localhost:{port}/healthz"
        result = await check(url)
    assert result == Result(
        False, f"TLS failed: the certificate is not accepted: self-signed certificate ({url})."
    )


@pytest.mark.parametrize(
    ("name", "days", "wrong"),
    [
        ("other.test", 1, "Hostname mismatch, certificate is not valid for 'localhost'"),
        ("localhost", -1, "certificate has expired"),
    ],
)
async def test_unfit_certificate(tmp_path: Path, name: str, days: int, wrong: str) -> None:
    """A trusted certificate of another host, or of yesterday, is named as what is wrong."""
    context, cert_file = certificate(tmp_path, name, days)
    async with service(says(http("200 OK")), context) as port:
        url = f"https://localhost:{port}/healthz"
        result = await check_trusting(cert_file, url)
    assert result == Result(False, f"TLS failed: the certificate is not accepted: {wrong} ({url}).")


async def test_good_certificate(tmp_path: Path) -> None:
    """A service behind TLS with a trusted certificate is healthy."""
    context, cert_file = certificate(tmp_path, "localhost")
    async with service(says(http("200 OK", b"ok")), context) as port:
        assert await check_trusting(cert_file, f"https://localhost:{port}/healthz") == Result(
            True, "Reachable: HTTP 200 OK.\nok"
        )


async def test_tls_expected_where_there_is_none() -> None:
    """A URL with https:// for a service that speaks plain HTTP is told with the likely mistake."""
    async with service(says(http("400 Bad Request"))) as port:
        url = f"https://127.0.0.1:{port}/healthz"
        result = await check(url)
    assert result == Result(
        False,
        f"TLS failed: the server does not speak TLS; should the URL begin with http://? ({url}).",
    )


async def test_refused_tls_handshake() -> None:
    """A TLS peer's refusal is told in its own words."""
    async with service(
        says(b"\x15\x03\x03\x00\x02\x02\x28")
    ) as port:  # A fatal alert, handshake_failure.
        url = f"https://127.0.0.1:{port}/healthz"
        result = await check(url)
    assert not result.healthy
    assert result.info.startswith("TLS failed: ")
    assert result.info.endswith(f"alert handshake failure ({url}).")


async def test_connection_closed_in_the_tls_handshake() -> None:
    """A service that hangs up on a TLS greeting, for which the library has no words, is told all
    the same."""
    async with service(says(b"")) as port:
        url = f"https://127.0.0.1:{port}/healthz"
        result = await check(url)
    assert result == Result(False, f"Cannot connect: the connection was closed ({url}).")


async def test_hanging_tls_handshake() -> None:
    """A service that takes the connection but never answers the TLS greeting ends at the
    deadline."""
    async with service(says(b"", stays=True)) as port:
        url = f"https://127.0.0.1:{port}/healthz"
        result = await check(url, SOON_S)
    assert result == Result(False, f"Timed out after 0.2 s while connecting ({url}).")


# -- what is sent, and what is shown ---------------------------------------------------------------


async def test_request_is_plain_and_carries_no_cookies() -> None:
    """Each check is one GET on a new connection, without cookies of the last and without offering
    compression."""
    seen: list[web.Request] = []

    async def healthz(request: web.Request) -> web.Response:
        seen.append(request)
        answer = web.Response(text="ok")
        answer.set_cookie("session", "1")
        return answer

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://localhost:{runner.addresses[0][1]}/healthz?deep=1"
        async with session() as client:
            results = [await probe(client, url, DEADLINE_S) for _ in range(2)]
    finally:
        await runner.cleanup()
    assert [result.info for result in results] == ["Reachable: HTTP 200 OK.\nok"] * 2
    for request in seen:
        assert request.query == {"deep": "1"}
        assert request.headers["User-Agent"] == "cluster-events"
        assert request.headers["Accept-Encoding"] == "identity"
        assert "Cookie" not in request.headers
        assert request.headers["Connection"] == "close"


@pytest.mark.parametrize(
    "behaviour",
    [
        says(b""),
        says(http("503 No")),
        says(http("302 Found")),
        says(b"junk"),
        says(b"", stays=True),
    ],
    ids=["closed", "503", "302", "junk", "hangs"],
)
async def test_credentials_in_the_url_are_not_shown(behaviour: Behaviour) -> None:
    """User, password and query of the health URL stay out of the events, which every agent
    reads."""
    async with service(behaviour) as port:
        result = await check(
            f"http://monitor:hunter2@127.0.0.1:{port}/healthz?token=t0psecret", SOON_S
        )
    assert not result.healthy
    assert f"(http://127.0.0.1:{port}/healthz)" in result.info
    assert not any(secret in result.info for secret in ("monitor", "hunter2", "t0psecret"))


ECHOES = {
    "redirect": http("302 Found", b"", "Location: /login?token=t0psecret&x=1#part"),
    "redirect with user": http("302 Found", b"", "Location: http://monitor:hunter2@other/?a"),
    "redirect that is not well-formed": http("302 Found", b"", "Location: http://[::1/?t0psecret"),
    "query": http("500 No", b"no route for /healthz?token=t0psecret&n=1"),
    "value": http("200 OK", b"token: t0psecret"),
    "password": http("500 No", b"hunter2 is wrong"),
    "encoded": http("500 No", b"what%20is%2fthis"),
    "decoded": http("500 No", b"what is/this"),
    "JSON": http("500 No", b'{"q": "say \\"yes\\""}'),
    "basic credentials": http("500 No", b"Basic bW9uaXRvcjpodW50ZXIy"),
    "header field": http("500 No", b"Authorization: Bearer abcdefgh"),
    "credential": http("500 No", b"wrong token abcdefgh"),
    "status line": http("500 t0psecret"),
    "malformed": b"t0psecret hunter2\r\n\r\n",
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
async def test_secrets_that_a_service_repeats_are_hidden(echo: bytes) -> None:
    """A redirect, an error page or a malformed response that repeats a secret does not show it."""
    query = "token=t0psecret&odd=what%20is%2Fthis&say=say+%22yes%22&n=1"
    async with service(says(echo)) as port, session() as client:
        url = f"http://monitor:hunter2@127.0.0.1:{port}/healthz?{query}"
        headers = {"Authorization": "Bearer abcdefgh", "Accept": "text/plain"}
        result = await probe(client, url, DEADLINE_S, headers=headers)
    secrets = ("hunter2", "t0psecret", "what%20is", "what is", "say \\", "bW9uaXR", "abcdefgh")
    assert not [secret for secret in secrets if secret in result.info]


async def test_what_is_no_secret_is_shown() -> None:
    """Short values and fields that are no credentials occur in other words."""
    body = b"n=1, Accept: text/plain, page 1"
    async with service(says(http("500 No", body))) as port, session() as client:
        url = f"http://127.0.0.1:{port}/healthz?n=1"
        result = await probe(client, url, DEADLINE_S, headers={"Accept": "text/plain"})
    assert result.info.endswith(body.decode())


LIKE_CURL = {
    "a field of 64 KiB": http("200 OK", b"ok", "X: " + "a" * 65_000),
    "200 fields": http("200 OK", b"ok", *(f"X-{number}: a" for number in range(200))),
    "bytes after a 204": b"HTTP/1.1 204 No Content\r\n\r\nbody",
    "a 204 with a length": b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody",
    "a chunked 204": (
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    ),
    "bytes after a 204 that closes": (b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\nbody"),
    "bytes after a body": http("200 OK", b"ok") + b"more",
    "bytes after an empty body": http("200 OK", b"") + b"more",
    "bytes after chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore"
    ),
    "line feeds only": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
}


@pytest.mark.parametrize("step", [1_000_000, 7])
@pytest.mark.parametrize("answer", LIKE_CURL.values(), ids=LIKE_CURL)
async def test_what_curl_accepts_is_healthy(answer: bytes, step: int) -> None:
    """Large heads, and bytes after a response, are no reason to be unhealthy, however they come."""
    if len(answer) > 10_000 and step == 7:
        step = 4_099

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        for start in range(0, len(answer), step):
            writer.write(answer[start : start + step])
            await writer.drain()
            await asyncio.sleep(0)

    result, _ = await check_of(behave)
    assert result.info.startswith("Reachable: HTTP 20")
    assert result.healthy
    assert "more" not in result.info


async def test_not_modified_is_no_redirect() -> None:
    """A 304 is described as what it is: the check sends no condition."""
    result, url = await check_of(says(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'))
    assert result == Result(
        False,
        f"Not modified, although the check has no condition: HTTP 304 Not Modified ({url}).",
    )


async def test_credentials_in_the_url_are_sent() -> None:
    """User and password of the health URL reach the service."""
    heard = b""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"\r\n\r\n")
        writer.write(http("200 OK"))
        await writer.drain()

    async with service(listen) as port:
        assert (await check(f"http://monitor:hunter2@127.0.0.1:{port}/healthz")).healthy
    assert b"\r\nAuthorization: Basic bW9uaXRvcjpodW50ZXIy\r\n" in heard


async def test_unforeseen_error_is_a_finding() -> None:
    """An error that nobody foresaw makes one service unhealthy, in words; it does not end the
    monitor."""

    class Client:
        def get(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("the unforeseen")

    result = await probe(Client(), "http://api/healthz", DEADLINE_S)  # type: ignore[arg-type]  # No real client does this.
    assert result == Result(
        False, "The check failed: RuntimeError: the unforeseen (http://api/healthz)."
    )
