"""The way from an `Authorization` field to a principal, remembered for tokens that were verified before."""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from service.auth import api_keys
from service.auth.jwt import JwtVerifier
from service.auth.principal import EVERYONE, Principal
from service.errors import AuthenticationFailed
from service.settings import Auth, Settings
from service.store import StoredKey

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]+) *", re.ASCII)
"""RFC 9110, section 11.4: the scheme in any case. The token is visible ASCII; its own form is checked later."""

_REMEMBERED = 16_384
"""Verified tokens kept: more than the agents of one replica. About 4 MB."""


class Authenticator:
    """Decides who sends a request.

    `wall` gives seconds since 1970.
    """

    def __init__(self, settings: Settings, wall: Callable[[], float] = time.time) -> None:
        """Raises `SettingsError` if the key material is unfit."""
        self._everyone = settings.auth is Auth.NONE
        self._jwt = JwtVerifier(settings)
        self._wall = wall
        self._remembered: OrderedDict[bytes, Principal] = OrderedDict()
        self._keys: Mapping[str, StoredKey] = {}
        self._keys_by_id: Mapping[str, StoredKey] = {}

    @staticmethod
    def is_api_key(authorization: str) -> bool:
        """Whether the credential looks like an API key, whose truth is in the store."""
        match = _BEARER.fullmatch(authorization)
        return match is not None and match[1].startswith(api_keys.PREFIX)

    @property
    def open_to_all(self) -> bool:
        """Whether no credential is needed."""
        return self._everyone

    def authenticate(self, authorization: str | None, keys: Mapping[str, StoredKey]) -> Principal:
        """The principal of an `Authorization` field, with the API keys (by name) that are valid now.

        Raises `AuthenticationFailed`. Remembers what it verified, by digest: until it expires, or until the API keys change.
        """
        if self._everyone:
            return EVERYONE
        if authorization is None:
            raise AuthenticationFailed
        if keys is not self._keys:
            self._forget(keys)
        now = self._wall()
        digest = hashlib.sha256(authorization.encode("utf-8", "surrogateescape")).digest()
        known = self._remembered.get(digest)
        if known is not None:
            if now >= known.expires:
                raise AuthenticationFailed
            return known
        principal = self._verify(authorization, now)
        self._remembered[digest] = principal
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return principal

    def _verify(self, authorization: str, now: float) -> Principal:
        match = _BEARER.fullmatch(authorization)
        if not match:
            raise AuthenticationFailed
        if match[1].startswith(api_keys.PREFIX):
            return api_keys.verify(match[1], self._keys_by_id, now)
        principal = self._jwt.verify(match[1])
        if now >= principal.expires:
            raise AuthenticationFailed
        return principal

    def _forget(self, keys: Mapping[str, StoredKey]) -> None:
        self._keys = keys
        self._keys_by_id = {key.id: key for key in keys.values()}
        self._remembered = OrderedDict((digest, who) for digest, who in self._remembered.items() if who.key_id is None)
