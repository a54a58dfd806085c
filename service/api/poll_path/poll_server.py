"""Responses to remembered heads, and what else the connections of one process share."""

import asyncio
from collections.abc import Callable

from service.api.context import ApiContext
from service.api.poll_path.connection import Connection, ConnectionHandler
from service.api.poll_path.memo import Memo, MemoEntry
from service.api.poll_path.sendfile import Files
from service.api.poll_path.timeouts import Timeouts
from service.api.responses.model import matches


class PollServer:
    """The protocol factory of a listening socket."""

    def __init__(
        self,
        context: ApiContext,
        make_handler: Callable[[], ConnectionHandler],
        *,
        poll_path: bool,
        matches_aiohttp: bool = True,
        timeouts: Timeouts | None = None,
    ) -> None:
        """`matches_aiohttp` is the result of `aiohttp_internals.matches_aiohttp`.

        Without it there is no poll path.
        """
        self.make_handler = make_handler
        self.matches_aiohttp = matches_aiohttp
        self.poll_path = poll_path and matches_aiohttp
        self.timeouts = timeouts or Timeouts()
        self.files = Files.where_supported()
        self.access_log = context.settings.access_log
        self.replica = context.replica
        self.authenticator = context.authenticator
        self.monotonic = context.replica.monotonic
        self.unrouted = context.metrics.requests.route("unparsed")
        """The counts of requests that reach no route, mostly since they cannot be parsed."""
        self.memo = Memo()
        self.connections: set[Connection] = set()
        self._context = context
        self._responses = context.responses
        self._wall = context.replica.wall
        self._counted = 0

    def __call__(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self)

    def respond(self, head: bytes, entry: MemoEntry, now: float) -> bytes | None:
        """The response to a remembered head at the monotonic time `now`.

        `None` if the request must take the ordinary path.
        """
        if self._context.draining:
            return None
        if self._wall() >= entry.expires:
            self.memo.forget(head)
            return None
        cached = entry.cached
        response = cached.response
        snapshot = self.replica.snapshot
        if response is None or response.snapshot is not snapshot or now >= response.valid_until:
            try:
                response = self._responses.current(cached)
            except Exception:  # The ordinary path gets the same error, and reports it.
                response = None
            if response is None:  # Not current, gone, or not in memory.
                return None
            snapshot = response.snapshot
        # The credential is still valid if the object that it was verified against is still in use:
        # the generation of signing keys for a token, the API keys of the snapshot for an API key.
        # The entry has the object that `authenticate` used, so no change in between is missed.
        verified_against = entry.verified_against
        if verified_against is not self.authenticator.generation and (
            snapshot is None or verified_against is not snapshot.api_keys
        ):
            self.memo.forget(head)
            return None
        close = entry.close
        if entry.condition is not None and matches(entry.condition, response):
            response.hits_not_modified += 1
            serialized = response.serialized[2 + close]
            return serialized or response.serialize(not_modified=True, close=close)
        response.hits += 1
        return response.serialized[close] or response.serialize(not_modified=False, close=close)

    async def sweep(self) -> None:
        """Closes connections whose timeouts have passed, until cancelled."""
        while True:
            await asyncio.sleep(self.timeouts.sweep)
            now = self.monotonic()
            for connection in list(self.connections):
                connection.check_timeouts(now)
            # The API and the metrics may each have a server: both add to the gauge.
            self._context.metrics.connections.inc(len(self.connections) - self._counted)
            self._counted = len(self.connections)

    def close_idle(self) -> None:
        """Closes the connections without a request in progress."""
        for connection in list(self.connections):
            if connection.idle():
                connection.transport.close()
