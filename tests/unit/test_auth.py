"""Credentials: what is a valid token or key, what is refused, and what is remembered."""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from service.auth import (
    Authenticator,
    JwtVerifier,
    Principal,
    Role,
    api_keys,
    authenticator,
    check_name,
    issue,
    mint,
)
from service.errors import AuthenticationFailed, SettingsError
from service.store import StoredKey
from tests.support.settings import JWT_SECRET, make_settings, make_token

NOW = int(time.time())
LATER = NOW + 36_000
"""Long after the last of these tests, on whatever machine."""
LEEWAY_S = 5
"""By default."""


def segment(value: object) -> str:
    """A value, or bytes as they are, as a segment of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def signed(claims: object, header: object = None, key: str = JWT_SECRET) -> str:
    """A token of any claims and header, with a true signature: HS256, whatever the header says."""
    parts = f"{segment(header or {'alg': 'HS256', 'typ': 'JWT'})}.{segment(claims)}"
    algorithm = jwt.get_algorithm_by_name("HS256")
    return f"{parts}.{segment(algorithm.sign(parts.encode(), algorithm.prepare_key(key)))}"


def verify(token: str, **settings: Any) -> Principal:
    """The principal of a JWT under the tests' secret and other settings."""
    return JwtVerifier(make_settings(**settings)).verify(token)


# -- JWT: claims and form --------------------------------------------------------------------------


def test_valid_token_gives_its_principal() -> None:
    """A token's subject, role and end are those of its claims."""
    assert verify(signed({"exp": LATER, "sub": "agent-7", "role": "write"})) == Principal(
        "agent-7", Role.WRITE, LATER + LEEWAY_S
    )


REFUSED_CLAIMS = {
    "no exp": b'{"role": "read"}',
    "exp null": b'{"exp": null}',
    "exp true": b'{"exp": true}',
    "exp text": b'{"exp": "%d"}' % LATER,
    "exp false": b'{"exp": false}',
    "exp text with a fraction": b'{"exp": "%d.5"}' % LATER,
    "exp infinite": b'{"exp": 1e400}',
    "exp infinite negative": b'{"exp": -1e400}',
    "exp far away": b'{"exp": 1e300}',
    "exp beyond exact numbers": b'{"exp": 9007199254740992}',
    "exp zero with a fraction": b'{"exp": 0.0}',
    "exp past with a fraction": b'{"exp": 1.5}',
    "exp past with an exponent": b'{"exp": 1.0e9}',
    "exp list": b'{"exp": [%d]}' % LATER,
    "exp NaN": b'{"exp": NaN}',
    "exp Infinity": b'{"exp": Infinity}',
    "exp of 400 digits": b'{"exp": ' + b"9" * 400 + b"}",
    "exp of 5,000 digits": b'{"exp": ' + b"9" * 5_000 + b"}",
    "exp zero": b'{"exp": 0}',
    "exp negative": b'{"exp": -1}',
    "exp past": b'{"exp": %d}' % (NOW - LEEWAY_S - 1),
    "exp past by the leeway": b'{"exp": %d}' % (NOW - LEEWAY_S),
    "exp twice": b'{"exp": 1, "exp": %d}' % LATER,
    "role twice": b'{"exp": %d, "role": "read", "role": "write"}' % LATER,
    "NaN elsewhere": b'{"exp": %d, "x": NaN}' % LATER,
    "member twice deep inside": b'{"exp": %d, "x": {"a": 1, "a": 2}}' % LATER,
    "nbf future": b'{"exp": %d, "nbf": %d}' % (LATER, LATER - 1),
    "nbf text": b'{"exp": %d, "nbf": "soon"}' % LATER,
    "nbf digits": b'{"exp": %d, "nbf": "1"}' % LATER,
    "nbf true": b'{"exp": %d, "nbf": true}' % LATER,
    "nbf null": b'{"exp": %d, "nbf": null}' % LATER,
    "nbf list": b'{"exp": %d, "nbf": [1]}' % LATER,
    "nbf infinite": b'{"exp": %d, "nbf": 1e400}' % LATER,
    "nbf infinitely long ago": b'{"exp": %d, "nbf": -1e400}' % LATER,
    "nbf of 400 digits": b'{"exp": %d, "nbf": -' % LATER + b"9" * 400 + b"}",
    "iat text": b'{"exp": %d, "iat": "%d"}' % (LATER, NOW),
    "iat null": b'{"exp": %d, "iat": null}' % LATER,
    "iat infinite": b'{"exp": %d, "iat": 1e400}' % LATER,
    "iat of 400 digits": b'{"exp": %d, "iat": ' % LATER + b"9" * 400 + b"}",
    "sub number": b'{"exp": %d, "sub": 7}' % LATER,
    "UTF-16": json.dumps({"exp": LATER}).encode("utf-16"),
    "UTF-16 without a mark": json.dumps({"exp": LATER}).encode("utf-16-le"),
    "UTF-32": json.dumps({"exp": LATER}).encode("utf-32"),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps({"exp": LATER}).encode(),
    "not UTF-8": b'{"exp": %d, "sub": "\xff"}' % LATER,
    "not JSON": b"exp",
    "two values": b'{"exp": %d}{}' % LATER,
    "array": b"[%d]" % LATER,
    "text": b'"exp"',
    "null": b"null",
    "nested 3,000 deep": b'{"exp": %d, "x": ' % LATER + b"[" * 2_900 + b"]" * 2_900 + b"}",
}


