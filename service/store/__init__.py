"""The store: events and API keys in Redis.

It is the only durable state. No other package imports the Redis client.
"""

from service.settings import Settings
from service.store.connect import connect
from service.store.models import (
    CLOCK_TOLERANCE_US,
    AppendResult,
    Cursor,
    Entry,
    Fenced,
    Lease,
    StoredKey,
    StoreState,
    count_append,
)
from service.store.store import Store
from service.store.subscription import Subscription

__all__ = [
    "CLOCK_TOLERANCE_US",
    "AppendResult",
    "Cursor",
    "Entry",
    "Fenced",
    "Lease",
    "Store",
    "StoreState",
    "StoredKey",
    "Subscription",
    "connect",
    "count_append",
    "open_store",
]


def open_store(settings: Settings) -> Store:
    """The store that the settings name; it connects at its first use."""
    return Store(
        connect(settings.redis_url.get_secret_value(), settings.redis_timeout),
        settings.cluster_name,
        retention_events=settings.retention_events,
        retention_us=settings.retention_us,
        retention_bytes=settings.retention_bytes,
        timeout=settings.redis_timeout,
        write_replicas=settings.write_replicas,
    )
