"""The names of one cluster's keys. All share the hash tag `{ce:NAME}`, so one script can touch them
all."""

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
        """What precedes an event's id in the key of its hash."""
        return self._key("event:")

    def event(self, event_id: str) -> str:
        """Hash: `status` and `all`, the two projections as finished bytes."""
        return self.event_prefix + event_id

    @property
    def meta(self) -> str:
        """Hash: `latest`, `version` and its `stamp`, `epoch`, `checked_at`; for retention by bytes
        `bytes` (of all events) with `bytes_as_of` and `bytes_exact`, and `cut_at` (the time until
        which events were trimmed for their bytes)."""
        return self._key("meta")

    @property
    def api_keys(self) -> str:
        """Hash: an API key's name → what is known of it, as JSON."""
        return self._key("api_keys")

    @property
    def api_keys_used(self) -> str:
        """Hash: an API key's name → its id and the day of its last use (days since 1970), with a
        space between."""
        return self._key("api_keys_used")

    @property
    def leader(self) -> str:
        """String with a TTL: the leading monitor."""
        return self._key("leader")

    @property
    def changes(self) -> str:
        """Channel: the new version, at each change."""
        return self._key("changes")
