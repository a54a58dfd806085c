"""The response cache."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus

import orjson
from multidict import CIMultiDict

from service.api.http.conditional import Condition, names
from service.api.http.content_coding import CODINGS, SMALLEST, Accepted, negotiate
from service.api.http.headers import (
    AGE,
    AUTH,
    CACHE_CONTROL,
    CHECKED_AT,
    COMMON_HEADERS,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    DATE,
    ETAG,
    LINK,
    MONITOR_SILENT,
    STALE,
    STORE_UNREACHABLE,
    VARY,
)
from service.api.responses.memory import MemoryBudget, Reservation
from service.errors import ApiError, NoClusterMonitorEventsAvailable, UnknownClusterMonitorEvent
from service.events import Selector, Status, observations, rfc3339, rfc3339_seconds
from service.replica.event_filter import EventFilter
from service.replica.replica import CurrentOrStale, Replica
from service.replica.snapshot import Snapshot
from service.settings import Auth, Settings
from service.store import Entry

_EVENT_QUESTIONS = 2_048
"""Questions about single events that are remembered: twice as many as events are retained by
default."""

PAGE_BYTES = 4 * 1024 * 1024
"""The most bytes of a page of the list, unless its first event alone has more."""
_BATCH = 8
"""Full events that a page reads at a time, ..."""
_BATCH_BYTES = 256 * 1024
"""... and what they count for until their size is known: so many pages at once cannot read more
than memory allows."""


@dataclass(frozen=True, slots=True)
class Content:
    """The body of an answer and what it was made of; the same source gives the same content."""

    source: object
    body: bytes
    etag: str
    status: int = 200
    coding: str | None = None


class Answer:
    """A reply, ready to be sent: its header fields and body, with or without the body (304)."""

    __slots__ = (
        "body",
        "conditional_tag",
        "etag",
        "headers",
        "headers_not_modified",
        "hits",
        "hits_not_modified",
        "reserved",
        "shared",
        "snapshot",
        "status",
        "until",
        "wires",
    )

    def __init__(
        self, content: Content, headers: "CIMultiDict[str]", snapshot: Snapshot | None, until: float
    ) -> None:
        """True for `snapshot` (by identity) and until the monotonic time `until`."""
        self.status = content.status
        self.body = content.body
        self.etag = content.etag
        # A condition holds for successes only (RFC 9110, section 13.2.1), and compares weak tags as
        # strong ones.
        self.conditional_tag = (
            content.etag.removeprefix("W/") if content.status == HTTPStatus.OK else None
        )
        self.snapshot = snapshot
        self.until = until
        self.headers = headers
        self.headers_not_modified = headers.copy()
        for name in (CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING):
            self.headers_not_modified.popall(name, None)
        self.wires: list[bytes | None] = [None, None, None, None]
        self.hits = self.hits_not_modified = 0
        self.shared = True
        """Whether others get the same bytes; if not, they are not kept."""
        self.reserved: Reservation | None = None
        """The memory of a body that only one client gets."""

    def wire(self, *, not_modified: bool, close: bool) -> bytes:
        """The whole reply in HTTP/1.1, exactly as the framework would send it. `close` is whether
        the connection ends."""
        index = 2 * not_modified + close
        wire = self.wires[index]
        if wire is None:
            wire = self.wires[index] = self._wire(not_modified, close)
        return wire

    def _wire(self, not_modified: bool, close: bool) -> bytes:
        return self.head(not_modified=not_modified, close=close) + (
            b"" if not_modified else self.body
        )

    def head(self, *, not_modified: bool, close: bool, more: bytes = b"") -> bytes:
        """The head of the reply in HTTP/1.1. `more` are further header fields, each line begun by
        its line break."""
        status = HTTPStatus(304 if not_modified else self.status)
        headers = self.headers_not_modified if not_modified else self.headers
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        if close:
            lines.append("Connection: close")
        return "\r\n".join(lines).encode("ascii") + more + b"\r\n\r\n"


@dataclass(slots=True, eq=False)
class Question:
    """One thing that can be asked, and its current answer.

    `make` gives the content from a reading, or `None` where Redis must be asked for a full event
    first (`fetch`).
    """

    route: str
    make: Callable[[CurrentOrStale, "Question"], Content | None]
    event_id: str | None = None
    selector: Selector = Selector.STATUS
    accepted: Accepted | None = None
    kept: bool = True
    """Whether the same object stands for the same question next time."""
    waits: bool = False
    """Whether its reply can be held until it changes."""
    plain: "Question | None" = None
    """The question without a content coding, for one that has one (`accepted`)."""
    coded: "dict[Accepted, Question]" = field(default_factory=dict)
    """The same question with content codings."""
    answer: Answer | None = None
    content: Content | None = None


class Answers:
    """All questions, and how each is answered."""

    def __init__(self, settings: Settings, replica: Replica) -> None:
        self._replica = replica
        self._settings = settings
        self.memory = MemoryBudget(settings.reply_memory, "REPLY_MEMORY")
        self._latest = {
            selector: Question(
                "/v0/cluster/events/{event_id}", self._make_event, selector=selector, waits=True
            )
            for selector in Selector
        }
        self._events: OrderedDict[tuple[str, Selector], Question] = OrderedDict()
        self._since: tuple[Sequence[Entry], Mapping[str, int]] = ((), {})
        # What replies can differ by: with CORS also by who asks from where.
        self._vary = (
            "Origin, " if settings.cors_origins else ""
        ) + "Accept-Encoding, Authorization"
        self.list = Question("/v0/cluster/events", self._make_list)
        self.verdict = Question("/v0/cluster_healthz", self._make_verdict, waits=True)

    def latest(self, selector: Selector) -> Question:
        """The newest event."""
        return self._latest[selector]

    def event(self, event_id: str, selector: Selector) -> Question:
        """The event of that (canonical) id.

        Full events are kept once only, within the limit for them: the questions about them, and
        their answers, are not.
        """
        if selector is Selector.ALL:
            return Question(
                "/v0/cluster/events/{event_id}", self._make_event, event_id, selector, kept=False
            )
        key = (event_id, selector)
        question = self._events.get(key)
        if question is None:
            question = Question(
                "/v0/cluster/events/{event_id}", self._make_event, event_id, selector
            )
            self._events[key] = question
            if len(self._events) > _EVENT_QUESTIONS:
                self._drop(next(iter(self._events)))
        return question

    def _drop(self, key: tuple[str, Selector]) -> None:
        """Forgets the question about an event; the replies that the poll path gave to it stay
        counted."""
        question = self._events.pop(key, None)
        if question is not None:
            for one in (question, *question.coded.values()):
                self.count_hits(one)

    def coded(self, question: Question, accept_encoding: str) -> Question:
        """The same question, its answer in a content coding that the client takes. Raises
        `NotAcceptable`."""
        accepted = negotiate(accept_encoding)
        if accepted.coding is None:
            return question
        coded = question.coded.get(accepted)
        if coded is None:
            coded = replace(
                question,
                make=self._make_coded,
                accepted=accepted,
                plain=question,
                coded={},
                answer=None,
            )
            coded.content = None
            # Else the two would refer to each other, and their memory wait for the garbage
            # collector.
            if question.kept:
                question.coded[accepted] = coded
        return coded

    def ready(self, question: Question) -> Answer | None:
        """The current answer without asking Redis, or `None` if there is none to be had that way.

        Raises the API's error for a question that has none (no such event).
        """
        snapshot = self._replica.current()
        if snapshot is None:
            return None
        answer = question.answer
        now = self._replica.monotonic()
        if answer is not None and answer.snapshot is snapshot and now < answer.until:
            return answer
        return self._answer(question, CurrentOrStale(self._replica, snapshot))

    async def get(self, question: Question) -> Answer:
        """The answer where `ready` has none: with Redis' help, or marked as stale.

        Raises the API's error for a question that has no answer, `StoreUnavailable` if the state is
        not known.
        """
        reading = await self._replica.read()
        answer = self._answer(question, reading)
        if answer is None and not await self._fetch(question, reading):
            # The event is gone from the store. Only a reading from now on tells whether its id is
            # in use again.
            await self._replica.refresh_after_now()
            reading = await self._replica.read()
            await self._fetch(question, reading)
        answer = answer or self._answer(question, reading)
        if answer is None:
            raise self._marked(self._unknown(question), reading)
        return answer

    async def _fetch(self, question: Question, reading: CurrentOrStale) -> bool:
        """Reads the full event that an answer needs, unless it is gone (false). Raises what `get`
        raises."""
        entry = self._entry(reading, question)
        full = await self._replica.full(reading.snapshot, entry)
        if full is not None:
            (question.plain or question).content = _content(entry, full)
        return full is not None

    async def page(self, wanted: EventFilter) -> Answer:
        """The events that a filter lets through: no more than fit a page, with a link to the
        others.

        Raises `UnknownClusterMonitorEvent` for a `before` that is not retained, `StoreUnavailable`,
        and `ServerBusy` when too many bytes of pages wait to be sent.
        """
        reading = await self._replica.read()
        snapshot, before = reading.snapshot, None
        try:
            if wanted.before is not None and (before := reading.event(wanted.before)) is None:
                raise UnknownClusterMonitorEvent(wanted.before, self._settings.retention)
        except ApiError as error:
            raise self._marked(error, reading) from None
        entries, more = await wanted.apply(reading.entries, before)
        body, fitting = await self._page_body(snapshot, entries, wanted.selection.selector)
        question = Question(self.list.route, self._make_list, kept=False)
        answer = self._finish(question, _content(entries, body), reading)
        if more or fitting < len(entries):
            answer.headers[LINK] = answer.headers_not_modified[LINK] = wanted.next_page(
                entries[fitting - 1]
            )
        return answer

    async def _page_body(
        self, snapshot: Snapshot, entries: Sequence[Entry], selector: Selector
    ) -> tuple[bytes, int]:
        """The body of a page, and how many of the entries had room in it. What is read for it
        counts as it is read."""
        reserved = self.memory.reserve()
        most = min(
            PAGE_BYTES, self.memory.limit // 2
        )  # A page can be read whole where no other waits.
        bodies: list[bytes] = []
        fulls: Mapping[str, bytes | None] = {}
        size, fitting = 2, len(entries)
        for number, entry in enumerate(entries):
            if selector is Selector.ALL and number % _BATCH == 0:
                reserved.resize(size + _BATCH_BYTES)
                fulls = await self._replica.fulls(snapshot, entries[number : number + _BATCH])
            body = entry.status if selector is Selector.STATUS else fulls[entry.id]
            if body is None:  # Trimmed since the snapshot was read.
                continue
            size += len(body) + 1
            if bodies and size > most:
                fitting = number
                break
            bodies.append(body)
        reserved.resize(size)
        return _array(bodies), fitting

    # -- contents ----------------------------------------------------------------------------------

    def _make_event(self, reading: CurrentOrStale, question: Question) -> Content | None:
        entry, known = self._entry(reading, question), question.content
        if known is not None and known.source is entry:
            return known
        if question.selector is Selector.STATUS:
            return _content(entry, entry.status)
        full = self._replica.full_in_memory(reading.snapshot, entry)
        return _content(entry, full) if full is not None else None

    def _make_list(self, reading: CurrentOrStale, question: Question) -> Content:
        entries = reading.entries
        known = question.content
        if known is not None and known.source is entries:
            return known
        return _content(entries, _array([entry.status for entry in entries]))

    def _make_coded(self, reading: CurrentOrStale, question: Question) -> Content | None:
        plain, accepted, known = question.plain, question.accepted, question.content
        assert plain is not None  # noqa: S101
        assert accepted is not None  # noqa: S101
        assert accepted.coding is not None  # noqa: S101
        content = plain.make(reading, plain)
        if content is None or (known is not None and known.source is content):
            return known if content is not None else None
        plain.content = content
        if len(content.body) < SMALLEST and accepted.identity:
            return replace(content, source=content)
        etag = f'{content.etag[:-1]}-{accepted.coding}"'
        return Content(
            content, CODINGS[accepted.coding](content.body), etag, content.status, accepted.coding
        )

    def _make_verdict(self, reading: CurrentOrStale, question: Question) -> Content:
        snapshot, replica = reading.snapshot, self._replica
        newest = self._entry(reading, question)
        source = (
            snapshot.version,
            snapshot.entries,
            snapshot.checked_at,
            reading.age is None,
            replica.monitor_silent(snapshot),
        )
        known = question.content
        if known is not None and known.source == source:
            return known
        stale = self._why_stale(reading)
        services = observations(snapshot.latest_all or newest.status)
        names = self._settings.service_names
        all_healthy = stale is None and all(
            name in services and services[name].healthy for name in names
        )
        since = self._unchanged_since(reading.entries)
        checked_at = rfc3339(snapshot.checked_at or newest.recorded_at)
        verdict: dict[str, object] = {
            "all_healthy": all_healthy,
            "stale": stale is not None,
            "stale_after_seconds": max(1, round(self._settings.stale_after_s)),
        }
        for name in names:
            seen = services.get(name)
            message = seen.self_info if seen else "The latest event says nothing of this service."
            verdict[name] = {
                "healthy": seen is not None and seen.healthy,
                "message": f"{stale} Last known: {message}" if stale else message,
                "unchanged_since": rfc3339(since.get(name, newest.recorded_at)),
                "checked_at": checked_at,
            }
        # A weak tag: verdicts that differ in nothing but the time of the check say the same.
        said = orjson.dumps([newest.id, stale, since])
        return Content(
            source,
            orjson.dumps(verdict),
            f"W/{_content(None, said).etag}",
            200 if all_healthy else 503,
        )

    def _unchanged_since(self, entries: Sequence[Entry]) -> Mapping[str, int]:
        """See `_unchanged_since`. It reads all events at the most, so its result is kept for as
        long as they are the same."""
        known, since = self._since
        if known is not entries:
            since = _unchanged_since(entries, self._settings.service_names)
            self._since = entries, since
        return since

    def _why_stale(self, reading: CurrentOrStale) -> str | None:
        snapshot = reading.snapshot
        if reading.age is not None:
            return "The store cannot be reached, so the current state is not known."
        if self._replica.monitor_silent(snapshot):
            when = f"since {rfc3339_seconds(snapshot.checked_at)}" if snapshot.checked_at else "yet"
            return f"No check has been completed {when}: the monitor may be down."
        return None

    # -- answers -----------------------------------------------------------------------------------

    def _answer(self, question: Question, reading: CurrentOrStale) -> Answer | None:
        content = question.make(reading, question)
        return self._finish(question, content, reading) if content is not None else None

    def _marked(self, error: ApiError, reading: CurrentOrStale) -> ApiError:
        """The error with the freshness of the reading that it follows from, as every other
        response."""
        error.headers |= self.freshness(reading)
        return error

    def _finish(self, question: Question, content: Content, reading: CurrentOrStale) -> Answer:
        question.content = content
        snapshot = reading.snapshot
        silent = self._replica.monitor_silent(snapshot)
        headers = CIMultiDict[str](
            [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")]
        )
        if content.coding is not None:
            headers[CONTENT_ENCODING] = content.coding
        headers[ETAG] = content.etag
        headers[VARY] = f"Accept, {self._vary}" if question.route == self.list.route else self._vary
        headers.extend(self.freshness(reading))
        headers.extend(COMMON_HEADERS)
        if self._settings.auth is Auth.NONE:
            headers[AUTH] = Auth.NONE
        headers[CONTENT_LENGTH] = str(len(content.body))
        now, wall = self._replica.monotonic(), self._replica.wall()
        headers[DATE] = formatdate(wall, usegmt=True)
        if reading.age is not None:  # Marked as stale: made for this one request.
            answer = Answer(content, headers, None, now)
            answer.shared = False
        else:
            moments = [now + 1 - wall % 1, snapshot.confirmed + self._replica.max_staleness]
            if not silent and snapshot.checked_at is not None:
                silent_at = snapshot.checked_at + self._replica.stale_after_us - snapshot.clock
                moments.append(silent_at / 1_000_000)
            moments += self._expiries(question, snapshot, now)
            self.count_hits(question)
            question.answer = answer = Answer(content, headers, snapshot, min(moments))
            answer.shared = question.kept
        if not question.kept:
            answer.reserved = self.memory.reserve(len(content.body))
        return answer

    def freshness(self, reading: CurrentOrStale) -> Mapping[str, str]:
        """The header fields that say how far an answer can be taken for the current state (DESIGN,
        section 6)."""
        fields: dict[str, str] = {}
        if reading.snapshot.checked_at is not None:
            fields[CHECKED_AT] = rfc3339_seconds(reading.snapshot.checked_at)
        if reading.age is not None:
            fields |= {AGE: str(reading.age), STALE: STORE_UNREACHABLE}
        elif self._replica.monitor_silent(reading.snapshot):
            fields[STALE] = MONITOR_SILENT
        return fields

    def count_hits(self, question: Question) -> None:
        """Adds the replies that the poll path gave to the metrics."""
        answer = question.answer
        if answer is not None:
            for status, hits in ((answer.status, answer.hits), (304, answer.hits_not_modified)):
                if hits:
                    self._replica.metrics.requests.route(question.route).add("GET", status, hits)
            answer.hits = answer.hits_not_modified = 0

    def count_all_hits(self) -> None:
        """The same for every question, before the metrics are looked at."""
        for question in (*self._latest.values(), *self._events.values(), self.list, self.verdict):
            for one in (question, *question.coded.values()):
                self.count_hits(one)

    def _expiries(self, question: Question, snapshot: Snapshot, now: float) -> list[float]:
        """When what is in the answer becomes too old. The latest never does."""
        entries: Sequence[Entry] = ()
        if question.event_id is not None:
            entries = [snapshot.by_id[question.event_id]]
        elif (question.plain or question) in (self.list, self.verdict):
            entries = self._replica.retained(snapshot)[-1:]
        return [
            now + self._replica.seconds_until_expiry(snapshot, entry)
            for entry in entries
            if entry is not snapshot.latest
        ]

    def _entry(self, reading: CurrentOrStale, question: Question) -> Entry:
        """The event that the question is about. Raises `StoreUnavailable` if it is not known
        whether there is one."""
        try:
            if question.event_id is None:
                entry = reading.latest()
            elif (entry := reading.event(question.event_id)) is None:
                self._drop((question.event_id, question.selector))
            if entry is None:
                raise self._unknown(question)
        except ApiError as error:
            raise self._marked(error, reading) from None
        return entry

    def _unknown(self, question: Question) -> ApiError:
        if question.event_id is None:
            return NoClusterMonitorEventsAvailable()
        return UnknownClusterMonitorEvent(question.event_id, self._settings.retention)


def has_what(condition: Condition, answer: Answer) -> bool:
    """Whether the client has what the answer would tell it."""
    return names(condition, answer.etag)


def matches(condition: Condition, answer: Answer) -> bool:
    """Whether 304 is the reply."""
    tag = answer.conditional_tag
    return condition is not None and tag is not None and (tag in condition or "*" in condition)


def etag_of(body: bytes) -> str:
    """A strong entity tag: a digest of the body, so replicas agree on it, and it is right whatever
    happened to the store."""
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def _content(source: object, body: bytes) -> Content:
    return Content(source, body, etag_of(body))


def _array(values: Sequence[bytes]) -> bytes:
    """The JSON array of some values, joined in one step: it can have megabytes."""
    parts = list(values) or [b""]
    parts[0] = b"[" + parts[0]
    parts[-1] += b"]"
    return b",".join(parts)


def _unchanged_since(entries: Sequence[Entry], services: Sequence[str]) -> dict[str, int]:
    """For each service, the recorded_at of the oldest event in the unbroken run, from the latest
    backwards, of the same healthy-or-not. The `status` projection holds no text of anybody's: in
    its bytes a field cannot be mistaken."""
    since: dict[str, int] = {}
    for name in services:
        known = f'"{name}_status":"'.encode()
        healthy = known + Status.HEALTHY.encode()
        newest: bool | None = None
        for entry in entries:
            here = healthy in entry.status
            if known not in entry.status or (newest is not None and here != newest):
                break
            newest = here
            since[name] = entry.recorded_at
    return since
