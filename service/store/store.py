"""Appends to the store and reads from it. Each append and each read of the state is one script.

See `service/DESIGN.md`, "Append" and "Snapshot and freshness".
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from service.errors import DuplicateName, StoreUnavailable, UnknownApiKey
from service.events import Event, Observation, Selector, uuid7
from service.store.driver_errors import translate_errors
from service.store.keys import Keys
from service.store.models import (
    CLOCK_TOLERANCE_US,
    NO_CURSOR,
    AppendResult,
    Cursor,
    Entry,
    Fenced,
    Lease,
    StoredKey,
    StoreState,
    new_stamp,
)
from service.store.replies import (
    decode_api_keys,
    decode_days_used,
    decode_full,
    decode_outcome,
    decode_state,
    existing_event,
)
from service.store.subscription import Subscription
from service.tasks import jittered

T = TypeVar("T")

log = logging.getLogger(__name__)

_FULL_BATCH = 64
"""Full events of one request: with three services at most 6 MB, well within `timeout`."""
_SEND_ATTEMPTS = 3
"""Times that the same bytes are sent if replies are lost: the script makes that harmless."""
_BUILD_ATTEMPTS = 64
"""Times that an event is built again after another writer was first. Of several writers one always
succeeds, so the limit matters only for more writers than any deployment has."""

_SCRIPTS = Path(__file__).parent / "scripts"


class Store:
    """One cluster's events and API keys."""

    def __init__(
        self,
        client: "Redis",
        cluster: str,
        *,
        retention_events: int,
        retention_us: int,
        retention_bytes: int = 64 * 1024 * 1024,
        timeout: float = 0.5,
        write_replicas: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`timeout` (seconds) bounds connecting and each reply.

        `clock` returns seconds since 1970; Redis' clock is compared with it.
        """
        self.keys = Keys(cluster)
        self.retention_events = retention_events
        self.retention_us = retention_us
        self.retention_bytes = retention_bytes
        self.timeout = timeout
        self._client = client
        self._write_replicas = write_replicas
        self._clock = clock
        self._append_lock = asyncio.Lock()
        self._published = True
        """Whether the notification of the last change could be published."""
        self._append = client.register_script(_script("append"))
        self._read = client.register_script(_script("read"))
        self._checked = client.register_script(_script("checked"))
        self._api_key = client.register_script(_script("api_key"))
        self._api_keys_used = client.register_script(_script("api_keys_used"))
        self._lease = client.register_script(_script("lease"))
        self._release = client.register_script(_script("release"))

    async def read(self, known: Cursor | None = None) -> StoreState:
        """The state; with a cursor, only what is new since. Raises `StoreUnavailable`."""
        return await self._run_read(known or NO_CURSOR, self.retention_events)

    async def _run_read(self, known: Cursor, max_events: int) -> StoreState:
        keys = self.keys
        arguments: list[Any] = [
            "" if known.version is None else known.version,
            known.stamp,
            known.latest,
            "-inf" if known.since is None else known.since,
            max_events,
            keys.event_prefix,
        ]
        request = self._read([keys.timeline, keys.meta, keys.api_keys], arguments)
        return await self._call(request, decode_state)

    async def full(self, entry: Entry) -> bytes | None:
        """The `all` projection of an event, or `None` if it is gone. Raises `StoreUnavailable`."""
        return (await self.fulls([entry]))[entry.id]

    async def fulls(self, entries: Sequence[Entry]) -> dict[str, bytes | None]:
        """The `all` projections of several events, by id; `None` for those that are gone.

        Raises `StoreUnavailable`.
        """
        found: dict[str, bytes | None] = {}
        for start in range(0, len(entries), _FULL_BATCH):
            batch = entries[start : start + _FULL_BATCH]
            async with self._client.pipeline(transaction=False) as pipe:
                for entry in batch:
                    pipe.hmget(self.keys.event(entry.id), ["status", "all"])
                # The lambda is called before the next iteration changes `batch`.
                bodies = await self._call(
                    pipe.execute(),
                    lambda replies: list(map(decode_full, batch, replies)),  # noqa: B023
                )
                found |= {entry.id: body for entry, body in zip(batch, bodies, strict=True)}
        return found

    async def append(
        self,
        services: Mapping[str, Observation],
        event_id: str | None = None,
        epoch: int | None = None,
        owner: str = "",
        checked_at: int | None = None,
    ) -> AppendResult:
        """Record an event, with a generated id unless one is given.

        It counts as a check completed at `checked_at` (µs by Redis' clock), by default now.

        Raises `EventConflict` if the id exists with other content, `Fenced` if the epoch has ended
        or a monitor other than `owner` leads, and `StoreUnavailable` if it is not known whether the
        event is recorded (then the same id and content can be sent again).
        """
        # The writers of one process wait for each other instead of competing in Redis.
        async with self._append_turn():
            for attempt in range(_BUILD_ATTEMPTS):
                event, state = await self._build(services, event_id)
                # The write may be delayed: a check must not look more recent than it is.
                checked_at = state.now if checked_at is None else checked_at
                status, full, stamp = (
                    event.to_bytes(Selector.STATUS),
                    event.to_bytes(Selector.ALL),
                    new_stamp(),
                )
                outcome, *rest = await self._send(
                    event,
                    status,
                    full,
                    seen_latest=state.latest,
                    epoch=epoch,
                    owner=owner,
                    stamp=stamp,
                    checked_at=checked_at,
                )
                if outcome == b"APPENDED":
                    version, by_age, by_count, by_bytes, published, replicated = rest
                    self._check_published(bool(published))
                    trimmed = by_age, by_count, by_bytes
                    return AppendResult(
                        event,
                        status,
                        full,
                        True,
                        *trimmed,
                        replicated,
                        version,
                        stamp,
                        state.latest,
                    )
                if outcome == b"EXISTS":
                    # Unknown how many replicas confirmed the first attempt: `WAIT` counts only for
                    # the connection that wrote.
                    return existing_event(
                        event, full, *rest[:2], replicated=not self._write_replicas
                    )
                if outcome == b"FENCED":
                    raise Fenced(f"epoch {epoch} has ended, epoch {rest[0].decode()} has begun")
                await asyncio.sleep(jittered(0.001 * min(attempt, 10), 0.0, 1.0))
        raise StoreUnavailable("too many writers at once")

    async def record_check(
        self, epoch: int | None = None, owner: str = "", checked_at: int | None = None
    ) -> None:
        """Record that a check was completed at `checked_at` (µs by Redis' clock), by default now.

        Raises `Fenced` or `StoreUnavailable`.
        """
        arguments: list[Any] = [
            "" if epoch is None else epoch,
            owner,
            "" if checked_at is None else checked_at,
        ]
        request = self._checked([self.keys.meta, self.keys.leader], arguments)
        outcome, *rest = await self._call(request, decode_outcome)
        if outcome == b"FENCED":
            raise Fenced(f"epoch {epoch} has ended, epoch {rest[0].decode()} has begun")

    async def lease(self, owner: str, ttl: float, seen_epoch: int = 0) -> Lease:
        """Acquire or renew the lease for `ttl` seconds; returns the lease that is then valid.

        It is the lease of another monitor if that one has it. `seen_epoch` is the highest epoch
        that the caller has seen: a new epoch is higher, even in a store that lost its data. Raises
        `StoreUnavailable`.
        """
        request = self._lease(
            [self.keys.leader, self.keys.meta], [owner, round(ttl * 1_000), seen_epoch]
        )
        outcome, epoch, *held = await self._call(request, decode_outcome)
        if outcome == b"LEADS":
            return Lease(owner, epoch, ttl)
        holder, remaining_ms = held
        return Lease(holder.decode("utf-8", "replace"), epoch, remaining_ms / 1_000)

    async def release(self, owner: str) -> None:
        """Release the lease, if `owner` has it. Raises `StoreUnavailable`."""
        await self._call(self._release([self.keys.leader], [owner]), decode_outcome)

    async def now(self) -> int:
        """Redis' clock, in µs since 1970. Raises `StoreUnavailable`."""
        seconds, us = await self._call(self._client.time(), tuple)
        return int(seconds) * 1_000_000 + int(us)

    async def api_keys(self) -> Mapping[str, StoredKey]:
        """All API keys by name. Raises `StoreUnavailable`."""
        return await self._call(
            self._client.hgetall(self.keys.api_keys), lambda reply: decode_api_keys(reply.items())
        )

    async def api_keys_used(self) -> Mapping[str, int]:
        """The days of last use of the API keys, in days since 1970 (UTC), by id.

        Raises `StoreUnavailable`.
        """
        request = self._client.hgetall(self.keys.api_keys_used)
        return await self._call(request, lambda reply: decode_days_used(reply.items()))

    async def note_api_keys_used(self, days: Mapping[StoredKey, int]) -> None:
        """Record the days of last use of some keys. Raises `StoreUnavailable`."""
        arguments = [argument for key, day in days.items() for argument in (key.name, key.id, day)]
        await self._call(
            self._api_keys_used([self.keys.api_keys, self.keys.api_keys_used], arguments), int
        )

    async def create_api_key(self, key: StoredKey) -> None:
        """Add a key. Raises `DuplicateName` or `StoreUnavailable`."""
        if not await self._change_api_key(key.name, key.to_bytes()):
            raise DuplicateName(key.name)

    async def delete_api_key(self, name: str) -> None:
        """Revoke a key. Raises `UnknownApiKey` or `StoreUnavailable`."""
        if not await self._change_api_key(name, b""):
            raise UnknownApiKey(name)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Subscription]:
        """A subscription to the change notifications. Raises `StoreUnavailable`."""
        pubsub = self._client.pubsub()
        try:
            await self._call(pubsub.subscribe(self.keys.changes), bool)
            yield Subscription(pubsub, self.timeout)
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose(close_connection_pool=True)

    @asynccontextmanager
    async def _append_turn(self) -> AsyncIterator[None]:
        """One append of this process at a time.

        Raises `StoreUnavailable` if the appends before it take too long, as in an outage.
        """
        try:
            async with asyncio.timeout(2 * self.timeout):
                await self._append_lock.acquire()
        except TimeoutError:
            raise StoreUnavailable("too many writes are waiting") from None
        try:
            yield
        finally:
            self._append_lock.release()

    async def _build(
        self, services: Mapping[str, Observation], event_id: str | None
    ) -> tuple[Event, StoreState]:
        """An event that is recorded now, and the state that it is based on."""
        state = await self._run_read(NO_CURSOR, 1)
        recorded_at = max(state.now, state.newest_at + 1)
        return Event(event_id or uuid7(recorded_at), recorded_at, services), state

    async def _send(
        self,
        event: Event,
        status: bytes,
        full: bytes,
        *,
        seen_latest: str,
        epoch: int | None,
        owner: str,
        stamp: str,
        checked_at: int,
    ) -> list[Any]:
        keys = self.keys
        arguments: list[Any] = [
            event.id,
            event.recorded_at,
            seen_latest,
            status,
            full,
            self.retention_events,
            self.retention_us,
            round(self._clock() * 1_000_000),
            CLOCK_TOLERANCE_US,
            "" if epoch is None else epoch,
            keys.event_prefix,
            keys.changes,
            owner,
            self.retention_bytes,
            stamp,
            checked_at,
        ]
        for remaining in reversed(range(_SEND_ATTEMPTS)):
            try:
                return await self._send_once(
                    [keys.timeline, keys.meta, keys.event(event.id), keys.leader], arguments
                )
            except StoreUnavailable:
                if not remaining:
                    raise
        raise AssertionError("unreachable")

    async def _send_once(self, keys: list[str], arguments: list[Any]) -> list[Any]:
        if not self._write_replicas:
            return [*await self._call(self._append(keys, arguments), decode_outcome), True]
        # WAIT counts the replicas that have the writes of *this connection*, so both commands go
        # through one pipeline.
        async with self._client.pipeline(transaction=False) as pipe:
            await self._append(keys, arguments, client=pipe)
            # In milliseconds: 80 % of the timeout, so that the reply still arrives in time.
            pipe.wait(self._write_replicas, round(self.timeout * 800))
            reply, confirmed = await self._call(pipe.execute(), tuple)
        return [*decode_outcome(reply), confirmed >= self._write_replicas]

    def _check_published(self, published: bool) -> None:
        """Log when Redis begins to refuse notifications.

        Replicas then see changes at their next heartbeat.
        """
        if self._published and not published:
            log.warning(
                "the store refuses to publish changes: its user needs permission for the channel",
                extra={"channel": self.keys.changes},
            )
        self._published = published

    async def _change_api_key(self, name: str, value: bytes) -> bool:
        arguments: list[Any] = [name, value, self.keys.changes, new_stamp()]
        keys = [self.keys.api_keys, self.keys.meta, self.keys.api_keys_used]
        changed, published = await self._call(self._api_key(keys, arguments), tuple)
        if changed:
            self._check_published(bool(published))
        return bool(changed)

    async def _call(self, request: Awaitable[Any], decode: Callable[[Any], T]) -> T:
        """The decoded reply. Raises `StoreUnavailable`, also for a malformed reply."""
        try:
            with translate_errors():
                # Connecting and the request may each take `timeout`.
                async with asyncio.timeout(2 * self.timeout):
                    return decode(await request)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, (RedisConnectionError, OSError)):
                # The driver's pool detects idle connections that were closed, but not those that
                # were reset: each would fail once after the store is available again.
                await self._client.connection_pool.disconnect(inuse_connections=False)
            raise


def _script(name: str) -> str:
    return (_SCRIPTS / f"{name}.lua").read_text(encoding="utf-8")
