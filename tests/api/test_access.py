"""Who may do what: every route crossed with every kind of credential, and the order in which things
are checked."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import jwt
import orjson
import pytest

from service.api.app import ROUTES
from service.auth import Role, mint
from service.store import Store
from tests.support.api import Api
from tests.support.issuer import AUDIENCE, Issuer, issuing, private_key
from tests.support.observations import ALL_GOOD
from tests.support.raw import EVENT, Line, Reply, connected
from tests.support.settings import JWT_SECRET, READ, WRITE, bearer, make_token

NUMBERS = count()
UNKNOWN_ID = "01997e2b-0000-7000-8000-000000000000"
HOUR_US = 3_600_000_000
LEEWAY_S = 5.0
"""By default."""

REFUSED = "401 AuthenticationFailed"
FORBIDDEN = "403 InsufficientPermissions"
NO_PATH = "404 UnknownEndpoint"
NO_METHOD = "405 MethodNotAllowed"


@dataclass(frozen=True)
class Row:
    """What a request is answered, by who sends it."""

    stranger: str
    reader: str
    writer: str
    path: str | None = None
    """Where the route's template is not a path itself."""
    body: bytes = b""
    """In which `NUMBER` stands for another one each time."""


OPEN = Row("200", "200", "200")


def reading(answer: str) -> Row:
    """What everybody is answered who may read."""
    return Row(REFUSED, answer, answer)


READING = reading("200")
WRITING = Row(REFUSED, FORBIDDEN, "200")

ROUTE_ROWS: Mapping[tuple[str, str], Row] = {
    ("GET", "/v0/cluster/events"): READING,
    ("POST", "/v0/cluster/events"): Row(REFUSED, FORBIDDEN, "201", body=EVENT),
    ("GET", "/v0/cluster/events/{event_id}"): replace(READING, path="/v0/cluster/events/latest"),
    ("GET", "/v0/cluster_healthz"): READING,
    ("GET", "/v0/config"): READING,
    ("GET", "/v0/api_keys"): WRITING,
    ("POST", "/v0/api_keys"): Row(REFUSED, FORBIDDEN, "201", body=b'{"name": "made-NUMBER"}'),
    ("GET", "/v0/api_keys/{name}"): replace(WRITING, path="/v0/api_keys/reader"),
    ("DELETE", "/v0/api_keys/{name}"): Row(
        REFUSED, FORBIDDEN, "404 UnknownApiKey", path="/v0/api_keys/nobody"
    ),
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/docs/{file}"): replace(OPEN, path="/docs/explore.js"),
}
"""One row for every route of the API."""

OTHER_ROWS: Mapping[tuple[str, str], Row] = {
    ("GET", f"/v0/cluster/events/{UNKNOWN_ID}"): reading("404 UnknownClusterMonitorEvent"),
    ("GET", "/v0/cluster/events/not-an-id"): reading("400 InvalidUuidParam"),
    ("GET", "/v0/cluster/events/latest?selector=most"): reading("400 InvalidQueryParam"),
    ("GET", "/v0/no_such_path"): reading(NO_PATH),
    ("GET", "/v0"): reading(NO_PATH),
    ("GET", "/v0/"): reading(NO_PATH),
    ("GET", "/v0/cluster/events/"): reading(NO_PATH),
    ("GET", "/v0/cluster//events"): reading(NO_PATH),
    ("GET", "/v0/cluster/events/latest/more"): reading(NO_PATH),
    ("PATCH", "/v0/no_such_path"): reading(NO_PATH),
    ("DELETE", "/v0/cluster/events"): reading(NO_METHOD),
    ("POST", "/v0/cluster/events/latest"): reading(NO_METHOD),
    ("OPTIONS", "/v0/config"): reading(NO_METHOD),
    ("POST", "/v0/cluster_healthz"): reading(NO_METHOD),
    ("GET", "/v1/cluster/events"): Row(NO_PATH, NO_PATH, NO_PATH),
    ("GET", "//v0/cluster/events"): Row(NO_PATH, NO_PATH, NO_PATH),
    ("GET", "/x/../v0/cluster/events"): Row(NO_PATH, NO_PATH, NO_PATH),
    ("GET", "/V0/cluster/events"): Row(NO_PATH, NO_PATH, NO_PATH),
    ("GET", "/%76%30/cluster/events"): READING,
    ("GET", "/healthz/"): Row(NO_PATH, NO_PATH, NO_PATH),
    ("POST", "/healthz"): Row(NO_METHOD, NO_METHOD, NO_METHOD),
    ("DELETE", "/metrics"): Row(NO_METHOD, NO_METHOD, NO_METHOD),
}

ROWS = {**ROUTE_ROWS, **OTHER_ROWS}


ISSUER = "https://issuer.example"
SECRET_SETTINGS = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