@pytest.mark.parametrize("claims", REFUSED_CLAIMS.values(), ids=REFUSED_CLAIMS)
def test_claims_that_are_not_exactly_right_are_refused(claims: bytes) -> None:
    """A true signature does not save claims that two readers could understand differently."""
    with pytest.raises(AuthenticationFailed):
        verify(signed(claims))


ACCEPTED_TIMES = {
    "exp with a fraction": (b'{"exp": %d.5}' % LATER, LATER + 0.5),
    "exp with no fraction to speak of": (b'{"exp": %d.0}' % LATER, LATER),
    "exp with an exponent": (b'{"exp": %d.25e2}' % (LATER // 100), LATER // 100 * 100 + 25),
    "exp with a capital exponent": (b'{"exp": %dE2}' % (LATER // 100), LATER // 100 * 100),
    "nbf with a fraction": (b'{"exp": %d, "nbf": %d.75}' % (LATER, NOW - 1), LATER),
    "nbf long ago": (b'{"exp": %d, "nbf": -1e300}' % LATER, LATER),
    "iat with a fraction": (b'{"exp": %d, "iat": %d.75}' % (LATER, NOW - 1), LATER),
    "iat tomorrow": (b'{"exp": %d, "iat": %d}' % (LATER, NOW + 86_400), LATER),
    "all of them": (b'{"exp": %d.5, "nbf": 1.5e9, "iat": %d.25}' % (LATER, NOW), LATER + 0.5),
}


@pytest.mark.parametrize(("claims", "end"), ACCEPTED_TIMES.values(), ids=ACCEPTED_TIMES)
def test_times_may_have_fractions(claims: bytes, end: float) -> None:
    """The times of a token are JSON numbers, with or without a fraction (RFC 7519, section 2,
    NumericDate)."""
    assert verify(signed(claims)).expires == end + LEEWAY_S


REFUSED_HEADERS: dict[str, object] = {
    "wrong typ": {"alg": "HS256", "typ": "secevent+jwt"},
    "typ number": {"alg": "HS256", "typ": 1},
    "typ null": {"alg": "HS256", "typ": None},
    "no alg": {"typ": "JWT"},
    "alg none": {"alg": "none"},
    "alg None": {"alg": "None"},
    "alg empty": {"alg": ""},
    "alg lower case": {"alg": "hs256"},
    "alg list": {"alg": ["HS256"]},
    "alg number": {"alg": 256},
    "another alg of the family": {"alg": "HS512"},
    "asymmetric alg": {"alg": "RS256"},
    "kid number": {"alg": "HS256", "kid": 1},
    "unknown crit": {"alg": "HS256", "crit": ["exp"], "exp": 1},
    "crit empty": {"alg": "HS256", "crit": []},
    "b64 false": {"alg": "HS256", "b64": False, "crit": ["b64"]},
    "alg twice": b'{"alg": "none", "alg": "HS256"}',
    "array": ["HS256"],
    "number": 7,
    "not JSON": b"{",
}


@pytest.mark.parametrize("header", REFUSED_HEADERS.values(), ids=REFUSED_HEADERS)
def test_headers_that_are_not_exactly_right_are_refused(header: object) -> None:
    """A header cannot choose how its token is verified, nor ask for what is not understood."""
    with pytest.raises(AuthenticationFailed):
        verify(signed({"exp": LATER}, header))


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_types_of_access_tokens_are_accepted(typ: str) -> None:
    """A token may call itself a JWT or an access token (RFC 9068), in any case."""
    assert verify(signed({"exp": LATER}, {"alg": "HS256", "typ": typ})).role is Role.READ


def test_type_may_be_left_out() -> None:
    """A token need not say what it is."""
    assert verify(signed({"exp": LATER}, {"alg": "HS256"})).role is Role.READ


def misshapen() -> dict[str, str]:
    """Tokens whose three parts are not three clean parts."""
    good = signed({"exp": LATER})
    head, claims, signature = good.split(".")
    return {
        "one part": head,
        "two parts": f"{head}.{claims}",
        "five parts": f"{good}.{claims}.{signature}",
        "empty signature": f"{head}.{claims}.",
        "empty claims": f"{head}..{signature}",
        "empty header": f".{claims}.{signature}",
        "only dots": "..",
        "padded signature": f"{good}=",
        "padded claims": f"{head}.{claims}=.{signature}",
        "standard alphabet": f"{head}.{claims}.{signature[:-2]}+/",
        "line feed": f"{good}\n",
        "space": f"{good} ",
        "NUL": f"{good}\x00",
        "beyond ASCII": f"{head}.{claims}.{signature[:-1]}é",
        "surrogate": f"{head}.{claims}.{signature[:-1]}\udcff",
        "full-width letter": f"{head}.{claims}.{signature[:-1]}\uff21",
        "another signature": f"{head}.{claims}.{segment(b'x' * 32)}",
        "signature cut": good[:-4],
        "claims exchanged": f"{head}.{segment({'exp': LATER, 'role': 'write'})}.{signature}",
        "longer than a header field": signed({"exp": LATER, "x": "x" * 8_190}),
        "two megabytes": f"{head}.{'A' * 2_000_000}.{signature}",
        "unsigned": f"{segment({'alg': 'none'})}.{claims}.",
        "another secret": signed({"exp": LATER}, key="x" * 64),
        "empty": "",
    }


@pytest.mark.parametrize("token", misshapen().values(), ids=misshapen())
def test_tokens_that_are_not_three_clean_parts_are_refused(token: str) -> None:
    """A token is three parts of unpadded base64url, truly signed, no longer than a header field."""
    with pytest.raises(AuthenticationFailed):
        verify(token)


class OnlyLong:
    """Two megabytes of token of which only the length can be asked."""

    def __len__(self) -> int:
        return 2_000_000


def test_long_tokens_are_refused_without_being_read() -> None:
    """Two megabytes of token cost nothing: whatever reads them fails with a `TypeError` here."""
    with pytest.raises(AuthenticationFailed):
        JwtVerifier(make_settings()).verify(cast("str", OnlyLong()))


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"iss": "https://issuer"}, True),
        ({}, False),
        ({"iss": "https://issuer/"}, False),
        ({"iss": "https://issue"}, False),
        ({"iss": ["https://issuer"]}, False),
        ({"iss": None}, False),
    ],
)
def test_issuer_is_exact_when_configured(claims: dict[str, Any], accepted: bool) -> None:
    """With an issuer set, only its tokens are accepted: no prefix, no list."""
    assert accepts(signed({"exp": LATER} | claims), jwt_issuer="https://issuer") is accepted


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"aud": "cluster-events"}, True),
        ({"aud": ["other", "cluster-events"]}, True),
        ({}, False),
        ({"aud": "other"}, False),
        ({"aud": "cluster-events-2"}, False),
        ({"aud": []}, False),
        ({"aud": None}, False),
        ({"aud": {"cluster-events": 1}}, False),
    ],
)
def test_audience_is_exact_when_configured(claims: dict[str, Any], accepted: bool) -> None:
    """With an audience set, only tokens for it are accepted."""
    assert accepts(signed({"exp": LATER} | claims), jwt_audience="cluster-events") is accepted


