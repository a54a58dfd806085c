"""The monitor's HTTP port: liveness, readiness (leading or standing by) and metrics.

It is off by default (`MONITOR_PORT`). `METRICS_PORT` is a setting of the API, not of the monitor.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.errors import ApiError, MethodNotAllowed, UnknownEndpoint
from service.metrics import Exposition, Metrics
from service.monitor.leader import LeaseHolder
from service.monitor.loop import Monitor
from service.sockets import BACKLOG, listen


@asynccontextmanager
async def listening(
    host: str, port: int, monitor: Monitor, lease_holder: LeaseHolder, metrics: Metrics
) -> AsyncIterator[tuple[str, int]]:
    """Serve `/healthz`, `/readyz` and `/metrics`; yields the host and port.

    Raises `OSError` if the port cannot be opened.
    """

    async def healthz(_request: web.Request) -> web.Response:
        # As for the API, it says only that the event loop runs.
        return web.json_response({"status": "healthy"})

    async def readyz(_request: web.Request) -> web.Response:
        if not lease_holder.leader_known:
            unknown = {"status": "it is not known who leads", "reason": lease_holder.failure}
            return web.json_response(unknown, status=503)
        return web.json_response({"status": "leading" if lease_holder.leads else "standing by"})

    async def render() -> bytes:
        age = monitor.check_age()
        stands_by = lease_holder.leader_known and not lease_holder.leads
        # A standby does not check, so its age must not raise an alert.
        metrics.checked_age.set(math.nan if age is None or stands_by else age)
        return generate_latest(metrics.registry)

    exposition = Exposition(
        render, lambda: (lease_holder.leader_known, lease_holder.leads, monitor.checked_at)
    )

    async def serve_metrics(_request: web.Request) -> web.Response:
        return web.Response(
            body=await exposition.get(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application(middlewares=[_render_errors])
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", serve_metrics)
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, keepalive_timeout=30.0, shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listen(host, port), backlog=BACKLOG).start()
        yield runner.addresses[0][:2]
    finally:
        await runner.cleanup()


@web.middleware
async def _render_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Render errors for unknown paths and methods as the API does."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        error: ApiError = UnknownEndpoint(request.path)
    except web.HTTPMethodNotAllowed as refused:
        error = MethodNotAllowed(request.method, sorted(refused.allowed_methods))
    return web.Response(
        status=error.status,
        body=error.body(),
        headers=error.headers,
        content_type="application/json",
    )
