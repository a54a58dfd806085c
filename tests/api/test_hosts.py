"""A service without credentials answers for its own names only, and makes no credentials: DNS
rebinding gets nothing."""

import contextlib
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import orjson
import pytest
from aiohttp.test_utils import make_mocked_request

from service.api.app import ROUTES
from service.api.http.hosts import Hosts
from service.errors import MisdirectedRequest
from tests.support.api import Api
from tests.support.observations import ALL_GOOD
from tests.support.raw import Line, Reply, connected
from tests.support.settings import WRITE

MakeApi = Callable[..., Any]
LATEST = "/v0/cluster/events/latest"
PROBED = {"/healthz", "/readyz", "/metrics"}
PATHS = {"{event_id}": "latest", "{name}": "agents", "{file}": "explore.js"}
OTHERS = [
    ("GET", "/v0/nothing"),
    ("GET", "/nothing"),
    ("GET", "/"),
    ("GET", "/v0/cluster/events?limit=1"),
    ("HEAD", LATEST),
    ("PUT", "/v0/config"),
    ("OPTIONS", "/v0/config"),
    ("PATCH", "/metrics"),
]


def requests() -> list[tuple[str, str]]:
    """A method and a path for every route, and some that are none."""
    found = []
    for route in ROUTES:
        path = route.path
        for name, value in PATHS.items():
            path = path.replace(name, value)
        found.append((route.method, path))
    return [*found, *OTHERS]


@pytest.fixture
async def make_open(make_api: MakeApi) -> MakeApi:
    """Starts API processes that ask for no credential, with an event."""

    async def make(**values: Any) -> Api:
        api: Api = await make_api(auth="none", jwt_secret=None, **values)
        await api.store.append(ALL_GOOD)
        await api.settle()
        return api

    return make


async def ask(line: Line, head: str, method: str = "GET") -> Reply:
    """The reply to a head without its last line breaks."""
    line.send(f"{head}\r\n\r\n".encode("latin-1"))
    return await line.reply(method)


async def host_gets(api: Api, host: str, method: str = "GET", path: str = LATEST) -> int:
    """The status of a request with that `Host`."""
    async with await connected(api.port) as line:
        return (await ask(line, f"{method} {path} HTTP/1.1\r\nHost: {host}", method)).status


@pytest.mark.parametrize(("method", "path"), requests(), ids=[" ".join(key) for key in requests()])
async def test_other_hosts_are_answered_by_the_probes_only(
    make_open: MakeApi, method: str, path: str
) -> None:
    """Every route and every other path answers 421 for a name that is not ours, but for what probes
    ask."""
    api = await make_open(cors_origins="*")
    async with await connected(api.port) as line:
        for _ in range(3):
            reply = await ask(line, f"{method} {path} HTTP/1.1\r\nHost: evil.example:8080", method)
            if path in PROBED and method != "PATCH":
                assert reply.status == 200
                continue
            assert reply.status == 421
            assert reply.headers["Cluster-Auth"] == "none"
            if method != "HEAD":
                assert reply.error_code == "MisdirectedRequest"
                assert orjson.loads(reply.body)["details"] == {"host": "evil.example:8080"}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:1",
        "LOCALHOST",
        "localhost.",
        "agent.localhost",
        "127.0.0.1",
        "127.0.0.1:99",
        "127.0.0.1:",
        "127.1.2.3",
        "[::1]",
        "[::1]:80",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
    ],
)
async def test_loopback_names_are_ours(make_open: MakeApi, host: str) -> None:
    """A name that can only stand for this machine is answered for, whatever its case, port and
    spelling."""
    assert await host_gets(await make_open(), host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "0.0.0.0",
        "10.0.0.1",
        "[fd00::1]",
        "[::]",
        "128.0.0.1",
        "evil.example.",
        "",
        "@127.0.0.1",
        "evil.example@127.0.0.1",
        "127.0.0.1@evil.example",
        "127.0.0.1:80:80",
        "localhost,evil.example",
        "localhost evil.example",
        "[::1]evil.example",
        "caf\xe9.localhost\xe9",
    ],
)
async def test_other_names_are_not_ours(make_open: MakeApi, host: str) -> None:
    """What is not clearly a name of ours is refused: as misdirected, or as malformed."""
    assert await host_gets(await make_open(), host) in {400, 421}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("[::1%25eth0]:80", 200),
        ("[::1%25a-b]", 200),
        ("[::1%25a_b]", 200),
        ("[::1%25]", 400),
        ("[::1%eth0]", 400),
        ("[127.0.0.1]", 400),
        ("[localhost]", 400),
        ("", 421),
        (":80", 421),
        ("%6cocalhost", 421),
        ("%zz.localhost", 400),
        ("a b.localhost", 400),
        ("a;b.localhost", 200),
        ("caf\xe9.localhost", 400),
    ],
)
async def test_malformed_hosts_and_other_hosts_differ(
    make_open: MakeApi, host: str, status: int
) -> None:
    """A `Host` against the grammar gets 400, a name of another host 421, also where only one of
    these two rules accepts the value."""
    assert await host_gets(await make_open(), host) == status


async def test_allowed_hosts(make_open: MakeApi) -> None:
    """Names and addresses of `ALLOWED_HOSTS` are answered for, whatever their case, port and
    spelling; others are not."""
    api = await make_open(allowed_hosts="Board.Example., 10.0.0.7, [FD00::0:1]")
    for host in (
        "board.example",
        "BOARD.EXAMPLE:8080",
        "board.example.",
        "10.0.0.7:80",
        "[fd00::1]",
        "localhost",
    ):
        assert await host_gets(api, host) == 200, host
    for host in ("example", "x.board.example", "board.example.org", "10.0.0.70", "[fd00::2]"):
        assert await host_gets(api, host) == 421, host