def test_audience_and_issuer_do_not_matter_when_not_configured() -> None:
    """Without the settings any issuer and audience will do."""
    assert accepts(signed({"exp": LATER, "iss": "anyone", "aud": "anything"}))


def accepts(token: str, **settings: Any) -> bool:
    """Whether the token is valid."""
    try:
        verify(token, **settings)
    except AuthenticationFailed:
        return False
    return True


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({}, Role.READ),
        ({"role": "read"}, Role.READ),
        ({"role": "write"}, Role.WRITE),
        ({"role": "admin"}, Role.NONE),
        ({"role": "Write"}, Role.NONE),
        ({"role": "write "}, Role.NONE),
        ({"role": ""}, Role.NONE),
        ({"role": None}, Role.NONE),
        ({"role": True}, Role.NONE),
        ({"role": 2}, Role.NONE),
        ({"role": {"write": True}}, Role.NONE),
        ({"role": []}, Role.NONE),
        ({"role": ["admin", "read"]}, Role.READ),
        ({"role": ["read", "write"]}, Role.WRITE),
        ({"role": [["write"]]}, Role.NONE),
        ({"roles": "write"}, Role.READ),
    ],
)
def test_role_is_what_the_claim_names(claims: dict[str, Any], role: Role) -> None:
    """Without the claim a token may read; what the claim names otherwise is a role or nothing at
    all."""
    assert verify(signed({"exp": LATER} | claims)).role is role


