"""Stores that fail in one way."""

from service.errors import StoreUnavailable
from service.store import Cursor, Store, StoreState


class UnreadableStore(Store):
    """A store that takes writes, and cannot be read while `readable` is false."""

    readable = True

    async def read(self, known: Cursor | None = None) -> StoreState:
        """The state, or `StoreUnavailable`."""
        if not self.readable:
            raise StoreUnavailable("just now")
        return await super().read(known)
