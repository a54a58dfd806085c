"""The events in Redis: the only durable state, and the only place that speaks to Redis (DESIGN, section 5)."""

from service.store.connect import connect
from service.store.store import Appended, Changes, Entry, Rows, Store, StoredKey

__all__ = ["Appended", "Changes", "Entry", "Rows", "Store", "StoredKey", "connect"]