class Secret(Issuer):
    """Signs with the tests' shared secret instead of a key."""

    def __init__(self) -> None:
        super().__init__(ISSUER)

    def token(
        self, kid: str | None = None, headers: Mapping[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token signed with the secret."""
        return self.signed(JWT_SECRET, "HS256", {"kid": kid, **(headers or {})}, **claims)


async def credentials(store: Store, issuer: Issuer) -> Mapping[str, tuple[Role | None, bytes]]:
    """Header lines of every kind of credential, each with what it may do; `None` is nothing. API
    keys are put in the store."""
    now = time.time_ns() // 1_000
    keys = {}
    for name, role, expires in (
        ("reader", Role.READ, None),
        ("writer", Role.WRITE, now + HOUR_US),
        ("expired", Role.WRITE, now - 1),
        ("revoked", Role.WRITE, None),
    ):
        key, stored = mint(name, role, now, expires)
        await store.create_api_key(stored)
        keys[name] = key
    await store.delete_api_key("revoked")
    unknown, _ = mint("unknown", Role.WRITE, now)
    mistyped = keys["writer"][:-1] + ("1" if keys["writer"][-1:] != "1" else "2")
    write, seconds = issuer.token(role="write"), int(time.time())

    def field(value: str | bytes) -> bytes:
        return b"Authorization: " + (value.encode() if isinstance(value, str) else value) + b"\r\n"

    def bad(value: str) -> tuple[None, bytes]:
        return None, field("Bearer " + value)

    return {
        "none": (None, b""),
        "empty": (None, field("")),
        "malformed": bad("not.a.token"),
        "no token": bad(""),
        "wrong scheme": (None, field("Basic " + write)),
        "no scheme": (None, field(write)),
        "two fields": (None, field("Bearer " + write) * 2),
        "two fields, one bad": (None, field("Bearer " + write) + field("Bearer x")),
        "bad signature": bad(write[:-5] + "AAAAA"),
        "expired": bad(issuer.token(exp=seconds - 6, role="write")),
        "expired, with a fraction": bad(issuer.token(exp=seconds - 5.5, role="write")),
        "not yet valid": bad(issuer.token(nbf=seconds + 60, role="write")),
        "valid for too long": bad(issuer.token(exp=seconds + 86_460, role="write")),
        "wrong issuer": bad(issuer.token(iss="https://elsewhere.example", role="write")),
        "no issuer": bad(issuer.token(iss=None, role="write")),
        "wrong audience": bad(issuer.token(aud="another service", role="write")),
        "no audience": bad(issuer.token(aud=None, role="write")),
        "wrong algorithm": bad(
            issuer.signed(private_key("RS256"), "RS384", {"kid": "first"}, role="write")
        ),
        "a secret's algorithm": bad(
            issuer.signed("x" * 64, "HS256", {"kid": "first"}, role="write")
        ),
        "unknown key id": bad(
            issuer.signed(private_key("ES256", 2), "ES256", {"kid": "unknown"}, role="write")
        ),
        "alg none": bad(issuer.signed("", "none", {"kid": "first"}, role="write")),
        "bytes beyond ASCII": (None, field(b"Bearer " + write.encode() + b"\xff\xe9")),
        "UTF-8": bad("café"),
        "revoked API key": bad(keys["revoked"]),
        "unknown API key": bad(unknown),
        "expired API key": bad(keys["expired"]),
        "mistyped API key": bad(mistyped),
        "API key without a scheme": (None, field(keys["writer"])),
        "token in another field": (None, f"X-API-Key: {keys['writer']}\r\n".encode()),
        "read JWT": (Role.READ, field("Bearer " + issuer.token())),
        "write JWT": (Role.WRITE, field("Bearer " + write)),
        "read API key": (Role.READ, field("Bearer " + keys["reader"])),
        "write API key": (Role.WRITE, field("bearer " + keys["writer"])),
    }


async def ask(line: Line, method: str, path: str, fields: bytes, body: bytes) -> Reply:
    """The reply to one request."""
    body = body.replace(b"NUMBER", b"%d" % next(NUMBERS))
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    line.send(
        f"{method} {path} HTTP/1.1\r\nHost: here\r\n".encode() + fields + length + b"\r\n" + body
    )
    return await line.reply(method)


def outcome(reply: Reply) -> str:
    """The status, and the code if it is an error."""
    return f"{reply.status}" if reply.status < 400 else f"{reply.status} {reply.error_code}"


@pytest.fixture(params=["on", "off"])
async def healthy(request: pytest.FixtureRequest, make_api: Callable[..., Any]) -> Api:
    """An API process with one event, all healthy, with the poll path on and off."""
    api: Api = await make_api(poll_path=request.param)
    await api.store.append(ALL_GOOD)
    return api


@pytest.fixture(params=["secret", "secret without the poll path", "published keys"])
async def guarded(
    request: pytest.FixtureRequest, make_api: Callable[..., Any]
) -> AsyncIterator[tuple[Api, Issuer]]:
    """An API process with one event, whose tokens need an issuer and an audience, and who issues
    them."""
    async with issuing() as publisher:
        published = request.param == "published keys"
        settings = publisher.settings() if published else SECRET_SETTINGS
        poll_path = "off" if "without" in request.param else "on"
        api = await make_api(auth_failures_per_minute=0, poll_path=poll_path, **settings)
        await api.store.append(ALL_GOOD)
        yield api, publisher if published else Secret()


@pytest.mark.parametrize(("method", "template"), ROWS, ids=[" ".join(key) for key in ROWS])
async def test_every_credential_gets_what_its_role_allows(
    guarded: tuple[Api, Issuer], method: str, template: str
) -> None:
    """Each kind of credential gets the status and the code of the table, at the first sight of the
    request and at later ones."""
    row = ROWS[method, template]
    api, issuer = guarded
    cast = await credentials(api.store, issuer)
    await api.settle()
    allowed = {None: row.stranger, Role.READ: row.reader, Role.WRITE: row.writer}
    expected = {name: allowed[role] for name, (role, _) in cast.items()}
    async with await connected(api.port) as line:
        for _ in range(
            3
        ):  # The poll path remembers a request at its second sight, and answers it from then on.
            found = {}
            for name, (_, fields) in cast.items():
                reply = await ask(line, method, row.path or template, fields, row.body)
                found[name] = outcome(reply)
                assert reply.headers.get("WWW-Authenticate") == (
                    "Bearer" if reply.status == 401 else None
                )
            assert found == expected


def test_every_route_has_a_row() -> None:
    """A new route needs its row here, and a row its route."""
    assert ROUTE_ROWS.keys() == {(route.method, route.path) for route in ROUTES}


async def test_refusals_do_not_differ(guarded: tuple[Api, Issuer]) -> None:
    """All bad credentials get the same bytes: a stranger learns nothing about what was wrong, or
    which keys exist."""
    api, issuer = guarded
    cast = await credentials(api.store, issuer)
    await api.settle()
    async with await connected(api.port) as line:
        replies = [
            await ask(line, "GET", "/v0/config", fields, b"")
            for role, fields in cast.values()
            if role is None
        ]
    assert len({reply.body for reply in replies}) == 1
    assert orjson.loads(replies[0].body)["details"] == {}


async def test_key_is_refused_once_it_is_revoked(healthy: Api) -> None:
    """A key that has just been used, and is remembered, is refused as soon as the replica knows
    that it was revoked."""
    key, stored = mint("agent", Role.READ, 0)
    await healthy.store.create_api_key(stored)
    await healthy.settle()
    for _ in range(3):
        assert (await healthy.request("GET", "/v0/cluster/events", bearer(key))).status == 200
    await healthy.store.delete_api_key("agent")
    await healthy.settle()
    assert (await healthy.request("GET", "/v0/cluster/events", bearer(key))).status == 401


@pytest.mark.slow
async def test_token_is_refused_once_it_has_expired(healthy: Api) -> None:
    """A token that has just been used, and is remembered, is refused at the moment when it ends:
    `JWT_LEEWAY` after `exp`."""
    end = int(time.time()) + 2.5
    credential = bearer(jwt.encode({"exp": end - LEEWAY_S}, JWT_SECRET))
    while (
        answer := await healthy.request("GET", "/v0/cluster/events/latest", credential)
    ).status == 200:
        assert time.time() < end + 0.5
        await asyncio.sleep(0.05)
    assert answer.status == 401
    assert time.time() >= end


# -- the order of checks ---------------------------------------------------------------------------

NONE = bearer(jwt.encode({"exp": int(time.time()) + 3_600, "role": "admin"}, JWT_SECRET))


@pytest.mark.parametrize(
    ("method", "path", "credential", "expected"),
    [
        ("GET", "/v0/cluster/events/bad?selector=bad", {}, REFUSED),
        ("GET", "/v0/cluster/events/bad?selector=bad", NONE, FORBIDDEN),
        ("GET", "/v0/cluster/events/bad?selector=bad", READ, "400 InvalidQueryParam"),
        ("GET", "/v0/cluster/events/bad?selector=all", READ, "400 InvalidUuidParam"),
        ("GET", "/v0/cluster/events/bad", READ, "400 InvalidUuidParam"),
        ("GET", f"/v0/cluster/events/{UNKNOWN_ID}?selector=bad", READ, "400 InvalidQueryParam"),
        ("GET", f"/v0/cluster/events/{UNKNOWN_ID}", READ, "503 StoreUnavailable"),
        ("GET", "/v0/cluster/events/latest", READ, "503 StoreUnavailable"),
        ("GET", "/v0/cluster/events", READ, "503 StoreUnavailable"),
        ("GET", "/v0/cluster_healthz", READ, "503 StoreUnavailable"),
        ("GET", "/v0/config", READ, "200"),
        ("GET", "/v0/api_keys", READ, FORBIDDEN),
        ("GET", "/v0/api_keys", WRITE, "503 StoreUnavailable"),
        ("GET", "/v0/api_keys/x", WRITE, "503 StoreUnavailable"),
        ("DELETE", "/v0/api_keys/x", WRITE, "503 StoreUnavailable"),
        ("POST", "/v0/api_keys", READ, FORBIDDEN),
        ("POST", "/v0/api_keys", WRITE, "400 InvalidApiKey"),
        ("POST", "/v0/cluster/events", {}, REFUSED),
        ("POST", "/v0/cluster/events", READ, FORBIDDEN),
        ("POST", "/v0/cluster/events", WRITE, "400 InvalidEvent"),
        ("GET", "/v0/no_such_path", {}, REFUSED),
        ("GET", "/v0/no_such_path", NONE, FORBIDDEN),
        ("DELETE", "/v0/cluster/events", {}, REFUSED),
        ("DELETE", "/v0/cluster/events", NONE, FORBIDDEN),
    ],
)
async def test_order_of_checks(
    make_api: Callable[..., Any], method: str, path: str, credential: dict[str, str], expected: str
) -> None:
    """Credential, role, query, id, store: the first that fails is the answer, so the store is asked
    last, if at all."""
    api: Api = await make_api(redis_url="unix:///no/such/socket", stale_if_error="0")
    answer = await api.request(method, path, credential)
    assert outcome(Reply("HTTP/1.1", answer.status, answer.headers, answer.body)) == expected


async def test_forbidden_says_which_role_is_needed(api: Api) -> None:
    """403 names the role that is needed and the one that the credential has."""
    answer = await api.request("POST", "/v0/cluster/events", READ, data=EVENT)
    assert answer.json["details"] == {"required": "write", "actual": "read"}
    answer = await api.request("GET", "/v0/config", NONE)
    assert answer.json["details"] == {"required": "read", "actual": "none"}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v0/cluster/events", "GET, HEAD, POST"),
        ("PUT", "/v0/cluster/events/latest", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
async def test_wrong_method_is_told_the_right_ones(
    api: Api, method: str, path: str, allow: str
) -> None:
    """405 lists the methods that the path takes."""
    answer = await api.request(method, path, READ)
    assert (answer.status, answer.headers["Allow"], answer.json["details"]) == (
        405,
        allow,
        {"method": method},
    )


async def test_without_authentication_everyone_is_a_writer(make_api: Callable[..., Any]) -> None:
    """With `AUTH=none` no credential is asked for, and a bad one does no harm."""
    api = await make_api(auth="none", jwt_secret=None)
    for fields in ({}, bearer("nonsense")):
        assert (await api.request("POST", "/v0/cluster/events", fields, data=EVENT)).status == 201
        assert (await api.request("GET", "/v0/cluster/events/latest", fields)).status == 200


# -- HEAD ------------------------------------------------------------------------------------------

HEAD_PATHS = [
    row.path or path
    for (method, path), row in ROWS.items()
    if method == "GET" and path != "/metrics"
]


@pytest.mark.parametrize("path", HEAD_PATHS)
async def test_head_is_get_without_the_body(healthy: Api, path: str) -> None:
    """HEAD gets the status and the header fields of GET, and no body, with a credential and
    without."""
    await healthy.settle()
    for fields in (b"", f"Authorization: Bearer {make_token(Role.READ)}\r\n".encode()):
        async with await connected(healthy.port) as line:
            get = await ask(line, "GET", path, fields, b"")
            head = await ask(line, "HEAD", path, fields, b"")
            again = await ask(
                line, "GET", path, fields, b""
            )  # Whatever HEAD had sent too much would be read as this.
        assert (head.status, head.body) == (get.status, b"")
        assert stable(head) == stable(get) == stable(again)


def stable(reply: Reply) -> dict[str, str]:
    """The header fields that do not change with the clock."""
    return {
        name: value
        for name, value in reply.headers.items()
        if name not in {"Date", "Cluster-Checked-At"}
    }


async def test_head_of_the_metrics(api: Api) -> None:
    """The metrics change with every look, but HEAD of them has no body either."""
    async with await connected(api.port) as line:
        head = await ask(line, "HEAD", "/metrics", b"", b"")
        get = await ask(line, "GET", "/metrics", b"", b"")
    assert (head.status, head.headers["Content-Type"]) == (200, get.headers["Content-Type"])
