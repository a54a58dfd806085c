"""Authenticates `Authorization` fields, with a cache of verified credentials.

Two changes invalidate a credential before it expires: its API key is deleted, or the keys that
verify tokens change. Each change replaces an object: the API keys of the snapshot, or `generation`.
A principal has a reference to the object that it was verified against (`verified_against`), so one
comparison by identity shows whether the credential is still valid.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from service.auth import api_keys
from service.auth.jwks import JwksClient
from service.auth.jwt import JwtVerifier, VerificationKeyMissing
from service.auth.key_usage import KeyUsage
from service.auth.principal import EVERYONE, Principal
from service.auth.secret_files import watch_secrets
from service.errors import AuthenticationFailed, SigningKeysUnavailable
from service.settings import Auth, Settings
from service.store import StoredKey

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]+) *", re.ASCII)
"""RFC 9110, section 11.4: the scheme in any case, and a token of visible ASCII characters.

The syntax of the token is checked later."""

_CACHE_SIZE = 16_384
"""Verified credentials in the cache: more than the agents of one replica. About 4 MB."""


class Authenticator:
    """Authenticates requests: API keys, JWTs, or everyone with `AUTH=none`.

    `wall` returns seconds since 1970.
    """

    def __init__(self, settings: Settings, wall: Callable[[], float] = time.time) -> None:
        """Raises `SettingsError` for invalid secrets or public keys."""
        self.generation = object()
        """Replaced whenever the keys that verify tokens change."""
        self.listeners: list[Callable[[], None]] = []
        """Called after each such change, in the event loop; they must not block."""
        self.usage = KeyUsage()
        self._settings = settings
        self._everyone = (
            replace(EVERYONE, verified_against=self.generation)
            if settings.auth is Auth.NONE
            else None
        )
        self._key_sets = {
            issuer: JwksClient(
                issuer,
                url,
                settings.key_set_algorithms,
                self._verification_keys_changed,
                refresh=settings.jwt_jwks_refresh,
            )
            for issuer, url in settings.key_sets.items()
        }
        self._wall = wall
        self._jwt = JwtVerifier(settings, self._key_sets, wall)
        self._verified: OrderedDict[bytes, Principal] = OrderedDict()
        """Verified credentials by SHA-256 digest of the `Authorization` field, oldest first."""
        self._keys: Mapping[str, StoredKey] = {}
        self._keys_by_id: Mapping[str, StoredKey] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the published keys and the secrets from files up to date."""
        async with AsyncExitStack() as stack:
            if self._everyone is None:
                for key_set in self._key_sets.values():
                    await stack.enter_async_context(key_set.running())
                await stack.enter_async_context(watch_secrets(self._settings, self._reload_secrets))
            yield

    @staticmethod
    def is_api_key(authorization: str) -> bool:
        """Whether the credential is an API key, valid or not."""
        match = _BEARER.fullmatch(authorization)
        return match is not None and match[1].startswith(api_keys.PREFIX)

    @property
    def open_to_all(self) -> bool:
        """Whether no credential is needed (`AUTH=none`)."""
        return self._everyone is not None

    async def authenticate_or_refresh(
        self, authorization: str | None, keys: Mapping[str, StoredKey]
    ) -> Principal:
        """Authenticate, and fetch the keys of a token's issuer if its key is not known.

        Raises `AuthenticationFailed`, or `SigningKeysUnavailable` if no keys of the issuer are
        known.
        """
        try:
            return self.authenticate(authorization, keys)
        except VerificationKeyMissing as missing:
            source = missing.source
        await source.refresh_for_unknown_kid()
        try:
            # The API keys may have changed during the fetch: `_keys` has the latest ones.
            return self.authenticate(authorization, self._keys)
        except VerificationKeyMissing as missing:
            raise (
                SigningKeysUnavailable() if source.verification_keys is None else missing
            ) from None

    def authenticate(self, authorization: str | None, keys: Mapping[str, StoredKey]) -> Principal:
        """Return the principal of an `Authorization` field.

        `keys` are the currently valid API keys by name. A verified credential is cached until it
        expires, or until the keys that it was verified against change. Raises
        `AuthenticationFailed`.
        """
        if self._everyone is not None:
            return self._everyone
        if authorization is None:
            raise AuthenticationFailed("no credential")
        if keys is not self._keys:
            self._replace_api_keys(keys)
        now = self._wall()
        digest = hashlib.sha256(authorization.encode("utf-8", "surrogateescape")).digest()
        principal = self._verified.get(digest)
        if principal is None:
            principal = self._verify(authorization, now)
            self._verified[digest] = principal
            if len(self._verified) > _CACHE_SIZE:
                self._verified.popitem(last=False)
        elif now >= principal.expires:
            raise AuthenticationFailed("expired", principal.name)
        if principal.key_id is not None:
            self.usage.note(principal.key_id, now)
        return principal

    def still_valid(self, principal: Principal, keys: Mapping[str, StoredKey]) -> bool:
        """Whether an authenticated principal is still valid, for responses that take long.

        `keys` are the currently valid API keys by name.
        """
        if self._everyone is not None:
            return True
        if self._wall() >= principal.expires:
            return False
        if principal.key_id is None:
            return principal.verified_against is self.generation
        if keys is not self._keys:
            self._replace_api_keys(keys)
        return principal.key_id in self._keys_by_id

    def valid_until(self, principal: Principal) -> float:
        """The time until which the poll path may reuse the result, in seconds since 1970.

        For an API key this is at most the end of the day, so that its day of last use is recorded.
        """
        if principal.key_id is None:
            return principal.expires
        return min(principal.expires, self.usage.end_of_day(self._wall()))

    def _verify(self, authorization: str, now: float) -> Principal:
        match = _BEARER.fullmatch(authorization)
        if not match:
            raise AuthenticationFailed("not a bearer token")
        if match[1].startswith(api_keys.PREFIX):
            return replace(
                api_keys.verify(match[1], self._keys_by_id, now), verified_against=self._keys
            )
        return replace(self._jwt.verify(match[1]), verified_against=self.generation)

    def _replace_api_keys(self, keys: Mapping[str, StoredKey]) -> None:
        """Take other API keys, and remove principals of API keys from the cache."""
        self._keys = keys
        self._keys_by_id = {key.id: key for key in keys.values()}
        self._verified = OrderedDict(
            (digest, principal)
            for digest, principal in self._verified.items()
            if principal.key_id is None
        )

    def _reload_secrets(self, settings: Settings) -> None:
        """Take the secrets of new settings.

        Raises `SettingsError` for invalid secrets; the previous ones stay in use.
        """
        self._jwt = JwtVerifier(settings, self._key_sets, self._wall)
        self._settings = settings
        self._verification_keys_changed()

    def _verification_keys_changed(self) -> None:
        """Remove principals of tokens from the cache, and notify the listeners."""
        self.generation = object()
        self._verified = OrderedDict(
            (digest, principal) for digest, principal in self._verified.items() if principal.key_id
        )
        for listener in self.listeners:
            listener()
