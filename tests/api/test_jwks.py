"""Keys that issuers publish: they rotate, hang, break, lie and are asked for too often, and every
fetch is counted."""

import asyncio
import gzip
import json
import logging
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from service.auth import JwtVerifier, Role, mint
from service.auth import jwks as key_sets
from service.auth.verification_keys import MOST_KEYS
from service.errors import AuthenticationFailed, SettingsError
from tests.support.api import Api
from tests.support.clocks import put_forward
from tests.support.issuer import Issuer, issuing, jwk, private_key
from tests.support.observations import ALL_GOOD
from tests.support.settings import bearer, make_settings
from tests.support.waiting import PATIENCE_S, until

MakeApi = Callable[..., Any]
PATH = "/v0/cluster/events/latest"


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """A running issuer with one key."""
    async with issuing() as running:
        yield running


async def trusting(make_api: MakeApi, issuer: Issuer, **settings: Any) -> Api:
    """An API process that trusts the issuer, with an event to be asked for."""
    api: Api = await make_api(**issuer.settings(**settings))
    await api.store.append(ALL_GOOD)
    await api.settle()
    return api


async def status(api: Api, token: str, path: str = PATH) -> int:
    """The status that a token gets."""
    return (await api.request("GET", path, bearer(token))).status


async def becomes(expected: int, api: Api, token: str) -> None:
    """Waits until a token gets that status."""

    async def has_become() -> bool:
        return await status(api, token) == expected

    await until(has_become)


async def fetched_again(issuer: Issuer, times: int) -> None:
    """Waits until the keys have been fetched so many times more."""
    before = issuer.fetches
    await until(lambda: issuer.fetches >= before + times)


def put_key_set_forward(
    monkeypatch: pytest.MonkeyPatch, key_set: key_sets.JwksClient, seconds: float
) -> None:
    """Sets the clock by which a key set ends so much before the real one."""
    monkeypatch.setattr(key_set, "_monotonic", lambda: time.monotonic() + seconds)


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA", "Ed25519"])
async def test_published_keys_verify_tokens(
    make_api: MakeApi, issuer: Issuer, algorithm: str
) -> None:
    """A token signed by a published key is accepted, whatever its kind, and one fetch is enough for
    all of them."""
    issuer.rotate("one", algorithm)
    api = await trusting(make_api, issuer)
    for number in range(20):
        assert await status(api, issuer.token("one", sub=f"agent-{number}")) == 200
    assert issuer.fetches == 1


async def test_where_the_keys_are_is_discovered(make_api: MakeApi, issuer: Issuer) -> None:
    """With an issuer alone, its configuration says where its keys are."""
    api = await trusting(make_api, issuer, jwt_jwks_url=None)
    assert await status(api, issuer.token()) == 200
    assert (issuer.discoveries, issuer.fetches) == (1, 1)


@pytest.mark.parametrize(
    "configuration",
    [
        {"issuer": "https://elsewhere.example", "jwks_uri": "URL/keys"},
        {"issuer": "URL/", "jwks_uri": "URL/keys"},
        {"issuer": "URL", "jwks_uri": "http://keys.example/keys"},
        {"issuer": "URL", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "URL", "jwks_uri": ["URL/keys"]},
        {"issuer": "URL"},
    ],
)
async def test_configuration_that_cannot_be_true_is_not_used(
    make_api: MakeApi, issuer: Issuer, configuration: dict[str, Any]
) -> None:
    """A configuration of another issuer, or one that leads away from https, gives no keys."""
    text = json.dumps(configuration).replace("URL", issuer.url)
    issuer.configuration = json.loads(text)
    api = await trusting(make_api, issuer, jwt_jwks_url=None)
    assert await status(api, issuer.token()) == 503
    assert issuer.fetches == 0


