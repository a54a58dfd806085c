"""One service's check: GET its health URL, and say what happened in words that an operator can act
on.

What a service answers is hostile input: it is read up to a limit and a deadline, redirects are not
followed, control characters are stripped. The first line says what is wrong and where; the body
follows.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from service.events import INFO_LIMIT, clean_info
from service.outgoing import BoundedConnector

BODY_LIMIT = 4 * INFO_LIMIT
"""Bytes read of an answer's body: enough for the longest info in any script."""

_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
"""OpenSSL's words, by version, for bytes that are no TLS."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found: whether the service is healthy, and the self info."""

    healthy: bool
    info: str


@dataclass(slots=True)
class Progress:
    """What a check is doing: when it fails, that tells a dead host from a hanging service."""

    doing: str = "connecting"


def session() -> aiohttp.ClientSession:
    """A client for checks: a new connection each time, since what is to be known is whether the
    service takes one."""
    connector = BoundedConnector(force_close=True, limit=0, use_dns_cache=False)
    trace = aiohttp.TraceConfig()
    trace.on_dns_resolvehost_start.append(_notes("resolving the host name"))
    trace.on_dns_resolvehost_end.append(_notes("connecting"))
    trace.on_connection_create_end.append(_notes("waiting for an answer"))
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"User-Agent": "cluster-events", "Accept-Encoding": "identity"},
        trace_configs=[trace],
    )


def _notes(doing: str) -> Callable[[aiohttp.ClientSession, SimpleNamespace, Any], Awaitable[None]]:
    async def note(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
        if context.trace_request_ctx is not None:  # A call that is no check.
            context.trace_request_ctx.doing = doing

    return note


def two_hundreds(status: int) -> bool:
    """The class of success (RFC 9110, section 15.3)."""
    return 200 <= status < 300  # noqa: PLR2004


async def probe(
    client: aiohttp.ClientSession,
    url: str,
    deadline: float,
    *,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    expects: Callable[[int], bool] = two_hundreds,
) -> Result:
    """Checks one service within `deadline` seconds. Never raises for what a service or the network
    does.

    `tls` is for a service with authorities or a client certificate of its own; `expects` tells
    which statuses are healthy.
    """
    where, progress = shown(url), Progress()
    try:
        async with (
            asyncio.timeout(deadline),
            client.get(
                url,
                headers=headers,
                ssl=tls or True,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(),
                trace_request_ctx=progress,
            ) as answer,
        ):
            progress.doing = f"reading the body of {_status(answer)}"
            return _judge(answer, expects(answer.status), where, await _read(answer.content))
    except TimeoutError:
        wrong = f"Timed out after {deadline:g} s while {progress.doing}"
    # The edge of a check: whatever a service provokes is a finding, not the monitor's end.
    except Exception as error:
        wrong = explain(error, progress.doing)
    return Result(False, clean_info(f"{wrong} ({where})."))


def shown(url: str) -> str:
    """The URL without what may be a secret: every reader of the events sees it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _status(answer: aiohttp.ClientResponse) -> str:
    return f"HTTP {answer.status} {answer.reason or ''}".strip()


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The body, or its first `BODY_LIMIT` bytes."""
    body = bytearray()
    while len(body) < BODY_LIMIT and (chunk := await content.read(BODY_LIMIT - len(body))):
        body += chunk
    return bytes(body)


def _judge(answer: aiohttp.ClientResponse, healthy: bool, where: str, body: bytes) -> Result:
    status = _status(answer)
    if healthy:
        found = f"Reachable: {status}."
    elif 300 <= answer.status < 400:  # noqa: PLR2004  # Redirection (RFC 9110, section 15.4).
        target = answer.headers.get("Location", "nowhere")
        found = f"Redirected, which is not followed: {status} to {target[:200]} ({where})."
    else:
        found = f"Reachable, but unhealthy: {status} ({where})."
    return Result(healthy, clean_info(f"{found}\n{_text(answer, body)}".rstrip()))


def _text(answer: aiohttp.ClientResponse, body: bytes) -> str:
    encoding = answer.headers.get("Content-Encoding", "identity").lower()
    if (
        body and encoding != "identity"
    ):  # Inflating what a stranger sends is how a few bytes become gigabytes.
        return (
            f"(the body is encoded as {encoding[:20]}, which was not asked for, and is not shown)"
        )
    return body.decode("utf-8", "replace").strip()


def explain(error: Exception, doing: str) -> str:
    """What went wrong. The order matters: the more particular first."""
    cause: Any = (
        getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    )
    match error:
        case (
            aiohttp.ClientConnectorCertificateError()
            | aiohttp.ClientConnectorSSLError()
            | ssl.SSLError()
        ):
            wrong = f"TLS failed: {_tls(cause)}"
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            wrong = f"The host name cannot be resolved: {cause.strerror or cause}"
        case UnicodeError():
            wrong = "The host name is not well-formed"
        case _ if isinstance(cause, ConnectionRefusedError):
            wrong = "Connection refused: nothing listens there"
        case aiohttp.ClientConnectorError():
            wrong = f"Cannot connect: {cause.strerror or str(cause) or 'the other side hung up'}"
        case aiohttp.ServerDisconnectedError():
            wrong = f"The connection was closed while {doing}"
        case ConnectionResetError() | OSError(errno=errno.ECONNRESET | errno.EPIPE):
            wrong = f"The connection was reset while {doing}"
        case aiohttp.ClientPayloadError():
            wrong = f"The answer is incomplete or malformed, seen while {doing}"
        case aiohttp.ClientResponseError():
            wrong = f"The answer is not well-formed HTTP: {_one_line(error.message)}"
        case _:
            wrong = f"The check failed: {getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'}"
    return wrong


def _one_line(message: str) -> str:
    """A parser's drawing of what it stumbled over (several lines, a caret), as one line."""
    return " ".join(message.split()).removesuffix(" ^")[:200].rstrip(".")


def _tls(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and error.reason:
        if error.reason in _NOT_TLS:
            return "what answers does not speak TLS; is it http:// there?"
        return error.reason.replace("_", " ").lower()
    return str(error)
