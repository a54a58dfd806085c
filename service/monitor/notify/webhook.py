"""One webhook: a signed POST for each recorded change, as Standard Webhooks describes it
(www.standardwebhooks.com).

The monitor that recorded the change sends it, and goes on trying for some minutes; checks never
wait for it. What cannot be delivered is counted and logged as dead: the event itself is in the
store. Receivers know repetitions by `webhook-id`, the event's id.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import orjson
from pydantic import SecretStr

from service.events import Event, Selector, Status, rfc3339
from service.metrics import Metrics
from service.monitor.probes.http import session
from service.settings import webhook_key
from service.tasks import cancel_and_wait, spawn_guarded

log = logging.getLogger(__name__)

TYPE = "cluster_monitor_event.changed"
TIMEOUT_S = 10.0
PAUSES_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0)
"""Between two attempts: eight in eight minutes, which outlasts a receiver's restart."""
WAITING = 100
"""Changes that wait to be sent, one after the other so that they arrive in order. Beyond, the
oldest is given up."""

Changed = Callable[[Event, Mapping[str, Status | str]], None]
"""To be told of an event, with the statuses before it."""


@dataclass(frozen=True, slots=True)
class _Message:
    id: str
    body: bytes


@asynccontextmanager
async def delivering(
    url: SecretStr | None,
    secret: SecretStr | None,
    metrics: Metrics,
    pauses: Sequence[float] = PAUSES_S,
) -> AsyncIterator[Changed]:
    """Gives what is to be called with each recorded event. Without a URL nothing comes of it."""
    key = webhook_key(secret) if secret else None
    if url is None or key is None:
        yield lambda _event, _before: None
        return
    webhook = _Webhook(url.get_secret_value(), key, metrics, pauses)
    task = spawn_guarded(webhook.run(), "webhook")
    try:
        yield webhook.changed
    finally:
        await cancel_and_wait(task)
        webhook.give_up("the monitor has ended")


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of a message (version 1 of the scheme: HMAC-SHA256, base64)."""
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def body_of(event: Event, before: Mapping[str, Status | str]) -> bytes:
    """The message of a change: the event as the API has it, and which services changed from what to
    what."""
    changes = [
        {"service": name, "from": before.get(name), "to": seen.status}
        for name, seen in event.services.items()
        if before.get(name) is not seen.status
    ]
    data = {"changes": changes, "event": orjson.Fragment(event.to_bytes(Selector.ALL))}
    return orjson.dumps({"type": TYPE, "timestamp": rfc3339(event.recorded_at), "data": data})


class _Webhook:
    def __init__(self, url: str, key: bytes, metrics: Metrics, pauses: Sequence[float]) -> None:
        self._url = url
        self._key = key
        self._metrics = metrics
        self._pauses = pauses
        self._waiting: list[_Message] = []
        self._arrived = asyncio.Event()

    def changed(self, event: Event, before: Mapping[str, Status | str]) -> None:
        """Sends the change, later; an event that changes nothing is none."""
        if all(before.get(name) is seen.status for name, seen in event.services.items()):
            return
        if len(self._waiting) >= WAITING:
            self._dead(self._waiting.pop(1), "too many wait")  # The first is being sent.
        self._waiting.append(_Message(event.id, body_of(event, before)))
        self._arrived.set()

    async def run(self) -> None:
        """Sends what waits, in order, until cancelled."""
        async with session() as client:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting:
                    await self._deliver(client, self._waiting[0])
                    del self._waiting[0]

    def give_up(self, why: str) -> None:
        """Counts what still waits as dead."""
        for message in self._waiting:
            self._dead(message, why)
        self._waiting.clear()

    async def _deliver(self, client: aiohttp.ClientSession, message: _Message) -> None:
        failed = ""
        for pause in (*self._pauses, None):
            failed = await self._attempt(client, message)
            self._metrics.webhooks.labels("failed" if failed else "delivered").inc()
            if not failed:
                return
            if pause is not None:
                await asyncio.sleep(pause)
        self._dead(message, failed)

    async def _attempt(self, client: aiohttp.ClientSession, message: _Message) -> str:
        """Why it failed, or nothing. Each attempt has a time of its own, and so a signature of its
        own."""
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(self._key, message.id, now, message.body),
        }
        try:
            async with client.post(
                self._url,
                data=message.body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as answer:
                return "" if 200 <= answer.status < 300 else f"HTTP {answer.status}"  # noqa: PLR2004  # Success.
        except Exception as error:  # The edge of a call: whatever the receiver does, checks go on.
            return type(error).__name__

    def _dead(self, message: _Message, why: str) -> None:
        self._metrics.webhooks.labels("dead").inc()
        log.error(
            "a change could not be delivered to the webhook",
            extra={"event": message.id, "reason": why},
        )
