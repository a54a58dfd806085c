"""Pure renderers: from the retained events to the bodies of responses."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.api.http.content_coding import CODINGS, SMALLEST, Accepted
from service.api.http.headers import AGE, CHECKED_AT, MONITOR_SILENT, STALE, STORE_UNREACHABLE
from service.api.responses.model import Content
from service.events import rfc3339_seconds
from service.replica import CurrentOrStale
from service.store import Entry


def etag_of(body: bytes) -> str:
    """A strong entity tag: a digest of the body, so that all replicas agree on it."""
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def content_of(source: object, body: bytes) -> Content:
    """A body with its entity tag."""
    return Content(source, body, etag_of(body))


def render_events(entries: Sequence[Entry], known: Content | None) -> Content:
    """All retained events with their `status` fields. `known` is reused if it is up to date."""
    if known is not None and known.source is entries:
        return known
    return content_of(entries, json_array([entry.status for entry in entries]))


def render_encoded(identity: Content, accepted: Accepted, known: Content | None) -> Content:
    """A content in a content coding, unless it is too short for one to pay."""
    assert accepted.coding is not None  # noqa: S101  # The identity coding has no key of its own.
    if known is not None and known.source is identity:
        return known
    if len(identity.body) < SMALLEST and accepted.identity:
        return replace(identity, source=identity)
    etag = f'{identity.etag[:-1]}-{accepted.coding}"'
    body = CODINGS[accepted.coding](identity.body)
    return Content(identity, body, etag, identity.status, accepted.coding)


def json_array(values: Sequence[bytes]) -> bytes:
    """The JSON array of some values, joined in one step: it can have megabytes."""
    parts = list(values) or [b""]
    parts[0] = b"[" + parts[0]
    parts[-1] += b"]"
    return b",".join(parts)


def freshness_fields(reading: CurrentOrStale) -> Mapping[str, str]:
    """The header fields that state how current a response is.

    See service/DESIGN.md, "Snapshot and freshness".
    """
    fields: dict[str, str] = {}
    snapshot = reading.snapshot
    if snapshot.checked_at is not None:
        fields[CHECKED_AT] = rfc3339_seconds(snapshot.checked_at)
    if reading.age is not None:
        fields |= {AGE: str(reading.age), STALE: STORE_UNREACHABLE}
    elif reading.replica.monitor_silent(snapshot):
        fields[STALE] = MONITOR_SILENT
    return fields
