"""One API process's in-memory copy of the store, and the look-ups in it."""

from service.replica.current_or_stale import CurrentOrStale
from service.replica.full_events import FullEventCache
from service.replica.replica import Replica
from service.replica.snapshot import Change, Snapshot

__all__ = ["Change", "CurrentOrStale", "FullEventCache", "Replica", "Snapshot"]
