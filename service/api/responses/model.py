"""The values of the response cache: keys, contents, prepared responses, entries."""

from dataclasses import dataclass, field, replace
from enum import Enum
from http import HTTPStatus

from multidict import CIMultiDict

from service.api.http.conditional import Condition
from service.api.http.content_coding import Accepted
from service.api.http.headers import CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE
from service.api.responses.memory import Reservation
from service.events import Selector
from service.replica import Snapshot


class Resource(Enum):
    """The kinds of resources whose responses are prepared. The value is the route's template."""

    EVENT = "/v0/cluster/events/{event_id}"
    EVENTS = "/v0/cluster/events"
    VERDICT = "/v0/cluster_healthz"


@dataclass(frozen=True, slots=True)
class ResourceKey:
    """What a request asks for, apart from its conditions and credential.

    `event_id` is the canonical id, or `None` for the latest event. `accepted` is the negotiated
    content coding, or `None` for the identity coding.
    """

    resource: Resource
    selector: Selector = Selector.STATUS
    event_id: str | None = None
    accepted: Accepted | None = None
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        # Computed once: a key is looked up for every request that takes the ordinary path.
        parts = self.resource, self.selector, self.event_id, self.accepted
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        """The hash of the compared fields."""
        return self._hash

    @property
    def route(self) -> str:
        """The route's template, as the metrics name it."""
        return self.resource.value

    @property
    def cacheable(self) -> bool:
        """Whether the response is kept for other requests.

        Full events are kept once, in the `FullEventCache` and within its bound. A response with a
        full event other than the latest would be a second copy.
        """
        return self.event_id is None or self.selector is Selector.STATUS

    @property
    def supports_wait(self) -> bool:
        """Whether `Prefer: wait` can hold the response until it changes."""
        return self.event_id is None and self.resource is not Resource.EVENTS

    @property
    def identity(self) -> "ResourceKey":
        """The same resource without a content coding."""
        return self if self.accepted is None else replace(self, accepted=None)


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a response.

    `source` is what the body was made from: an equal source gives the same content.
    """

    source: object
    body: bytes
    etag: str
    status: int = 200
    coding: str | None = None


class NeedsFullEvent(Enum):
    """The result of a renderer that cannot continue: the full event is not in memory."""

    NEEDED = "needed"


NEEDS_FULL_EVENT = NeedsFullEvent.NEEDED


class PreparedResponse:
    """A response that is ready to send: header fields and body, or header fields alone (304).

    It is current for one snapshot, compared by identity, and until the monotonic time
    `valid_until`.
    """

    __slots__ = (
        "body",
        "conditional_tag",
        "etag",
        "headers",
        "headers_not_modified",
        "hits",
        "hits_not_modified",
        "reserved",
        "serialized",
        "shared",
        "snapshot",
        "status",
        "valid_until",
    )

    def __init__(
        self,
        content: Content,
        headers: "CIMultiDict[str]",
        snapshot: Snapshot | None,
        valid_until: float,
    ) -> None:
        self.status = content.status
        self.body = content.body
        self.etag = content.etag
        # A condition applies to successful responses only (RFC 9110, section 13.2.1), and
        # If-None-Match uses the weak comparison.
        success = content.status == HTTPStatus.OK
        self.conditional_tag = content.etag.removeprefix("W/") if success else None
        self.snapshot = snapshot
        self.valid_until = valid_until
        self.headers = headers
        self.headers_not_modified = headers.copy()
        for name in (CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING):
            self.headers_not_modified.popall(name, None)
        self.serialized: list[bytes | None] = [None, None, None, None]
        """The whole response in HTTP/1.1 by `2 * not_modified + close`, once it was needed."""
        self.hits = self.hits_not_modified = 0
        self.shared = True
        """Whether other requests get the same bytes. If not, the bytes are not kept."""
        self.reserved: Reservation | None = None
        """The memory reserved for a body that only one client gets."""

    def serialize(self, *, not_modified: bool, close: bool) -> bytes:
        """The whole response in HTTP/1.1, byte for byte as aiohttp would send it.

        `close` is whether the connection ends after it.
        """
        index = 2 * not_modified + close
        known = self.serialized[index]
        if known is None:
            head = self.head(not_modified=not_modified, close=close)
            known = self.serialized[index] = head if not_modified else head + self.body
        return known

    def head(self, *, not_modified: bool, close: bool, more: bytes = b"") -> bytes:
        """The head in HTTP/1.1. `more` are further fields, each preceded by its line break."""
        status = HTTPStatus(304 if not_modified else self.status)
        headers = self.headers_not_modified if not_modified else self.headers
        lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if close:
            lines.append("Connection: close")
        return "\r\n".join(lines).encode("ascii") + more + b"\r\n\r\n"


@dataclass(slots=True, eq=False)
class CacheEntry:
    """The current response for one key, and the content that it was made of."""

    key: ResourceKey
    response: PreparedResponse | None = None
    content: Content | None = None


def matches(condition: Condition, response: PreparedResponse) -> bool:
    """Whether the response to a request with `If-None-Match` is 304."""
    tag = response.conditional_tag
    return condition is not None and tag is not None and (tag in condition or "*" in condition)
