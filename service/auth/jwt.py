"""JSON Web Tokens, verified by PyJWT, behind checks that PyJWT leaves to its users (RFC 7519, RFC 8725).

PyJWT takes an `exp` that is a string of digits, the last of two `exp`s, UTF-16 payloads, padded segments, any `typ`, and fails
with errors of other kinds on bytes beyond ASCII. All of that is refused here before it is asked.
"""

import base64
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from service.auth.principal import Principal, Role, parse_role
from service.errors import AuthenticationFailed, SettingsError
from service.settings import PREFIX, Settings

_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+", re.ASCII)
_MAX_TOKEN = 8_190
"""Bytes: the longest header field that the server takes."""
_MAX_TIME = 2**53
"""Seconds: beyond this a JSON number is no longer exact, and no date."""
_MIN_RSA_BITS = 2_048
"""RFC 7518, section 3.3."""
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_CURVES = {SECP256R1: "ES256", SECP384R1: "ES384", SECP521R1: "ES512"}


class JwtVerifier:
    """Verifies tokens with the one key of the settings: a shared secret, or a public key."""

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError` for a public key that is unfit."""
        self._algorithms: Sequence[str] = settings.algorithms
        self._key: Any = None
        if settings.jwt_secret:
            self._key = settings.jwt_secret.get_secret_value().encode()
        elif settings.jwt_public_key:
            self._key, fitting = _public_key(settings.jwt_public_key.get_secret_value())
            self._algorithms = settings.algorithms or fitting[:1]
            if not set(self._algorithms) <= set(fitting):
                raise SettingsError([f"{PREFIX}JWT_ALGORITHMS: this public key is for {', '.join(fitting)}"])
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._role_claim = settings.jwt_role_claim

    def verify(self, token: str) -> Principal:
        """The principal of a token. Raises `AuthenticationFailed` for whatever is wrong with it."""
        if self._key is None:
            raise AuthenticationFailed
        _check_shape(token)
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=list(self._algorithms),
                issuer=self._issuer,
                audience=self._audience,
                options={
                    "require": ["exp", *(["iss"] if self._issuer else []), *(["aud"] if self._audience else [])],
                    "verify_aud": self._audience is not None,
                    "verify_iat": False,  # Information, not a condition (RFC 7519, section 4.1.6).
                    "enforce_minimum_key_length": True,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise AuthenticationFailed from error
        return Principal(str(claims.get("sub", "token"))[:64], self._role(claims), claims["exp"])

    def _role(self, claims: Mapping[str, Any]) -> Role:
        """The highest role that the claim names, which may be one name or a list; `READ` without the claim."""
        named = claims.get(self._role_claim, "read")
        return max(map(parse_role, named if isinstance(named, list) else [named]), default=Role.NONE)


def issue(settings: Settings, subject: str, role: Role, lifetime_s: float) -> str:
    """A token signed with the configured secret, for trying out. Raises `SettingsError` without a secret."""
    if not settings.jwt_secret:
        raise SettingsError([f"{PREFIX}JWT_SECRET: set it to sign tokens; with a public key, your issuer signs them"])
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": subject,
        settings.jwt_role_claim: role.label,
        "iat": now,
        "exp": now + int(lifetime_s),
    }
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    return jwt.encode(claims, settings.jwt_secret.get_secret_value(), settings.algorithms[0])


def _check_shape(token: str) -> None:
    match = _TOKEN.fullmatch(token) if len(token) <= _MAX_TOKEN else None
    if not match:
        raise AuthenticationFailed
    header, claims = _strict_json(match[1]), _strict_json(match[2])
    typ, exp = header.get("typ", "JWT"), claims.get("exp")
    if not isinstance(typ, str) or typ.lower() not in _TYPES:
        raise AuthenticationFailed
    if type(exp) is not int or not 0 < exp < _MAX_TIME:
        raise AuthenticationFailed


def _strict_json(segment: str) -> dict[str, Any]:
    """A segment as a JSON object in UTF-8 in which no name stands twice and no number is infinite."""
    try:
        text = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)).decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise AuthenticationFailed from error
    if not isinstance(value, dict):
        raise AuthenticationFailed
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice")
    return members


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _public_key(pem: str) -> tuple[Any, tuple[str, ...]]:
    """A public key and the algorithms it fits, the preferred one first."""
    where = f"{PREFIX}JWT_PUBLIC_KEY"
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError([f"{where}: expected a public key as PEM (-----BEGIN PUBLIC KEY-----)"]) from None
    if isinstance(key, RSAPublicKey):
        if key.key_size < _MIN_RSA_BITS:
            raise SettingsError([f"{where}: expected an RSA key of at least {_MIN_RSA_BITS} bits"])
        return key, ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
    if isinstance(key, EllipticCurvePublicKey) and type(key.curve) in _CURVES:
        return key, (_CURVES[type(key.curve)],)
    if isinstance(key, Ed25519PublicKey):
        return key, ("EdDSA",)
    raise SettingsError([f"{where}: expected an RSA, ECDSA (P-256, P-384, P-521) or Ed25519 key"])
