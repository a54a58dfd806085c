"""The keys that verify tokens: shared secrets, PEM keys, and key sets (RFC 7517).

Each key has a list of algorithms. So the header of a token can neither choose another algorithm nor
make a public key the secret of HMAC (RFC 8725, section 2.1). Keys of other types in a key set are
ignored, because issuers publish keys for other purposes too.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import OKPAlgorithm

from service.text import decoded

MOST_KEYS = 32
"""Keys of one issuer: two during a rotation, and some for its other purposes."""

_ALIASES = {"Ed25519": "EdDSA"}
"""RFC 9864 has a name for each curve, RFC 8037 has `EdDSA` for both.

The other curve, Ed448, is not accepted here."""
# A later version of PyJWT may register the name itself, which is a `ValueError` here.
with contextlib.suppress(ValueError):
    jwt.register_algorithm("Ed25519", OKPAlgorithm())

_MIN_RSA_BITS, _MAX_RSA_BITS = 2_048, 8_192
"""The minimum of RFC 7518, section 3.3, and a maximum.

The issuer chooses the size, and the time of a verification grows with it."""
_LONGEST_KID = 256
"""Characters of a key id."""
_CURVES = {SECP256R1: "ES256", SECP384R1: "ES384", SECP521R1: "ES512"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_PEM_END = "-----END PUBLIC KEY-----"
_EXPECTED_PEM = "expected a public key as PEM (-----BEGIN PUBLIC KEY-----), or several of them"
_KEY_TYPES: Mapping[tuple[object, object], tuple[str, tuple[str, ...]]] = {
    ("RSA", None): ("RS256", ("RS256", "PS256")),
    ("EC", "P-256"): ("ES256", ("ES256",)),
    ("OKP", "Ed25519"): ("EdDSA", ("EdDSA",)),
}
"""By the type and the curve of a JWK: PyJWT's algorithm that parses it, and its algorithms."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A verification key, the canonical names of its algorithms, and its id in a key set."""

    key: Any = field(repr=False)
    algorithms: tuple[str, ...]
    kid: str | None = None


VerificationKeys = Sequence[VerificationKey]


def canonical(algorithms: Iterable[str]) -> tuple[str, ...]:
    """The algorithms without aliases and duplicates."""
    return tuple(dict.fromkeys(_ALIASES.get(name, name) for name in algorithms))


def has_kid(verification_keys: VerificationKeys, kid: str | None) -> bool:
    """Whether one of the keys has the key id of a token."""
    return kid is not None and any(key.kid == kid for key in verification_keys)


def matching(
    verification_keys: VerificationKeys, kid: str | None, algorithm: str
) -> list[VerificationKey]:
    """The keys for a token with this key id and algorithm (its canonical name).

    If the token has a key id, those are the keys with that id, or else the keys without an id; if
    it has none, all keys (RFC 7515, section 4.1.4).
    """
    if has_kid(verification_keys, kid):
        verification_keys = [key for key in verification_keys if key.kid == kid]
    elif kid is not None:
        verification_keys = [key for key in verification_keys if key.kid is None]
    return [key for key in verification_keys if algorithm in key.algorithms]


def from_secrets(secrets: Sequence[str], algorithms: tuple[str, ...]) -> VerificationKeys:
    """Keys from shared secrets."""
    return tuple(VerificationKey(secret.encode(), algorithms) for secret in secrets)


def from_pem(text: str) -> VerificationKeys:
    """The public keys in a PEM text.

    Each has all its possible algorithms, the preferred one first. Raises `ValueError` with a
    message for the operator if a key is invalid.
    """
    blocks = [block.strip() + "\n" + _PEM_END for block in text.split(_PEM_END)[:-1]]
    if not blocks or text.rpartition(_PEM_END)[2].strip():
        raise ValueError(_EXPECTED_PEM)
    return tuple(VerificationKey(*_from_one_pem(block)) for block in blocks)


def from_jwks(body: bytes, algorithms: Sequence[str]) -> VerificationKeys:
    """The supported keys of a key set, each limited to `algorithms`.

    Raises `ValueError` if the key set has none, or is not a key set.
    """
    document, allowed = orjson.loads(decoded(body)), canonical(algorithms)
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise ValueError("not a key set")  # noqa: TRY004  # The fetched bytes are wrong, not the call.
    if len(keys) > MOST_KEYS:
        raise ValueError(f"more than {MOST_KEYS} keys")
    verification_keys = tuple(
        key for key in (_parse_or_skip(jwk, allowed) for jwk in keys) if key is not None
    )
    if not verification_keys:
        raise ValueError("no supported key")
    return verification_keys


def _from_one_pem(text: str) -> tuple[Any, tuple[str, ...]]:
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(_EXPECTED_PEM) from None
    if isinstance(key, RSAPublicKey):
        if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
            raise ValueError(f"expected an RSA key of {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits")
        return key, _RSA
    if isinstance(key, EllipticCurvePublicKey) and type(key.curve) in _CURVES:
        return key, (_CURVES[type(key.curve)],)
    if isinstance(key, Ed25519PublicKey):
        return key, ("EdDSA",)
    raise ValueError("expected an RSA, ECDSA (P-256, P-384, P-521) or Ed25519 key")


def _parse_or_skip(jwk: object, allowed: Sequence[str]) -> VerificationKey | None:
    """One key of a key set, or `None` if it is malformed or not supported."""
    try:
        return _from_jwk(jwk, allowed)
    # What PyJWT and cryptography raise for malformed keys.
    except (
        jwt.PyJWTError,
        UnsupportedAlgorithm,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ):
        return None


def _from_jwk(jwk: object, allowed: Sequence[str]) -> VerificationKey | None:
    """One key, or `None` if it is a private key, or has another type or use.

    A malformed key raises various exceptions.
    """
    # `d` is the private part of every asymmetric key type (RFC 7518, section 6).
    if not isinstance(jwk, dict) or "d" in jwk or jwk.get("use", "sig") != "sig":
        return None
    kid, operations = jwk.get("kid"), jwk.get("key_ops", ["verify"])
    if (
        not isinstance(kid, str | None)
        or len(kid or "") > _LONGEST_KID
        or "verify" not in operations
    ):
        return None
    parser, algorithms = _KEY_TYPES.get((jwk.get("kty"), jwk.get("crv")), ("", ()))
    # `alg` limits a key to one algorithm (RFC 7517, section 4.4).
    declared = canonical([jwk["alg"]]) if "alg" in jwk else algorithms
    algorithms = tuple(name for name in algorithms if name in allowed and name in declared)
    if not algorithms:
        return None
    key = jwt.get_algorithm_by_name(parser).from_jwk(jwk)
    if isinstance(key, RSAPublicKey) and not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
        return None
    return VerificationKey(key, algorithms, kid)
