"""A process of version 0.1.0, with the scripts that this version had."""

from typing import Any

from redis.asyncio import Redis

from service.events import Event, Observation, Selector, uuid7
from service.store.keys import Keys
from tests.support.folders import ROOT

RECORDED = ROOT / "tests" / "integration" / "recorded" / "0.1.0"
"""What a store of that version contained, and its scripts."""
_CENTURY_US = 36_500 * 86_400 * 1_000_000
_CLOCK_TOLERANCE_US = 5_000_000


class Former:
    """A process of version 0.1.0 on the store of a cluster, with its limits of retention."""

    def __init__(
        self,
        client: "Redis",
        cluster: str = "default",
        *,
        retention_events: int = 1_000,
        retention_us: int = _CENTURY_US,
    ) -> None:
        self._client = client
        self._keys = Keys(cluster)
        self._limits = [retention_events, retention_us]
        self._scripts = {
            name: client.register_script((RECORDED / f"{name}.lua").read_text(encoding="utf-8"))
            for name in ("append", "read", "api_key", "checked")
        }

    async def read(self) -> tuple[int, list[bytes]]:
        """The version, and the `status` bytes of all events, newest first."""
        keys = self._keys
        reply = await self._scripts["read"](
            [keys.timeline, keys.meta, keys.api_keys], ["", "", "-inf", 1_000, keys.event_prefix]
        )
        return int(reply[1]), reply[5][2::4]

    async def append(self, services: dict[str, Observation]) -> Event:
        """Records an event, later than all others."""
        keys = self._keys
        seconds, us = await self._client.time()
        now = int(seconds) * 1_000_000 + int(us)
        newest = await self._client.zrange(keys.timeline, -1, -1, withscores=True)
        recorded_at = max([now, *(int(one[1]) + 1 for one in newest)])
        event = Event(uuid7(recorded_at), recorded_at, services)
        arguments: list[Any] = [
            event.id,
            recorded_at,
            await self._client.hget(keys.meta, "latest") or b"",
            event.to_bytes(Selector.STATUS),
            event.to_bytes(Selector.ALL),
            *self._limits,
            now,
            _CLOCK_TOLERANCE_US,
            "",
            keys.event_prefix,
            keys.changes,
            "",
        ]
        names = [keys.timeline, keys.meta, keys.event(event.id), keys.leader]
        reply = await self._scripts["append"](names, arguments)
        assert reply[0] == b"APPENDED", reply
        return event

    async def delete_key(self, name: str) -> None:
        """Revokes an API key."""
        names = [self._keys.api_keys, self._keys.meta, self._keys.api_keys_used]
        arguments = [name, "", self._keys.changes]
        assert await self._scripts["api_key"](names, arguments) == 1
