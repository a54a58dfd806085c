"""Ten exchanges whose response bytes are kept in `tests/api/recorded`: the requests, the events
that the store contains, and what is masked in a response.

Everything here is fixed (ids, times, texts), so a response differs between two runs only in `Date`
and in the random `retry:` of an event stream.
"""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from service.events import Event, Observation, Selector, Status

RECORDED = Path(__file__).parents[1] / "api" / "recorded"
PATIENCE_S = 10.0
"""Seconds for a response: a bound for a test that hangs, not a measure of speed."""

SETTINGS = {"retention_hours": "876000", "stale_after": "876000h"}
"""100 years: the planted events are retained and the planted check is fresh, whenever this runs."""

_FIRST_US = 1_767_323_045_678_901
"""2026-01-02T03:04:05.678901Z."""
_MINUTE_US = 60_000_000
_GOOD = Observation(Status.HEALTHY, "fine", "two of two pods are ready")
_BAD = Observation(Status.UNHEALTHY, 'HTTP 503: "no"\nlater', "none of two pods is ready: Größe 1")
_NEW = Observation(Status.INITIAL_UNHEALTHY, "", "")

EVENTS = tuple(
    Event(f"019b7c9b-{number:04x}-7000-8000-0000000000{number:02x}", recorded_at, services)
    for number, recorded_at, services in [
        (1, _FIRST_US, {"api": _NEW, "compiler": _NEW, "runner": _NEW}),
        (2, _FIRST_US + _MINUTE_US, {"api": _GOOD, "compiler": _GOOD, "runner": _GOOD}),
        (3, _FIRST_US + 2 * _MINUTE_US, {"api": _GOOD, "compiler": _BAD, "runner": _GOOD}),
    ]
)
"""Oldest first."""
_CHECKED_AT_US = _FIRST_US + 3 * _MINUTE_US
_LATEST_ETAG = b'"1f30d080e24a2e8243a89ac3"'


def _request(target: str, *fields: bytes, token: bytes = b"TOKEN") -> bytes:
    lines = [b"Host: cluster.example", b"Authorization: Bearer " + token, *fields]
    return b"\r\n".join([f"GET {target} HTTP/1.1".encode(), *lines, b"", b""])


REQUESTS: Mapping[str, bytes] = {
    "latest-status": _request("/v0/cluster/events/latest"),
    "latest-all": _request("/v0/cluster/events/latest?selector=all"),
    "event-by-id": _request(f"/v0/cluster/events/{EVENTS[1].id}"),
    "not-modified": _request("/v0/cluster/events/latest", b"If-None-Match: " + _LATEST_ETAG),
    "list": _request("/v0/cluster/events"),
    "verdict": _request("/v0/cluster_healthz"),
    "unknown-event": _request("/v0/cluster/events/00000000-0000-7000-8000-000000000000"),
    "bad-selector": _request("/v0/cluster/events/latest?selector=some"),
    "bad-token": _request("/v0/cluster/events/latest", token=b"a.b.c"),
    "event-stream": _request(
        "/v0/cluster/events",
        b"Accept: text/event-stream",
        b"Last-Event-ID: " + EVENTS[0].id.encode(),
    ),
}
"""By name. `TOKEN` stands for a token of the role `read`."""
REPEATED = ("latest-status", "latest-all", "event-by-id", "not-modified", "list", "verdict")
"""Those that the poll path answers from their third sight."""


async def plant(client: Any, keys: Any) -> None:
    """Stores the events and a check, as if they had been recorded at those times. `client` is one
    of redis, `keys` are those of the cluster."""
    for event in EVENTS:
        bodies = {"status": event.to_bytes(Selector.STATUS), "all": event.to_bytes(Selector.ALL)}
        await client.zadd(keys.timeline, {event.id: event.recorded_at})
        await client.hset(keys.event(event.id), mapping=bodies)
    latest = {"latest": EVENTS[-1].id, "version": 3, "checked_at": _CHECKED_AT_US}
    await client.hset(keys.meta, mapping=latest)


async def exchange(port: int, request: bytes, token: str) -> bytes:
    """The bytes of the response on a new connection: of a stream, the head and the first event."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(request.replace(b"TOKEN", token.encode()))
            head = await reader.readuntil(b"\r\n\r\n")
            if b"\r\nContent-Type: text/event-stream\r\n" in head:
                return head + await reader.readuntil(b"\n\n")
            length = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
            has_body = length is not None and not head.startswith(b"HTTP/1.1 304 ")
            return head + (await reader.readexactly(int(length[1])) if has_body and length else b"")
    finally:
        writer.transport.abort()


def masked(response: bytes) -> bytes:
    """A response without what may differ: `Date`, `retry:`, and the texts for people in an error.

    `Content-Length` becomes that of the masked body; fails if it was not that of the body.
    """
    head, _, body = response.partition(b"\r\n\r\n")
    head = re.sub(rb"(\r\nDate: )[^\r]*", rb"\1(date)", head)
    body = re.sub(rb"\Aretry: [1-5]\d{3}\n", b"retry: (milliseconds)\n", body)
    if b'"error_code":' in body:
        length = b"\r\nContent-Length: %d"
        assert length % len(body) in head
        fields = orjson.loads(body)
        assert orjson.dumps(fields) == body
        fields["message"] = "(message)"
        if "error" in fields["details"]:
            fields["details"]["error"] = "(error)"
        shorter = orjson.dumps(fields)
        head, body = head.replace(length % len(body), length % len(shorter)), shorter
    return head + b"\r\n\r\n" + body