def test_name_of_the_role_claim_is_a_setting() -> None:
    """Where issuers call the role otherwise, the setting names it, and `role` means nothing."""
    token = signed({"exp": LATER, "role": "write", "cluster_role": "read"})
    assert verify(token, jwt_role_claim="cluster_role").role is Role.READ


def test_name_of_the_principal_is_short() -> None:
    """A subject stands in logs, so it is cut."""
    assert len(verify(signed({"exp": LATER, "sub": "x" * 1_000})).name) == 64


def test_issued_tokens_are_accepted_under_the_same_settings() -> None:
    """What the service signs for trying out, it accepts: role, issuer, audience and the claim's
    name included."""
    settings = {
        "jwt_issuer": "me",
        "jwt_audience": "you",
        "jwt_role_claim": "may",
        "jwt_algorithms": "HS512",
    }
    assert verify(make_token(Role.WRITE, 60, **settings), **settings).role is Role.WRITE


def test_without_a_key_no_token_is_accepted() -> None:
    """A service that was given no key accepts no JWT and signs none."""
    settings = make_settings(jwt_secret=None)
    with pytest.raises(AuthenticationFailed):
        JwtVerifier(settings).verify(signed({"exp": LATER}))
    with pytest.raises(SettingsError, match="CLUSTER_EVENTS_JWT_SECRET"):
        issue(settings, "me", Role.READ, 60)


# -- JWT: keys -------------------------------------------------------------------------------------

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)


