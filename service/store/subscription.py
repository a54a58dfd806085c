"""The subscription to change notifications."""

from redis.asyncio.client import PubSub

from service.errors import StoreUnavailable
from service.store.driver_errors import translate_errors

_SUBSCRIPTION_PROBE_S = 5.0
"""Silence on the subscription after which the connection is asked whether it lives: notices make a
replica fast, the heartbeat keeps it true, so this may be leisurely."""


class Subscription:
    """A subscription to the store's change notices. They may be lost; the store's version is the
    truth."""

    def __init__(self, pubsub: PubSub, timeout: float) -> None:
        self._pubsub = pubsub
        self._timeout = timeout

    async def wait_for_change(self) -> None:
        """Returns at the next notice. Raises `StoreUnavailable` when the subscription is found
        dead."""
        probed = False
        while True:
            wait = self._timeout if probed else _SUBSCRIPTION_PROBE_S
            with translate_errors():
                message = await self._pubsub.get_message(timeout=wait)
                if message is None and not probed:
                    await self._pubsub.ping()
            if message is None and probed:
                raise StoreUnavailable("the subscription is silent")
            probed = message is None
            if message and message["type"] == "message":
                return
