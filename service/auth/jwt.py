"""Verifies JSON Web Tokens with PyJWT, after stricter checks (RFC 7519, RFC 8725).

PyJWT accepts an `exp` that is a string of digits, the last of two `exp` members, UTF-16 payloads,
padded segments and any `typ`; it cuts off fractions of seconds; and it raises exceptions of other
types for bytes that are not ASCII. So this module checks the form of a token before PyJWT parses
it, and compares its times itself.
"""

import base64
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, Protocol

import jwt

from service.auth.principal import Principal, Role, parse_role
from service.auth.verification_keys import (
    VerificationKeys,
    canonical,
    from_pem,
    from_secrets,
    has_kid,
    matching,
)
from service.errors import AuthenticationFailed, SettingsError
from service.settings import PREFIX, Settings

_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+", re.ASCII)
_MAX_TOKEN = 8_190
"""Bytes: the longest header field that the server accepts."""
_MAX_TIME = 2**53
"""Seconds: a larger JSON number is not exact, and not a plausible date."""
_MOST_NESTING = 128
"""Objects and lists in a token's header or claims, which are flat or nearly flat."""
_MOST_TRIED = 8
"""Keys tried for one token.

More than the keys of an issuer that share an algorithm and have no id. A forged token without a key
id costs at most this many verifications, about 0.1 ms each."""
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""Accepted values of `typ`, in lower case (RFC 7519, section 5.1; RFC 9068, section 2.1)."""
_LONGEST_NAME = 64
"""Characters of a subject in logs."""

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.InvalidIssuerError, "wrong issuer"),
    (jwt.InvalidAudienceError, "wrong audience"),
    (jwt.MissingRequiredClaimError, "a claim is missing"),
)
"""Reasons for the audit log. Any other error of PyJWT is a malformed token."""
_SIGNED = (jwt.InvalidIssuerError, jwt.InvalidAudienceError)
"""PyJWT raises these after it verified the signature, so the subject is authentic."""


class KeySource(Protocol):
    """Provides the published keys of one issuer."""

    @property
    def verification_keys(self) -> VerificationKeys | None:
        """The keys, or `None` while they are not known."""

    async def refresh_for_unknown_kid(self) -> None:
        """Fetch the keys, unless that was done a short time ago."""


class VerificationKeyMissing(AuthenticationFailed):
    """No known key verifies the token, and its key id is unknown: its issuer may have a new key."""

    error_code = "AuthenticationFailed"

    def __init__(self, source: KeySource, reason: str) -> None:
        super().__init__(reason)
        self.source = source


class JwtVerifier:
    """Verifies tokens with the keys of the settings, or with the keys that the issuers publish.

    `sources` has the published keys by issuer. `wall` returns seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Mapping[str, KeySource] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Raises `SettingsError` for invalid secrets or public keys."""
        self._configured_keys = configured_verification_keys(settings)
        self._sources = sources or {}
        self._algorithms = frozenset(
            canonical(settings.key_set_algorithms)
            if self._sources
            else [name for key in self._configured_keys for name in key.algorithms]
        )
        self._issuers = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._role_claim = settings.jwt_role_claim
        self._max_lifetime = settings.jwt_max_lifetime
        self._leeway = settings.jwt_leeway
        self._wall = wall
        self._required = [
            "exp",
            *(["iss"] if self._issuers else []),
            *(["aud"] if self._audience else []),
        ]
        # RFC 9068, section 2.2: every issuer of access tokens sets these claims.
        if self._sources:
            self._required += ["iat", "sub"]

    def verify(self, token: str) -> Principal:
        """Verify a token and return its principal, which expires at `exp` plus the leeway.

        Raises `AuthenticationFailed` for an invalid token, `VerificationKeyMissing` if only its key
        is unknown.
        """
        header, claims = _parts(token)
        exp = self._expiry(claims)
        algorithm, kid, issuer = header.get("alg"), header.get("kid"), claims.get("iss")
        if not isinstance(algorithm, str) or not isinstance(kid, str | None):
            raise AuthenticationFailed("malformed token")
        if self._issuers and (not isinstance(issuer, str) or issuer not in self._issuers):
            raise AuthenticationFailed("wrong issuer")
        (canonical_algorithm,) = canonical([algorithm])
        if canonical_algorithm not in self._algorithms:
            raise AuthenticationFailed("wrong algorithm")
        source = self._sources.get(issuer) if isinstance(issuer, str) else None
        if source is None:
            # Configured keys have no ids, so the key id of the token is ignored.
            verification_keys = self._configured_keys
            keys = matching(verification_keys, None, canonical_algorithm)
        else:
            verification_keys = source.verification_keys or ()
            keys = matching(verification_keys, kid, canonical_algorithm)[:_MOST_TRIED]
        for key in keys:
            try:
                self._decode(token, key.key, algorithm)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
                raise _to_authentication_error(error, claims) from error
            self._check_times(claims, exp)
            return Principal(_name(claims) or "token", self._role(claims), exp + self._leeway)
        reason = "bad signature" if keys else "no matching key"
        if source is None or has_kid(verification_keys, kid):
            raise AuthenticationFailed(reason)
        # An expired token is invalid with any key, so its issuer's keys are not fetched.
        if self._wall() >= exp + self._leeway:
            raise AuthenticationFailed("expired")
        raise VerificationKeyMissing(source, reason)

    def _decode(self, token: str, key: Any, algorithm: str) -> None:
        jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=self._issuers or None,
            audience=self._audience,
            options={
                "require": self._required,
                "verify_aud": self._audience is not None,
                # `_check_times` compares them, with fractions of seconds.
                "verify_exp": False,
                "verify_nbf": False,
                # Information, not a condition (RFC 7519, section 4.1.6).
                "verify_iat": False,
                "enforce_minimum_key_length": True,
            },
        )

    def _expiry(self, claims: Mapping[str, Any]) -> float:
        """The token's `exp`, in seconds since 1970.

        A token with a lifetime above `JWT_MAX_LIFETIME` is refused, because a token cannot be
        revoked. An `iat` in the future, beyond the leeway, does not shorten the lifetime.
        """
        exp = _numeric_date(claims["exp"]) if "exp" in claims else 0.0
        if not 0 < exp < _MAX_TIME:
            raise AuthenticationFailed("malformed token")
        latest = self._wall() + self._leeway
        issued = min(_numeric_date(claims["iat"]), latest) if "iat" in claims else latest
        if exp - issued > self._max_lifetime:
            raise AuthenticationFailed("valid for too long")
        return exp

    def _check_times(self, claims: Mapping[str, Any], exp: float) -> None:
        """Raise `AuthenticationFailed` for a token that is not valid now (RFC 7519, section 4.1).

        Its signature has been verified, so the error may carry its subject.
        """
        now = self._wall()
        if now >= exp + self._leeway:
            raise AuthenticationFailed("expired", _name(claims))
        if "nbf" in claims and now + self._leeway < _numeric_date(claims["nbf"]):
            raise AuthenticationFailed("not yet valid", _name(claims))

    def _role(self, claims: Mapping[str, Any]) -> Role:
        """The highest role in the role claim, a name or a list; `READ` without the claim."""
        claim = claims.get(self._role_claim, "read")
        return max(
            map(parse_role, claim if isinstance(claim, list) else [claim]), default=Role.NONE
        )


def configured_verification_keys(settings: Settings) -> VerificationKeys:
    """The keys in the settings themselves; empty with published keys.

    Raises `SettingsError` for an invalid public key, or one that does not match `JWT_ALGORITHMS`.
    """
    if settings.jwt_secrets:
        return from_secrets(settings.jwt_secrets, settings.algorithms)
    if not settings.jwt_public_key:
        return ()
    try:
        verification_keys = from_pem(settings.jwt_public_key.get_secret_value())
    except ValueError as error:
        raise SettingsError([f"{PREFIX}JWT_PUBLIC_KEY: {error}"]) from None
    wanted = canonical(settings.algorithms)
    chosen = [tuple(name for name in key.algorithms if name in wanted) for key in verification_keys]
    if not wanted:
        # By default only the preferred algorithm of each key is accepted.
        chosen = [key.algorithms[:1] for key in verification_keys]
    elif not all(chosen) or not set().union(*chosen).issuperset(wanted):
        possible = ", ".join(
            dict.fromkeys(name for key in verification_keys for name in key.algorithms)
        )
        raise SettingsError([f"{PREFIX}JWT_ALGORITHMS: this public key is for {possible}"])
    return tuple(
        replace(key, algorithms=names) for key, names in zip(verification_keys, chosen, strict=True)
    )


def issue(settings: Settings, subject: str, role: Role, lifetime_s: float) -> str:
    """Sign a token with the first configured secret, to try the API.

    Raises `SettingsError` without a secret, or if `lifetime_s` is above `JWT_MAX_LIFETIME`.
    """
    if not settings.jwt_secrets:
        raise SettingsError(
            [
                (
                    f"{PREFIX}JWT_SECRET: set it to sign tokens; "
                    "with a public key, only your issuer can sign them"
                )
            ]
        )
    if lifetime_s > settings.jwt_max_lifetime:
        raise SettingsError(
            [
                (
                    f"{PREFIX}JWT_MAX_LIFETIME: "
                    f"tokens are valid for at most {settings.jwt_max_lifetime:g} s"
                )
            ]
        )
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": subject,
        settings.jwt_role_claim: role.label,
        "iat": now,
        "exp": now + int(lifetime_s),
    }
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer[0]
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    return jwt.encode(claims, settings.jwt_secrets[0], settings.algorithms[0])


def _to_authentication_error(error: Exception, claims: Mapping[str, Any]) -> AuthenticationFailed:
    reason = next(
        (reason for error_type, reason in _REASONS if isinstance(error, error_type)),
        "malformed token",
    )
    return AuthenticationFailed(reason, _name(claims) if isinstance(error, _SIGNED) else None)


def _name(claims: Mapping[str, Any]) -> str | None:
    """The subject, shortened for logs."""
    return str(claims["sub"])[:_LONGEST_NAME] if "sub" in claims else None


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims, strictly parsed. The signature has not been verified yet."""
    match = _TOKEN.fullmatch(token) if len(token) <= _MAX_TOKEN else None
    if not match:
        raise AuthenticationFailed("malformed token")
    header, claims = _strict_json(match[1]), _strict_json(match[2])
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.lower() not in _TYPES:
        raise AuthenticationFailed("wrong type of token")
    return header, claims


def _numeric_date(value: object) -> float:
    """A time in seconds since 1970, with or without a fraction.

    This is the NumericDate of RFC 7519, section 2. Raises `AuthenticationFailed` for another value.
    """
    try:
        date = float(value) if type(value) in {int, float} else math.inf  # type: ignore[arg-type]
    except OverflowError:
        date = math.inf
    if not math.isfinite(date):
        raise AuthenticationFailed("malformed token")
    return date


def _strict_json(segment: str) -> dict[str, Any]:
    """A segment of a token as a JSON object, parsed so that it has only one meaning.

    It must be UTF-8, without duplicate names, and without the constants NaN and Infinity. Raises
    `AuthenticationFailed`.
    """
    try:
        text = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)).decode("utf-8")
        value = json.loads(
            _shallow(text), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise AuthenticationFailed("malformed token") from error
    if not isinstance(value, dict):
        raise AuthenticationFailed("malformed token")
    return value


def _shallow(text: str) -> str:
    """The text, if its nesting is limited. Raises `ValueError`.

    The depth at which Python's parser fails differs between versions of Python.
    """
    if text.count("{") + text.count("[") > _MOST_NESTING:
        raise ValueError("nested too deeply")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate name")
    return members


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
