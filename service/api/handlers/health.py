"""The routes for the health of the cluster and of this process: verdict, probes, version."""

import orjson
from aiohttp import web

from service import __version__
from service.api.context import ApiContext
from service.api.handlers.reply import respond
from service.api.http.no_store import no_store_response
from service.api.responses.cache import VERDICT


async def cluster_healthz(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """The verdict: 200 if all services are healthy and the state is current, else 503."""
    return await respond(context, request, VERDICT)


async def config(_context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """Edition and version. Feldera's Python client requests them first."""
    return no_store_response(orjson.dumps({"edition": "Open source", "version": __version__}))


async def healthz(_context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """Liveness: the event loop runs.

    It checks nothing else, so that an outage of Redis restarts no process.
    """
    return no_store_response(b'{"status":"healthy"}')


async def readyz(context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """Readiness: the process can respond with events, also stale ones, and is not draining."""
    if context.draining:
        return no_store_response(b'{"status":"draining"}', 503)
    if context.settings.monitoring and not context.replica.ready():
        unready = {
            "status": "the store has not been read recently enough",
            "reason": context.replica.failure,
        }
        return no_store_response(orjson.dumps(unready), 503)
    return no_store_response(b'{"status":"ready"}')
