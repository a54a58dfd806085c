"""The event routes: the list, one event, recording one from outside."""

import asyncio
from functools import partial
from itertools import islice
from typing import Any

import orjson
from aiohttp import hdrs, web

from service.api.context import ApiContext
from service.api.handlers import event_query as listing
from service.api.handlers.reply import EventStreamResponse, condition_of, respond, send
from service.api.http.accept import preferred
from service.api.http.headers import AUTH, CACHE_CONTROL, COMMON_HEADERS, CONTENT_TYPE, ETAG
from service.api.responses.cache import EVENTS, LATEST_EVENT
from service.api.responses.contents import etag_of, freshness_fields
from service.api.responses.model import Resource, ResourceKey
from service.api.route import PRINCIPAL
from service.errors import (
    ClusterMonitoringDisabled,
    InvalidEvent,
    InvalidUuidParam,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from service.events import (
    INFO_LIMIT,
    LATEST,
    Observation,
    Selector,
    Status,
    canonical_uuid,
    clean,
    info_fits,
)
from service.settings import Auth

BODY_TIMEOUT_S = 5.0
"""Seconds for a whole body: it is a few kilobytes from a program, not an upload."""

EVENT_STREAM = "text/event-stream"
_MOST_UNKNOWN = 10
"""Unknown fields that a refusal lists: the reply to a large body stays small."""
_STATUSES = ", ".join(Status)


async def list_events(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """All retained events, newest first, with their `status` fields; or those that the parameters
    ask for."""
    wanted = listing.parse(request.query) if request.query_string else None
    if wanted is None:
        return await respond(context, request, EVENTS)
    if not context.settings.monitoring:
        raise ClusterMonitoringDisabled
    page = await context.responses.page(wanted)
    return send(request, page, condition_of(request))


async def list_or_stream(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """The list, or for clients that prefer `text/event-stream` to JSON a stream of the events as
    they are recorded."""
    if hdrs.ACCEPT in request.headers and request.method == hdrs.METH_GET:
        media = preferred(request.headers.getall(hdrs.ACCEPT), ("application/json", EVENT_STREAM))
        if media == EVENT_STREAM:
            return await stream_events(context, request)
    return await list_events(context, request)


async def stream_events(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """The stream of the selected events, after `Last-Event-ID` where one is given."""
    selection = listing.parse_stream(request.query)
    if not context.settings.monitoring:
        raise ClusterMonitoringDisabled
    reading = await context.replica.read()  # A stream begins where the state is known.
    last = request.headers.get("Last-Event-ID")
    last_sent_id = (canonical_uuid(last) or "unknown") if last else None
    stream = EventStreamResponse(
        context.watchers, selection, last_sent_id, partial(context.seconds_left, request[PRINCIPAL])
    )
    stream.headers.update(freshness_fields(reading))
    if context.authenticator.open_to_all:
        stream.headers[AUTH] = Auth.NONE
    return stream


async def get_event(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """One event, or the latest."""
    selector = listing.one_selector(request.query) if request.query_string else Selector.STATUS
    text = request.match_info.get("event_id", LATEST)
    if text == LATEST:
        return await respond(context, request, LATEST_EVENT[selector])
    event_id = canonical_uuid(text)
    if event_id is None:
        raise InvalidUuidParam(text)
    return await respond(context, request, ResourceKey(Resource.EVENT, selector, event_id))


async def post_event(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """Records an event from outside: 201, or 200 if the same event had been recorded before."""
    if not context.settings.monitoring:
        raise ClusterMonitoringDisabled
    services, event_id = parse_event(
        await read_body(context, request, body_limit(len(context.settings.services))),
        context.settings.service_names,
    )
    appended = await context.replica.append(services, event_id)
    body = appended.full
    headers = {
        CONTENT_TYPE: "application/json",
        CACHE_CONTROL: "no-cache",
        ETAG: etag_of(body),
        **dict(COMMON_HEADERS),
    }
    return web.Response(status=201 if appended.created else 200, body=body, headers=headers)


def body_limit(services: int) -> int:
    """The most bytes of an event: two infos a service, in which JSON may write each byte as an
    escape of six, and the rest."""
    return services * (2 * 6 * INFO_LIMIT + 512) + 4_096


async def read_body(context: ApiContext, request: web.Request, limit: int) -> bytes:
    """The request's body, of at most `limit` bytes.

    Raises `UnsupportedMediaType`, `PayloadTooLarge`, `RequestTimeout`, or `ServerBusy` where other
    bodies take all the memory.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedMediaType
    if (request.content_length or 0) > limit:
        raise PayloadTooLarge(limit)
    body, reserved = bytearray(), context.bodies.reserve()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise PayloadTooLarge(limit)
                reserved.resize(len(body))
    except TimeoutError:
        raise RequestTimeout(BODY_TIMEOUT_S) from None
    return bytes(body)


def parse_event(
    body: bytes, services: tuple[str, ...]
) -> tuple[dict[str, Observation], str | None]:
    """The observations and the id, if one is given, of a POSTed event. Raises `InvalidEvent` with
    every field at fault."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidEvent([("", "the body is not JSON")]) from None
    if not isinstance(fields, dict):
        raise InvalidEvent([("", "expected a JSON object")])
    errors: list[tuple[str, str]] = []
    event_id = _take_id(fields, errors)
    observations = {
        name: Observation(
            _take_status(fields, f"{name}_status", errors),
            _take_info(fields, f"{name}_self_info", errors),
            _take_info(fields, f"{name}_resources_info", errors),
        )
        for name in services
    }
    errors += [(field, "there is no such field") for field in islice(fields, _MOST_UNKNOWN)]
    if errors:
        raise InvalidEvent(errors)
    return observations, event_id


def _take_id(fields: dict[str, Any], errors: list[tuple[str, str]]) -> str | None:
    if "id" not in fields:
        return None
    value = fields.pop("id")
    event_id = canonical_uuid(value) if isinstance(value, str) else None
    if event_id is None:
        errors.append(("id", "expected a UUID"))
    return event_id


def _take_status(fields: dict[str, Any], field: str, errors: list[tuple[str, str]]) -> Status:
    value = fields.pop(field, None)
    if isinstance(value, str) and value in set(Status):
        return Status(value)
    errors.append(
        (field, f"expected one of: {_STATUSES}" if value is not None else "it is required")
    )
    return Status.UNHEALTHY


def _take_info(fields: dict[str, Any], field: str, errors: list[tuple[str, str]]) -> str:
    value = fields.pop(field, "")
    if isinstance(value, str) and info_fits(cleaned := clean(value)):
        return cleaned
    errors.append((field, f"expected a text of at most {INFO_LIMIT:,} bytes in UTF-8"))
    return ""
