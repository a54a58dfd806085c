"""A row of the route table."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from service.api.context import ApiContext
from service.auth import Principal, Role

Handler = Callable[[ApiContext, web.Request], Awaitable[web.StreamResponse]]

PRINCIPAL = web.RequestKey("principal", Principal)
"""The principal of a request, set by the middleware."""


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the route table.

    A route without a `role` needs no credential. With `AUTH=none`, a route with `any_host` accepts
    any `Host`, as probes send them, and a route with `makes_credentials` is closed (403).
    """

    method: str
    path: str
    role: Role | None
    handler: Handler
    takes_body: bool = False
    any_host: bool = False
    makes_credentials: bool = False
    vary: str = ""
    """The `Vary` of errors: the request field that selects the representation at this path."""