@cache
def private_key(kind: str) -> PrivateKey:
    """A key of that kind, made once."""
    match kind.split("-"):
        case ["RSA", bits]:
            return rsa.generate_private_key(65_537, int(bits))
        case ["EC", curve]:
            curves = {"256": ec.SECP256R1(), "384": ec.SECP384R1(), "k1": ec.SECP256K1()}
            return ec.generate_private_key(curves[curve])
        case ["Ed448"]:
            return ed448.Ed448PrivateKey.generate()
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def public_pem(kind: str) -> str:
    """The public half, as PEM."""
    return (
        private_key(kind)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def with_public_key(kind: str, **settings: Any) -> JwtVerifier:
    """A verifier with that public key."""
    return JwtVerifier(make_settings(jwt_secret=None, jwt_public_key=public_pem(kind), **settings))


@pytest.mark.parametrize(
    ("kind", "algorithm", "configured"),
    [
        ("RSA-2048", "RS256", None),
        ("RSA-2048", "PS384", "PS384"),
        ("RSA-2048", "RS512", "RS256,RS512"),
        ("EC-256", "ES256", None),
        ("EC-384", "ES384", None),
        ("Ed25519", "EdDSA", None),
    ],
)
def test_public_keys_verify_their_algorithm(
    kind: str, algorithm: str, configured: str | None
) -> None:
    """A token signed with the private half is accepted for the algorithm that fits the key or is
    configured."""
    token = jwt.encode({"exp": LATER, "role": "write"}, private_key(kind), algorithm)
    assert with_public_key(kind, jwt_algorithms=configured).verify(token).role is Role.WRITE


@pytest.mark.parametrize("configured", [None, "EdDSA", "Ed25519", "Ed25519,EdDSA"])
@pytest.mark.parametrize("named", ["EdDSA", "Ed25519"])
def test_ed25519_has_two_names(named: str, configured: str | None) -> None:
    """`Ed25519` (RFC 9864) and `EdDSA` (RFC 8037) are one algorithm, in tokens as in settings."""
    token = jwt.encode({"exp": LATER}, private_key("Ed25519"), named)
    assert jwt.get_unverified_header(token)["alg"] == named
    assert with_public_key("Ed25519", jwt_algorithms=configured).verify(token).role is Role.READ
    with pytest.raises(AuthenticationFailed):
        with_public_key("EC-256").verify(token)


def test_key_of_the_other_curve_is_not_ed25519() -> None:
    """A token that says Ed25519 or EdDSA is not verified with Ed448."""
    for name in ("EdDSA", "Ed25519"):
        token = jwt.encode({"exp": LATER}, private_key("Ed448"), name)
        with pytest.raises(AuthenticationFailed):
            with_public_key("Ed25519").verify(token)


def test_byte_order_marks_in_pem_texts() -> None:
    """PEM texts that were put together from files with byte order marks are read."""
    text = "\ufeff" + public_pem("EC-256") + "\ufeff" + public_pem("Ed25519") + "\ufeff\r\n"
    verifier = JwtVerifier(make_settings(jwt_secret=None, jwt_public_key=text))
    for kind, algorithm in (("EC-256", "ES256"), ("Ed25519", "EdDSA")):
        assert (
            verifier.verify(jwt.encode({"exp": LATER}, private_key(kind), algorithm)).role
            is Role.READ
        )


@pytest.mark.parametrize("kind", ["RSA-2048", "EC-256", "Ed25519"])
def test_public_key_is_no_secret(kind: str) -> None:
    """A token that was signed with HS256 and the public key as its secret is refused (RFC 8725,
    section 2.1)."""
    pem = public_pem(kind)
    for secret in (pem, pem.strip(), pem.replace("\n", "")):
        for header in ({"alg": "HS256"}, {"alg": "none"}):
            with pytest.raises(AuthenticationFailed):
                with_public_key(kind).verify(signed_raw({"exp": LATER}, header, secret.encode()))


def signed_raw(claims: object, header: object, secret: bytes) -> str:
    """HS256 with any secret, also one that the library would not take."""
    parts = f"{segment(header)}.{segment(claims)}"
    return f"{parts}.{segment(hmac.digest(secret, parts.encode(), 'sha256'))}"


@pytest.mark.parametrize(
    ("kind", "other", "algorithm"),
    [
        ("RSA-2048", "RSA-2048", "RS384"),
        ("RSA-2048", "EC-256", "ES256"),
        ("EC-256", "Ed25519", "EdDSA"),
    ],
)
def test_other_algorithms_than_the_configured_are_refused(
    kind: str, other: str, algorithm: str
) -> None:
    """A token cannot choose an algorithm, not even one that its key could do."""
    with pytest.raises(AuthenticationFailed):
        with_public_key(kind).verify(jwt.encode({"exp": LATER}, private_key(other), algorithm))


def test_key_in_the_header_is_not_used() -> None:
    """A token that brings its own key is refused."""
    own = rsa.generate_private_key(65_537, 2_048)
    jwk = json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(own.public_key()))
    token = jwt.encode(
        {"exp": LATER}, own, "RS256", headers={"jwk": jwk, "jku": "https://evil.example/keys"}
    )
    with pytest.raises(AuthenticationFailed):
        with_public_key("RSA-2048").verify(token)


def pem_of_private_key() -> str:
    """The half that should never be configured here."""
    key = private_key("EC-256")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


UNFIT_KEYS: dict[str, tuple[str, dict[str, str]]] = {
    "short secret": ("JWT_SECRET", {"jwt_secret": "only 31 bytes are not quite it."}),
    "secret too short for HS512": (
        "JWT_SECRET",
        {"jwt_secret": "x" * 63, "jwt_algorithms": "HS512"},
    ),
    "secret and RS256": ("JWT_ALGORITHMS", {"jwt_secret": JWT_SECRET, "jwt_algorithms": "RS256"}),
    "secret and HS256 and RS256": (
        "JWT_ALGORITHMS",
        {"jwt_secret": JWT_SECRET, "jwt_algorithms": "HS256,RS256"},
    ),
    "secret and none": ("JWT_ALGORITHMS", {"jwt_secret": JWT_SECRET, "jwt_algorithms": "none"}),
    "not PEM": ("JWT_PUBLIC_KEY", {"jwt_public_key": "-----BEGIN nonsense"}),
    "private key": ("JWT_PUBLIC_KEY", {"jwt_public_key": pem_of_private_key()}),
    "weak RSA": ("JWT_PUBLIC_KEY", {"jwt_public_key": public_pem("RSA-1024")}),
    "curve of another world": ("JWT_PUBLIC_KEY", {"jwt_public_key": public_pem("EC-k1")}),
    "Ed448": ("JWT_PUBLIC_KEY", {"jwt_public_key": public_pem("Ed448")}),
    "public key and HS256": (
        "JWT_ALGORITHMS",
        {"jwt_public_key": public_pem("RSA-2048"), "jwt_algorithms": "RS256,HS256"},
    ),
    "EC key and RS256": (
        "JWT_ALGORITHMS",
        {"jwt_public_key": public_pem("EC-256"), "jwt_algorithms": "RS256"},
    ),
    "P-256 and ES384": (
        "JWT_ALGORITHMS",
        {"jwt_public_key": public_pem("EC-256"), "jwt_algorithms": "ES384"},
    ),
    "both": (
        "JWT_PUBLIC_KEY",
        {"jwt_secret": JWT_SECRET, "jwt_public_key": public_pem("RSA-2048")},
    ),
}


