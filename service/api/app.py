"""Assembly: the table of routes, and the application made of it."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

import orjson
from aiohttp import web

from service.api import api_keys, docs, events, health
from service.api.answers import AUTH, Answers
from service.api.cors import Cors
from service.api.endpoint import Route, endpoint, expect
from service.api.openapi import document
from service.api.state import STATE, State
from service.auth import Authenticator, Refusals, Role
from service.errors import MethodNotAllowed, UnknownEndpoint
from service.events import LATEST
from service.observability import Exposition, Metrics
from service.settings import Auth, Settings
from service.snapshot import Replica
from service.store import Store, open_store

ROUTES = (
    Route("GET", "/v0/cluster/events", Role.READ, events.list_or_stream, vary="Accept"),
    Route("POST", "/v0/cluster/events", Role.WRITE, events.post_event, takes_body=True),
    Route("GET", "/v0/cluster/events/{event_id}", Role.READ, events.get_event),
    Route("GET", "/v0/cluster_healthz", Role.READ, health.cluster_healthz),
    Route("GET", "/v0/config", Role.READ, health.config),
    Route("GET", "/v0/api_keys", Role.WRITE, api_keys.list_keys),
    Route("POST", "/v0/api_keys", Role.WRITE, api_keys.create, takes_body=True, makes_credentials=True),
    Route("GET", "/v0/api_keys/{name}", Role.WRITE, api_keys.get),
    Route("DELETE", "/v0/api_keys/{name}", Role.WRITE, api_keys.delete, makes_credentials=True),
    Route("GET", "/healthz", None, health.healthz, any_host=True),
    Route("GET", "/readyz", None, health.readyz, any_host=True),
    Route("GET", "/metrics", None, health.metrics, any_host=True),
    Route("GET", "/openapi.json", None, health.openapi),
    Route("GET", "/docs", None, docs.page),
    Route("GET", "/docs/{file}", None, docs.file),
)


METRICS = next(route for route in ROUTES if route.path == "/metrics")


def make_app(state: State) -> web.Application:
    """The application. It keeps its replica current while it runs, and closes what it opened."""
    routes = [route for route in ROUTES if route is not METRICS or state.settings.metrics_port is None]
    # Under /v0 a credential comes before 404, so that no one learns the API's paths without one.
    app = _routed(state, routes, {"/v0{tail:(?:/.*)?}": Role.READ, "/{tail:.*}": None})
    app.cleanup_ctx.extend([_replica_running, _credentials_running])
    if state.settings.auth is Auth.NONE:  # Ready answers say so themselves.
        app.on_response_prepare.append(_say_open_to_all)
    return app


def make_metrics_app(state: State) -> web.Application:
    """What `METRICS_PORT` serves: the metrics, and errors for everything else."""
    return _routed(state, [METRICS], {"/{tail:.*}": None})


def _routed(state: State, routes: Sequence[Route], fallbacks: Mapping[str, Role | None]) -> web.Application:
    app = web.Application()
    app[STATE] = state
    for route in routes:
        for pattern in _patterns(route.path):
            resource = app.router.add_resource(pattern)
            resource.add_route(route.method, endpoint(state, route), expect_handler=expect)
            if route.method == "GET":  # HEAD is GET without the body (RFC 9110, section 9.3.2).
                resource.add_route("HEAD", endpoint(state, route), expect_handler=expect)
    if state.cors is not None:
        for path in {route.path for route in routes}:
            methods = sorted({"OPTIONS", *(route.method for route in routes if route.path == path)})
            preflight = endpoint(state, Route("OPTIONS", path, None, partial(_preflight, methods)))
            for pattern in _patterns(path):
                app.router.add_route("OPTIONS", pattern, preflight)
    for path, role in fallbacks.items():
        fallback = endpoint(state, Route("*", "unknown", role, _unknown))
        app.router.add_route("*", path, fallback, expect_handler=expect)
    return app


def make_state(settings: Settings, store: Store | None = None) -> State:
    """What one API process is made of. Raises `SettingsError` for key material that is unfit."""
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
    answers = Answers(settings, replica)
    openapi = orjson.dumps(document(settings.service_names, metrics=settings.metrics_port is None))
    cors = Cors(settings.cors_origins) if settings.cors_origins else None
    state = State(
        settings,
        store,
        replica,
        Authenticator(settings),
        Refusals(settings),
        answers,
        metrics,
        openapi=openapi,
        cors=cors,
    )
    state.exposition = Exposition(
        partial(health.metrics_of, state), partial(health.state_of, state), monotonic=replica.monotonic
    )
    return state


def _patterns(path: str) -> list[str]:
    """A route's path as the framework's router takes it: what is asked most is found without a pattern, and the framework's own
    pattern would not match braces, which belong to one spelling of a UUID."""
    most_asked = [path.replace("{event_id}", LATEST)] if "{event_id}" in path else []
    return [*most_asked, re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", path)]


async def _replica_running(app: web.Application) -> AsyncIterator[None]:
    async with app[STATE].replica.running():
        yield
    await app[STATE].replica.aclose()


async def _credentials_running(app: web.Application) -> AsyncIterator[None]:
    """Keys and secrets are kept up to date, and the last days of use written, while the store can still be reached."""
    state = app[STATE]
    usage = state.authenticator.usage
    async with state.authenticator.running(), usage.written(partial(api_keys.note_used, state)):
        yield


async def _say_open_to_all(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[AUTH] = Auth.NONE


async def _preflight(methods: Sequence[str], state: State, _request: web.Request) -> web.StreamResponse:
    assert state.cors is not None  # noqa: S101  # Else the route would not be there.
    return state.cors.preflight(methods)


async def _unknown(_state: State, request: web.Request) -> web.StreamResponse:
    """405 with `Allow` where the path is one of ours, else 404."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        _, methods = await resource.resolve(request)
        allowed |= methods
    allowed -= {"*", request.method}
    raise MethodNotAllowed(request.method, sorted(allowed)) if allowed else UnknownEndpoint(request.path)
