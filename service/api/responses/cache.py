"""The response cache: for each resource, a response that is ready to send.

A response is made again only when its content changes or its time is over: at the next second (its
`Date`), when an event reaches its age limit, when the snapshot is no longer current, or when the
monitor counts as silent. Every user of a response compares its snapshot and its `valid_until`.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from email.utils import formatdate

from multidict import CIMultiDict

from service.api.http.content_coding import negotiate
from service.api.http.headers import (
    AUTH,
    CACHE_CONTROL,
    COMMON_HEADERS,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    DATE,
    ETAG,
    LINK,
    VARY,
)
from service.api.responses.contents import (
    content_of,
    freshness_fields,
    render_encoded,
    render_events,
)
from service.api.responses.memory import MemoryBudget
from service.api.responses.model import (
    NEEDS_FULL_EVENT,
    CacheEntry,
    Content,
    NeedsFullEvent,
    PreparedResponse,
    Resource,
    ResourceKey,
)
from service.api.responses.pages import page_body
from service.api.responses.verdict import VerdictRenderer
from service.errors import (
    ApiError,
    NoClusterMonitorEventsAvailable,
    UnknownClusterMonitorEvent,
)
from service.events import Selector
from service.replica import CurrentOrStale, Replica, Snapshot
from service.replica.event_filter import EventFilter
from service.settings import Auth, Settings
from service.store import Entry

MAX_EVENTS = 2_048
"""Events by id with cached responses: twice as many as are retained by default."""

LATEST_EVENT = {selector: ResourceKey(Resource.EVENT, selector) for selector in Selector}
EVENTS = ResourceKey(Resource.EVENTS)
VERDICT = ResourceKey(Resource.VERDICT)


class ResponseCache:
    """Prepares responses from the replica, and keeps those that other requests can share."""

    def __init__(self, settings: Settings, replica: Replica) -> None:
        self.memory = MemoryBudget(settings.reply_memory, "REPLY_MEMORY")
        self._replica = replica
        self._settings = settings
        self._entries: dict[ResourceKey, CacheEntry] = {}
        """The entries of the few keys without an event's id."""
        self._events: OrderedDict[str, dict[ResourceKey, CacheEntry]] = OrderedDict()
        """The entries about single events, by event id; the oldest are dropped first."""
        self._verdict = VerdictRenderer(settings.service_names, settings.stale_after_s)
        # What a response can depend on; with CORS, also on the origin of the request.
        origin = "Origin, " if settings.cors_origins else ""
        self._vary = f"{origin}Accept-Encoding, Authorization"

    # -- entries -----------------------------------------------------------------------------------

    def entry(self, key: ResourceKey) -> CacheEntry:
        """The entry of a key: the same object for each request, if the key is cacheable."""
        if key.event_id is None:
            entries = self._entries
        elif key.cacheable:
            entries = self._entries_of(key.event_id)
        else:
            return CacheEntry(key)
        entry = entries.get(key)
        if entry is None:
            entry = entries[key] = CacheEntry(key)
        return entry

    def encoded(self, key: ResourceKey, accept_encoding: str) -> ResourceKey:
        """The key with the content coding that the client prefers. Raises `NotAcceptable`."""
        accepted = negotiate(accept_encoding)
        if accepted.coding is None:
            return key
        return ResourceKey(key.resource, key.selector, key.event_id, accepted)

    def _entries_of(self, event_id: str) -> dict[ResourceKey, CacheEntry]:
        entries = self._events.get(event_id)
        if entries is None:
            entries = self._events[event_id] = {}
            if len(self._events) > MAX_EVENTS:
                self._drop(next(iter(self._events)))
        return entries

    def _drop(self, event_id: str) -> None:
        """Forgets the entries about an event; the responses that were sent stay counted."""
        for entry in self._events.pop(event_id, {}).values():
            self._count_hits(entry)

    # -- responses ---------------------------------------------------------------------------------

    def current(self, entry: CacheEntry) -> PreparedResponse | None:
        """The current response without asking Redis; `None` if Redis must be asked.

        Raises the API's error if there is no such resource.
        """
        snapshot = self._replica.current()
        if snapshot is None:
            return None
        response, now = entry.response, self._replica.monotonic()
        if response is not None and response.snapshot is snapshot and now < response.valid_until:
            return response
        return self._respond(entry, CurrentOrStale(self._replica, snapshot))

    async def read(self, entry: CacheEntry) -> PreparedResponse:
        """The response where `current` has none: with Redis' help, or marked as stale.

        Raises the API's error if there is no such resource, `StoreUnavailable` if the state is not
        known.
        """
        reading = await self._replica.read()
        response = self._respond(entry, reading)
        if response is None:
            response = await self._respond_with_full_event(entry, reading)
        if response is None:
            # The event is gone from the store. Only a reading from now on can tell whether another
            # event was recorded with the same id.
            await self._replica.refresh_after_now()
            reading = await self._replica.read()
            response = await self._respond_with_full_event(entry, reading)
        if response is None:
            raise _marked(self._unknown(entry.key), reading)
        return response

    async def page(self, wanted: EventFilter) -> PreparedResponse:
        """A page of the list: as many selected events as fit, with a link to the next page.

        Raises `UnknownClusterMonitorEvent` for a `before` that is not retained, `StoreUnavailable`,
        and `ServerBusy` when too many bytes of pages wait to be sent.
        """
        reading = await self._replica.read()
        before = None
        try:
            if wanted.before is not None and (before := reading.event(wanted.before)) is None:
                raise UnknownClusterMonitorEvent(wanted.before, self._settings.retention)
        except ApiError as error:
            raise _marked(error, reading) from None
        entries, more = await wanted.apply(reading.entries, before)
        selector = wanted.selection.selector
        body, count = await page_body(reading, entries, selector, self.memory)
        response = self._prepare(EVENTS, content_of(entries, body), reading, shared=False)
        if more or count < len(entries):
            link = wanted.next_page(entries[count - 1])
            response.headers[LINK] = response.headers_not_modified[LINK] = link
        return response

    def _respond(
        self, entry: CacheEntry, reading: CurrentOrStale, full: bytes | None = None
    ) -> PreparedResponse | None:
        """The response for an entry, or `None` if the full event must be read first.

        Raises the API's error if there is no such resource.
        """
        content = self._render(entry, reading, full)
        if content is NEEDS_FULL_EVENT:
            return None
        entry.content = content
        response = self._prepare(entry.key, content, reading, shared=entry.key.cacheable)
        if response.snapshot is not None:
            self._count_hits(entry)
            entry.response = response
        return response

    async def _respond_with_full_event(
        self, entry: CacheEntry, reading: CurrentOrStale
    ) -> PreparedResponse | None:
        """The response, with the full event read from the store; `None` if the event is gone."""
        event = self._event(entry.key, reading)
        full = await self._replica.full(reading.snapshot, event)
        return self._respond(entry, reading, full) if full is not None else None

    # -- contents ----------------------------------------------------------------------------------

    def _render(
        self, entry: CacheEntry, reading: CurrentOrStale, full: bytes | None
    ) -> Content | NeedsFullEvent:
        key, known = entry.key, entry.content
        if key.accepted is not None:
            identity = self.entry(key.identity)
            content = self._render(identity, reading, full)
            if content is NEEDS_FULL_EVENT:
                return content
            identity.content = content
            return render_encoded(content, key.accepted, known)
        match key.resource:
            case Resource.EVENTS:
                return render_events(reading.entries, known)
            case Resource.VERDICT:
                return self._verdict.render(reading, self._event(key, reading), known)
            case Resource.EVENT:
                return self._render_event(entry, reading, full)

    def _render_event(
        self, entry: CacheEntry, reading: CurrentOrStale, full: bytes | None
    ) -> Content | NeedsFullEvent:
        event, known = self._event(entry.key, reading), entry.content
        if known is not None and known.source is event:
            return known
        if entry.key.selector is Selector.STATUS:
            return content_of(event, event.status)
        full = full or self._replica.full_in_memory(reading.snapshot, event)
        return content_of(event, full) if full is not None else NEEDS_FULL_EVENT

    def _event(self, key: ResourceKey, reading: CurrentOrStale) -> Entry:
        """The event that the response is about; for the verdict, the latest.

        Raises the API's error if there is none, `StoreUnavailable` if that is not known.
        """
        try:
            event = reading.latest() if key.event_id is None else reading.event(key.event_id)
            if event is None:
                if key.event_id is not None:
                    self._drop(key.event_id)
                raise self._unknown(key)
        except ApiError as error:
            raise _marked(error, reading) from None
        return event

    def _unknown(self, key: ResourceKey) -> ApiError:
        if key.event_id is None:
            return NoClusterMonitorEventsAvailable()
        return UnknownClusterMonitorEvent(key.event_id, self._settings.retention)

    # -- header fields -----------------------------------------------------------------------------

    def _prepare(
        self, key: ResourceKey, content: Content, reading: CurrentOrStale, *, shared: bool
    ) -> PreparedResponse:
        """A response. One that is `shared` is kept, unless it is marked as stale."""
        replica = self._replica
        now, wall = replica.monotonic(), replica.wall()
        headers = self._headers(key, content, reading, wall)
        if reading.age is not None:  # Marked as stale: made for one request.
            response = PreparedResponse(content, headers, None, now)
            response.shared = False
        else:
            valid_until = self._valid_until(key, reading.snapshot, now, wall)
            response = PreparedResponse(content, headers, reading.snapshot, valid_until)
            response.shared = shared
        if not shared:
            response.reserved = self.memory.reserve(len(content.body))
        return response

    def _headers(
        self, key: ResourceKey, content: Content, reading: CurrentOrStale, wall: float
    ) -> "CIMultiDict[str]":
        headers = CIMultiDict[str](
            [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")]
        )
        if content.coding is not None:
            headers[CONTENT_ENCODING] = content.coding
        headers[ETAG] = content.etag
        # The list's URL also serves the event stream.
        headers[VARY] = f"Accept, {self._vary}" if key.resource is Resource.EVENTS else self._vary
        headers.extend(freshness_fields(reading))
        headers.extend(COMMON_HEADERS)
        if self._settings.auth is Auth.NONE:
            headers[AUTH] = Auth.NONE
        headers[CONTENT_LENGTH] = str(len(content.body))
        headers[DATE] = formatdate(wall, usegmt=True)
        return headers

    def _valid_until(self, key: ResourceKey, snapshot: Snapshot, now: float, wall: float) -> float:
        """The monotonic time at which a response from a current snapshot must be made again."""
        replica = self._replica
        # The next second, for `Date`; the end of the snapshot's being current.
        moments = [now + 1 - wall % 1, snapshot.confirmed + replica.max_staleness]
        if snapshot.checked_at is not None and not replica.monitor_silent(snapshot):
            silent_at = snapshot.checked_at + replica.stale_after_us - snapshot.clock
            moments.append(silent_at / 1_000_000)
        moments += [
            now + replica.seconds_until_expiry(snapshot, event)
            for event in self._oldest(key, snapshot)
            if event is not snapshot.latest  # The latest event never expires.
        ]
        return min(moments)

    def _oldest(self, key: ResourceKey, snapshot: Snapshot) -> Sequence[Entry]:
        """The event in the response that expires first, if there is one."""
        if key.event_id is not None:
            return [snapshot.by_id[key.event_id]]
        if key.resource is Resource.EVENT:
            return []
        return self._replica.retained(snapshot)[-1:]

    # -- metrics -----------------------------------------------------------------------------------

    def count_all_hits(self) -> None:
        """Adds the responses of the poll path to the metrics, before these are rendered."""
        for entry in self._all_entries():
            self._count_hits(entry)

    def _all_entries(self) -> Iterator[CacheEntry]:
        yield from self._entries.values()
        for entries in self._events.values():
            yield from entries.values()

    def _count_hits(self, entry: CacheEntry) -> None:
        response = entry.response
        if response is None:
            return
        counts = self._replica.metrics.requests.route(entry.key.route)
        for status, hits in ((response.status, response.hits), (304, response.hits_not_modified)):
            if hits:
                counts.add("GET", status, hits)
        response.hits = response.hits_not_modified = 0


def _marked(error: ApiError, reading: CurrentOrStale) -> ApiError:
    """The error with the freshness fields of the reading that it follows from."""
    error.headers |= freshness_fields(reading)
    return error
