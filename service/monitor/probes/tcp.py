"""The TCP and Redis probes: a server accepts connections, or answers `PING`."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import SplitResult, unquote, urlsplit

from service.events import clean_info
from service.monitor.probes.hide import hider, without_secrets
from service.monitor.probes.http import Progress, Result, explain

REPLY_LIMIT = 1_024
"""The most bytes of one line of a reply: Redis' errors are shorter."""


async def probe_tcp(url: str, deadline: float) -> Result:
    """Probe whether `tcp://host:port` accepts a connection within `deadline` seconds."""
    return await _probe(url, deadline, None)


async def probe_redis(
    url: str,
    deadline: float,
    tls: ssl.SSLContext | None = None,
) -> Result:
    """Probe whether `redis://` or `rediss://` answers `PING` within `deadline` seconds.

    If the URL has a password, `AUTH` is sent first.
    """
    return await _probe(url, deadline, tls)


async def _probe(
    url: str,
    deadline: float,
    tls: ssl.SSLContext | None,
) -> Result:
    parts, progress, where = urlsplit(url), Progress(), without_secrets(url)
    hide = hider(url)
    try:
        async with asyncio.timeout(deadline), _connected(parts, tls) as (reader, writer):
            if parts.scheme == "tcp":
                return Result(True, "Reachable: it accepts connections.")
            progress.doing = "waiting for a reply"
            result = await _ping(parts, reader, writer, where)
            return Result(result.healthy, clean_info(hide(result.info)))
    except TimeoutError:
        problem = f"Timed out after {deadline:g} s while {progress.doing}"
    # Whatever a service provokes is a finding; it must not stop the monitor.
    except Exception as error:
        problem = hide(explain(error, progress.doing))
    return Result(False, clean_info(f"{problem} ({where})."))


@asynccontextmanager
async def _connected(
    parts: SplitResult, tls: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    context = (tls or ssl.create_default_context()) if parts.scheme == "rediss" else None
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port or 6379, ssl=context, limit=REPLY_LIMIT
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError, ssl.SSLError):
            writer.transport.abort()


async def _ping(
    parts: SplitResult, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: str
) -> Result:
    if parts.password:
        user = [unquote(parts.username)] if parts.username else []
        reply = await _send(reader, writer, "AUTH", *user, unquote(parts.password))
        if reply != "+OK":
            return Result(False, f"Reachable, but it refuses the credentials ({where}).")
    reply = await _send(reader, writer, "PING")
    if reply == "+PONG":
        return Result(True, "Reachable: it answers PING.")
    if reply.startswith("-"):
        return Result(False, f"Reachable, but unhealthy: {reply[1:].rstrip('.')} ({where}).")
    return Result(False, f"The server is not Redis: {reply[:100]!r} ({where}).")


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *words: str) -> str:
    """Send a command; returns the first line of the reply."""
    parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
    writer.write("".join(parts).encode())
    await writer.drain()
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the connection was closed in the middle of a reply")
    return line.decode("utf-8", "replace").rstrip("\r\n")
