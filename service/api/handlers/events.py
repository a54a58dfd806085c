"""The event routes: list events or stream them, get one, record one from outside."""

from functools import partial

from aiohttp import hdrs, web

from service.api.context import ApiContext
from service.api.handlers import event_query
from service.api.handlers.event_body import body_limit, parse_event
from service.api.handlers.reply import EventStreamResponse, condition_of, respond, send
from service.api.http.accept import preferred
from service.api.http.bodies import read_body
from service.api.http.headers import AUTH, CACHE_CONTROL, COMMON_HEADERS, CONTENT_TYPE, ETAG
from service.api.responses.cache import EVENTS, LATEST_EVENT
from service.api.responses.contents import etag_of, freshness_fields
from service.api.responses.model import Resource, ResourceKey
from service.api.route import PRINCIPAL
from service.errors import ClusterMonitoringDisabled, InvalidUuidParam
from service.events import LATEST, Selector, canonical_uuid
from service.settings import Auth

EVENT_STREAM = "text/event-stream"


async def list_events(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """A page of the retained events, newest first.

    Without parameters: all of them, with their `status` fields.
    """
    event_filter = event_query.parse(request.query) if request.query_string else None
    if event_filter is None:
        return await respond(context, request, EVENTS)
    if not context.settings.monitoring:
        raise ClusterMonitoringDisabled
    page = await context.responses.page(event_filter)
    return send(request, page, condition_of(request))


async def list_or_stream(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """The list of events, or the event stream if the client prefers it to JSON."""
    if hdrs.ACCEPT in request.headers and request.method == hdrs.METH_GET:
        media = preferred(request.headers.getall(hdrs.ACCEPT), ("application/json", EVENT_STREAM))
        if media == EVENT_STREAM:
            return await stream_events(context, request)
    return await list_events(context, request)


async def stream_events(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """The event stream of the selected events, after `Last-Event-ID` if that is given."""
    selection = event_query.parse_stream(request.query)
    if not context.settings.monitoring:
        raise ClusterMonitoringDisabled
    # It raises if the state is unknown: a stream could then not begin.
    reading = await context.replica.read()
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
    query = request.query_string
    selector = event_query.parse_selector(request.query) if query else Selector.STATUS
    text = request.match_info.get("event_id", LATEST)
    if text == LATEST:
        return await respond(context, request, LATEST_EVENT[selector])
    event_id = canonical_uuid(text)
    if event_id is None:
        raise InvalidUuidParam(text)
    return await respond(context, request, ResourceKey(Resource.EVENT, selector, event_id))


async def post_event(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """Records an event from outside: 201, or 200 if the same event was recorded before."""
    if not context.settings.monitoring:
        raise ClusterMonitoringDisabled
    limit = body_limit(len(context.settings.services))
    body = await read_body(request, limit, context.bodies.reserve().resize)
    services, event_id = parse_event(body, context.settings.service_names)
    appended = await context.replica.append(services, event_id)
    full = appended.full
    headers = {
        CONTENT_TYPE: "application/json",
        CACHE_CONTROL: "no-cache",
        ETAG: etag_of(full),
        **dict(COMMON_HEADERS),
    }
    return web.Response(status=201 if appended.created else 200, body=full, headers=headers)
