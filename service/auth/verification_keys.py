"""The keys that tokens are verified with: shared secrets, PEM keys, and the keys of a key set (RFC
7517).

Each key says which algorithms it is for, so a token's header can choose neither another algorithm
nor a public key as a secret. What a key set has beyond our few kinds of keys is passed over:
issuers publish keys for other purposes too.
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
"""Keys of one issuer: two while it rotates, some more for what it signs otherwise."""

_SAME = {"Ed25519": "EdDSA"}
"""RFC 9864 names by its curve what RFC 8037 calls EdDSA; the other curve, Ed448, is not accepted
here."""
with contextlib.suppress(ValueError):  # A later PyJWT may know the name.
    jwt.register_algorithm("Ed25519", OKPAlgorithm())

_MIN_RSA_BITS, _MAX_RSA_BITS = 2_048, 8_192
"""RFC 7518, section 3.3; and beyond the other end, verifying is work that somebody else chooses for
us."""
_LONGEST_KID = 256
_CURVES = {SECP256R1: "ES256", SECP384R1: "ES384", SECP521R1: "ES512"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_PEM_END = "-----END PUBLIC KEY-----"
_NO_PEM = "expected a public key as PEM (-----BEGIN PUBLIC KEY-----), or several of them"
_KINDS: Mapping[tuple[object, object], tuple[str, tuple[str, ...]]] = {
    ("RSA", None): ("RS256", ("RS256", "PS256")),
    ("EC", "P-256"): ("ES256", ("ES256",)),
    ("OKP", "Ed25519"): ("EdDSA", ("EdDSA",)),
}
"""By a JWK's type and curve: who reads it, and what it is for here."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One verification key, the algorithms it is for (their canonical names), and its id in a key
    set."""

    key: Any = field(repr=False)
    algorithms: tuple[str, ...]
    kid: str | None = None


VerificationKeys = Sequence[VerificationKey]


def canonical(algorithms: Iterable[str]) -> tuple[str, ...]:
    """The algorithms, each by one name only."""
    return tuple(dict.fromkeys(_SAME.get(name, name) for name in algorithms))


def named(verification_keys: VerificationKeys, kid: str | None) -> bool:
    """Whether the key id of a token is that of one of the keys."""
    return kid is not None and any(key.kid == kid for key in verification_keys)


def fitting(
    verification_keys: VerificationKeys, kid: str | None, algorithm: str
) -> list[VerificationKey]:
    """Those that may have signed a token with that header, by the canonical name of its algorithm.

    A key id of the token is that of a key, else the key has none; without one it may be any (RFC
    7515, section 4.1.4).
    """
    if named(verification_keys, kid):
        verification_keys = [key for key in verification_keys if key.kid == kid]
    elif kid is not None:
        verification_keys = [key for key in verification_keys if key.kid is None]
    return [key for key in verification_keys if algorithm in key.algorithms]


def from_secrets(secrets: Sequence[str], algorithms: tuple[str, ...]) -> VerificationKeys:
    """Shared secrets."""
    return tuple(VerificationKey(secret.encode(), algorithms) for secret in secrets)


def from_pem(text: str) -> VerificationKeys:
    """The public keys in a PEM text, each with all algorithms that it could be for, the preferred
    one first.

    Raises `ValueError`, in words for whoever configured it, if one of them is unfit.
    """
    blocks = [block.strip() + "\n" + _PEM_END for block in text.split(_PEM_END)[:-1]]
    if not blocks or text.rpartition(_PEM_END)[2].strip():
        raise ValueError(_NO_PEM)
    return tuple(VerificationKey(*_from_one_pem(block)) for block in blocks)


def from_jwks(body: bytes, algorithms: Sequence[str]) -> VerificationKeys:
    """The usable keys of a key set, for those of `algorithms` that fit them. Raises `ValueError` if
    it has none."""
    document, allowed = orjson.loads(decoded(body)), canonical(algorithms)
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise ValueError("it is not a key set")  # noqa: TRY004  # It is what was fetched that is wrong, not our call.
    if len(keys) > MOST_KEYS:
        raise ValueError(f"it has more than {MOST_KEYS} keys")
    verification_keys = tuple(
        key for key in (_usable(key, allowed) for key in keys) if key is not None
    )
    if not verification_keys:
        raise ValueError("it has no key that could be used here")
    return verification_keys


def _from_one_pem(text: str) -> tuple[Any, tuple[str, ...]]:
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(_NO_PEM) from None
    if isinstance(key, RSAPublicKey):
        if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
            raise ValueError(f"expected an RSA key of {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits")
        return key, _RSA
    if isinstance(key, EllipticCurvePublicKey) and type(key.curve) in _CURVES:
        return key, (_CURVES[type(key.curve)],)
    if isinstance(key, Ed25519PublicKey):
        return key, ("EdDSA",)
    raise ValueError("expected an RSA, ECDSA (P-256, P-384, P-521) or Ed25519 key")


def _usable(jwk: object, allowed: Sequence[str]) -> VerificationKey | None:
    """One key of a key set, or `None` if it is not for us, or broken."""
    try:
        return _from_jwk(jwk, allowed)
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
    """One key, or `None` if it is of another kind, for another use, or private. Raises whatever
    comes of broken ones."""
    if not isinstance(jwk, dict) or "d" in jwk or jwk.get("use", "sig") != "sig":
        return None
    kid, operations = jwk.get("kid"), jwk.get("key_ops", ["verify"])
    if (
        not isinstance(kid, str | None)
        or len(kid or "") > _LONGEST_KID
        or "verify" not in operations
    ):
        return None
    reader, algorithms = _KINDS.get((jwk.get("kty"), jwk.get("crv")), ("", ()))
    only = canonical([jwk["alg"]]) if "alg" in jwk else algorithms
    algorithms = tuple(name for name in algorithms if name in allowed and name in only)
    if not algorithms:
        return None
    key = jwt.get_algorithm_by_name(reader).from_jwk(jwk)
    if isinstance(key, RSAPublicKey) and not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
        return None
    return VerificationKey(key, algorithms, kid)
