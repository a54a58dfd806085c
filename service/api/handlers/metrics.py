"""The metrics page, and the gauges that are computed when it is requested."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api.context import ApiContext
from service.api.http.no_store import no_store_response
from service.events import observations
from service.replica.snapshot import Snapshot


async def metrics_page(context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """The metrics in the Prometheus text format.

    They are at most a second old. After a change of the snapshot or the verdict they are rendered
    again at once.
    """
    return no_store_response(await context.exposition.get(), content_type=CONTENT_TYPE_LATEST)


def metrics_fingerprint(context: ApiContext) -> object:
    """The part of the state that determines the metrics of the snapshot and the verdict."""
    replica = context.replica
    snapshot = replica.snapshot
    if snapshot is None:
        return None
    current, silent = replica.current() is not None, replica.monitor_silent(snapshot)
    return snapshot.version, snapshot.entries, snapshot.checked_at, current, silent


async def render_metrics(context: ApiContext) -> bytes:
    """The current metrics of this process."""
    context.responses.count_all_hits()
    snapshot = context.replica.snapshot
    if snapshot is not None:
        _set_gauges(context, snapshot)
    return generate_latest(context.metrics.registry)


def _set_gauges(context: ApiContext, snapshot: Snapshot) -> None:
    """Sets the gauges that depend on the snapshot and the clock."""
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
