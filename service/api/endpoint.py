"""The one layer around every handler: limits, credential, role, errors, counts. One coroutine a request, not one a concern."""

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv6Address
from itertools import chain

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from service import errors
from service.api.answers import CACHE_CONTROL, COMMON_HEADERS, CONTENT_TYPE, VARY
from service.api.hosts import Hosts
from service.api.state import State
from service.auth import Principal, Role
from service.auth.api_keys import ApiKeyMissing
from service.auth.jwt import SignerMissing
from service.errors import (
    ApiError,
    AuthenticationFailed,
    BadMessage,
    HeadersTooLarge,
    InsufficientPermissions,
    InternalError,
    PayloadTooLarge,
    StoreUnavailable,
    UnmetExpectation,
    UriTooLong,
    VersionNotSupported,
)
from service.store import StoredKey

log = logging.getLogger(__name__)
access_log = logging.getLogger("service.access")

HEADERS_LIMIT = 32_768
"""Bytes of all header fields together; each alone is limited by the parser."""
FIELD_LIMIT = 8_190
"""Bytes of one header field: room for a token."""
TARGET_LIMIT = 4_096
"""Bytes of a request target: the longest path of this API has 60."""
FIELDS = 64
"""Header fields of one request, as they are received."""
_HOST = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)(?:%25[0-9A-Za-z._~-]+)?\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?",
    re.ASCII,
)
"""A host, or none, and a port (RFC 9110, section 7.2; RFC 3986, section 3.2)."""
_CONTINUE = "100-continue"
NO_KEYS: Mapping[str, StoredKey] = {}
"""The API keys while none can be known. One object: the authenticator forgets what it remembers when the keys change."""
IGNORED_BODY_LIMIT = 1_024
"""Bytes of a body that a route without one reads and forgets; clients that always send one are not worth an error."""

Handler = Callable[[State, web.Request], Awaitable[web.StreamResponse]]

PRINCIPAL = web.RequestKey("principal", Principal)
"""Who sends the request, for handlers that ask."""


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table of routes. Without a `role` the route is open to all.

    With `AUTH=none`, a route of `any_host` is for probes, which name the service as they like, and one that `makes_credentials`
    is closed.
    """

    method: str
    path: str
    role: Role | None
    handler: Handler
    takes_body: bool = False
    any_host: bool = False
    makes_credentials: bool = False
    vary: str = ""
    """The request's field that decides between the forms of a response at this path; errors say so as well."""


