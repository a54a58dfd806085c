"""The checks beside HTTP: whether something takes connections, and whether a Redis answers
`PING`."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import SplitResult, unquote, urlsplit

from service.events import clean_info
from service.monitor.probes.http import Progress, Result, explain, shown

REPLY_LIMIT = 1_024
"""Bytes of one line of a reply: Redis' errors are shorter."""


async def probe_tcp(url: str, deadline: float) -> Result:
    """Checks that `tcp://host:port` takes a connection within `deadline` seconds."""
    return await _probe(url, deadline, None)


async def probe_redis(url: str, deadline: float, tls: ssl.SSLContext | None = None) -> Result:
    """Checks that `redis://` or `rediss://` answers `PING`, after `AUTH` where the URL has a
    password."""
    return await _probe(url, deadline, tls)


async def _probe(url: str, deadline: float, tls: ssl.SSLContext | None) -> Result:
    parts, progress, where = urlsplit(url), Progress(), shown(url)
    try:
        async with asyncio.timeout(deadline), _connected(parts, tls) as (reader, writer):
            if parts.scheme == "tcp":
                return Result(True, "Reachable: it takes connections.")
            progress.doing = "waiting for an answer"
            return await _ping(parts, reader, writer, where)
    except TimeoutError:
        wrong = f"Timed out after {deadline:g} s while {progress.doing}"
    except Exception as error:  # The edge of a check, as for HTTP.
        wrong = explain(error, progress.doing)
    return Result(False, clean_info(f"{wrong} ({where})."))


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
        refused = await _ask(reader, writer, "AUTH", *user, unquote(parts.password))
        if refused != "+OK":
            return Result(
                False, clean_info(f"Reachable, but it refuses the credentials ({where}).")
            )
    answer = await _ask(reader, writer, "PING")
    if answer == "+PONG":
        return Result(True, "Reachable: it answers PING.")
    if answer.startswith("-"):
        return Result(
            False, clean_info(f"Reachable, but unhealthy: {answer[1:].rstrip('.')} ({where}).")
        )
    return Result(False, clean_info(f"What answers is no Redis: {answer[:100]!r} ({where})."))


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *words: str) -> str:
    """The first line of the reply to a command."""
    parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
    writer.write("".join(parts).encode())
    await writer.drain()
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the connection was closed in the middle of an answer")
    return line.decode("utf-8", "replace").rstrip("\r\n")