@pytest.mark.parametrize(("variable", "values"), UNFIT_KEYS.values(), ids=UNFIT_KEYS)
def test_unfit_keys_are_refused_at_start(variable: str, values: Mapping[str, str]) -> None:
    """A key that is weak or does not fit its algorithm stops the start; the message names the
    variable, not the key."""
    with pytest.raises(SettingsError) as caught:
        Authenticator(make_settings(**{"jwt_secret": None, **values}))
    text = str(caught.value)
    assert f"CLUSTER_EVENTS_{variable}" in text
    for name in values.keys() - {"jwt_algorithms"}:
        assert values[name][-20:] not in text


# -- API keys --------------------------------------------------------------------------------------


class LookedAt(dict[str, StoredKey]):
    """No keys, but they know whether somebody looked."""

    looked = False

    def get(self, key: str, default: Any = None) -> Any:
        """One key."""
        self.looked = True
        return super().get(key, default)


def minted(
    role: Role = Role.READ, lifetime_s: float | None = None
) -> tuple[str, dict[str, StoredKey]]:
    """A key, and the keys of a store that has it."""
    expires = None if lifetime_s is None else round((NOW + lifetime_s) * 1_000_000)
    key, stored = mint("agent", role, NOW * 1_000_000, expires)
    return key, {"agent": stored}


@pytest.mark.parametrize("role", [Role.READ, Role.WRITE])
def test_minted_key_gives_its_principal(role: Role) -> None:
    """A key is valid as soon as the store has it, with its role, under a name that is fit for
    logs."""
    key, keys = minted(role)
    principal = Authenticator(make_settings()).authenticate(f"Bearer {key}", keys)
    assert principal == Principal(f"key:{keys['agent'].id}", role, float("inf"), keys["agent"].id)
    assert principal.name.removeprefix("key:") in key


def test_keys_have_their_form() -> None:
    """A key says what it is, carries a public id, 256 random bits and a checksum, and is visible
    ASCII."""
    key, stored = mint("agent", Role.READ, 0)
    assert re.fullmatch(r"apikey:[0-9A-Za-z]{8}_[0-9A-Za-z]{43}[0-9A-Za-z]{6}", key)
    assert key[7:15] == stored.id
    assert 62**43 >= 2**256
    assert len({mint("agent", Role.READ, 0)[0][16:59] for _ in range(100)}) == 100


def test_only_a_digest_is_kept() -> None:
    """Nothing that the store keeps of a key contains its secret or lets it be computed."""
    key, keys = minted()
    kept = keys["agent"].to_bytes().decode()
    secret = key.split("_")[1]
    assert not any(secret[n : n + 8] in kept for n in range(len(secret) - 7))
    assert keys["agent"].sha256 == hashlib.sha256(key.encode()).hexdigest()


def test_mistyped_key_is_refused_without_a_look_up() -> None:
    """Any one wrong character is found by the checksum, before the store's keys are asked."""
    key, _ = minted()
    for position in range(len("apikey:"), len(key)):
        wrong = "1" if key[position] != "1" else "2"
        keys = LookedAt()
        with pytest.raises(AuthenticationFailed):
            api_keys.verify(key[:position] + wrong + key[position + 1 :], keys, NOW)
        assert not keys.looked


def test_whole_key_is_looked_up() -> None:
    """A key with a true checksum is looked up: the counter of the test above works."""
    keys = LookedAt()
    with pytest.raises(AuthenticationFailed):
        api_keys.verify(minted()[0], keys, NOW)
    assert keys.looked


def test_keys_that_the_store_does_not_have_are_refused() -> None:
    """A well-formed key is worth nothing if it is unknown, or if only its id is known."""
    key, keys = minted()
    other, _ = minted()
    body = key[:16] + other[16:59]
    forged = body + api_keys._checksum(body)
    for wrong in (other, forged):
        with pytest.raises(AuthenticationFailed):
            Authenticator(make_settings()).authenticate(f"Bearer {wrong}", keys)


