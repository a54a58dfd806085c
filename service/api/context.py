"""The state that the handlers of one API process share."""

from dataclasses import dataclass, field

from aiohttp import web

from service.api.http.cors import Cors
from service.api.live.event_stream import Watchers
from service.api.live.long_poll import LongPolls
from service.api.responses.cache import ResponseCache
from service.api.responses.memory import MemoryBudget
from service.auth import Authenticator, FailureLimiter, Principal
from service.metrics import Exposition, Metrics
from service.replica import Replica
from service.settings import Settings
from service.store import Store

BODY_MEMORY = 32 * 1024 * 1024
"""Bytes of request bodies that are being received: a hundred of the longest. An ordinary body has
some kilobytes."""


@dataclass(slots=True)
class ApiContext:
    """The state of one API process."""

    settings: Settings
    store: Store
    replica: Replica
    authenticator: Authenticator
    failure_limiter: FailureLimiter
    responses: ResponseCache
    metrics: Metrics
    cors: Cors | None = None
    """The other origins whose scripts may read; `None` for none."""
    long_polls: LongPolls = field(default_factory=LongPolls)
    bodies: MemoryBudget = field(
        default_factory=lambda: MemoryBudget(BODY_MEMORY, "request bodies")
    )
    """The budget for request bodies that are being received."""
    draining: bool = False
    """Whether the process is about to end: each response closes its connection."""
    openapi: bytes = b""
    exposition: Exposition = field(init=False)
    """The rendered metrics: of this process, or of all workers of the service."""
    watchers: Watchers = field(init=False)

    def __post_init__(self) -> None:
        self.watchers = Watchers(self.replica)
        self.replica.listeners += [self.watchers.changed, lambda _: self.long_polls.wake()]
        self.authenticator.listeners += [self.watchers.end_invalid, self.long_polls.wake]

    def still_valid(self, principal: Principal) -> bool:
        """Whether a request's credential is still valid, for responses that take long."""
        snapshot = self.replica.snapshot
        return snapshot is None or self.authenticator.still_valid(principal, snapshot.api_keys)

    def seconds_left(self, principal: Principal) -> float:
        """Seconds until a request's credential expires; 0 if it is no longer valid."""
        if not self.still_valid(principal):
            return 0.0
        return max(principal.expires - self.replica.wall(), 0.0)

    async def drain(self) -> None:
        """Begins the end of the process: `/readyz` fails, long polls and event streams end."""
        self.draining = True
        self.long_polls.wake()
        await self.watchers.close()


CONTEXT = web.AppKey("context", ApiContext)