@pytest.mark.parametrize(
    ("address", "host", "ours"),
    [
        ("192.0.2.7", "192.0.2.7:8080", True),
        ("192.0.2.7", "192.0.2.8:8080", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("fe80::1%eth0", "[fe80::1]", True),
        ("fe80::1%eth0", "[fe80::1%eth0]", True),
        ("fe80::1%eth0", "[fe80::1%25eth0]:80", True),
        ("fe80::1%eth0", "[fe80::1%25eth-0]", True),
        ("::1", "::1", True),
        ("fd00::7", "[fd00:0::7]:8080", True),
        ("fd00::7", "[fd00::8]:8080", False),
        ("192.0.2.7", "evil.example", False),
    ],
)
def test_address_of_the_connection_is_ours(address: str, host: str, ours: bool) -> None:
    """The address at which a client has reached the service is answered for, but no other."""
    transport = Mock()
    transport.get_extra_info = {"sockname": (address, 8080)}.get
    request = make_mocked_request("GET", LATEST, {"Host": host}, transport=transport)
    with contextlib.nullcontext() if ours else pytest.raises(MisdirectedRequest):
        Hosts(()).check(request)


async def test_target_with_an_authority_counts_instead_of_the_field(make_open: MakeApi) -> None:
    """The host of a target in absolute form replaces that of `Host` (RFC 9112, section 3.2.2)."""
    api = await make_open()
    for authority, field, expected in (
        ("evil.example", "localhost", 421),
        ("evil.example:8080", f"127.0.0.1:{api.port}", 421),
        ("127.0.0.1@evil.example", "localhost", 421),
        (f"127.0.0.1:{api.port}", "localhost", 200),
        ("[::1]:80", "localhost", 200),
        ("LOCALHOST", "localhost", 200),
    ):
        async with await connected(api.port) as line:
            for _ in range(3):
                reply = await ask(line, f"GET http://{authority}{LATEST} HTTP/1.1\r\nHost: {field}")
                assert reply.status == expected, (authority, field)


async def test_request_in_http_1_0_needs_no_host(make_open: MakeApi) -> None:
    """A client of HTTP/1.0 names no host and is no browser; if it names one, that counts."""
    api = await make_open()
    for fields, expected in (
        ("", 200),
        ("\r\nHost: localhost", 200),
        ("\r\nHost: evil.example", 421),
    ):
        async with await connected(api.port) as line:
            assert (await ask(line, f"GET {LATEST} HTTP/1.0{fields}")).status == expected


async def test_poll_path_answers_no_other_host(make_open: MakeApi) -> None:
    """A head with another host is never remembered, however often it comes, and however well its
    neighbour is known."""
    api = await make_open()
    async with await connected(api.port) as line:
        for _ in range(4):
            assert (await ask(line, f"GET {LATEST} HTTP/1.1\r\nHost: localhost")).status == 200
        assert len(api.poll_server.memo.entries) == 1
        for _ in range(4):
            assert (await ask(line, f"GET {LATEST} HTTP/1.1\r\nHost: evil.example")).status == 421
        assert len(api.poll_server.memo.entries) == 1


async def test_stream_answers_no_other_host(make_open: MakeApi) -> None:
    """Another host gets no stream either."""
    api = await make_open()
    async with await connected(api.port) as line:
        head = "GET /v0/cluster/events HTTP/1.1\r\nAccept: text/event-stream\r\nHost: evil.example"
        assert (await ask(line, head)).status == 421
    assert not len(api.context.watchers)


async def test_with_credentials_any_host_will_do(api: Api) -> None:
    """Where a credential is asked for, a page cannot send one in its name: the host does not
    matter."""
    await api.store.append(ALL_GOOD)
    await api.settle()
    assert await host_gets(api, "evil.example") == 401
    got = await api.get(LATEST, {"Host": "evil.example"})
    assert got.status == 200


# -- what a rebound page would want ----------------------------------------------------------------


async def test_no_api_key_is_made_or_deleted_without_a_credential(
    make_open: MakeApi, make_api: MakeApi
) -> None:
    """API keys would outlast `AUTH=none`: they are neither made nor deleted; they can be read."""
    guarded: Api = await make_api()
    api = await make_open()
    made = await guarded.request("POST", "/v0/api_keys", WRITE, json={"name": "agents"})
    assert made.status == 201
    for fields in ({}, {"Origin": api.url}, {"Origin": "http://evil.example"}, WRITE):
        for method, path, body in (
            ("POST", "/v0/api_keys", b'{"name": "mine", "role": "write"}'),
            ("POST", "/v0/api_keys", b"nonsense"),
            ("DELETE", "/v0/api_keys/agents", None),
            ("DELETE", "/v0/api_keys/unknown", None),
        ):
            got = await api.request(method, path, fields, data=body)
            assert (got.status, got.json["error_code"]) == (403, "InsufficientPermissions")
            assert got.json["details"] == {"required": "write", "actual": "none"}
    assert [key["name"] for key in (await api.request("GET", "/v0/api_keys", {})).json] == [
        "agents"
    ]
    assert (await api.request("GET", "/v0/api_keys/agents", {})).status == 200
