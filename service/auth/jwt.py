"""JSON Web Tokens, verified by PyJWT, behind checks that PyJWT leaves to its users (RFC 7519, RFC
8725).

PyJWT takes an `exp` that is a string of digits, the last of two `exp`s, UTF-16 payloads, padded
segments, any `typ`, cuts the fraction of times off, and fails with errors of other kinds on bytes
beyond ASCII. So the form of a token is checked here before PyJWT sees it, and its times are
compared here.
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
    fitting,
    from_pem,
    from_secrets,
    named,
)
from service.errors import AuthenticationFailed, SettingsError
from service.settings import PREFIX, Settings

_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+", re.ASCII)
_MAX_TOKEN = 8_190
"""Bytes: the longest header field that the server takes."""
_MAX_TIME = 2**53
"""Seconds: beyond this a JSON number is no longer exact, and no date."""
_MOST_NESTING = 128
"""Objects and lists in a token's header or claims, which are flat or nearly so."""
_MOST_TRIED = 8
"""Keys that are tried for one token: more than an issuer has at a time that share an algorithm and
have no ids. A stranger's token without a key id costs as many verifications, some 0.1 ms each."""
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_LONGEST_NAME = 64

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.InvalidIssuerError, "wrong issuer"),
    (jwt.InvalidAudienceError, "wrong audience"),
    (jwt.MissingRequiredClaimError, "a claim is missing"),
)
"""What the audit log says; all others are tokens that no issuer would make."""
_SIGNED = (jwt.InvalidIssuerError, jwt.InvalidAudienceError)
"""Raised after the signature was found to be true, so the subject is who it says it is."""


class Source(Protocol):
    """Where the keys of an issuer come from; `None` while they cannot be had."""

    @property
    def verification_keys(self) -> VerificationKeys | None:
        """The keys."""

    async def refresh_for_unknown_kid(self) -> None:
        """Asks the issuer for its keys, unless that was done just now."""


class VerificationKeyMissing(AuthenticationFailed):
    """None of the known keys has signed the token, and it names none of them: its issuer may have a
    new key."""

    error_code = "AuthenticationFailed"

    def __init__(self, source: Source, why: str) -> None:
        super().__init__(why)
        self.source = source


class JwtVerifier:
    """Verifies tokens with the keys of the settings, or with those that the issuers publish
    (`sources`, by issuer).

    `wall` gives seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Mapping[str, Source] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Raises `SettingsError` for keys that are unfit."""
        self._fetch_verification_keys = configured_verification_keys(settings)
        self._sources = sources or {}
        self._algorithms = frozenset(
            canonical(settings.key_set_algorithms)
            if self._sources
            else [name for one in self._fetch_verification_keys for name in one.algorithms]
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
        if self._sources:  # RFC 9068, section 2.2: what every issuer of access tokens gives.
            self._required += ["iat", "sub"]

    def verify(self, token: str) -> Principal:
        """The principal of a token; it ends with `exp` and the leeway.

        Raises `AuthenticationFailed` for whatever is wrong with it, `VerificationKeyMissing` if
        only its key is not at hand.
        """
        header, claims = _parts(token)
        exp = self._end(claims)
        algorithm, kid, issuer = header.get("alg"), header.get("kid"), claims.get("iss")
        if not isinstance(algorithm, str) or not isinstance(kid, str | None):
            raise AuthenticationFailed("malformed token")
        if self._issuers and (not isinstance(issuer, str) or issuer not in self._issuers):
            raise AuthenticationFailed("wrong issuer")
        (canonical_algorithm,) = canonical([algorithm])
        if canonical_algorithm not in self._algorithms:
            raise AuthenticationFailed("wrong algorithm")
        source = self._sources.get(issuer) if isinstance(issuer, str) else None
        if source is None:  # A key id means something in a key set only: configured keys have none.
            verification_keys, keys = (
                self._fetch_verification_keys,
                fitting(self._fetch_verification_keys, None, canonical_algorithm),
            )
        else:
            verification_keys = source.verification_keys or ()
            keys = fitting(verification_keys, kid, canonical_algorithm)[:_MOST_TRIED]
        for key in keys:
            try:
                self._decode(token, key.key, algorithm)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
                raise _refused(error, claims) from error
            self._judge_times(claims, exp)
            return Principal(_name(claims) or "token", self._role(claims), exp + self._leeway)
        why = "bad signature" if keys else "no key fits"
        if source is None or named(verification_keys, kid):
            raise AuthenticationFailed(why)
        if (
            self._wall() >= exp + self._leeway
        ):  # No key would make it valid: the issuer need not be asked.
            raise AuthenticationFailed("expired")
        raise VerificationKeyMissing(source, why)

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
                "verify_exp": False,  # Here, to the fraction of a second.
                "verify_nbf": False,
                "verify_iat": False,  # Information, not a condition (RFC 7519, section 4.1.6).
                "enforce_minimum_key_length": True,
            },
        )

    def _end(self, claims: Mapping[str, Any]) -> float:
        """When the token ends: its `exp`.

        A token that is valid for too long is refused: no one can revoke it. It counts as issued by
        now, within the leeway, whatever its `iat` says.
        """
        exp = _numeric_date(claims["exp"]) if "exp" in claims else 0.0
        if not 0 < exp < _MAX_TIME:
            raise AuthenticationFailed("malformed token")
        latest = self._wall() + self._leeway
        issued = min(_numeric_date(claims["iat"]), latest) if "iat" in claims else latest
        if exp - issued > self._max_lifetime:
            raise AuthenticationFailed("valid for too long")
        return exp

    def _judge_times(self, claims: Mapping[str, Any], exp: float) -> None:
        """Raises `AuthenticationFailed` for a token with a true signature that is not valid now
        (RFC 7519, section 4.1)."""
        now = self._wall()
        if now >= exp + self._leeway:
            raise AuthenticationFailed("expired", _name(claims))
        if "nbf" in claims and now + self._leeway < _numeric_date(claims["nbf"]):
            raise AuthenticationFailed("not yet valid", _name(claims))

    def _role(self, claims: Mapping[str, Any]) -> Role:
        """The highest role that the claim names, which may be one name or a list; `READ` without
        the claim."""
        named = claims.get(self._role_claim, "read")
        return max(
            map(parse_role, named if isinstance(named, list) else [named]), default=Role.NONE
        )