@pytest.mark.parametrize(
    "wrong",
    [
        "apikey:",
        "APIKEY:{}",
        "apikey:{}x",
        "apikey: {}",
        "apikey:apikey:{}",
        "{}",
        "apikey:{}\x00",
        "apikey:{}\n",
        "apikey:{}é",
    ],
)
def test_keys_of_another_form_are_refused(wrong: str) -> None:
    """What is not exactly a key is refused, whatever is right about it."""
    key, keys = minted()
    with pytest.raises(AuthenticationFailed):
        Authenticator(make_settings()).authenticate(
            "Bearer " + wrong.format(key.removeprefix("apikey:")), keys
        )


def test_huge_key_is_refused() -> None:
    """Ten kilobytes of key are no key."""
    with pytest.raises(AuthenticationFailed):
        api_keys.verify("apikey:" + "x" * 10_000, {}, NOW)


def test_key_of_an_unknown_role_may_do_nothing() -> None:
    """A role that a later version may know gives no permission in this one."""
    key, keys = minted()
    keys["agent"] = replace(keys["agent"], role="admin")
    assert Authenticator(make_settings()).authenticate(f"Bearer {key}", keys).role is Role.NONE


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a\n", "x" * 65, "\uff21"])
def test_names_of_keys_fit_into_paths(name: str) -> None:
    """A key's name stands in paths and logs, so it is 1 to 64 plain characters."""
    check_name("Agent-7.of_two")
    with pytest.raises(ValueError, match="A-Z a-z 0-9"):
        check_name(name)


# -- the Authorization field, and what is remembered -----------------------------------------------


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "field", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}", "Bearer {}  "]
)
def test_scheme_in_any_case_is_accepted(field: str) -> None:
    """The scheme's case and spaces around the token do not matter (RFC 9110, section 11.4)."""
    assert (
        Authenticator(make_settings()).authenticate(field.format(make_token()), {}).role
        is Role.READ
    )


@pytest.mark.parametrize(
    "field",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "{}",
        "Basic {}",
        "Token {}",
        "Bearer{}",
        "Bearer\t{}",
        " Bearer {}",
        "Bearer {}, Bearer {}",
        "Bearer {} {}",
        'Bearer "{}"',
        "Bearer token={}",
        "Bearer {}\udcff",
        "Bearer \udcff\udcfe",
        "Bearer é",
        "Bearer {}\x00",
        "Bearer {}\n",
    ],
)
def test_other_fields_are_refused(field: str | None) -> None:
    """Anything but one Bearer token is refused, with bytes beyond ASCII as with none at all."""
    token = make_token()
    sent = field.replace("{}", token) if field is not None else None
    checked = Authenticator(make_settings())
    for _ in range(2):  # A refusal is not remembered as anything else.
        with pytest.raises(AuthenticationFailed):
            checked.authenticate(sent, {})


@pytest.mark.parametrize(
    ("kind", "leeway", "after"),
    [
        ("JWT", "5s", 5),
        ("JWT", "0", 0),
        ("JWT", "60s", 60),
        ("JWT with a fraction", "5s", 5.5),
        ("API key", "5s", 0),
    ],
)
def test_remembered_credential_ends_on_time(kind: str, leeway: str, after: float) -> None:
    """A credential that was verified before is refused from its end on; that of a token is its
    `exp` and the leeway."""
    clock, end = Clock(), LATER + after
    keys: dict[str, StoredKey] = {}
    if kind == "API key":
        credential, keys = minted(lifetime_s=LATER - NOW)
    else:
        credential = signed({"exp": LATER + (0.5 if "fraction" in kind else 0)})
    checked = Authenticator(make_settings(jwt_leeway=leeway), clock)
    for moment, valid in ((-30, True), (-0.001, True), (0, False), (1, False), (-1, True)):
        clock.now = end + moment
        assert remembers(checked, credential, keys) is valid
        assert (
            remembers(Authenticator(make_settings(jwt_leeway=leeway), clock), credential, keys)
            is valid
        )
    clock.now = end - 1
    principal = checked.authenticate(f"Bearer {credential}", keys)
    assert checked.valid_until(principal) <= end
    for moment, valid in ((-0.001, True), (0, False)):
        clock.now = end + moment
        assert checked.still_valid(principal, keys) is valid


