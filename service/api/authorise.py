"""The credential of a request, and whether its role allows the route."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aiohttp import hdrs, web

from service.api.context import ApiContext
from service.api.route import Route
from service.auth import Principal, Role
from service.auth.api_keys import ApiKeyMissing
from service.auth.jwt import VerificationKeyMissing
from service.errors import (
    AuthenticationFailed,
    InsufficientPermissions,
    StoreUnavailable,
)
from service.store import StoredKey

NO_KEYS: Mapping[str, StoredKey] = {}
"""The API keys before the first snapshot. One object, because the authenticator compares the API
keys by identity."""


async def authorise(context: ApiContext, request: web.Request, route: Route) -> Principal:
    """The request's principal, which has at least the route's role.

    Raises `AuthenticationFailed` (`TooManyRequests` for a client address with too many failures),
    `InsufficientPermissions`, `SigningKeysUnavailable` for a token that cannot be verified without
    its issuer, or `StoreUnavailable` for an API key that cannot be looked up.
    """
    assert route.role is not None  # noqa: S101  # The caller has checked it.
    fields = request.headers.getall(hdrs.AUTHORIZATION, ())
    try:
        principal = authenticate_at_once(context, fields) or await authenticate(context, fields)
    except AuthenticationFailed as error:
        raise context.failure_limiter.record_failure(
            error, client_address(context, request), route.path, sent=bool(fields)
        ) from error.__cause__
    if (
        context.authenticator.open_to_all
        and (role := _role_without_credential(context, request, route)) < principal.role
    ):
        principal = replace(principal, role=role)
    if principal.role < route.role:
        context.failure_limiter.record_denial(
            principal, route.role.label, client_address(context, request), route.path
        )
        raise InsufficientPermissions(route.role.label, principal.role.label)
    return principal


def authenticate_at_once(context: ApiContext, fields: Sequence[str]) -> Principal | None:
    """The same as `authenticate`, or `None` if the store or an issuer must be asked.

    That is rare: this saves a coroutine per request.
    """
    if len(fields) > 1:
        return None
    authorization = fields[0] if fields else None
    snapshot, authenticator = context.replica.snapshot, context.authenticator
    keys = snapshot.api_keys if snapshot is not None else NO_KEYS
    try:
        principal = authenticator.authenticate(authorization, keys)
    except VerificationKeyMissing:
        return None
    except AuthenticationFailed:
        if _is_stale_api_key(context, authorization):
            return None
        raise
    if principal.key_id is not None and context.replica.current() is None:
        return None
    return principal


def _is_stale_api_key(context: ApiContext, authorization: str | None) -> bool:
    """Whether the credential is an API key, and the API keys of the snapshot may be outdated."""
    return (
        authorization is not None
        and context.replica.current() is None
        and context.authenticator.is_api_key(authorization)
    )


async def authenticate(context: ApiContext, fields: Sequence[str]) -> Principal:
    """The principal of a request's `Authorization` fields.

    Raises `AuthenticationFailed`, `SigningKeysUnavailable` or `StoreUnavailable` (see `authorise`).
    """
    if len(fields) > 1:
        raise AuthenticationFailed("more than one credential")
    authorization = fields[0] if fields else None
    if authorization is not None and context.authenticator.is_api_key(authorization):
        reading = await context.replica.read()
        try:
            return context.authenticator.authenticate(authorization, reading.snapshot.api_keys)
        except ApiKeyMissing:
            if reading.age is None:
                raise
            raise StoreUnavailable(
                reading.reason
            ) from None  # The key may be newer than what is known.
    snapshot = context.replica.snapshot
    return await context.authenticator.authenticate_or_refresh(
        authorization, snapshot.api_keys if snapshot is not None else NO_KEYS
    )


def _role_without_credential(context: ApiContext, request: web.Request, route: Route) -> Role:
    """The role of a request without a credential, with `AUTH=none`.

    It may do everything but make credentials, which would outlast that setting. A page of another
    origin may not write.
    """
    if route.makes_credentials:
        return Role.NONE
    if hdrs.ORIGIN not in request.headers:
        return Role.WRITE
    own = f"{request.scheme}://{request.host}"
    allowed = context.cors is not None and context.cors.fields(request)
    return Role.WRITE if request.headers[hdrs.ORIGIN] == own or allowed else Role.READ


def client_address(context: ApiContext, request: web.Request) -> str:
    """The client's address, by the connection and by trusted proxies."""
    return context.failure_limiter.address(
        request.remote, request.headers.getall(hdrs.X_FORWARDED_FOR, ())
    )
