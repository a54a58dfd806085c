"""CORS: access for scripts of other origins (the Fetch standard). Off without `CORS_ORIGINS`."""

from collections.abc import Mapping, Sequence

from aiohttp import hdrs, web

from service.api.http import tracing
from service.api.http.headers import COMMON_HEADERS

EXPOSED = "Age, Cluster-Checked-At, Cluster-Stale, ETag, Link, Preference-Applied, Retry-After"
"""The response header fields that scripts of other origins may read."""
ALLOWED = ", ".join(
    ("Authorization", "Content-Type", "If-None-Match", "Last-Event-ID", "Prefer", *tracing.FIELDS)
)
"""The request header fields that they may send."""
PREFLIGHT_S = 600
"""Seconds for which a browser may cache the response to a preflight request."""


class Cors:
    """The other origins whose scripts may read, and the header fields that allow it."""

    def __init__(self, origins: Sequence[str]) -> None:
        """`origins` are compared byte by byte; `*` means all."""
        self._origins = frozenset(origins)

    def fields(self, request: web.BaseRequest) -> Mapping[str, str]:
        """The header fields of a response to this request; none if its origin is not allowed.

        They do not allow credentials of the browser (cookies): clients send `Authorization`.
        """
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or not ({"*", origin} & self._origins):
            return {}
        return {
            hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
            hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: EXPOSED,
        }

    def preflight(self, methods: Sequence[str]) -> web.Response:
        """The response to `OPTIONS`.

        It needs no credential, and says only what scripts may send.
        """
        headers = {hdrs.ALLOW: ", ".join(methods), hdrs.VARY: "Origin", **dict(COMMON_HEADERS)}
        headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = ", ".join(methods)
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ALLOWED
        headers[hdrs.ACCESS_CONTROL_MAX_AGE] = str(PREFLIGHT_S)
        return web.Response(status=204, headers=headers)