@pytest.mark.parametrize(("leeway", "earlier"), [("5s", 5), ("0", 0), ("60s", 60)])
@pytest.mark.parametrize("fraction", [0, 0.5])
def test_token_begins_on_time(leeway: str, earlier: float, fraction: float) -> None:
    """A token is refused until the leeway before its `nbf`, and that it was refused is not
    remembered."""
    clock, nbf = Clock(), LATER + fraction
    checked, token = (
        Authenticator(make_settings(jwt_leeway=leeway), clock),
        signed({"exp": LATER + 60, "nbf": nbf}),
    )
    for after, valid in ((-30, False), (-0.001, False), (0, True), (1, True)):
        clock.now = nbf - earlier + after
        assert remembers(checked, token, {}) is valid


@pytest.mark.parametrize(
    ("ahead", "valid"), [(0.0, True), (1.0, True), (5.0, True), (6.0, False), (3_600.0, False)]
)
def test_issuer_whose_clock_is_ahead(ahead: float, valid: bool) -> None:
    """An issuer whose clock is ahead by no more than the leeway may use all of its time: `nbf`,
    `iat` and the longest life."""
    clock = Clock()
    issued = clock.now + ahead
    token = signed({"iat": issued, "nbf": issued, "exp": issued + 86_400})
    assert remembers(Authenticator(make_settings(), clock), token, {}) is valid


def remembers(checked: Authenticator, credential: str, keys: Mapping[str, StoredKey]) -> bool:
    """Whether the credential is accepted."""
    try:
        checked.authenticate(f"Bearer {credential}", keys)
    except AuthenticationFailed:
        return False
    return True


@pytest.mark.parametrize("kind", ["JWT", "API key"])
def test_expired_credential_is_refused_at_first_sight(kind: str) -> None:
    """The clock that was given decides, also where the library looks at its own."""
    clock = Clock()
    clock.now = LATER + LEEWAY_S
    keys: dict[str, StoredKey] = {}
    if kind == "JWT":
        credential = signed({"exp": LATER})
    else:
        credential, keys = minted(lifetime_s=LATER - NOW)
    assert not remembers(Authenticator(make_settings(), clock), credential, keys)


def test_revoked_key_is_forgotten() -> None:
    """A remembered key is refused as soon as the keys are others, and a token is remembered all the
    same."""
    key, keys = minted()
    token = make_token()
    checked = Authenticator(make_settings())
    assert remembers(checked, key, keys)
    assert remembers(checked, token, keys)
    assert not remembers(checked, key, {})
    assert remembers(checked, token, {})
    assert remembers(checked, key, keys)


def test_key_whose_role_was_taken_is_not_remembered_with_it() -> None:
    """A key that was made anew with less to say says less at once."""
    key, keys = minted(Role.WRITE)
    checked = Authenticator(make_settings())
    assert checked.authenticate(f"Bearer {key}", keys).role is Role.WRITE
    fewer = {"agent": replace(keys["agent"], role="read")}
    assert checked.authenticate(f"Bearer {key}", fewer).role is Role.READ


def test_verified_token_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second sight of a token costs a look-up, no signature."""
    checked, token = Authenticator(make_settings()), make_token()
    first = checked.authenticate(f"Bearer {token}", {})
    monkeypatch.setattr(JwtVerifier, "verify", lambda _self, _token: pytest.fail("verified again"))
    assert checked.authenticate(f"Bearer {token}", checked._keys) is first


def test_memory_for_credentials_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused credentials take no memory, and of the verified ones the oldest gives way."""
    monkeypatch.setattr(authenticator, "_CACHE_SIZE", 3)
    checked, keys = Authenticator(make_settings()), dict[str, StoredKey]()
    for n in range(10):
        assert remembers(checked, signed({"exp": LATER, "sub": f"agent-{n}"}), keys)
        assert not remembers(checked, f"nonsense-{n}", keys)
    assert [who.name for who in checked._verified.values()] == ["agent-7", "agent-8", "agent-9"]


def test_credentials_are_not_kept_in_clear() -> None:
    """What is remembered of a credential is a digest."""
    checked, token = Authenticator(make_settings()), make_token()
    assert remembers(checked, token, {})
    assert token.encode() not in b"".join(checked._verified)


def test_without_authentication_everyone_may_do_everything() -> None:
    """With `AUTH=none` a request needs no credential, and a bad one does no harm."""
    checked = Authenticator(make_settings(auth="none", jwt_secret=None))
    for sent in (None, "Bearer nonsense"):
        assert checked.authenticate(sent, {}).role is Role.WRITE
