"""Browsers of other origins (the Fetch standard's CORS protocol): off unless `CORS_ORIGINS` names
them."""

from collections.abc import Mapping, Sequence

from aiohttp import hdrs, web

from service.api.http import tracing
from service.api.http.headers import COMMON_HEADERS

EXPOSED = "Age, Cluster-Checked-At, Cluster-Stale, ETag, Link, Preference-Applied, Retry-After"
"""What scripts of other origins may read of a reply's header fields."""
ALLOWED = ", ".join(
    ("Authorization", "Content-Type", "If-None-Match", "Last-Event-ID", "Prefer", *tracing.FIELDS)
)
"""What they may send."""
PREFLIGHT_S = 600
"""Seconds for which a browser need not ask again."""


class Cors:
    """Which origins may read, and how a reply says so."""

    def __init__(self, origins: Sequence[str]) -> None:
        """`origins` are compared as they stand; `*` stands for all."""
        self._origins = frozenset(origins)

    def fields(self, request: web.BaseRequest) -> Mapping[str, str]:
        """What a reply to this request has to say; nothing to other origins, and nothing about
        credentials of the browser's."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or not ({"*", origin} & self._origins):
            return {}
        return {
            hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
            hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: EXPOSED,
        }

    def preflight(self, methods: Sequence[str]) -> web.Response:
        """The reply to `OPTIONS`, without a credential: it tells what may be sent, and nothing of
        the service."""
        headers = {hdrs.ALLOW: ", ".join(methods), hdrs.VARY: "Origin", **dict(COMMON_HEADERS)}
        headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = ", ".join(methods)
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ALLOWED
        headers[hdrs.ACCESS_CONTROL_MAX_AGE] = str(PREFLIGHT_S)
        return web.Response(status=204, headers=headers)