def endpoint(state: State, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The route's handler inside the layer."""
    stats = state.metrics.requests.route(route.path)
    logging_requests = state.settings.access_log
    hosts = Hosts(state.settings.allowed_hosts) if state.authenticator.open_to_all and not route.any_host else None

    async def handle(request: web.Request) -> web.StreamResponse:
        started = time.perf_counter()
        try:
            check_message(request, takes_body=route.takes_body)
            if hosts is not None:
                hosts.check(request)
            if route.role is not None:
                request[PRINCIPAL] = await authorise(state, request, route)
            response = await route.handler(state, request)
        except Exception as error:
            response = refusal(request, error)
            if route.vary:
                response.headers[VARY] = route.vary
            if response.status in {401, 403, 429}:
                state.metrics.auth_failures.labels(response.status).inc()
        if state.draining:
            response.force_close()
        if state.cors is not None and hdrs.ORIGIN in request.headers:
            response.headers.extend(state.cors.fields(request))
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        method = request.method
        stats.add(method if method in hdrs.METH_ALL else "other", response.status)
        stats.took(time.perf_counter() - started)
        if logging_requests:
            log_access(request.method, route.path, response.status, request.remote)
        return response

    return handle


def log_access(method: str, path: str, status: int, remote: str | None) -> None:
    """One line for one request: the route's template, never the raw path."""
    access_log.info("request", extra={"method": method, "route": path, "status": status, "remote": remote})


def check_message(request: web.BaseRequest, *, takes_body: bool = False) -> None:
    """What the parser lets through and this API does not take. Raises an `ApiError`."""
    if request.version is not HttpVersion11 and request.version not in (HttpVersion11, HttpVersion10):
        request._cache["version"] = HttpVersion11  # noqa: SLF001  # The reply is in ours (RFC 9110, section 2.5).
        raise VersionNotSupported
    check_sizes(request)
    headers = request.headers
    if hdrs.TRANSFER_ENCODING in headers:
        codings = ",".join(headers.getall(hdrs.TRANSFER_ENCODING))
        if codings.strip(" \t").lower() != "chunked":
            raise errors.NotImplemented
    if not is_host(headers.get(hdrs.HOST, "")):
        raise BadMessage
    if hdrs.EXPECT in headers and headers[hdrs.EXPECT].lower() != _CONTINUE:
        raise UnmetExpectation
    if not takes_body and request.body_exists and (request.content_length or 0) > IGNORED_BODY_LIMIT:
        raise PayloadTooLarge(IGNORED_BODY_LIMIT)


@lru_cache(256)
def is_host(value: str) -> bool:
    """Whether the value of a `Host` is a host, or none, and a port (RFC 9112, section 3.2)."""
    match = _HOST.fullmatch(value)
    if match is None:
        return False
    if match[1] is not None:
        try:
            IPv6Address(match[1])
        except ValueError:
            return False
    return True


def check_sizes(request: web.BaseRequest) -> None:
    """Raises `UriTooLong` or `HeadersTooLarge`. Both parsers let a little more through than these limits."""
    if len(request.raw_path) > TARGET_LIMIT:
        raise UriTooLong(TARGET_LIMIT)
    fields = request.raw_headers
    if len(fields) > FIELDS:
        raise HeadersTooLarge.too_many(FIELDS)
    if sum(map(len, chain.from_iterable(fields))) <= FIELD_LIMIT:  # Nearly always: then none is too long, nor are all.
        return
    sizes = [len(name) + len(value) for name, value in fields]
    if max(sizes) > FIELD_LIMIT:
        raise HeadersTooLarge.one_field(FIELD_LIMIT)
    if sum(sizes) + 4 * len(sizes) > HEADERS_LIMIT:
        raise HeadersTooLarge.together(HEADERS_LIMIT)


async def authorise(state: State, request: web.Request, route: Route) -> Principal:
    """The request's principal, which has at least the route's role.

    Raises `AuthenticationFailed` (or `TooManyRequests` for an address with too many of them), `InsufficientPermissions`,
    `SigningKeysUnavailable` for a token that cannot be judged, or `StoreUnavailable` for an API key that cannot be looked up.
    """
    assert route.role is not None  # noqa: S101  # Else nobody asks.
    fields = request.headers.getall(hdrs.AUTHORIZATION, ())
    try:
        principal = authenticate_at_once(state, fields) or await authenticate(state, fields)
    except AuthenticationFailed as error:
        raise state.refusals.refused(
            error, client_address(state, request), route.path, sent=bool(fields)
        ) from error.__cause__
    if state.authenticator.open_to_all and (role := _role_without_credential(state, request, route)) < principal.role:
        principal = replace(principal, role=role)
    if principal.role < route.role:
        state.refusals.denied(principal, route.role.label, client_address(state, request), route.path)
        raise InsufficientPermissions(route.role.label, principal.role.label)
    return principal


def authenticate_at_once(state: State, fields: Sequence[str]) -> Principal | None:
    """The same as `authenticate`, or `None` if the store or an issuer must be asked for it: hardly ever."""
    if len(fields) > 1:
        return None
    authorization = fields[0] if fields else None
    if state.replica.current() is None and authorization is not None and state.authenticator.is_api_key(authorization):
        return None
    snapshot = state.replica.snapshot
    try:
        return state.authenticator.authenticate(authorization, snapshot.api_keys if snapshot is not None else NO_KEYS)
    except SignerMissing:
        return None


async def authenticate(state: State, fields: Sequence[str]) -> Principal:
    """The principal of the `Authorization` fields of a request. Raises what `authorise` raises, but for roles and limits."""
    if len(fields) > 1:
        raise AuthenticationFailed("more than one credential")
    authorization = fields[0] if fields else None
    if authorization is not None and state.authenticator.is_api_key(authorization):
        reading = await state.replica.read()
        try:
            return state.authenticator.authenticate(authorization, reading.snapshot.api_keys)
        except ApiKeyMissing:
            if reading.age is None:
                raise
            raise StoreUnavailable(reading.reason) from None  # The key may be newer than what is known.
    snapshot = state.replica.snapshot
    return await state.authenticator.admit(authorization, snapshot.api_keys if snapshot is not None else NO_KEYS)


def _role_without_credential(state: State, request: web.Request, route: Route) -> Role:
    """What a request may do where no credential is asked for: all, but for making credentials, which would outlast that.

    A page of another site (by its `Origin`) may not write in our name.
    """
    if route.makes_credentials:
        return Role.NONE
    if hdrs.ORIGIN not in request.headers:
        return Role.WRITE
    own = f"{request.scheme}://{request.host}"
    allowed = state.cors is not None and state.cors.fields(request)
    return Role.WRITE if request.headers[hdrs.ORIGIN] == own or allowed else Role.READ


def client_address(state: State, request: web.Request) -> str:
    """Where the request comes from, as far as that is known."""
    return state.refusals.address(request.remote, request.headers.getall(hdrs.X_FORWARDED_FOR, ()))


def error_response(error: ApiError) -> web.Response:
    """The one error body."""
    response = web.Response(status=error.status, body=error.body(), headers=error.headers)
    response.headers[CONTENT_TYPE] = "application/json"
    response.headers[CACHE_CONTROL] = "no-store"
    for name, value in COMMON_HEADERS:
        response.headers[name] = value
    if error.close:
        response.force_close()
    return response


def refusal(request: web.BaseRequest, error: Exception) -> web.Response:
    """The answer to a request that a handler could not answer."""
    if isinstance(error, ApiError):
        return error_response(error)
    gone = isinstance(error, ConnectionError) and request.transport is None
    # The body is incomplete or malformed (for which the pure-Python parser raises another class): not an internal error.
    if gone or isinstance(error, (web.RequestPayloadError, HttpProcessingError)):
        return error_response(BadMessage())
    return internal_error(request, error)


def internal_error(request: web.BaseRequest, error: BaseException | None) -> web.Response:
    """The answer to a bug, whose traceback goes to the log under the request id that the answer names."""
    request_id = secrets.token_hex(8)
    log.error("a request failed", exc_info=error, extra={"request_id": request_id, "method": request.method})
    return error_response(InternalError(request_id))


async def expect(request: web.Request) -> None:
    """The framework's hook for `Expect`: it writes 100 for `100-continue`. `check_message` refuses any other expectation."""
    if (
        request.headers[hdrs.EXPECT].lower() == _CONTINUE and request.version == HttpVersion11
    ):  # Elsewhere it is to be ignored (RFC 9110, section 10.1.1).
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
