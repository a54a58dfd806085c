"""Assembly: the route table, and the aiohttp application made from it."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

import orjson
from aiohttp import web

from service.api.context import CONTEXT, ApiContext
from service.api.docs import handlers as docs
from service.api.docs.openapi import document
from service.api.handlers import api_keys, events, health
from service.api.handlers.metrics import metrics_fingerprint, metrics_page, render_metrics
from service.api.http.cors import Cors
from service.api.http.headers import AUTH
from service.api.http.limits import expect
from service.api.middleware import with_middleware
from service.api.responses.cache import ResponseCache
from service.api.route import Route
from service.auth import Authenticator, FailureLimiter, Role
from service.errors import MethodNotAllowed, UnknownEndpoint
from service.events import LATEST
from service.metrics import Exposition, Metrics
from service.replica import Replica
from service.settings import Auth, Settings
from service.store import Store, open_store

METRICS = Route("GET", "/metrics", None, metrics_page, any_host=True)

ROUTES = (
    Route("GET", "/v0/cluster/events", Role.READ, events.list_or_stream, vary="Accept"),
    Route("POST", "/v0/cluster/events", Role.WRITE, events.post_event, takes_body=True),
    Route("GET", "/v0/cluster/events/{event_id}", Role.READ, events.get_event),
    Route("GET", "/v0/cluster_healthz", Role.READ, health.cluster_healthz),
    Route("GET", "/v0/config", Role.READ, health.config),
    Route("GET", "/v0/api_keys", Role.WRITE, api_keys.list_keys),
    Route(
        "POST", "/v0/api_keys", Role.WRITE, api_keys.create, takes_body=True, makes_credentials=True
    ),
    Route("GET", "/v0/api_keys/{name}", Role.WRITE, api_keys.get),
    Route("DELETE", "/v0/api_keys/{name}", Role.WRITE, api_keys.delete, makes_credentials=True),
    Route("GET", "/healthz", None, health.healthz, any_host=True),
    Route("GET", "/readyz", None, health.readyz, any_host=True),
    METRICS,
    Route("GET", "/openapi.json", None, docs.openapi),
    Route("GET", "/docs", None, docs.page),
    Route("GET", "/docs/{file}", None, docs.file),
)


def make_app(context: ApiContext) -> web.Application:
    """The API's application. While it runs, it keeps the replica and the credentials current."""
    routes = [
        route for route in ROUTES if route is not METRICS or context.settings.metrics_port is None
    ]
    # Under /v0 a credential comes before 404, so that no one learns the API's paths without one.
    app = _routed(context, routes, {"/v0{tail:(?:/.*)?}": Role.READ, "/{tail:.*}": None})
    app.cleanup_ctx.extend([_replica_running, _credentials_running])
    if context.settings.auth is Auth.NONE:  # Cached responses have the field already.
        app.on_response_prepare.append(_say_open_to_all)
    return app


def make_metrics_app(context: ApiContext) -> web.Application:
    """The application on `METRICS_PORT`: the metrics, and errors for all other paths."""
    return _routed(context, [METRICS], {"/{tail:.*}": None})


def _routed(
    context: ApiContext, routes: Sequence[Route], fallbacks: Mapping[str, Role | None]
) -> web.Application:
    app = web.Application()
    app[CONTEXT] = context
    for route in routes:
        for pattern in _patterns(route.path):
            resource = app.router.add_resource(pattern)
            resource.add_route(route.method, with_middleware(context, route), expect_handler=expect)
            if route.method == "GET":  # HEAD is GET without the body (RFC 9110, section 9.3.2).
                resource.add_route("HEAD", with_middleware(context, route), expect_handler=expect)
    if context.cors is not None:
        for path in {route.path for route in routes}:
            methods = sorted({"OPTIONS", *(route.method for route in routes if route.path == path)})
            preflight = with_middleware(
                context, Route("OPTIONS", path, None, partial(_preflight, methods))
            )
            for pattern in _patterns(path):
                app.router.add_route("OPTIONS", pattern, preflight)
    for path, role in fallbacks.items():
        fallback = with_middleware(context, Route("*", "unknown", role, _unknown))
        app.router.add_route("*", path, fallback, expect_handler=expect)
    return app


def make_context(settings: Settings, store: Store | None = None) -> ApiContext:
    """The state of a new API process. Raises `SettingsError` for unusable keys or secrets."""
    metrics = Metrics()
    store = store or open_store(settings)
    replica = Replica(
        store,
        metrics,
        heartbeat=settings.heartbeat,
        max_staleness=settings.max_staleness,
        stale_if_error=settings.stale_if_error,
        stale_after=settings.stale_after_s,
        events_memory=settings.events_memory,
    )
    openapi = orjson.dumps(document(settings.service_names, metrics=settings.metrics_port is None))
    cors = Cors(settings.cors_origins) if settings.cors_origins else None
    context = ApiContext(
        settings,
        store,
        replica,
        Authenticator(settings),
        FailureLimiter(settings),
        ResponseCache(settings, replica),
        metrics,
        openapi=openapi,
        cors=cors,
    )
    context.exposition = Exposition(
        partial(render_metrics, context),
        partial(metrics_fingerprint, context),
        monotonic=replica.monotonic,
    )
    return context


def _patterns(path: str) -> list[str]:
    """A route's path as patterns of aiohttp's router.

    `latest`, which is requested most, is found without a pattern. aiohttp's default pattern does
    not match braces, which belong to one spelling of a UUID.
    """
    most_requested = [path.replace("{event_id}", LATEST)] if "{event_id}" in path else []
    return [*most_requested, re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", path)]


async def _replica_running(app: web.Application) -> AsyncIterator[None]:
    async with app[CONTEXT].replica.running():
        yield
    await app[CONTEXT].replica.aclose()


async def _credentials_running(app: web.Application) -> AsyncIterator[None]:
    """Keeps keys and secrets current, and writes the days of last use while the store is open."""
    context = app[CONTEXT]
    usage = context.authenticator.usage
    async with context.authenticator.running(), usage.written(partial(api_keys.note_used, context)):
        yield


async def _say_open_to_all(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[AUTH] = Auth.NONE


async def _preflight(
    methods: Sequence[str], context: ApiContext, _request: web.Request
) -> web.StreamResponse:
    assert context.cors is not None  # noqa: S101  # Without CORS there is no such route.
    return context.cors.preflight(methods)


async def _unknown(_context: ApiContext, request: web.Request) -> web.StreamResponse:
    """Raises 405 with `Allow` for a path of the API, else 404."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        _, methods = await resource.resolve(request)
        allowed |= methods
    allowed -= {"*", request.method}
    if allowed:
        raise MethodNotAllowed(request.method, sorted(allowed))
    raise UnknownEndpoint(request.path)
