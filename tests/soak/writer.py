"""Recording that does not give up: each event has an id of its own, and is sent again until it is
known to be recorded."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.load import wire
from tests.soak.line import Line
from tests.soak.rig import LIST, SERVICES, WRITER

PATIENCE_S = 5.0
"""For one reply. No process takes as long unless it is dead."""


@dataclass
class Recorded:
    """What the writers know to be recorded: each event's bytes under `all`, by id."""

    sent: int = 0
    retries: int = 0
    found: int = 0
    """Times that an event which was sent again had been recorded before."""
    full: dict[str, bytes] = field(default_factory=dict)

    def history(self) -> list[str]:
        """The ids in the order that the service promises, oldest first."""

        def order(event_id: str) -> tuple[str, str]:
            return json.loads(self.full[event_id])["recorded_at"], event_id

        return sorted(self.full, key=order)


def status_of(full: bytes) -> bytes:
    """An event's bytes under `status`, as the contract says: without the infos."""
    fields = {name: value for name, value in json.loads(full).items() if not name.endswith("_info")}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def event(number: int, event_id: str) -> dict[str, Any]:
    """An event that says its number everywhere; every seventh is not healthy."""
    fields: dict[str, Any] = {"id": event_id}
    for service in SERVICES:
        broken = number % 7 == 0 and service == "compiler"
        fields[f"{service}_status"] = "Unhealthy" if broken else "Healthy"
        fields[f"{service}_self_info"] = f"change {number} of {service}"
        fields[f"{service}_resources_info"] = f"{number} " + "é" * (number % 50)
    return fields


async def record(ports: Sequence[int], number: int, recorded: Recorded) -> str:
    """Records an event through any of these replicas; gives its id. Raises `AssertionError` for an
    answer that is wrong."""
    event_id = str(uuid.uuid4())  # In no order: nothing may rely on that of ids.
    fields = event(number, event_id)
    post = wire.post(LIST, json.dumps(fields).encode(), WRITER)
    recorded.sent += 1
    attempt = 0
    while True:
        port = ports[(number + attempt) % len(ports)]
        reply = await _try(port, post)
        if reply is not None and reply.status in {200, 201}:
            got = json.loads(reply.body)
            assert {name: got[name] for name in fields} == fields, (got, fields)
            recorded.found += reply.status == 200
            recorded.full[event_id] = reply.body
            return event_id
        assert reply is None or reply.status == 503, reply
        attempt += 1
        recorded.retries += 1
        await asyncio.sleep(0.03)


async def _try(port: int, post: bytes) -> wire.Reply | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = await Line.open(port)
            try:
                return await line.ask(post)
            finally:
                line.close()
    except (OSError, TimeoutError):
        return None
