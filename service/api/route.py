"""A row of the route table."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from service.api.context import ApiContext
from service.auth import Principal, Role

Handler = Callable[[ApiContext, web.Request], Awaitable[web.StreamResponse]]

PRINCIPAL = web.RequestKey("principal", Principal)
"""Who sends the request, for handlers that ask."""


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table of routes. Without a `role` the route is open to all.

    With `AUTH=none`, a route of `any_host` is for probes, which name the service as they like, and
    one that `makes_credentials` is closed.
    """

    method: str
    path: str
    role: Role | None
    handler: Handler
    takes_body: bool = False
    any_host: bool = False
    makes_credentials: bool = False
    vary: str = ""
    """The request's field that decides between the forms of a response at this path; errors say so
    as well."""
