"""Request middleware: limits, authentication, authorisation, error mapping, metrics, access log.

One coroutine instead of a chain, because each extra `await` costs about 1 µs.
"""

import time
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from service.api.authorise import authorise
from service.api.context import ApiContext
from service.api.http.access_log import log_access
from service.api.http.errors import error_to_response
from service.api.http.headers import VARY
from service.api.http.hosts import Hosts
from service.api.http.limits import check_message
from service.api.route import PRINCIPAL, Route


def with_middleware(
    context: ApiContext, route: Route
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The route's handler inside the middleware."""
    stats = context.metrics.requests.route(route.path)
    logging_requests = context.settings.access_log
    # Without credentials, requests for other hosts are refused (DNS rebinding).
    checks_host = context.authenticator.open_to_all and not route.any_host
    hosts = Hosts(context.settings.allowed_hosts) if checks_host else None

    async def handle(request: web.Request) -> web.StreamResponse:
        started = time.perf_counter()
        try:
            check_message(request, takes_body=route.takes_body)
            if hosts is not None:
                hosts.check(request)
            if route.role is not None:
                request[PRINCIPAL] = await authorise(context, request, route)
            response = await route.handler(context, request)
        except Exception as error:
            response = error_to_response(request, error)
            if route.vary:
                response.headers[VARY] = route.vary
            if response.status in {401, 403, 429}:
                context.metrics.auth_failures.labels(response.status).inc()
        if context.draining:
            response.force_close()
        if context.cors is not None and hdrs.ORIGIN in request.headers:
            response.headers.extend(context.cors.fields(request))
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        method = request.method
        stats.add(method if method in hdrs.METH_ALL else "other", response.status)
        stats.took(time.perf_counter() - started)
        if logging_requests:
            log_access(request.method, route.path, response.status, request.remote)
        return response

    return handle
