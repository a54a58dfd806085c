"""The HTTP probe: a GET of the service's health URL, and a self info that tells what to do.

A service's response is untrusted input: its size and its time are limited, redirects are not
followed, and control characters are removed. The first line of the info says what is wrong and
where; the body follows.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import aiohttp

from service.events import INFO_LIMIT, clean_info
from service.monitor.probes.hide import hider, without_secrets
from service.outgoing import FIELD_LIMIT, FIELDS_LIMIT, BoundedConnector, read_at_most

BODY_LIMIT = 4 * INFO_LIMIT
"""The most bytes of a body that are read: enough for the longest info in any writing system."""

_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
"""OpenSSL's reasons, which differ by version, for bytes that are not TLS."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a probe: whether the service is healthy, and the self info."""

    healthy: bool
    info: str


@dataclass(slots=True)
class Progress:
    """What a probe is doing. After a timeout it tells a dead host from a hanging service."""

    doing: str = "connecting"


def session() -> aiohttp.ClientSession:
    """An HTTP client for probes. Each one opens a new connection: that is part of the test."""
    connector = BoundedConnector(force_close=True, limit=0, use_dns_cache=False)
    trace = aiohttp.TraceConfig()
    trace.on_dns_resolvehost_start.append(_set_progress("resolving the host name"))
    trace.on_dns_resolvehost_end.append(_set_progress("connecting"))
    trace.on_connection_create_end.append(_set_progress("waiting for a response"))
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        max_line_size=FIELD_LIMIT,
        max_field_size=FIELD_LIMIT,
        max_headers=FIELDS_LIMIT,
        headers={"User-Agent": "cluster-events", "Accept-Encoding": "identity"},
        trace_configs=[trace],
    )


def _set_progress(
    doing: str,
) -> Callable[[aiohttp.ClientSession, SimpleNamespace, Any], Awaitable[None]]:
    async def update(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
        # The heartbeat and the webhook use the client without a progress.
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.doing = doing

    return update


def successful(status: int) -> bool:
    """Whether a status is of the class 2xx, Successful (RFC 9110, section 15.3)."""
    return 200 <= status < 300  # noqa: PLR2004


async def probe(
    client: aiohttp.ClientSession,
    url: str,
    deadline: float,
    *,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    expects: Callable[[int], bool] = successful,
) -> Result:
    """Probe one service within `deadline` seconds.

    `tls` is for a service with its own authorities or client certificate. `expects` tells which
    statuses are healthy. Never raises for what the service or the network does.
    """
    where, progress = without_secrets(url), Progress()
    hide = hider(url, headers)
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
            ) as response,
        ):
            progress.doing = f"reading the body of {_status(response)}"
            body = await read_at_most(response.content, BODY_LIMIT)
            found = _describe(response, expects(response.status), where, body)
            return Result(expects(response.status), clean_info(hide(found)))
    except TimeoutError:
        problem = f"Timed out after {deadline:g} s while {progress.doing}"
    # Whatever a service provokes is a finding; it must not stop the monitor.
    except Exception as error:
        problem = hide(explain(error, progress.doing))
    return Result(False, clean_info(f"{problem} ({where})."))


def _status(response: aiohttp.ClientResponse) -> str:
    return f"HTTP {response.status} {response.reason or ''}".strip()


def _describe(response: aiohttp.ClientResponse, healthy: bool, where: str, body: bytes) -> str:
    status = _status(response)
    if healthy:
        found = f"Reachable: {status}."
    elif response.status == HTTPStatus.NOT_MODIFIED:
        found = f"Not modified, although the check has no condition: {status} ({where})."
    elif 300 <= response.status < 400:  # noqa: PLR2004  # Redirection (RFC 9110, section 15.4).
        target = without_secrets(response.headers.get("Location", "nowhere"))
        found = f"Redirected, which is not followed: {status} to {target[:200]} ({where})."
    else:
        found = f"Reachable, but unhealthy: {status} ({where})."
    return f"{found}\n{_text(response, body)}".rstrip()


def _text(response: aiohttp.ClientResponse, body: bytes) -> str:
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    # Not decompressed: a few hostile bytes could become gigabytes.
    if body and encoding != "identity":
        return f"(the body is not shown: it is encoded as {encoding[:20]}, which was not requested)"
    return body.decode("utf-8", "replace").strip()


def explain(error: Exception, doing: str) -> str:
    """What went wrong while `doing`. The order matters: the more specific cases come first."""
    cause: Any = (
        getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    )
    match error:
        case (
            aiohttp.ClientConnectorCertificateError()
            | aiohttp.ClientConnectorSSLError()
            | ssl.SSLError()
        ):
            problem = f"TLS failed: {_tls(cause)}"
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            problem = f"The host name cannot be resolved: {cause.strerror or cause}"
        case UnicodeError():
            problem = "The host name is not well-formed"
        case _ if isinstance(cause, ConnectionRefusedError):
            problem = "Connection refused: nothing listens there"
        case aiohttp.ClientConnectorError():
            problem = (
                f"Cannot connect: {cause.strerror or str(cause) or 'the connection was closed'}"
            )
        case aiohttp.ServerDisconnectedError():
            problem = f"The connection was closed while {doing}"
        case ConnectionResetError() | OSError(errno=errno.ECONNRESET | errno.EPIPE):
            problem = f"The connection was reset while {doing}"
        case aiohttp.ClientPayloadError():
            problem = f"The response is incomplete or malformed, found while {doing}"
        case aiohttp.ClientResponseError():
            problem = f"The response is not well-formed HTTP: {_one_line(error.message)}"
        case _:
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            problem = f"The check failed: {reason}"
    return problem


def _one_line(message: str) -> str:
    """The parser's message as one line. It has several lines, and a caret under the bad byte."""
    return " ".join(message.split()).removesuffix(" ^")[:200].rstrip(".")


def _tls(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and error.reason:
        if error.reason in _NOT_TLS:
            return "the server does not speak TLS; should the URL begin with http://?"
        return error.reason.replace("_", " ").lower()
    return str(error)
