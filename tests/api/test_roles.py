"""No route without a role: a walk over the router, whatever the tables say."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from service.api.app import ROUTES, make_app
from tests.support.api import Api

PATHS = {"event_id": "latest", "name": "agents", "tail": "anything"}


def routed(api: Api) -> list[tuple[str, str]]:
    """Method and path of everything that the router has, also of what only catches the rest."""
    found = []
    for route in make_app(api.context).router.routes():
        assert isinstance(route.resource, web.Resource)
        path = route.resource.canonical
        for name, value in PATHS.items():
            path = path.replace(f"{{{name}}}", value if path != "/v0{tail}" else f"/{value}")
        found.append(("PATCH" if route.method == "*" else route.method, path))
    return found


@pytest.mark.parametrize("more", [{}, {"cors_origins": "*"}], ids=["plain", "CORS"])
async def test_every_route_of_the_router_is_behind_the_layer(
    make_api: Callable[..., Any], more: dict[str, str]
) -> None:
    """Nothing is served but through the one layer that asks for credentials and roles."""
    api = await make_api(**more)
    handlers = {route.handler.__qualname__ for route in make_app(api.context).router.routes()}
    assert handlers == {"with_middleware.<locals>.handle"}


@pytest.mark.parametrize("more", [{}, {"cors_origins": "*"}], ids=["plain", "CORS"])
async def test_nothing_under_v0_is_open(make_api: Callable[..., Any], more: dict[str, str]) -> None:
    """Every method of every path under /v0 that the router has wants a credential, but for
    questions about CORS."""
    api = await make_api(**more)
    guarded = [
        (method, path)
        for method, path in routed(api)
        if path.startswith("/v0") and method != "OPTIONS"
    ]
    assert len(guarded) >= len([route for route in ROUTES if route.path.startswith("/v0")])
    found = {
        (method, path): (await api.request(method, path, {})).status for method, path in guarded
    }
    assert set(found.values()) == {401}


def test_every_route_names_its_role() -> None:
    """Routes without a role are those that are meant to be open, none of which tells an event or a
    verdict."""
    open_to_all = {route.path for route in ROUTES if route.role is None}
    assert not any(path.startswith("/v0") for path in open_to_all)
    assert {"/healthz", "/readyz", "/metrics", "/openapi.json"} <= open_to_all
