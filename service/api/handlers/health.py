"""What monitors of the cluster and operators of this service ask: the verdict, liveness, readiness,
metrics, version."""

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service import __version__
from service.api.context import ApiContext
from service.api.handlers.reply import respond
from service.api.http.headers import CACHE_CONTROL, COMMON_HEADERS, CONTENT_TYPE
from service.api.responses.cache import VERDICT
from service.events import observations
from service.replica.snapshot import Snapshot


def json(body: bytes, status: int = 200) -> web.Response:
    """A reply that nobody may keep."""
    headers = {CONTENT_TYPE: "application/json", CACHE_CONTROL: "no-store", **dict(COMMON_HEADERS)}
    return web.Response(status=status, body=body, headers=headers)


async def cluster_healthz(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """The verdict: 200 if all is healthy and that is known to be so, else 503 with the same
    body."""
    return await respond(context, request, VERDICT)


async def config(_context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """What Feldera's Python client asks for first."""
    return json(orjson.dumps({"edition": "Open source", "version": __version__}))


async def healthz(_context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """Liveness: the loop turns. Nothing else, so that an outage of Redis restarts nothing."""
    return json(b'{"status":"healthy"}')


async def readyz(context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """Readiness: events can be answered, if only marked as stale, and the process is to stay."""
    if context.draining:
        return json(b'{"status":"draining"}', 503)
    if context.settings.monitoring and not context.replica.ready():
        return json(b'{"status":"the store has not been read recently enough"}', 503)
    return json(b'{"status":"ready"}')


async def metrics(context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """Metrics in Prometheus' text format: at most a second old, and true to snapshot and
    verdict."""
    headers = {CONTENT_TYPE: CONTENT_TYPE_LATEST, CACHE_CONTROL: "no-store", **dict(COMMON_HEADERS)}
    return web.Response(body=await context.exposition.get(), headers=headers)


def metrics_fingerprint(context: ApiContext) -> object:
    """The part of the state on which the metrics of snapshot and verdict depend."""
    replica = context.replica
    snapshot = replica.snapshot
    if snapshot is None:
        return None
    current, silent = replica.current() is not None, replica.monitor_silent(snapshot)
    return snapshot.version, snapshot.entries, snapshot.checked_at, current, silent


async def render_metrics(context: ApiContext) -> bytes:
    """This process' metrics as they are now."""
    context.responses.count_all_hits()
    snapshot = context.replica.snapshot
    if snapshot is not None:
        set_gauges(context, snapshot)
    return generate_latest(context.metrics.registry)


def set_gauges(context: ApiContext, snapshot: Snapshot) -> None:
    """The gauges that follow from the snapshot and the clock are set when somebody looks."""
    now = context.replica.monotonic()
    gauges = context.metrics
    gauges.snapshot_age.set(now - snapshot.confirmed)
    gauges.events.set(len(snapshot.entries))
    if snapshot.checked_at is not None:
        gauges.checked_age.set((snapshot.now_us(now) - snapshot.checked_at) / 1_000_000)
    if snapshot.latest is not None:
        seen = observations(snapshot.latest.status)
        for name in context.settings.service_names:
            gauges.healthy.labels(name).set(name in seen and seen[name].healthy)


async def openapi(context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """The description of this API for the configured services."""
    return json(context.openapi)
