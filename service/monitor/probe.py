"""One service's check: GET its health URL, and say what happened in words that an operator can act on.

What a service answers is hostile input: it is read up to a limit and a deadline, redirects are not followed, control
characters are stripped. The first line says what is wrong; the body follows.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import aiohttp

from service.events import INFO_LIMIT, clean_info

BODY_LIMIT = 4 * INFO_LIMIT
"""Bytes read of an answer's body: enough for the longest info in any script."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found: whether the service is healthy, and the self info."""

    healthy: bool
    info: str


def session() -> aiohttp.ClientSession:
    """A client for checks: a new connection each time, since what is to be known is whether the service takes one."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"User-Agent": "cluster-events", "Accept-Encoding": "identity"},
    )


async def probe(client: aiohttp.ClientSession, url: str, deadline: float) -> Result:
    """Checks one service within `deadline` seconds. Never raises for what a service or the network does."""
    try:
        async with (
            asyncio.timeout(deadline),
            client.get(url, allow_redirects=False, timeout=aiohttp.ClientTimeout()) as answer,
        ):
            return _judge(answer, await _read(answer.content))
    except TimeoutError:
        return Result(False, f"Timed out: no complete answer from {url} within {deadline:g} s.")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Result(False, clean_info(f"{_explain(error)} ({url})."))


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The body, or its first `BODY_LIMIT` bytes and one more."""
    body = bytearray()
    while len(body) <= BODY_LIMIT and (chunk := await content.read(BODY_LIMIT + 1 - len(body))):
        body += chunk
    return bytes(body)


def _judge(answer: aiohttp.ClientResponse, body: bytes) -> Result:
    said = _text(body)
    status = f"HTTP {answer.status} {answer.reason or ''}".strip()
    if 200 <= answer.status < 300:  # noqa: PLR2004  # The class of success (RFC 9110, section 15.3).
        return Result(True, clean_info(f"Reachable: {status}.{said}"))
    if 300 <= answer.status < 400:  # noqa: PLR2004  # Redirection (RFC 9110, section 15.4).
        target = answer.headers.get("Location", "nowhere")
        return Result(
            False, clean_info(f"Redirected, which is not followed: {status} to {target[:200]} ({answer.url}).{said}")
        )
    return Result(False, clean_info(f"Reachable, but unhealthy: {status} ({answer.url}).{said}"))


def _text(body: bytes) -> str:
    if not body:
        return ""
    cut = body[:BODY_LIMIT]
    more = f"\n(cut after {BODY_LIMIT:,} bytes)" if len(body) > BODY_LIMIT else ""
    return "\n" + cut.decode("utf-8", "replace").strip() + more


def _explain(error: Exception) -> str:
    """What went wrong before there was an answer. The order matters: the more particular first."""
    cause: Any = getattr(error, "os_error", None) or error
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return f"TLS failed: {getattr(error, 'certificate_error', None) or cause}"
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            return f"The host name cannot be resolved: {cause.strerror or cause}"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return "The connection was closed before an answer came"
        case _ if isinstance(cause, ConnectionRefusedError):
            return "Connection refused: nothing listens there"
        case aiohttp.ClientConnectorError():
            return f"Cannot connect: {cause.strerror or cause}"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return "The answer is not well-formed HTTP"
        case _:
            return f"The check failed: {error}"
