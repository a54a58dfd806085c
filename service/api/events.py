"""The event routes: the list, one event, recording one from outside."""

import asyncio
from typing import Any

import orjson
from aiohttp import HttpVersion11, hdrs, web

from service.api import listing
from service.api.answers import CACHE_CONTROL, COMMON_HEADERS, CONTENT_TYPE, Answer, Question
from service.api.conditional import Condition, matches, parse_if_none_match
from service.api.endpoint import PRINCIPAL
from service.api.state import State
from service.errors import (
    ClusterMonitoringDisabled,
    InvalidEvent,
    InvalidUuidParam,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from service.events import INFO_LIMIT, LATEST, Observation, Selector, Status, canonical_uuid

BODY_TIMEOUT_S = 5.0
"""Seconds for a whole body: it is a few kilobytes from a program, not an upload."""

_STATUSES = ", ".join(Status)


async def list_events(state: State, request: web.Request) -> web.StreamResponse:
    """All retained events, newest first, with their `status` fields; or those that the parameters ask for."""
    wanted = listing.parse(request.query, state.settings.service_names) if request.query_string else None
    if wanted is None:
        return await answer(state, request, state.answers.list)
    if not state.settings.monitoring:
        raise ClusterMonitoringDisabled
    page = await state.answers.page(wanted)
    return send(request, page, _condition(request))


async def get_event(state: State, request: web.Request) -> web.StreamResponse:
    """One event, or the latest."""
    selector = listing.one_selector(request.query) if request.query_string else Selector.STATUS
    text = request.match_info["event_id"]
    if text == LATEST:
        return await answer(state, request, state.answers.latest(selector))
    event_id = canonical_uuid(text)
    if event_id is None:
        raise InvalidUuidParam(text)
    return await answer(state, request, state.answers.event(event_id, selector))


async def post_event(state: State, request: web.Request) -> web.StreamResponse:
    """Records an event from outside: 201, or 200 if the same event had been recorded before."""
    if not state.settings.monitoring:
        raise ClusterMonitoringDisabled
    services, event_id = parse_event(await read_body(state, request), state.settings.service_names)
    appended = await state.replica.append(services, event_id)
    headers = {CONTENT_TYPE: "application/json", CACHE_CONTROL: "no-cache", **dict(COMMON_HEADERS)}
    return web.Response(
        status=201 if appended.created else 200, body=appended.event.to_bytes(Selector.ALL), headers=headers
    )


class ReadyResponse(web.StreamResponse):
    """A ready answer, sent in the very bytes that the poll path sends, without the framework's rendering."""

    def __init__(self, answer: Answer, *, not_modified: bool) -> None:
        super().__init__(status=304 if not_modified else answer.status)
        self._answer = answer
        self._not_modified = not_modified
        self._transport: asyncio.WriteTransport | None = None

    async def prepare(self, request: web.BaseRequest) -> None:
        """Called by the framework before `write_eof`."""
        self._transport = request.transport
        if self._keep_alive is None:  # Unless the connection is to end, the request decides.
            self._keep_alive = request.keep_alive

    async def write_eof(self, data: bytes = b"") -> None:
        """Sends the whole reply. Raises `ConnectionResetError` if the client has gone."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._transport.write(self._answer.wire(not_modified=self._not_modified, close=not self._keep_alive) + data)


async def answer(state: State, request: web.Request, question: Question) -> web.StreamResponse:
    """The ready answer to a question, or 304 if the client has it."""
    if not state.settings.monitoring:
        raise ClusterMonitoringDisabled
    ready = state.answers.ready(question) or await state.answers.get(question)
    condition = _condition(request)
    connection = getattr(request.protocol, "connection", None)
    if connection is not None and ready is question.answer:
        connection.remember(question, request[PRINCIPAL], condition, close=not request.keep_alive)
    return send(request, ready, condition)


def send(request: web.Request, ready: Answer, condition: Condition) -> web.StreamResponse:
    """An answer, or 304 if the client has it."""
    not_modified = condition is not None and matches(condition, ready.etag)
    if request.version == HttpVersion11 and request.method == hdrs.METH_GET:
        return ReadyResponse(ready, not_modified=not_modified)
    if not_modified:
        return web.Response(status=304, headers=ready.headers_not_modified)
    return web.Response(status=ready.status, body=ready.body, headers=ready.headers)


def _condition(request: web.Request) -> Condition:
    if hdrs.IF_NONE_MATCH not in request.headers:
        return None
    return parse_if_none_match(request.headers.getall(hdrs.IF_NONE_MATCH))


def body_limit(services: int) -> int:
    """The most bytes of an event: infos in four-byte characters, and the rest."""
    return services * (2 * 4 * INFO_LIMIT + 512) + 4_096


async def read_body(state: State, request: web.Request) -> bytes:
    """The request's body. Raises `UnsupportedMediaType`, `PayloadTooLarge` or `RequestTimeout`."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedMediaType
    limit = body_limit(len(state.settings.services))
    if (request.content_length or 0) > limit:
        raise PayloadTooLarge(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise PayloadTooLarge(limit)
    except TimeoutError:
        raise RequestTimeout(BODY_TIMEOUT_S) from None
    return bytes(body)


def parse_event(body: bytes, services: tuple[str, ...]) -> tuple[dict[str, Observation], str | None]:
    """The observations and the id, if one is given, of a POSTed event. Raises `InvalidEvent` with every field at fault."""
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
    errors += [(field, "there is no such field") for field in fields]
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
    if value in set(Status):
        return Status(value)
    errors.append((field, f"expected one of: {_STATUSES}" if value is not None else "it is required"))
    return Status.UNHEALTHY


def _take_info(fields: dict[str, Any], field: str, errors: list[tuple[str, str]]) -> str:
    value = fields.pop(field, "")
    if isinstance(value, str) and len(value) <= INFO_LIMIT:
        return value
    errors.append((field, f"expected a text of at most {INFO_LIMIT:,} characters"))
    return ""
