"""Responses that no cache may store (RFC 9111, section 5.2.2.5)."""

from aiohttp import web

from service.api.http.headers import CACHE_CONTROL, COMMON_HEADERS, CONTENT_TYPE


def no_store_response(
    body: bytes, status: int = 200, content_type: str = "application/json"
) -> web.Response:
    """A response with `Cache-Control: no-store`."""
    headers = {CONTENT_TYPE: content_type, CACHE_CONTROL: "no-store", **dict(COMMON_HEADERS)}
    return web.Response(status=status, body=body, headers=headers)
