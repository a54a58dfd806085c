"""What a monitor tells of itself over HTTP: that it lives, whether it leads or stands by, its metrics. Off without a port."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.monitor.leader import Candidate
from service.monitor.loop import Monitor
from service.observability import Metrics


@asynccontextmanager
async def listening(
    host: str, port: int, monitor: Monitor, candidate: Candidate, metrics: Metrics
) -> AsyncIterator[tuple[str, int]]:
    """Serves `/healthz`, `/readyz` and `/metrics`; gives the address. Raises `OSError` if it cannot be listened on."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "healthy"})  # The loop turns; nothing else, as for the API.

    async def readyz(_request: web.Request) -> web.Response:
        if not candidate.knows:
            return web.json_response({"status": "it is not known who leads"}, status=503)
        return web.json_response({"status": "leading" if candidate.leads else "standing by"})

    async def exposition(_request: web.Request) -> web.Response:
        age = monitor.check_age()
        stands_by = candidate.knows and not candidate.leads
        metrics.checked_age.set(
            math.nan if age is None or stands_by else age
        )  # Who does not check has no age to be alarmed at.
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=30.0, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][:2]
    finally:
        await runner.cleanup()
