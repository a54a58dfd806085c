"""Appending to and reading from the store, each as one step of Redis.

Errors of the driver end here: whatever Redis or the network does, callers see `StoreUnavailable`, with a reason fit for a
client; the driver's own words stay in its `__cause__`, for the log.
"""

import asyncio
import logging
import random
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.errors import ClusterEventsError, DuplicateName, EventConflict, StoreUnavailable, UnknownApiKey
from service.events import LAST_US, Event, Observation, Selector, clean, is_event, rfc3339, uuid7
from service.observability import Metrics
from service.store.keys import Keys

T = TypeVar("T")

log = logging.getLogger(__name__)

CLOCK_TOLERANCE_US = 5_000_000
"""Disagreement of two clocks beyond which nobody's idea of an event's age is trusted."""

_FULL_BATCH = 64
"""Full events that are asked for at once: with three services at most 6 MB of replies, well within the time for one."""
_SEND_ATTEMPTS = 3
"""How often identical bytes are sent when the reply is lost: the script makes the second time harmless."""
_BUILD_ATTEMPTS = 64
"""How often an event is built anew because another writer was first. Some writer always gets ahead, so this bounds only
a crowd that no deployment has."""
_DAY_US = 86_400_000_000
_SUBSCRIPTION_PROBE_S = 5.0
"""Silence on the subscription after which the connection is asked whether it lives: notices make a replica fast, the
heartbeat keeps it true, so this may be leisurely."""

_SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in the timeline, with its `status` projection."""

    id: str
    recorded_at: int
    status: bytes


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What the store knows of an API key. `sha256` is the hex digest of the whole key; times are in µs since 1970."""

    name: str
    id: str
    role: str
    sha256: str
    created_at: int
    expires_at: int | None = None

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`; fields of newer versions are ignored.

        An end after the year 9999, which an earlier version accepted, becomes the last moment of that year. Raises
        `ValueError` for bytes that are not an API key, or one whose times cannot be printed.
        """
        fields = orjson.loads(data)
        key = cls(**{name: fields.get(name) for name in cls.__slots__})
        texts, times = (key.name, key.id, key.role, key.sha256), (key.created_at, key.expires_at or 0)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(one, int) for one in times):
            raise ValueError("not an API key")
        if key.expires_at is not None and key.expires_at > LAST_US:
            key = replace(key, expires_at=LAST_US)
        for moment in (key.created_at, key.expires_at or 0):
            rfc3339(moment)  # Raises for a time that cannot be printed.
        return key


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a reader knows the store: the version, its stamp, the latest id, and the recorded_at (µs) of the newest event that
    it has. While the first three are the same it is sent no events, otherwise those recorded at or after that time."""

    version: int | None
    stamp: str
    latest: str
    since: int | None


_NOTHING = Cursor(None, "", "", None)


@dataclass(frozen=True, slots=True)
class Rows:
    """One reading of the store; `entries`, newest first, and `api_keys` are `None` when nothing changed.

    `stamp` is the random mark of the last change. `unreadable` are the ids of events that cannot be
    read; they are left out of `entries`, as are those whose bodies are gone, but count in `retained`,
    the number of all events, the oldest of which was recorded at `oldest_at`. Events recorded at
    `cut_at` and before were trimmed for their bytes. `now` is Redis' clock, `checked_at` when the last
    check was completed, `newest_at` the time of the newest event, also of one whose body is gone (all
    µs since 1970).
    """

    now: int
    version: int
    stamp: str
    latest: str
    checked_at: int | None
    entries: tuple[Entry, ...] | None = None
    latest_all: bytes = b""
    api_keys: Mapping[str, StoredKey] | None = None
    newest_at: int = 0
    oldest_at: int = 0
    cut_at: int = 0
    retained: int = 0
    unreadable: tuple[str, ...] = ()

    @property
    def cursor(self) -> Cursor:
        """Where a reader is who has all of `entries`."""
        return Cursor(self.version, self.stamp, self.latest, self.entries[0].recorded_at if self.entries else None)


@dataclass(frozen=True, slots=True)
class Appended:
    """The outcome of an append: the event, and its projections as they are stored.

    `created` is false if the same event had been recorded before. Where it is known that this append
    made the change, `version` and `stamp` are the store's after it (else `version` is `None`), and
    `previous` is the id of the latest event before it. `replicated` is false if fewer Redis replicas
    than asked for confirmed it in time; it is recorded all the same.
    """

    event: Event
    status: bytes
    full: bytes
    created: bool
    trimmed_by_age: int = 0
    trimmed_by_count: int = 0
    trimmed_by_bytes: int = 0
    replicated: bool = True
    version: int | None = None
    stamp: str = ""
    previous: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of the leading monitor: whose it is, the epoch, and for how many seconds it holds if nobody renews it."""

    owner: str
    epoch: int
    remaining: float


def count_append(metrics: Metrics, appended: Appended, reason: str) -> None:
    """Counts what an append did."""
    if appended.created:
        metrics.recorded.labels(reason).inc()
    metrics.trimmed.labels("age").inc(appended.trimmed_by_age)
    metrics.trimmed.labels("count").inc(appended.trimmed_by_count)
    metrics.trimmed.labels("bytes").inc(appended.trimmed_by_bytes)
    if not appended.replicated:
        metrics.unreplicated.inc()


class Fenced(ClusterEventsError):
    """Another monitor leads: this writer's epoch is over, and nothing was written."""


class Changes:
    """A subscription to the store's change notices. They may be lost; the store's version is the truth."""

    def __init__(self, pubsub: PubSub, timeout: float) -> None:
        self._pubsub = pubsub
        self._timeout = timeout

    async def next(self) -> None:
        """Returns at the next notice. Raises `StoreUnavailable` when the subscription is found dead."""
        probed = False
        while True:
            wait = self._timeout if probed else _SUBSCRIPTION_PROBE_S
            with _Edge():
                message = await self._pubsub.get_message(timeout=wait)
                if message is None and not probed:
                    await self._pubsub.ping()
            if message is None and probed:
                raise StoreUnavailable("the subscription is silent")
            probed = message is None
            if message and message["type"] == "message":
                return


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
        """`timeout` (seconds) bounds each request; `clock` gives seconds since 1970, for judging Redis' clock."""
        self.keys = Keys(cluster)
        self.retention_events = retention_events
        self.retention_us = retention_us
        self.retention_bytes = retention_bytes
        self.timeout = timeout
        self._client = client
        self._write_replicas = write_replicas
        self._clock = clock
        self._appending = asyncio.Lock()
        self._publishes = True  # Whether the last change could be published.
        self._append = client.register_script(_script("append"))
        self._read = client.register_script(_script("read"))
        self._checked = client.register_script(_script("checked"))
        self._api_key = client.register_script(_script("api_key"))
        self._api_keys_used = client.register_script(_script("api_keys_used"))
        self._lease = client.register_script(_script("lease"))
        self._release = client.register_script(_script("release"))

    async def read(self, known: Cursor | None = None) -> Rows:
        """The state, as one step; with a cursor, what is new since. Raises `StoreUnavailable`."""
        keys = self.keys
        known = known or _NOTHING
        arguments: list[Any] = [
            "" if known.version is None else known.version,
            known.stamp,
            known.latest,
            "-inf" if known.since is None else known.since,
            self.retention_events,
            keys.event_prefix,
        ]
        return await self._call(self._read([keys.timeline, keys.meta, keys.api_keys], arguments), _rows)

    async def full(self, entry: Entry) -> bytes | None:
        """The `all` projection of an event, or `None` if it is gone. Raises `StoreUnavailable`."""
        return (await self.fulls([entry]))[entry.id]

    async def fulls(self, entries: Sequence[Entry]) -> dict[str, bytes | None]:
        """The `all` projections of several events, by id; `None` for those that are gone. Raises `StoreUnavailable`."""
        found: dict[str, bytes | None] = {}
        for start in range(0, len(entries), _FULL_BATCH):
            batch = entries[start : start + _FULL_BATCH]
            async with self._client.pipeline(transaction=False) as pipe:
                for entry in batch:
                    pipe.hmget(self.keys.event(entry.id), ["status", "all"])
                bodies = await self._call(pipe.execute(), lambda replies: list(map(_full, batch, replies)))  # noqa: B023  # Awaited here.
                found |= {entry.id: body for entry, body in zip(batch, bodies, strict=True)}
        return found

    async def append(
        self,
        services: Mapping[str, Observation],
        event_id: str | None = None,
        epoch: int | None = None,
        owner: str = "",
        checked_at: int | None = None,
    ) -> Appended:
        """Records an event, with a generated id unless one is given. It counts as a check that was completed at `checked_at` (µs
        by Redis' clock), by default now.

        Raises `EventConflict` if the id exists with other content, `Fenced` if the epoch is over or another than `owner`
        leads, `StoreUnavailable` if it is not known that the event is recorded (it may be; the same id and content can be
        sent again).
        """
        async with self._turn():  # Writers of one process need not race each other.
            for attempt in range(_BUILD_ATTEMPTS):
                event, rows = await self._build(services, event_id)
                # A write may be held up on its way: it must not make the check younger than it is.
                checked_at = rows.now if checked_at is None else checked_at
                status, full, stamp = event.to_bytes(Selector.STATUS), event.to_bytes(Selector.ALL), _new_stamp()
                outcome, *rest = await self._send(
                    event,
                    status,
                    full,
                    seen_latest=rows.latest,
                    epoch=epoch,
                    owner=owner,
                    stamp=stamp,
                    checked_at=checked_at,
                )
                if outcome == b"APPENDED":
                    version, by_age, by_count, by_bytes, published, replicated = rest
                    self._note_published(bool(published))
                    trimmed = by_age, by_count, by_bytes
                    return Appended(event, status, full, True, *trimmed, replicated, version, stamp, rows.latest)
                if outcome == b"EXISTS":
                    # Who confirmed the first sending is not known: `WAIT` speaks of the connection that wrote.
                    return _existing(event, full, *rest[:2], replicated=not self._write_replicas)
                if outcome == b"FENCED":
                    raise Fenced(f"epoch {epoch} is over, epoch {rest[0].decode()} has begun")
                await asyncio.sleep(random.uniform(0, 0.001 * min(attempt, 10)))  # noqa: S311  # Spreading, not secrecy.
        raise StoreUnavailable("too many writers at once")

    async def checked(self, epoch: int | None = None, owner: str = "", checked_at: int | None = None) -> None:
        """Notes that a check was completed at `checked_at` (µs by Redis' clock), by default now.

        Raises `Fenced` or `StoreUnavailable`.
        """
        arguments: list[Any] = ["" if epoch is None else epoch, owner, "" if checked_at is None else checked_at]
        request = self._checked([self.keys.meta, self.keys.leader], arguments)
        outcome, *rest = await self._call(request, _outcome)
        if outcome == b"FENCED":
            raise Fenced(f"epoch {epoch} is over, epoch {rest[0].decode()} has begun")

    async def lease(self, owner: str, ttl: float, seen_epoch: int = 0) -> Lease:
        """Takes or renews the lease for `ttl` seconds, unless another holds it: whose it is then. Raises `StoreUnavailable`.

        `seen_epoch` is the highest that the asker knows of: a new one is higher, even in a store that lost its data.
        """
        request = self._lease([self.keys.leader, self.keys.meta], [owner, round(ttl * 1_000), seen_epoch])
        outcome, epoch, *held = await self._call(request, _outcome)
        if outcome == b"LEADS":
            return Lease(owner, epoch, ttl)
        holder, remaining_ms = held
        return Lease(holder.decode("utf-8", "replace"), epoch, remaining_ms / 1_000)

    async def release(self, owner: str) -> None:
        """Gives the lease back, if `owner` holds it. Raises `StoreUnavailable`."""
        await self._call(self._release([self.keys.leader], [owner]), _outcome)

    async def now(self) -> int:
        """Redis' clock, in µs since 1970. Raises `StoreUnavailable`."""
        seconds, us = await self._call(self._client.time(), tuple)
        return int(seconds) * 1_000_000 + int(us)

    async def api_keys(self) -> Mapping[str, StoredKey]:
        """All API keys by name. Raises `StoreUnavailable`."""
        return await self._call(self._client.hgetall(self.keys.api_keys), lambda reply: _api_keys(reply.items()))

    async def api_keys_used(self) -> Mapping[str, int]:
        """The days on which API keys were last used, in days since 1970 (UTC), by public id. Raises `StoreUnavailable`."""
        request = self._client.hgetall(self.keys.api_keys_used)
        return await self._call(request, lambda reply: _days_used(reply.items()))

    async def note_api_keys_used(self, days: Mapping[StoredKey, int]) -> None:
        """Notes the days of last use of some keys. Raises `StoreUnavailable`."""
        arguments = [argument for key, day in days.items() for argument in (key.name, key.id, day)]
        await self._call(self._api_keys_used([self.keys.api_keys, self.keys.api_keys_used], arguments), int)

    async def create_api_key(self, key: StoredKey) -> None:
        """Adds a key. Raises `DuplicateName` or `StoreUnavailable`."""
        if not await self._change_api_key(key.name, key.to_bytes()):
            raise DuplicateName(key.name)

    async def delete_api_key(self, name: str) -> None:
        """Revokes a key. Raises `UnknownApiKey` or `StoreUnavailable`."""
        if not await self._change_api_key(name, b""):
            raise UnknownApiKey(name)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[Changes]:
        """A subscription to the change notices, ended on leaving. Raises `StoreUnavailable`."""
        pubsub = self._client.pubsub()
        try:
            await self._call(pubsub.subscribe(self.keys.changes), bool)
            yield Changes(pubsub, self.timeout)
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose(close_connection_pool=True)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """This process' turn to write. Raises `StoreUnavailable` if those before it take too long: a store that is away."""
        try:
            async with asyncio.timeout(2 * self.timeout):
                await self._appending.acquire()
        except TimeoutError:
            raise StoreUnavailable("others wait to write as well") from None
        try:
            yield
        finally:
            self._appending.release()

    async def _build(self, services: Mapping[str, Observation], event_id: str | None) -> tuple[Event, Rows]:
        """An event of now, and the state after which it was made."""
        keys = self.keys
        arguments: list[Any] = ["", "", "", "-inf", 1, keys.event_prefix]
        rows = await self._call(self._read([keys.timeline, keys.meta, keys.api_keys], arguments), _rows)
        recorded_at = max(rows.now, rows.newest_at + 1)
        return Event(event_id or uuid7(recorded_at), recorded_at, services), rows

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
                return await self._send_once([keys.timeline, keys.meta, keys.event(event.id), keys.leader], arguments)
            except StoreUnavailable:
                if not remaining:
                    raise
        raise AssertionError("unreachable")

    async def _send_once(self, keys: list[str], arguments: list[Any]) -> list[Any]:
        if not self._write_replicas:
            return [*await self._call(self._append(keys, arguments), _outcome), True]
        # WAIT counts the replicas that have what *this connection* wrote: both go down one pipeline.
        async with self._client.pipeline(transaction=False) as pipe:
            await self._append(keys, arguments, client=pipe)
            pipe.wait(self._write_replicas, round(self.timeout * 800))
            reply, confirmed = await self._call(pipe.execute(), tuple)
        return [*_outcome(reply), confirmed >= self._write_replicas]

    def _note_published(self, published: bool) -> None:
        """Logs when Redis begins to refuse notifications. Replicas then see changes at their next heartbeat."""
        if self._publishes and not published:
            log.warning(
                "the store refuses to publish changes: its user needs the channel", extra={"channel": self.keys.changes}
            )
        self._publishes = published

    async def _change_api_key(self, name: str, value: bytes) -> bool:
        arguments: list[Any] = [name, value, self.keys.changes, _new_stamp()]
        keys = [self.keys.api_keys, self.keys.meta, self.keys.api_keys_used]
        changed, published = await self._call(self._api_key(keys, arguments), tuple)
        if changed:
            self._note_published(bool(published))
        return bool(changed)

    async def _call(self, request: Awaitable[Any], meaning: Callable[[Any], T]) -> T:
        """What the reply means; a reply without one is an error like any other of the store."""
        try:
            with _Edge():
                async with asyncio.timeout(2 * self.timeout):  # Connecting and asking may each take `timeout`.
                    return meaning(await request)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, (RedisConnectionError, OSError)):
                # The driver's pool does not notice that an idle connection was reset (only that it was closed): each would
                # fail once, after the store is back.
                await self._client.connection_pool.disconnect(inuse_connections=False)
            raise


_NONSENSE = (AttributeError, LookupError, TypeError, ValueError)
"""What comes of reading a reply that no script of ours gives: another server is at the address."""


class _Edge:
    """Inside it, driver errors become `StoreUnavailable`, and no cancellation is lost. A class, since it is entered at
    every request."""

    __slots__ = ("_cancelled_before",)

    def __enter__(self) -> None:
        self._cancelled_before = _cancellations()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # The driver waits with asyncio.wait_for, which below Python 3.12 may swallow a cancellation (cpython#86296): a task
        # that goes on for ever would then go on for ever.
        if _cancellations() > self._cancelled_before and not isinstance(error, asyncio.CancelledError):
            raise asyncio.CancelledError from error
        # A closed pool raises RuntimeError, and RedisClusterException is no RedisError.
        if isinstance(error, (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError, *_NONSENSE)):
            raise StoreUnavailable(_reason(error)) from error


def _cancellations() -> int:
    """How often the current task has been told to end."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _reason(error: BaseException) -> str:
    """What a client may know: never an address, a name or a password."""
    reasons: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
        ((RedisTimeoutError, TimeoutError), "it did not answer in time"),
        ((AuthenticationError, AuthorizationError, NoPermissionError), "it refuses this service's credentials"),
        (BusyLoadingError, "it is loading its data"),
        (ReadOnlyError, _REFUSALS["READONLY"]),
        (OutOfMemoryError, _REFUSALS["OOM"]),
        (ResponseError, _refusal(str(error))),
        (_NONSENSE, "its answer makes no sense"),
    ]
    return next((reason for kind, reason in reasons if isinstance(error, kind)), "it cannot be reached")


_REFUSALS = {
    "OOM": "it is out of memory",
    "READONLY": "it is a read-only replica",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "it has too few replicas to take writes",
}
"""Why Redis refuses every write, by the code of its error."""
_REFUSAL = re.compile(rf"\b({'|'.join(_REFUSALS)})\b")


def _refusal(message: str) -> str:
    """The reason for an error without a class of its own; before Redis 7, an error in a script has its code in the middle."""
    code = _REFUSAL.search(message)
    return _REFUSALS[code[1]] if code else "it refuses the request"


def _script(name: str) -> str:
    return (_SCRIPTS / f"{name}.lua").read_text(encoding="utf-8")


def _existing(event: Event, full: bytes, status: bytes, stored: bytes, *, replicated: bool) -> Appended:
    if stored == full:  # This writer's own: the reply to an earlier sending was lost.
        return Appended(event, status, stored, True, replicated=replicated)
    try:
        known = Event.from_bytes(stored)
    except ValueError:  # What cannot be read cannot be the same.
        raise EventConflict(event.id) from None
    # Another version may have recorded further services; of those that are named here it must say the same.
    if not _content(event).items() <= _content(known).items():
        raise EventConflict(event.id)
    return Appended(known, status, stored, False)


def _content(event: Event) -> Mapping[str, Observation]:
    """What an event says, cleaned: earlier versions stored POSTed infos as they came."""
    return {
        name: Observation(seen.status, clean(seen.self_info), clean(seen.resources_info))
        for name, seen in event.services.items()
    }


_OUTCOMES = {
    b"APPENDED": 6,
    b"EXISTS": 3,
    b"MOVED": 2,
    b"FENCED": 2,
    b"CHECKED": 1,
    b"LEADS": 2,
    b"HELD": 4,
    b"RELEASED": 2,
}
"""How many elements the scripts' replies have."""


def _outcome(reply: list[Any]) -> list[Any]:
    if len(reply) != _OUTCOMES[reply[0]]:
        raise ValueError("not a reply of our scripts")
    return reply


def _new_stamp() -> str:
    """A random mark of one change: a store that lost changes and got others has another one at the same version."""
    return secrets.token_hex(8)


def _full(entry: Entry, reply: list[Any]) -> bytes | None:
    """The `all` projection of just that event: its id may have been recorded again since."""
    status, full = reply
    if not isinstance(status, bytes | None) or not isinstance(full, bytes | None):
        raise TypeError("not an event's bytes")
    if status != entry.status or full is None:
        return None
    if not is_event(full, entry.id):
        log.error("events in the store cannot be read", extra={"events": entry.id})
        return None
    return full


def _rows(reply: list[Any]) -> Rows:
    now, version, stamp, latest, checked_at, *changed = reply
    checked = _time(checked_at) if checked_at else None
    head = int(now), int(version), stamp.decode(), latest.decode(), checked
    if not changed:
        return Rows(*head)
    keys, retained, oldest_at, cut_at, flat = changed
    pairs = keys.items() if isinstance(keys, dict) else zip(keys[::2], keys[1::2], strict=True)
    entries: list[Entry] = []
    unreadable: list[str] = []
    for raw_id, score, status, full in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True):
        if not status or not full:  # The body is gone, by Redis' clock a moment before the timeline is trimmed.
            continue
        event_id, recorded_at = raw_id.decode("utf-8", "replace"), _time(score)
        # Of all but the first, only that there is a full body is known here (1).
        readable = is_event(status, event_id) and (full == b"1" or is_event(full, event_id))
        if readable and recorded_at is not None:
            entries.append(Entry(event_id, recorded_at, status))
        else:
            unreadable.append(event_id)
    latest_all = flat[3] if entries and flat[0].decode("utf-8", "replace") == entries[0].id else b""
    return Rows(
        *head,
        tuple(entries),
        latest_all,
        _api_keys(pairs),
        newest_at=int(flat[1]) if flat else 0,
        oldest_at=int(oldest_at),
        cut_at=int(cut_at),
        retained=int(retained),
        unreadable=tuple(unreadable),
    )


def _time(value: bytes) -> int | None:
    """A time in µs since 1970, or `None` for one that cannot be printed: nothing here records it."""
    us = int(value)
    return us if 0 <= us <= LAST_US else None


def _api_keys(pairs: Any) -> Mapping[str, StoredKey]:
    """The keys that can be read. One that cannot opens nothing, and is no reason to know nothing of the others."""
    keys: dict[str, StoredKey] = {}
    for name, value in pairs:
        try:
            keys[name.decode()] = StoredKey.from_bytes(value)
        except (AttributeError, TypeError, ValueError):
            log.error("an API key in the store is unreadable", extra={"key_name": repr(name)[:80]})  # noqa: TRY400  # The traceback would add nothing.
    return keys


def _days_used(pairs: Any) -> Mapping[str, int]:
    """The days that can be read. A day of last use is information: without it a key is listed all the same."""
    days: dict[str, int] = {}
    for name, value in pairs:
        try:
            key_id, day = value.decode().split(" ")
            rfc3339(int(day) * _DAY_US)  # Raises for a day that cannot be printed.
            days[key_id] = int(day)
        except (AttributeError, ValueError):
            log.error("a day of last use in the store is unreadable", extra={"key_name": repr(name)[:80]})  # noqa: TRY400  # The traceback would add nothing.
    return days
