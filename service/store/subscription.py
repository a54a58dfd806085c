"""The subscription to the store's change notifications."""

from redis.asyncio.client import PubSub

from service.errors import StoreUnavailable
from service.store.driver_errors import translate_errors

_SUBSCRIPTION_PROBE_S = 5.0
"""Seconds without a message after which a PING tests the connection.

Notifications only make updates fast; the heartbeat finds missed changes. So it may be long."""


class Subscription:
    """A subscription to change notifications. They may be lost; the store's version is reliable."""

    def __init__(self, pubsub: PubSub, timeout: float) -> None:
        self._pubsub = pubsub
        self._timeout = timeout

    async def wait_for_change(self) -> None:
        """Wait for the next notification. Raises `StoreUnavailable` if the connection is dead."""
        probed = False
        while True:
            wait = self._timeout if probed else _SUBSCRIPTION_PROBE_S
            with translate_errors():
                message = await self._pubsub.get_message(timeout=wait)
                if message is None and not probed:
                    await self._pubsub.ping()
            if message is None and probed:
                raise StoreUnavailable("the subscription did not answer a ping")
            probed = message is None
            if message and message["type"] == "message":
                return