def configured_verification_keys(settings: Settings) -> VerificationKeys:
    """The keys that the settings carry themselves. Raises `SettingsError` for public keys that are
    unfit."""
    if settings.jwt_secrets:
        return from_secrets(settings.jwt_secrets, settings.algorithms)
    if not settings.jwt_public_key:
        return ()
    try:
        verification_keys = from_pem(settings.jwt_public_key.get_secret_value())
    except ValueError as error:
        raise SettingsError([f"{PREFIX}JWT_PUBLIC_KEY: {error}"]) from None
    wanted = canonical(settings.algorithms)
    chosen = [
        tuple(name for name in signer.algorithms if name in wanted) for signer in verification_keys
    ]
    if not wanted:
        chosen = [signer.algorithms[:1] for signer in verification_keys]
    elif not all(chosen) or not set().union(*chosen).issuperset(wanted):
        possible = ", ".join(
            dict.fromkeys(name for signer in verification_keys for name in signer.algorithms)
        )
        raise SettingsError([f"{PREFIX}JWT_ALGORITHMS: this public key is for {possible}"])
    return tuple(
        replace(signer, algorithms=names)
        for signer, names in zip(verification_keys, chosen, strict=True)
    )


def issue(settings: Settings, subject: str, role: Role, lifetime_s: float) -> str:
    """A token signed with the (first) configured secret, for trying out.

    Raises `SettingsError` without a secret, or for a lifetime that the service would refuse.
    """
    if not settings.jwt_secrets:
        raise SettingsError(
            [
                f"{PREFIX}JWT_SECRET: set it to sign tokens; with a public key, your issuer signs them"
            ]
        )
    if lifetime_s > settings.jwt_max_lifetime:
        raise SettingsError(
            [
                f"{PREFIX}JWT_MAX_LIFETIME: tokens are valid for at most {settings.jwt_max_lifetime:g} s"
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


def _refused(error: Exception, claims: Mapping[str, Any]) -> AuthenticationFailed:
    why = next((why for kind, why in _REASONS if isinstance(error, kind)), "malformed token")
    return AuthenticationFailed(why, _name(claims) if isinstance(error, _SIGNED) else None)


def _name(claims: Mapping[str, Any]) -> str | None:
    """The subject, cut: it stands in logs."""
    return str(claims["sub"])[:_LONGEST_NAME] if "sub" in claims else None


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims, in which nothing can be understood in two ways. The signature is
    yet to be verified."""
    match = _TOKEN.fullmatch(token) if len(token) <= _MAX_TOKEN else None
    if not match:
        raise AuthenticationFailed("malformed token")
    header, claims = _strict_json(match[1]), _strict_json(match[2])
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.lower() not in _TYPES:
        raise AuthenticationFailed("wrong type of token")
    return header, claims


def _numeric_date(value: object) -> float:
    """A time in seconds since 1970, with or without a fraction (RFC 7519, section 2,
    NumericDate)."""
    try:
        date = float(value) if type(value) in {int, float} else math.inf  # type: ignore[arg-type]
    except OverflowError:
        date = math.inf
    if not math.isfinite(date):
        raise AuthenticationFailed("malformed token")
    return date


def _strict_json(segment: str) -> dict[str, Any]:
    """A segment as a JSON object in UTF-8 in which no name stands twice and no number is
    infinite."""
    try:
        text = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)).decode("utf-8")
        value = json.loads(_shallow(text), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise AuthenticationFailed("malformed token") from error
    if not isinstance(value, dict):
        raise AuthenticationFailed("malformed token")
    return value


def _shallow(text: str) -> str:
    """The text, if it cannot be nested deeply: how deep a parser can go differs between versions of
    Python."""
    if text.count("{") + text.count("[") > _MOST_NESTING:
        raise ValueError("nested too deeply")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice")
    return members


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
