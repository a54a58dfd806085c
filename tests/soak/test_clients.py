"""Clients that are not ours read the stream: curl, and a library."""

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support import needs
from tests.support.api import Api
from tests.support.streams import ACCEPT, LIST, record


@asynccontextmanager
async def curl(api: Api, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """The output of `curl -N`, while it runs."""
    program = needs.program("curl")
    fields = [word for name, value in ACCEPT.items() for word in ("--header", f"{name}: {value}")]
    process = await asyncio.create_subprocess_exec(
        program, "--silent", "--show-error", "-N", *fields, *arguments, api.url + LIST, stdout=PIPE
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def next_id(output: asyncio.StreamReader) -> str:
    """The id of the next event."""
    async with asyncio.timeout(5):
        while line := await output.readline():
            if line.startswith(b"id: "):
                return line[4:].decode().strip()
    raise EOFError


async def watched(api: Api, watchers: int = 1) -> None:
    """Returns when so many clients watch."""
    async with asyncio.timeout(5):
        while len(api.context.watchers) < watchers:
            await asyncio.sleep(0.01)


async def test_curl_prints_events_as_they_come(api: Api) -> None:
    """`curl -N` shows each event when it is recorded, and ends with success when the stream
    does."""
    async with curl(api) as output:
        await watched(api)
        for _ in range(3):
            (event_id,) = await record(api, 1)
            assert await next_id(output) == event_id
        api.context.watchers.end_all()
        with pytest.raises(EOFError):
            await next_id(output)


async def test_curl_resumes(api: Api) -> None:
    """With `Last-Event-ID` it gets what was recorded since, compression wanted or not."""
    ids = await record(api, 3)
    await api.settle()
    async with curl(api, "--compressed", "--header", f"Last-Event-ID: {ids[0]}") as output:
        assert [await next_id(output) for _ in ids[1:]] == ids[1:]


async def test_a_library_resumes(api: Api) -> None:
    """httpx-sse reads the stream and, with the last id that it saw, goes on after the stream has
    ended."""
    httpx = needs.package("httpx")
    httpx_sse = needs.package("httpx_sse")
    ids = await record(api, 2)
    await api.settle()
    seen: list[Any] = []
    async with httpx.AsyncClient(headers=ACCEPT, timeout=5) as client:
        for _ in range(2):
            headers = {"Last-Event-ID": seen[-1].id if seen else ids[0]}
            async with httpx_sse.aconnect_sse(
                client, "GET", api.url + LIST, headers=headers
            ) as source:
                ids += await record(api, 2)
                async for event in source.aiter_sse():
                    seen.append(event)
                    if event.id == ids[-1]:
                        api.context.watchers.end_all()
    assert [event.id for event in seen] == ids[1:]
    assert {event.event for event in seen} == {"message"}
    assert all(event.json()["id"] == event.id for event in seen)
    assert 1_000 <= seen[0].retry <= 5_000
