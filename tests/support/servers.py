"""A service to send bytes to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.store import Store

POST = "/v0/cluster/events"


@dataclass(frozen=True)
class Server:
    """A service to send bytes to, and the store that it records in."""

    port: int
    store: Store
    complaints: Callable[[], Sequence[str]]
    """What it has logged at WARNING or above since the test began."""
    pure_python: bool = False

    async def recorded(self) -> int:
        """How many events there are."""
        return len((await self.store.read()).entries or ())
