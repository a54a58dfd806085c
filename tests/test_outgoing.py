"""Responses without end: each client of the service gives up after a bounded number of bytes, long
before its deadline."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service import outgoing
from service.auth.jwks import JwksClient
from service.metrics import Metrics
from service.monitor.kubernetes.assess import Rules
from service.monitor.kubernetes.checker import workload_checker
from service.monitor.notify import heartbeat, webhook
from service.monitor.probes.http import probe, session
from service.monitor.services import Workload
from service.outgoing import HEAD_LIMIT, INTERIM_LIMIT, BoundedConnector
from tests.support.cluster import credentials
from tests.support.services import Behaviour, check_of, http, says, service

INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "102 Processing": (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "103 with fields": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"),
    "empty lines": (b"", b"\r\n"),
    "reason phrase": (b"HTTP/1.1 200 ", b"x"),
    "fields": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    "long fields": (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"b" * 8_000 + b"\r\n"),
    "one field": (b"HTTP/1.1 200 OK\r\nX-A: ", b"b"),
    "folded field": (b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b" c\r\n"),
    "chunk extension": (CHUNKED + b"1;", b"x"),
    "chunk size": (CHUNKED, b"0"),
    "chunk extensions of short chunks": (CHUNKED, b"1;" + b"x" * 200 + b"\r\na\r\n"),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\n", b"X-A: b\r\n"),
}


def flood(begins: bytes, goes_on: bytes) -> Behaviour:
    """Sends the beginning, then the rest again and again, as fast as it is taken, until the client
    closes."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        writer.write(begins)
        while not writer.is_closing():
            writer.write(goes_on * (65_536 // len(goes_on)))
            await writer.drain()

    return behave


async def probed(url: str, _: Path) -> str:
    """What a check says of it."""
    async with session() as client:
        result = await probe(client, url, 50)
    assert not result.healthy
    return result.info


async def called(url: str, _: Path) -> str:
    """Why the heartbeat call failed."""
    async with session() as client:
        return await heartbeat._call(client, url)


async def delivered(url: str, _: Path) -> str:
    """Why the webhook's attempt failed."""
    hook = webhook._Webhook(url, b"k" * 32, Metrics(), ())
    async with session() as client:
        failure = await hook._attempt(client, webhook._Message("1", b"{}"))
        return failure.reason if failure else ""


async def looked(url: str, folder: Path) -> str:
    """What is said of a workload."""
    async with workload_checker(url, credentials(folder), Rules(), 0.0) as client:
        return (await client.check(Workload("deployment", "api"), 50)).info


async def fetched(url: str, _: Path) -> str:
    """Why the keys of an issuer could not be fetched."""
    keys = JwksClient("https://issuer.example", url, ("RS256",), lambda: None)
    async with keys.running():
        try:
            await keys._get(url)
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__
    return "fetched"


Client = Callable[[str, Path], Awaitable[str]]
CLIENTS: dict[str, Client] = {
    "probe": probed,
    "heartbeat": called,
    "webhook": delivered,
    "Kubernetes": looked,
    "JWKS": fetched,
}
HEADS = [name for name, (begins, _) in FLOODS.items() if not begins.startswith(CHUNKED)]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts that no test reaches: a client that ends has found the flood."""
    for module in (heartbeat, webhook):
        monkeypatch.setattr(module, "TIMEOUT_S", 50)
    monkeypatch.setattr("service.auth.jwks.TIMEOUT_S", 50)


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("kind", HEADS)
async def test_no_client_reads_a_head_without_end(
    tmp_path: Path, kind: str, client: Client
) -> None:
    """Interim responses, empty lines, fields: what comes before a body ends the request when it
    exceeds its limit."""
    async with service(flood(*FLOODS[kind])) as port:
        said = await client(f"http://127.0.0.1:{port}/", tmp_path / "account")
    assert "ClientResponseError" in said or "The response is not well-formed HTTP" in said


@pytest.mark.parametrize("client", [probed, looked, fetched])
@pytest.mark.parametrize("kind", [name for name in FLOODS if name not in HEADS])
async def test_no_client_reads_framing_without_end(
    tmp_path: Path, kind: str, client: Client
) -> None:
    """Chunk extensions, chunk sizes and trailers without end make the body incomplete, for every
    client that reads one."""
    async with service(flood(*FLOODS[kind])) as port:
        said = await client(f"http://127.0.0.1:{port}/", tmp_path / "account")
    assert any(
        text in said
        for text in ("ClientPayloadError", "ClientResponseError", "incomplete", "not well-formed")
    )


async def test_switched_protocol_is_not_read(tmp_path: Path) -> None:
    """After `101 Switching Protocols`, which was not asked for, the rest is no response: it is left
    where it is."""
    switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    async with service(flood(switching, b"x")) as port:
        said = await probed(f"http://127.0.0.1:{port}/", tmp_path)
    assert said.startswith("Reachable, but unhealthy: HTTP 101 Switching Protocols")


async def test_slow_drip_ends_at_the_deadline() -> None:
    """Interim responses that come slowly never move the deadline of a check."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        while not writer.is_closing():
            writer.write(INTERIM)
            await writer.drain()
            await asyncio.sleep(0.1)

    result, _ = await check_of(drip, 0.35)
    assert result.info.startswith("Timed out after 0.35 s while ")


# -- what is within the limits ---------------------------------------------------------------------


async def parsed_heads(monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour) -> tuple[str, int]:
    """What a check of it says, and how many heads the parser made on the way."""
    heads = 0
    take = outgoing._BoundedResponses.feed_data

    def counted(self: Any, data: Any, size: int = 0) -> None:
        nonlocal heads
        heads += 1
        take(self, data, size)

    monkeypatch.setattr(outgoing._BoundedResponses, "feed_data", counted)
    result, _ = await check_of(behaviour)
    return result.info, heads


@pytest.mark.parametrize(
    ("number", "first_line"),
    [
        (INTERIM_LIMIT, "Reachable: HTTP 200 OK."),
        (
            INTERIM_LIMIT + 1,
            f"The response is not well-formed HTTP: more than {INTERIM_LIMIT} interim responses",
        ),
    ],
)
async def test_interim_responses_are_counted(
    monkeypatch: pytest.MonkeyPatch, number: int, first_line: str
) -> None:
    """So many interim responses before the final one are skipped, and one more is too many."""
    info, heads = await parsed_heads(monkeypatch, says(INTERIM * number + http("200 OK", b"ok")))
    assert info.startswith(first_line)
    # The response that is one too many is the last that is parsed.
    assert heads == INTERIM_LIMIT + 1


async def test_one_segment_of_interim_responses_is_not_parsed_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came together is given to the parser in pieces: it makes hundreds of objects, not the
    100,000 that were sent."""
    _, heads = await parsed_heads(monkeypatch, says(b"HTTP/1.1 100\r\n\r\n" * 100_000))
    assert INTERIM_LIMIT < heads <= INTERIM_LIMIT + 4_096 // 16


@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", b"x" * 10_000_000),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_000_000,
        CHUNKED + b"1\r\nx\r\n" * 500_000 + b"0\r\n\r\n",
        CHUNKED + b"989680\r\n" + b"x" * 10_000_000 + b"\r\n0\r\nX-A: b\r\n\r\n",
        http("200 OK", b"x" * 10_000_000, *(f"X-{number}: {'b' * 500}" for number in range(100))),
    ],
    ids=["length", "until closed", "short chunks", "one chunk", "large head"],
)
async def test_large_bodies_are_no_framing(answer: bytes) -> None:
    """A body of any size, however it is framed by ordinary servers, is read up to its own limit."""
    result, _ = await check_of(says(answer, stays=True))
    assert result.healthy
    assert result.info.endswith("xxx…")


async def test_a_kept_connection_starts_anew_with_each_response() -> None:
    """The limits are for one response: many small ones on one connection never add up to them."""
    connections = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(INTERIM * INTERIM_LIMIT + http("200 OK", b"ok", f"X-A: {'b' * 8_000}"))
            await writer.drain()

    async with (
        service(behave) as port,
        aiohttp.ClientSession(connector=BoundedConnector(limit=1)) as client,
    ):
        for _ in range(2 * HEAD_LIMIT // 8_000):
            async with client.get(f"http://127.0.0.1:{port}/") as answer:
                assert await answer.read() == b"ok"
    assert connections == 1


async def test_head_limit_counts_bytes_not_fields() -> None:
    """A head as large as allowed is read; twice as many fields are too large, although each is
    within aiohttp's limits."""
    fields = [f"X-{number}: {'b' * 8_000}" for number in range(HEAD_LIMIT // 8_100)]
    result, _ = await check_of(says(http("200 OK", b"ok", *fields)))
    assert result.info == "Reachable: HTTP 200 OK.\nok"
    result, _ = await check_of(says(http("200 OK", b"ok", *fields, *fields)))
    assert f"more than {HEAD_LIMIT:,} bytes" in result.info


async def test_flood_of_a_key_set_is_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    """The reason stands in the log, and the keys at hand stay."""
    with caplog.at_level(logging.WARNING):
        async with service(flood(*FLOODS["100 Continue"])) as port:
            keys = JwksClient(
                "https://issuer.example", f"http://127.0.0.1:{port}/", ("RS256",), lambda: None
            )
            async with keys.running():
                while not caplog.records:
                    await asyncio.sleep(0.01)
    assert f"more than {INTERIM_LIMIT} interim responses" in caplog.records[0].__dict__["reason"]
