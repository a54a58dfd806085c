"""One webhook: a signed POST for each recorded change.

Messages follow Standard Webhooks (standardwebhooks.com). The monitor that recorded the change sends
it, and retries for eight minutes; checks do not wait for it. A message that the receiver refuses
for good is given up at once, so that it does not hold up the next one. A message that cannot be
delivered is counted and logged as dead: the event itself is in the store. Receivers recognise
repetitions by `webhook-id`, which is the event's id.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import orjson
from pydantic import SecretStr

from service.events import Event, Selector, Status, rfc3339
from service.metrics import Metrics
from service.monitor.probes.http import session, successful
from service.outgoing import proxy_for
from service.settings import webhook_key
from service.tasks import cancel_and_wait, spawn_guarded

log = logging.getLogger(__name__)

TYPE = "cluster_monitor_event.changed"
TIMEOUT_S = 10.0
"""Seconds for one attempt."""
PAUSES_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0)
"""Seconds between two attempts: eight in eight minutes, more than a receiver's restart takes."""
RETRIED = frozenset(
    {
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.MISDIRECTED_REQUEST,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""Client errors that say nothing about the message: the same request can succeed later, or on
another connection. Any other 4xx says that the receiver will not accept this request (RFC 9110,
section 15.5), so it would refuse it again."""
LONGEST_RETRY_AFTER_S = 300.0
"""The longest pause that a receiver can ask for with `Retry-After`."""
WAITING = 100
"""The most messages in the queue. They are sent one by one to keep their order; when the queue is
full, the oldest one is dropped."""

OnEvent = Callable[[Event, Mapping[str, Status | str]], None]
"""Called with each recorded event and the statuses before it."""


@dataclass(frozen=True, slots=True)
class _Message:
    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. `final` says that another attempt would fail as well.

    `retry_after` is how long the receiver asks to wait, in seconds.
    """

    reason: str
    final: bool = False
    retry_after: float = 0.0


@asynccontextmanager
async def delivering(
    url: SecretStr | None,
    secret: SecretStr | None,
    metrics: Metrics,
    pauses: Sequence[float] = PAUSES_S,
) -> AsyncIterator[OnEvent]:
    """Yield a function to call with each recorded event. Without a URL it does nothing."""
    key = webhook_key(secret) if secret else None
    if url is None or key is None:
        yield lambda _event, _before: None
        return
    webhook = _Webhook(url.get_secret_value(), key, metrics, pauses)
    task = spawn_guarded(webhook.run(), "webhook")
    try:
        yield webhook.on_event
    finally:
        await cancel_and_wait(task)
        webhook.drop_all("the monitor has stopped")


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of a message (version 1 of the scheme: HMAC-SHA256, base64)."""
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def body_of(event: Event, before: Mapping[str, Status | str]) -> bytes:
    """The message of a change: the event in the API's form, and the changed services."""
    changes = [
        {"service": name, "from": before.get(name), "to": seen.status}
        for name, seen in event.services.items()
        if before.get(name) is not seen.status
    ]
    data = {"changes": changes, "event": orjson.Fragment(event.to_bytes(Selector.ALL))}
    return orjson.dumps({"type": TYPE, "timestamp": rfc3339(event.recorded_at), "data": data})


class _Webhook:
    """Sends the messages of one webhook in order."""

    def __init__(self, url: str, key: bytes, metrics: Metrics, pauses: Sequence[float]) -> None:
        self._url = url
        self._key = key
        self._metrics = metrics
        self._pauses = pauses
        self._queue: list[_Message] = []
        self._arrived = asyncio.Event()

    def on_event(self, event: Event, before: Mapping[str, Status | str]) -> None:
        """Queue the message of an event, if it changed a status."""
        if all(before.get(name) is seen.status for name, seen in event.services.items()):
            return
        if len(self._queue) >= WAITING:
            # The first one is being sent.
            self._dead(self._queue.pop(1), "the queue is full")
        self._queue.append(_Message(event.id, body_of(event, before)))
        self._arrived.set()

    async def run(self) -> None:
        """Send the queued messages, in order, until cancelled."""
        async with session() as client:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._queue:
                    await self._deliver(client, self._queue[0])
                    del self._queue[0]

    def drop_all(self, why: str) -> None:
        """Empty the queue and count its messages as dead."""
        for message in self._queue:
            self._dead(message, why)
        self._queue.clear()

    async def _deliver(self, client: aiohttp.ClientSession, message: _Message) -> None:
        for number, pause in enumerate((*self._pauses, None), start=1):
            failure = await self._attempt(client, message)
            self._metrics.webhooks.labels("failed" if failure else "delivered").inc()
            if failure is None:
                if number > 1:
                    delivered = {"event": message.id, "attempts": number}
                    log.info("webhook message delivered", extra=delivered)
                return
            if pause is None or failure.final:
                self._dead(message, failure.reason)
                return
            if number == 1:
                failed = {"event": message.id, "reason": failure.reason}
                log.warning("webhook message not delivered yet", extra=failed)
            await asyncio.sleep(max(pause, failure.retry_after))

    async def _attempt(self, client: aiohttp.ClientSession, message: _Message) -> Failure | None:
        """Make one attempt; returns why it failed, or `None`.

        Each attempt has its own timestamp, and therefore its own signature.
        """
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
                proxy=proxy_for(self._url),
            ) as response:
                return None if successful(response.status) else _failure(response)
        # Whatever the receiver or the network does, checks go on.
        except Exception as error:
            return Failure(type(error).__name__)

    def _dead(self, message: _Message, why: str) -> None:
        self._metrics.webhooks.labels("dead").inc()
        log.error(
            "webhook delivery failed",
            extra={"event": message.id, "reason": why},
        )


def _failure(response: aiohttp.ClientResponse) -> Failure:
    status = response.status
    seconds = response.headers.get("Retry-After", "")
    return Failure(
        f"HTTP {status}",
        final=400 <= status < 500 and status not in RETRIED,  # noqa: PLR2004  # Client errors.
        retry_after=min(float(seconds), LONGEST_RETRY_AFTER_S)
        if re.fullmatch("[0-9]{1,9}", seconds)
        else 0.0,
    )