async def test_rotated_key_is_fetched_when_it_is_first_seen(
    make_api: MakeApi, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first token with a new key is accepted at once, for one fetch; those of the old key then
    end, the memoised too."""
    api = await trusting(make_api, issuer)
    old = issuer.token()
    for _ in range(4):  # From the third on it is answered by the poll path.
        assert await status(api, old) == 200
    issuer.rotate("second")
    assert await status(api, issuer.token("second")) == 200
    assert issuer.fetches == 2
    assert await status(api, old) == 401


async def test_two_keys_are_valid_while_one_takes_over(make_api: MakeApi, issuer: Issuer) -> None:
    """Tokens of both keys are accepted as long as both are published."""
    issuer.keys["second"] = ("RS256", private_key("RS256"))
    api = await trusting(make_api, issuer)
    assert [await status(api, issuer.token(kid)) for kid in ("first", "second")] == [200, 200]


async def test_withdrawn_key_ends_with_the_schedule(make_api: MakeApi, issuer: Issuer) -> None:
    """A key that is no longer published is refused after the next look, with no token to prompt it,
    on the poll path as well."""
    api = await trusting(make_api, issuer, jwt_jwks_refresh="200ms")
    token = issuer.token()
    for _ in range(4):
        assert await status(api, token) == 200
    issuer.rotate("second")
    await becomes(401, api, token)


async def test_waiting_reply_survives_a_rotation(make_api: MakeApi, issuer: Issuer) -> None:
    """Who waits with a token that is still good after a rotation is answered; whose key was
    withdrawn meanwhile is not."""
    api = await trusting(make_api, issuer)
    token = issuer.token()
    for kept, expected in ((True, 200), (False, 401)):
        etag = (await api.request("GET", PATH, bearer(token))).headers["ETag"]
        fields = bearer(token) | {"If-None-Match": etag, "Prefer": "wait=30"}
        waiting = asyncio.create_task(api.request("GET", PATH, fields))
        await asyncio.sleep(0.1)
        if kept:
            issuer.keys["second"] = ("ES256", private_key("ES256", 1))
        else:
            issuer.rotate("second")
        fetches = issuer.fetches
        for key_set in api.context.authenticator._key_sets.values():
            await key_set._fetches.start(key_set._fetch)
        assert issuer.fetches == fetches + 1
        await api.store.append(ALL_GOOD)
        async with asyncio.timeout(PATIENCE_S):
            assert (await waiting).status == expected


async def test_same_keys_again_change_nothing(make_api: MakeApi, issuer: Issuer) -> None:
    """Fetching the keys that are known already lets remembered credentials be."""
    api = await trusting(make_api, issuer, jwt_jwks_refresh="50ms")
    assert await status(api, issuer.token()) == 200
    generation = api.context.authenticator.generation
    fetches = issuer.fetches
    while issuer.fetches < fetches + 3:
        await asyncio.sleep(0.02)
    assert api.context.authenticator.generation is generation


async def test_flood_of_unknown_key_ids_reaches_the_issuer_once(
    make_api: MakeApi, issuer: Issuer
) -> None:
    """Hundreds of tokens with made-up key ids at once, and again, make one fetch, and none of them
    is accepted."""
    api = await trusting(make_api, issuer, auth_failures_per_minute=0)
    assert await status(api, issuer.token()) == 200
    stranger = private_key("ES256", 9)
    for wave in range(2):
        flood = [
            issuer.signed(stranger, "ES256", {"kid": f"made-up-{wave}-{number}"})
            for number in range(150)
        ]
        assert set(await asyncio.gather(*(status(api, token) for token in flood))) == {401}
    assert issuer.fetches == 2
    assert await status(api, issuer.token(sub="somebody else")) == 200
    assert issuer.fetches == 2


async def test_unknown_key_id_is_asked_for_again_after_the_pause(
    make_api: MakeApi, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that appears within the pause after a fetch is found when the pause is over."""
    monkeypatch.setattr(key_sets, "COOL_DOWN_S", 0.3)
    api = await trusting(make_api, issuer)
    unknown = issuer.signed(private_key("ES256", 9), "ES256", {"kid": "unknown"})
    assert await status(api, unknown) == 401
    issuer.rotate("second")
    assert await status(api, issuer.token("second")) == 401
    await becomes(200, api, issuer.token("second"))
    assert issuer.fetches == 3


@pytest.mark.parametrize(
    "claims", [{"exp": 1}, {"iss": "https://elsewhere.example"}, {"exp": int(time.time()) + 10**6}]
)
async def test_token_that_no_key_would_save_makes_no_fetch(
    make_api: MakeApi, issuer: Issuer, claims: dict[str, Any]
) -> None:
    """An expired token, one of a stranger, one that is valid for too long: no issuer is asked about
    its key."""
    api = await trusting(make_api, issuer)
    assert await status(api, issuer.token()) == 200
    assert (
        await status(
            api, issuer.signed(private_key("ES256", 9), "ES256", {"kid": "unknown"}, **claims)
        )
        == 401
    )
    assert issuer.fetches == 1


@pytest.mark.slow
async def test_hanging_issuer_holds_up_nobody_with_a_known_key(
    make_api: MakeApi, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a fetch hangs, known keys are used and the loop turns; only tokens with unknown keys
    wait, all for the same fetch."""
    monkeypatch.setattr(key_sets, "TIMEOUT_S", 60.0)
    api = await trusting(make_api, issuer)
    assert await status(api, issuer.token()) == 200
    issuer.hanging = True
    stranger = private_key("ES256", 9)
    flood = [
        asyncio.create_task(
            status(api, issuer.signed(stranger, "ES256", {"kid": f"unknown-{number}"}))
        )
        for number in range(20)
    ]
    await until(lambda: issuer.fetches == 2)
    for number in range(20):
        assert await status(api, issuer.token(sub=f"agent-{number}")) == 200
    assert not any(task.done() for task in flood)
    put_forward(monkeypatch, 60)
    assert set(await asyncio.gather(*flood)) == {401}
    assert issuer.fetches == 2


async def test_without_any_keys_tokens_are_503_and_api_keys_go_on(
    make_api: MakeApi, issuer: Issuer
) -> None:
    """If an issuer's keys cannot be had at all, its tokens cannot be judged: 503. API keys can. It
    heals by itself."""
    issuer.status = 500
    api = await trusting(make_api, issuer)
    answer = await api.request("GET", PATH, bearer(issuer.token()))
    assert (answer.status, answer.json["error_code"]) == (503, "SigningKeysUnavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert await status(api, issuer.token(exp=1)) == 401
    assert await status(api, issuer.token(iss="https://elsewhere.example")) == 401
    key = await minted(api)
    assert await status(api, key) == 200
    for path in ("/healthz", "/readyz"):
        assert (await api.request("GET", path, {})).status == 200
    issuer.status = 200
    await becomes(200, api, issuer.token())


async def minted(api: Api) -> str:
    """A key in the store that the process knows of."""
    key, stored = mint("agent", Role.READ, 0)
    await api.store.create_api_key(stored)
    await api.settle()
    return key


async def test_tokens_wait_for_the_first_keys(
    make_api: MakeApi, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that comes while the first fetch is under way is answered when that has ended, not
    refused."""
    monkeypatch.setattr(key_sets, "TIMEOUT_S", PATIENCE_S)
    issuer.hanging = True
    api = await trusting(make_api, issuer)
    early = asyncio.create_task(status(api, issuer.token()))
    await until(lambda: issuer.fetches == 1)
    for _ in range(5):  # What was sent before has been handled, unless it waits.
        assert await status(api, issuer.token(exp=1)) == 401
    assert not early.done()
    issuer.hanging = False
    assert await early == 200
    assert issuer.fetches == 1


BROKEN: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "404": {"status": 404},
    "redirect": {"status": 302, "headers": {"Location": "/elsewhere"}},
    "not JSON": {"body": b"<html>"},
    "deep nesting": {"body": b"[" * 100_000},
    "an array": {"body": b"[]"},
    "no keys": {"body": b"{}"},
    "empty": {"body": b'{"keys": []}'},
    "keys no array": {"body": b'{"keys": {"first": 1}}'},
    "too large": {"body": b'{"keys": [], "x": "' + b"x" * key_sets.LIMIT_BYTES + b'"}'},
    "compressed": {"body": b"\x1f\x8b\x08\x00", "headers": {"Content-Encoding": "gzip"}},
    "a secret": {"body": b'{"keys": [{"kty": "oct", "kid": "first", "k": "c2VjcmV0"}]}'},
    "odd members": {
        "body": b'{"keys": [null, 7, {"kty": ["EC"]}, {"kty": "EC", "crv": {}}, {"kty": "EC", "crv": "P-256"}]}'  # noqa: E501
    },
    "too many": {
        "body": json.dumps(
            {"keys": [jwk("first", "ES256", private_key("ES256"))] * (MOST_KEYS + 1)}
        ).encode()
    },
    "hangs": {"hanging": True},
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_last_good_keys_outlive_a_broken_issuer(
    make_api: MakeApi,
    issuer: Issuer,
    fault: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever the issuer answers once it is broken, the keys that it gave before go on verifying;
    the log says so once."""
    monkeypatch.setattr(key_sets, "TIMEOUT_S", 0.4)
    monkeypatch.setattr(key_sets, "RETRY_S", (0.03, 0.03))
    api = await trusting(make_api, issuer, jwt_jwks_refresh="50ms")
    assert await status(api, issuer.token()) == 200
    caplog.set_level(logging.WARNING)
    for name, value in fault.items():
        setattr(issuer, name, value)
    fetches = issuer.fetches
    while issuer.fetches < fetches + 3:
        await asyncio.sleep(0.02)
    assert await status(api, issuer.token(sub="another")) == 200
    assert [line.message for line in caplog.records].count("cannot fetch JWKS") == 1


@pytest.mark.slow
async def test_keys_end_when_the_issuer_stays_away(
    make_api: MakeApi, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time, and not before, the last good key set is used no more: tokens are 503, the
    remembered and the memoised ones as well."""
    api = await trusting(make_api, issuer, jwt_jwks_refresh="200ms")
    token = issuer.token()
    for _ in range(4):
        assert await status(api, token) == 200
    issuer.status = 500
    (key_set,) = api.context.authenticator._key_sets.values()
    for later, expected in ((key_sets.KEEP_S - 3_600, 200), (key_sets.KEEP_S, 503)):
        await fetched_again(issuer, 2)  # One has failed since.
        put_key_set_forward(monkeypatch, key_set, later)
        await fetched_again(issuer, 2)  # It has looked at the time.
        await becomes(expected, api, token)
        assert await status(api, token) == expected
    issuer.status = 200
    await becomes(200, api, token)


async def test_several_issuers_each_with_its_own_keys(make_api: MakeApi, issuer: Issuer) -> None:
    """Tokens of every configured issuer are accepted, and no issuer can sign for another."""
    async with issuing() as other:
        other.rotate("first", "RS256")
        both = {
            "jwt_issuer": f"{issuer.url},{other.url}",
            "jwt_jwks_url": f"{issuer.jwks_url},{other.jwks_url}",
        }
        api = await trusting(make_api, issuer, auth_failures_per_minute=0, **both)
        assert [await status(api, one.token()) for one in (issuer, other)] == [200, 200]
        assert await status(api, issuer.token(iss=other.url)) == 401
        assert await status(api, other.token(iss=issuer.url)) == 401
        other.status, fetches = 500, issuer.fetches
        assert await status(api, issuer.token(sub="another")) == 200
        assert issuer.fetches == fetches


async def test_one_issuer_away_does_not_stop_the_other(make_api: MakeApi, issuer: Issuer) -> None:
    """Only the tokens of the issuer whose keys cannot be had are 503."""
    async with issuing() as other:
        other.status = 500
        both = {
            "jwt_issuer": f"{issuer.url},{other.url}",
            "jwt_jwks_url": f"{issuer.jwks_url},{other.jwks_url}",
        }
        api = await trusting(make_api, issuer, **both)
        assert [await status(api, one.token()) for one in (issuer, other)] == [200, 503]


REFUSED: dict[str, Callable[[Issuer], str]] = {
    "kid number": lambda issuer: issuer.token(headers={"kid": 7}),
    "no sub": lambda issuer: issuer.token(sub=None),
    "no iat": lambda issuer: issuer.token(iat=None),
    "no exp": lambda issuer: issuer.token(exp=None),
    "no aud": lambda issuer: issuer.token(aud=None),
    "iss list": lambda issuer: issuer.token(iss=[issuer.url]),
    "iss with a slash": lambda issuer: issuer.token(iss=issuer.url + "/"),
    "aud of another": lambda issuer: issuer.token(aud=["another", "one more"]),
    "key of another id": lambda issuer: issuer.signed(
        private_key("ES256"), "ES256", {"kid": "rsa"}
    ),
    "public key as a secret": lambda issuer: issuer.signed(
        json.dumps(jwk("first", "ES256", private_key("ES256"))), "HS256", {"kid": "first"}
    ),
    "none": lambda issuer: issuer.signed("", "none", {"kid": "first"}),
    "RS384 of a good key": lambda issuer: issuer.signed(
        private_key("RS256"), "RS384", {"kid": "rsa"}
    ),
    "own key brought along": lambda issuer: issuer.signed(
        private_key("ES256", 9),
        "ES256",
        {
            "kid": "first",
            "jwk": jwk("first", "ES256", private_key("ES256", 9)),
            "jku": "https://evil.example",
        },
    ),
}


@pytest.mark.parametrize("make_token", REFUSED.values(), ids=REFUSED)
async def test_tokens_that_are_not_exactly_right_are_refused(
    make_api: MakeApi, issuer: Issuer, make_token: Callable[[Issuer], str]
) -> None:
    """A token names one published key and says all that it must; it brings no key along, and no
    issuer is asked about it."""
    issuer.keys["rsa"] = ("RS256", private_key("RS256"))
    api = await trusting(make_api, issuer)
    assert [await status(api, issuer.token(kid)) for kid in ("first", "rsa")] == [200, 200]
    assert await status(api, make_token(issuer)) == 401
    assert issuer.fetches == 1


async def test_one_key_needs_no_id(make_api: MakeApi, issuer: Issuer) -> None:
    """Where an issuer publishes one key only, a token need not name it."""
    api = await trusting(make_api, issuer)
    assert await status(api, issuer.token(kid=None)) == 200


# -- key ids ---------------------------------------------------------------------------------------


def publish(issuer: Issuer, *keys: tuple[str | None, str, int], **members: object) -> None:
    """Publishes keys: each an id or none, an algorithm, and which of the tests' keys it is."""
    made = [
        jwk(kid, algorithm, private_key(algorithm, number), **members)
        for kid, algorithm, number in keys
    ]
    issuer.body = json.dumps({"keys": made}).encode()


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why requests were refused, as the audit log tells it."""
    return [vars(record)["why"] for record in caplog.records if record.name == "service.audit"]


def signed(issuer: Issuer, kid: str | None, algorithm: str = "ES256", number: int = 0) -> str:
    """A token with that key id or none, signed with one of the tests' keys."""
    return issuer.signed(private_key(algorithm, number), algorithm, {"kid": kid})


@pytest.mark.parametrize(
    ("published", "named"), [("EdDSA", "Ed25519"), ("Ed25519", "EdDSA"), (None, "Ed25519")]
)
async def test_ed25519_has_two_names(
    make_api: MakeApi, issuer: Issuer, published: str | None, named: str
) -> None:
    """A key for `EdDSA` verifies tokens of `Ed25519` (RFC 9864), and the other way round: it is the
    same algorithm."""
    issuer.body = json.dumps(
        {"keys": [jwk("first", "EdDSA", private_key("EdDSA"), alg=published)]}
    ).encode()
    api = await trusting(make_api, issuer)
    assert await status(api, issuer.signed(private_key("EdDSA"), named, {"kid": "first"})) == 200


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_token_without_a_key_id_among_several_keys(
    make_api: MakeApi, issuer: Issuer, number: int
) -> None:
    """A token that names no key is verified with each that fits, whether the keys have ids or
    not."""
    publish(issuer, ("a", "ES256", 0), ("b", "RS256", 0), (None, "ES256", 1), ("c", "ES256", 2))
    api = await trusting(make_api, issuer)
    assert await status(api, signed(issuer, None, number=number)) == 200
    assert await status(api, signed(issuer, None, "RS256")) == 200
    assert issuer.fetches == 1


async def test_key_without_an_id_fits_any(
    make_api: MakeApi, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """A token whose key id no key has is verified with the keys that have none, and with no
    others."""
    publish(issuer, (None, "ES256", 0), ("a", "ES256", 1))
    api = await trusting(make_api, issuer)
    assert await status(api, signed(issuer, "whatever")) == 200
    assert issuer.fetches == 1
    assert await status(api, signed(issuer, "whatever", number=1)) == 401
    assert await status(api, signed(issuer, "a")) == 401
    assert reasons(caplog) == ["bad signature"] * 2


@pytest.mark.parametrize("numbers", [(0, 1), (0, 0)])
async def test_key_id_of_two_keys(
    make_api: MakeApi, issuer: Issuer, numbers: tuple[int, int]
) -> None:
    """Where two keys have the same id, either verifies, also if they are of different kinds."""
    publish(issuer, *(("same", "ES256", number) for number in numbers), ("same", "RS256", 0))
    api = await trusting(make_api, issuer)
    for number in numbers:
        assert await status(api, signed(issuer, "same", number=number)) == 200
    assert await status(api, signed(issuer, "same", "RS256")) == 200
    assert await status(api, signed(issuer, "same", number=2)) == 401


async def test_few_keys_are_tried_for_one_token(
    make_api: MakeApi, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's token without a key id costs no more verifications than an issuer reasonably has
    keys."""
    publish(issuer, *(("same", "ES256", 0) for _ in range(MOST_KEYS)))
    api = await trusting(make_api, issuer)
    tried, decode = [], JwtVerifier._decode

    def counted(verifier: JwtVerifier, *arguments: Any) -> None:
        tried.append(arguments)
        decode(verifier, *arguments)

    monkeypatch.setattr(JwtVerifier, "_decode", counted)
    for kid in (None, "same"):
        tried.clear()
        with pytest.raises(AuthenticationFailed):
            api.context.authenticator.authenticate(f"Bearer {signed(issuer, kid, number=1)}", {})
        assert 2 <= len(tried) <= 8


@pytest.mark.parametrize("kid", ["new", None])
async def test_keys_without_ids_are_fetched_again_when_none_fits(
    make_api: MakeApi, issuer: Issuer, kid: str | None
) -> None:
    """A token that no key at hand has signed, and that names none of them, may be signed with a new
    one: the issuer is asked."""
    publish(issuer, (None, "ES256", 0))
    api = await trusting(make_api, issuer)
    assert await status(api, signed(issuer, kid)) == 200
    publish(issuer, (None, "ES256", 1))
    assert await status(api, signed(issuer, kid, number=1)) == 200
    assert issuer.fetches == 2


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (("unknown", "ES256"), "no matching key"),
        ((None, "RS256"), "no matching key"),
        (("a", "RS256"), "no matching key"),
        (("a", "ES256"), "bad signature"),
        ((None, "ES256"), "bad signature"),
    ],
)
async def test_log_tells_what_was_not_verified(
    make_api: MakeApi,
    issuer: Issuer,
    caplog: pytest.LogCaptureFixture,
    token: tuple[str | None, str],
    why: str,
) -> None:
    """Only a signature that was verified is "bad"; without a matching key, the reason says so."""
    publish(issuer, ("a", "ES256", 0))
    api = await trusting(make_api, issuer)
    assert await status(api, signed(issuer, *token, number=1)) == 401
    assert reasons(caplog) == [why]


# -- documents -------------------------------------------------------------------------------------


def raw_deflate(data: bytes) -> bytes:
    """Deflate without the envelope that the coding should have (RFC 9110, section 8.4.1.2); some
    servers send that."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("GZip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
    ],
)
@pytest.mark.parametrize("discovered", [False, True])
async def test_compressed_documents_are_read(
    make_api: MakeApi,
    issuer: Issuer,
    coding: str,
    compress: Callable[[bytes], bytes],
    discovered: bool,
) -> None:
    """Documents that come compressed although that was not asked for are read all the same."""
    issuer.coding = coding, compress
    api = await trusting(make_api, issuer, **({"jwt_jwks_url": None} if discovered else {}))
    assert await status(api, issuer.token()) == 200


@pytest.mark.slow
async def test_compressed_document_is_bounded(issuer: Issuer) -> None:
    """What a document becomes is limited, not what is sent: 256 MiB in 256 KiB are read no further
    than the limit."""
    packer, zeros = zlib.compressobj(9, wbits=31), bytes(1024 * 1024)
    issuer.body = b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
    assert len(issuer.body) < 300_000
    issuer.headers = {"Content-Encoding": "gzip"}
    key_set = key_sets.JwksClient(issuer.url, issuer.jwks_url, ("ES256",), lambda: None)
    tracemalloc.start()
    try:
        async with key_set.running():
            with pytest.raises(key_sets.JwksError, match="more than 262,144 bytes"):
                await key_set._fetch_verification_keys()
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_documents_may_begin_with_a_byte_order_mark(
    make_api: MakeApi, issuer: Issuer
) -> None:
    """A byte order mark before the JSON of a key set does not count (RFC 8259, section 8.1)."""
    publish(issuer, ("first", "ES256", 0))
    issuer.body = b"\xef\xbb\xbf" + (issuer.body or b"")
    api = await trusting(make_api, issuer)
    assert await status(api, issuer.token()) == 200


PASSED_OVER: dict[str, dict[str, object]] = {
    "for encryption": jwk("first", "ES256", private_key("ES256"), use="enc"),
    "not for verifying": jwk("first", "ES256", private_key("ES256"), key_ops=["sign"]),
    "for another algorithm": jwk("first", "ES256", private_key("ES256"), alg="ES384"),
    "private": jwk("first", "ES256", private_key("ES256"), d="AAAA"),
    "kid number": jwk(None, "ES256", private_key("ES256")) | {"kid": 1},
    "point off the curve": jwk("first", "ES256", private_key("ES256"), y="AAAA"),
    "another curve": jwk("first", "ES256", private_key("ES256"), crv="P-521"),
    "operations no list": jwk("first", "ES256", private_key("ES256"), key_ops=7),
}


@pytest.mark.parametrize("member", PASSED_OVER.values(), ids=PASSED_OVER)
async def test_keys_that_are_not_for_us_are_passed_over(
    make_api: MakeApi, issuer: Issuer, member: dict[str, object]
) -> None:
    """A key for another purpose, or a broken one, verifies nothing, and does no harm to the others
    of the set."""
    good = jwk("rsa", "RS256", private_key("RS256"))
    issuer.body = json.dumps({"keys": [member, good]}).encode()
    issuer.keys["rsa"] = ("RS256", private_key("RS256"))
    api = await trusting(make_api, issuer)
    assert [await status(api, issuer.token(kid)) for kid in ("first", "rsa")] == [401, 200]


async def test_weak_keys_are_passed_over(make_api: MakeApi, issuer: Issuer) -> None:
    """An RSA key of 1,024 bits signs nothing that is accepted, whoever publishes it (RFC 7518,
    section 3.3)."""
    weak = rsa.generate_private_key(65_537, 1_024)
    issuer.body = json.dumps(
        {"keys": [jwk("weak", "RS256", weak), jwk("first", "ES256", private_key("ES256"))]}
    ).encode()
    api = await trusting(make_api, issuer)
    assert await status(api, issuer.signed(weak, "RS256", {"kid": "weak"})) == 401
    assert await status(api, issuer.token()) == 200


UNFIT: dict[str, tuple[str, dict[str, Any]]] = {
    "no issuer": (
        "JWT_ISSUER",
        {"jwt_jwks_url": "https://issuer.example/keys", "jwt_audience": "a"},
    ),
    "no audience": ("JWT_AUDIENCE", {"jwt_issuer": "https://issuer.example"}),
    "http": ("JWT_ISSUER", {"jwt_issuer": "http://issuer.example", "jwt_audience": "a"}),
    "http keys": (
        "JWT_JWKS_URL",
        {"jwt_issuer": "me", "jwt_jwks_url": "http://issuer.example/keys", "jwt_audience": "a"},
    ),
    "file": (
        "JWT_JWKS_URL",
        {"jwt_issuer": "me", "jwt_jwks_url": "file:///etc/passwd", "jwt_audience": "a"},
    ),
    "password in the URL": (
        "JWT_JWKS_URL",
        {
            "jwt_issuer": "me",
            "jwt_jwks_url": "https://me:hunter2@issuer.example/keys",
            "jwt_audience": "a",
        },
    ),
    "no URL": ("JWT_ISSUER", {"jwt_issuer": "me", "jwt_audience": "a"}),
    "more issuers than URLs": (
        "JWT_JWKS_URL",
        {
            "jwt_issuer": "me,you",
            "jwt_jwks_url": "https://issuer.example/keys",
            "jwt_audience": "a",
        },
    ),
    "an issuer twice": (
        "JWT_ISSUER",
        {"jwt_issuer": "https://issuer.example,https://issuer.example", "jwt_audience": "a"},
    ),
    "a secret as well": (
        "JWT_SECRET",
        {
            "jwt_secret": "x" * 64,
            "jwt_issuer": "me",
            "jwt_jwks_url": "https://issuer.example/keys",
            "jwt_audience": "a",
        },
    ),
    "a secret's algorithm": (
        "JWT_ALGORITHMS",
        {
            "jwt_issuer": "https://issuer.example",
            "jwt_audience": "a",
            "jwt_algorithms": "ES256,HS256",
        },
    ),
}


@pytest.mark.parametrize(("variable", "values"), UNFIT.values(), ids=UNFIT)
def test_unfit_settings_are_named(variable: str, values: dict[str, Any]) -> None:
    """What would trust the wrong keys, or everybody's tokens, stops the start with the variable's
    name."""
    with pytest.raises(SettingsError) as caught:
        make_settings(**{"jwt_secret": None, **values})
    assert f"CLUSTER_EVENTS_{variable}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
