"""The way from an `Authorization` field to a principal, remembered for tokens that were verified
before.

Two things can end a credential before its time: its API key is deleted, or the keys that sign
tokens change. Both replace an object: the API keys of the snapshot, and `generation`. A principal
carries the object that it was verified against (`verified_against`): one comparison of identities
tells whether the credential is still valid.
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
"""RFC 9110, section 11.4: the scheme in any case. The token is visible ASCII; its own form is
checked later."""

_REMEMBERED = 16_384
"""Verified tokens kept: more than the agents of one replica. About 4 MB."""


class Authenticator:
    """Decides who sends a request.

    `wall` gives seconds since 1970.
    """

    def __init__(self, settings: Settings, wall: Callable[[], float] = time.time) -> None:
        """Raises `SettingsError` if the key material is unfit."""
        self.generation = object()
        """Replaced whenever the keys that sign tokens change."""
        self.listeners: list[Callable[[], None]] = []
        """Called then, in the loop; they must not block."""
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
        self._remembered: OrderedDict[bytes, Principal] = OrderedDict()
        self._keys: Mapping[str, StoredKey] = {}
        self._keys_by_id: Mapping[str, StoredKey] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps published keys and the files of secrets up to date inside it."""
        async with AsyncExitStack() as stack:
            if self._everyone is None:
                for key_set in self._key_sets.values():
                    await stack.enter_async_context(key_set.running())
                await stack.enter_async_context(watch_secrets(self._settings, self._reload_secrets))
            yield

    @staticmethod
    def is_api_key(authorization: str) -> bool:
        """Whether the credential looks like an API key, whose truth is in the store."""
        match = _BEARER.fullmatch(authorization)
        return match is not None and match[1].startswith(api_keys.PREFIX)

    @property
    def open_to_all(self) -> bool:
        """Whether no credential is needed."""
        return self._everyone is not None

    async def authenticate_or_refresh(
        self, authorization: str | None, keys: Mapping[str, StoredKey]
    ) -> Principal:
        """What `authenticate` gives; a token whose signing key is not known is a reason to ask its
        issuer for new keys.

        Raises `AuthenticationFailed`, or `SigningKeysUnavailable` if the issuer's keys cannot be
        had at all.
        """
        try:
            return self.authenticate(authorization, keys)
        except VerificationKeyMissing as missing:
            source = missing.source
        await source.refresh_for_unknown_kid()
        try:
            return self.authenticate(authorization, self._keys)
        except VerificationKeyMissing as missing:
            raise (
                SigningKeysUnavailable() if source.verification_keys is None else missing
            ) from None

    def authenticate(self, authorization: str | None, keys: Mapping[str, StoredKey]) -> Principal:
        """The principal of an `Authorization` field, with the API keys (by name) that are valid
        now.

        Raises `AuthenticationFailed`. Remembers what it verified, by digest: until it expires, or
        until what it was verified against changes.
        """
        if self._everyone is not None:
            return self._everyone
        if authorization is None:
            raise AuthenticationFailed("no credential")
        if keys is not self._keys:
            self._forget_keys(keys)
        now = self._wall()
        digest = hashlib.sha256(authorization.encode("utf-8", "surrogateescape")).digest()
        principal = self._remembered.get(digest)
        if principal is None:
            principal = self._verify(authorization, now)
            self._remembered[digest] = principal
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        elif now >= principal.expires:
            raise AuthenticationFailed("expired", principal.name)
        if principal.key_id is not None:
            self.usage.note(principal.key_id, now)
        return principal

    def still_valid(self, principal: Principal, keys: Mapping[str, StoredKey]) -> bool:
        """Whether a credential that was good is still good, for replies that take long. `keys` are
        those that are valid now."""
        if self._everyone is not None:
            return True
        if self._wall() >= principal.expires:
            return False
        if principal.key_id is None:
            return principal.verified_against is self.generation
        if keys is not self._keys:
            self._forget_keys(keys)
        return principal.key_id in self._keys_by_id

    def valid_until(self, principal: Principal) -> float:
        """Until when an answer may be given without asking here again, in seconds since 1970.

        That of an API key is asked for once a day at least, for the day of its last use.
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

    def _forget_keys(self, keys: Mapping[str, StoredKey]) -> None:
        self._keys = keys
        self._keys_by_id = {key.id: key for key in keys.values()}
        self._remembered = OrderedDict(
            (digest, who) for digest, who in self._remembered.items() if who.key_id is None
        )

    def _reload_secrets(self, settings: Settings) -> None:
        """Takes the secrets of other settings. Raises `SettingsError` if they are unfit, and keeps
        those that it has."""
        self._jwt = JwtVerifier(settings, self._key_sets, self._wall)
        self._settings = settings
        self._verification_keys_changed()

    def _verification_keys_changed(self) -> None:
        self.generation = object()
        self._remembered = OrderedDict(
            (digest, who) for digest, who in self._remembered.items() if who.key_id
        )
        for listener in self.listeners:
            listener()
