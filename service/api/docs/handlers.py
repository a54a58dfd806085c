"""The OpenAPI document, and the page to try the API.

The page consists of static files that render `/openapi.json`. Its content security policy allows
nothing from another origin.
"""

from functools import cache
from pathlib import Path

from aiohttp import web

from service.api.context import ApiContext
from service.api.http.headers import CACHE_CONTROL, COMMON_HEADERS, CONTENT_TYPE
from service.api.http.no_store import no_store_response
from service.errors import UnknownEndpoint

_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def openapi(context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """The OpenAPI document for the configured services."""
    return no_store_response(context.openapi)


async def page(_context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """The page to try the API."""
    return _file("explore.html")


async def file(_context: ApiContext, request: web.Request) -> web.StreamResponse:
    """A file that the page loads. Raises `UnknownEndpoint` for any other name."""
    name = request.match_info["file"]
    if name not in {"explore.js", "explore.css"}:
        raise UnknownEndpoint(request.path)
    return _file(name)


def _file(name: str) -> web.Response:
    headers: dict[str, str] = {
        CONTENT_TYPE: _TYPES[Path(name).suffix],
        CACHE_CONTROL: "no-cache",
        "Content-Security-Policy": _POLICY,
        "Referrer-Policy": "no-referrer",
        **dict(COMMON_HEADERS),
    }
    return web.Response(body=_content(name), headers=headers)


@cache
def _content(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()
