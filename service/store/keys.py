"""The names of one cluster's keys in Redis.

All have the hash tag `{ce:NAME}`, so that one script can use all of them in a Redis Cluster.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of the cluster called `name`."""

    name: str

    def _key(self, suffix: str) -> str:
        return f"{{ce:{self.name}}}:{suffix}"

    @property
    def timeline(self) -> str:
        """Sorted set: event id → recorded_at in microseconds."""
        return self._key("timeline")

    @property
    def event_prefix(self) -> str:
        """The key of an event's hash without the id at its end."""
        return self._key("event:")

    def event(self, event_id: str) -> str:
        """Hash: `status` and `all`, the two projections as finished bytes."""
        return self.event_prefix + event_id

    @property
    def meta(self) -> str:
        """Hash: `latest`, `version` with its `stamp`, `epoch`, `checked_at`; retention by bytes.

        For the last: `bytes` (of all events) with `bytes_as_of` and `bytes_exact`, and `cut_at`
        (events recorded until then were trimmed because of the bytes).
        """
        return self._key("meta")

    @property
    def api_keys(self) -> str:
        """Hash: an API key's name → its `StoredKey` as JSON."""
        return self._key("api_keys")

    @property
    def api_keys_used(self) -> str:
        """Hash: an API key's name → `<id> <day of last use>` (days since 1970)."""
        return self._key("api_keys_used")

    @property
    def leader(self) -> str:
        """String with a TTL: the leading monitor."""
        return self._key("leader")

    @property
    def changes(self) -> str:
        """Channel: the new version, at each change."""
        return self._key("changes")
