"""Bad credentials are counted for each address, slowed and logged, and good ones never notice."""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import jwt
import orjson
import pytest

from service.auth import FailureLimiter, mint
from service.auth import failure_limiter as refusals
from service.auth.failure_limiter import RateLimiter, client_network
from service.auth.principal import Role
from service.errors import AuthenticationFailed, SettingsError, TooManyRequests
from tests.support.api import Api
from tests.support.observations import ALL_GOOD
from tests.support.raw import TOKEN, connected, head
from tests.support.settings import JWT_SECRET, READ, WRITE, bearer, make_settings, make_token
from tests.support.waiting import PATIENCE_S, until

MakeApi = Callable[..., Any]
BAD = bearer("not.a.token")


class Clock:
    """Monotonic seconds, moved by hand."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def statuses(api: Api, headers: dict[str, str], times: int) -> list[int]:
    """The statuses of so many requests, one after the other."""
    return [(await api.request("GET", "/v0/config", headers)).status for _ in range(times)]


async def test_flood_of_bad_credentials_is_slowed(make_api: MakeApi) -> None:
    """After the allowed failures an address is answered 429, with the seconds to wait; good
    credentials never are."""
    api = await make_api(auth_failures_per_minute=5)
    assert await statuses(api, BAD, 5) == [401] * 5
    answer = await api.request("GET", "/v0/config", BAD)
    assert (answer.status, answer.json["error_code"]) == (429, "TooManyRequests")
    wait = answer.json["details"]["retry_after_s"]
    assert answer.headers["Retry-After"] == str(wait)
    assert 1 <= wait <= 12
    assert await statuses(api, READ, 20) == [200] * 20
    assert (await api.request("POST", "/v0/cluster/events", READ, data=b"{}")).status == 403
    assert await statuses(api, BAD, 3) == [429] * 3


async def test_slowed_address_may_come_with_a_new_good_credential(make_api: MakeApi) -> None:
    """A credential that was never seen is verified, however many bad ones its address sent; a key
    that is no key is not."""
    api = await make_api(auth_failures_per_minute=2)
    assert await statuses(api, BAD, 3) == [401, 401, 429]
    assert await statuses(api, bearer(make_token()), 2) == [200, 200]
    key, stored = mint("agent", Role.READ, 0)
    await api.store.create_api_key(stored)
    await api.settle()
    assert await statuses(api, bearer(key), 2) == [200, 200]
    assert await statuses(api, bearer(mint("other", Role.READ, 0)[0]), 1) == [429]


async def test_missing_credential_is_never_too_many(make_api: MakeApi) -> None:
    """Who sends none is told to send one: a browser that asks without is no attacker."""
    api = await make_api(auth_failures_per_minute=2)
    assert await statuses(api, {}, 6) == [401] * 6


async def test_open_routes_know_no_limit(make_api: MakeApi) -> None:
    """Probes and metrics are answered whatever their address sent before, or sends along."""
    api = await make_api(auth_failures_per_minute=1)
    await statuses(api, BAD, 3)
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert (await api.request("GET", path, BAD)).status == 200


async def test_limit_can_be_switched_off(make_api: MakeApi) -> None:
    """With 0 no address is slowed."""
    api = await make_api(auth_failures_per_minute=0)
    assert set(await statuses(api, BAD, 400)) == {401}


async def test_proxies_are_not_believed_unless_configured(make_api: MakeApi) -> None:
    """Without the setting, X-Forwarded-For buys no new allowance; with it, each client behind the
    proxy has its own."""
    api = await make_api(auth_failures_per_minute=2)
    found = [
        await statuses(api, BAD | {"X-Forwarded-For": f"192.0.2.{number}"}, 1)
        for number in range(4)
    ]
    assert found == [[401], [401], [429], [429]]
    api = await make_api(auth_failures_per_minute=2, trusted_proxies="127.0.0.0/8")
    for number in range(3):
        assert await statuses(api, BAD | {"X-Forwarded-For": f"192.0.2.{number}"}, 3) == [
            401,
            401,
            429,
        ]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["203.0.113.9, 192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1", "10.0.0.2, 10.0.0.3"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["192.0.2.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["", ",,"], "10.0.0.1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["192.0.2.1:4711"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1:4711, 10.0.0.2:443"], "192.0.2.1"),
        ("10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:DB8:0::1]:443, [fd00::2]:443"], "2001:db8::1"),
        ("10.0.0.1", ['"[2001:db8::1]:443"', '"10.0.0.2"'], "2001:db8::1"),
        ("10.0.0.1", ['"192.0.2.1:4711"'], "192.0.2.1"),
        ("10.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        ("10.0.0.1", ["[fe80::1%25eth0]:443"], "fe80::1"),
        ("10.0.0.1", ["::ffff:192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["[::ffff:192.0.2.1]:4711, ::ffff:10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1:port"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1:"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::1"], "10.0.0.1"),
        ("10.0.0.1", ["[192.0.2.1:80"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1, _hidden:80, 10.0.0.2"], "10.0.0.2"),
        ("::ffff:10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("fd00::1", ["192.0.2.1"], "192.0.2.1"),
        ("192.0.2.7", ["192.0.2.1"], "192.0.2.7"),
        (None, ["192.0.2.1"], "local"),
    ],
)
def test_client_is_whom_trusted_proxies_name(
    peer: str | None, forwarded: list[str], client: str
) -> None:
    """From the peer backwards, an address is believed as far as the one that reported it is a
    trusted proxy."""
    trusting = FailureLimiter(make_settings(trusted_proxies="10.0.0.0/8, fd00::/8"))
    assert trusting.address(peer, forwarded) == client
    assert FailureLimiter(make_settings()).address(peer, forwarded) == (peer or "local")


@pytest.mark.parametrize(
    "form", ["{}:4711", "[2001:db8:0:{}::1]:443", '"[2001:db8:0:{}::1]"', "[::ffff:{}]:80"]
)
async def test_clients_whose_proxy_names_their_port_are_told_apart(
    make_api: MakeApi, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    """Each client has an allowance of its own and is named in the audit log, whatever port it comes
    from."""
    api = await make_api(auth_failures_per_minute=2, trusted_proxies="127.0.0.0/8")
    clients = ("192.0.2.1", "192.0.2.2") if form.startswith(("{", "[::")) else ("1", "2")
    for client in clients:
        sent = BAD | {"X-Forwarded-For": form.format(client)}
        assert await statuses(api, sent, 3) == [401, 401, 429]
    told = [vars(record)["remote"] for record in caplog.records if record.name == "service.audit"]
    expected = clients if "." in clients[0] else ("2001:db8:0:1::1", "2001:db8:0:2::1")
    assert told == [expected[0]] * 2 + [expected[1]] * 2


def test_a_long_chain_of_proxies_costs_no_more_than_a_short_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many hops a field names, the last few are looked at."""
    looked_at: list[str] = []
    hop = refusals._hop_address

    def counted(element: str) -> object:
        looked_at.append(element)
        return hop(element)

    monkeypatch.setattr(refusals, "_hop_address", counted)
    trusting = FailureLimiter(make_settings(trusted_proxies="10.0.0.0/8"))
    assert trusting.address("10.0.0.1", ["192.0.2.1", ",".join(["10.0.0.2"] * 3_000)]) == "10.0.0.2"
    assert len(looked_at) <= 16


def test_allowance_is_a_burst_and_a_rate() -> None:
    """All of a minute's allowance can be spent at once; then it comes back evenly, and never grows
    beyond."""
    clock = Clock()
    limiter = RateLimiter(6, clock)
    assert [limiter.acquire("a") for _ in range(6)] == [0] * 6
    assert limiter.acquire("a") == pytest.approx(10)
    assert limiter.acquire("b") == 0
    clock.now += 9.9
    assert limiter.acquire("a") == pytest.approx(0.1)
    clock.now += 0.2
    assert [bool(limiter.acquire("a")) for _ in range(2)] == [False, True]
    clock.now += 3_600
    assert [bool(limiter.acquire("a")) for _ in range(7)] == [False] * 6 + [True]


def test_memory_for_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many addresses those that were silent longest are forgotten."""
    monkeypatch.setattr(refusals, "MOST_ADDRESSES", 3)
    limiter = RateLimiter(1, Clock())
    for name in "abcda":
        limiter.acquire(name)
    assert len(limiter) == 3
    assert list(limiter._empty_at) == ["c", "d", "a"]


def test_addresses_of_one_site_count_together() -> None:
    """In IPv6 a client has a whole network of addresses, which is one client; IPv4 in the form of
    IPv6 is IPv4."""
    assert (
        client_network("2001:db8:1:2::1")
        == client_network("2001:db8:1:2:ffff::9")
        != client_network("2001:db8:1:3::1")
    )
    assert client_network("::ffff:192.0.2.1") == client_network("192.0.2.1") == "192.0.2.1"
    assert client_network("local") == "local"
    assert ipaddress.ip_network(client_network("2001:db8:1:2::1")).prefixlen == 64


def test_wait_is_rounded_up() -> None:
    """Who comes back after the seconds that were told is heard."""
    clock = Clock()
    slow = FailureLimiter(make_settings(auth_failures_per_minute=7), clock)
    for _ in range(7):
        slow.record_failure(AuthenticationFailed(), "192.0.2.1", "/v0/config", sent=True)
    error = slow.record_failure(AuthenticationFailed(), "192.0.2.1", "/v0/config", sent=True)
    assert isinstance(error, TooManyRequests)
    clock.now += error.details["retry_after_s"]
    assert isinstance(
        slow.record_failure(AuthenticationFailed(), "192.0.2.1", "/", sent=True),
        AuthenticationFailed,
    )


@pytest.mark.parametrize(
    "wrong", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33", "*", "10.0.0.0/8;fd00::/8"]
)
def test_unfit_networks_are_named(wrong: str) -> None:
    """What is no network stops the start."""
    with pytest.raises(SettingsError, match="CLUSTER_EVENTS_TRUSTED_PROXIES"):
        make_settings(trusted_proxies=wrong)


# -- the audit log ---------------------------------------------------------------------------------


def token(key: str = JWT_SECRET, **claims: Any) -> str:
    """A token with a subject."""
    return jwt.encode({"sub": "agent\n7", "exp": int(time.time()) + 3_600} | claims, key)


REASONS: dict[str, tuple[str | None, str, str | None]] = {
    "none": (None, "no credential", None),
    "not bearer": ("Basic dXNlcjpwYXNzd29yZA", "not a bearer token", None),
    "malformed": ("Bearer a.b.c", "malformed token", None),
    "expired": ("Bearer " + token(exp=1), "expired", "agent\n7"),
    "not yet valid": ("Bearer " + token(nbf=int(time.time()) + 3_000), "not yet valid", "agent\n7"),
    "too long": ("Bearer " + token(exp=int(time.time()) + 10**6), "valid for too long", None),
    "another secret": ("Bearer " + token("x" * 64), "bad signature", None),
    "another secret, expired": ("Bearer " + token("x" * 64, exp=1), "bad signature", None),
    "another algorithm": (
        "Bearer " + jwt.encode({"exp": 2**40}, "x" * 64, "HS512"),
        "valid for too long",
        None,
    ),
    "mistyped key": ("Bearer apikey:12345678_x", "mistyped API key", None),
    "unknown key": ("Bearer " + mint("x", Role.READ, 0)[0], "unknown or revoked API key", "key:"),
}


@pytest.mark.parametrize(("sent", "why", "who"), REASONS.values(), ids=REASONS)
async def test_refusals_are_logged_with_their_reason(
    api: Api, caplog: pytest.LogCaptureFixture, sent: str | None, why: str, who: str | None
) -> None:
    """One line says why, from where, on which route, and who if that is sure; never more of a
    credential than its public id."""
    await api.request("GET", "/v0/cluster/events/latest", {"Authorization": sent} if sent else {})
    lines = [vars(record) for record in caplog.records if record.name == "service.audit"]
    assert [(line["message"], line["why"], line["remote"], line["route"]) for line in lines] == [
        ("request refused", why, "127.0.0.1", "/v0/cluster/events/{event_id}")
    ]
    assert str(lines[0]["who"] or "").startswith(who or "")
    assert (lines[0]["who"] is None) is (who is None)
    credential = (sent or "none at all").rpartition(" ")[2]
    assert credential not in repr(lines)
    assert credential[-20:] not in repr(lines)


async def test_lacking_role_is_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """Who may not do what they asked for is named, with the role that it needs."""
    await api.request("POST", "/v0/cluster/events", READ, data=b"{}")
    lines = [vars(record) for record in caplog.records if record.name == "service.audit"]
    assert [(line["why"], line["who"]) for line in lines] == [("needs the role 'write'", "a test")]


async def test_log_is_not_flooded(make_api: MakeApi, caplog: pytest.LogCaptureFixture) -> None:
    """What is too much to be answered is too much to be logged; the metrics go on counting."""
    api = await make_api(auth_failures_per_minute=3)
    await asyncio.gather(*(api.request("GET", "/v0/config", BAD) for _ in range(30)))
    assert len([record for record in caplog.records if record.name == "service.audit"]) == 3
    caplog.set_level(logging.INFO)
    text = (await api.request("GET", "/metrics", {})).body.decode()
    assert 'cluster_events_auth_failures_total{code="429"} 27.0' in text
    assert 'cluster_events_auth_failures_total{code="401"} 3.0' in text


# -- no authentication -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "192.0.2.1", "::", "example.com", "127.0.0.1.example.com"]
)
def test_open_service_is_bound_to_loopback(host: str) -> None:
    """Without authentication, other addresses than loopback are refused, unless that is forced."""
    with pytest.raises(SettingsError, match="CLUSTER_EVENTS_AUTH"):
        make_settings(auth="none", host=host)
    assert make_settings(auth="none", host=host, auth_none_anywhere="yes").host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback_may_be_open(host: str) -> None:
    """Every address of this machine alone may be without authentication."""
    assert make_settings(auth="none", host=host).host == host


@pytest.mark.parametrize("poll_path", ["on", "off"])
async def test_open_service_says_so(make_api: MakeApi, poll_path: str) -> None:
    """Each reply of a service without authentication says that there is none, once; with
    authentication none does."""
    api = await make_api(auth="none", poll_path=poll_path)
    guarded = await make_api(poll_path=poll_path)
    for path in (
        "/v0/cluster/events",
        "/v0/config",
        "/healthz",
        "/v0/nothing",
        "/v0/cluster/events/latest",
        "/metrics",
    ):
        for _ in range(3):
            answer = await api.request("GET", path, {})
            assert answer.headers.getall("Cluster-Auth") == ["none"]
        head = await api.request("HEAD", path, {})
        assert head.headers.getall("Cluster-Auth") == ["none"]
        assert "Cluster-Auth" not in (await guarded.request("GET", path, READ)).headers
    stream = {"Accept": "text/event-stream"}
    async with api.client.get(api.url + "/v0/cluster/events", headers=stream) as answer:
        assert answer.headers.getall("Cluster-Auth") == ["none"]
        await api.store.append(ALL_GOOD)
        async with asyncio.timeout(PATIENCE_S):
            while b"data:" not in await answer.content.readline():
                pass


# -- request bodies --------------------------------------------------------------------------------


async def test_bodies_that_are_held_short_are_bounded(api: Api) -> None:
    """Bodies that clients hold short of complete share one amount of memory; then others get 503,
    until it is free again."""
    body = orjson.dumps({f"{name}_status": "Healthy" for name in ALL_GOOD}) + b" " * 10_000
    api.context.bodies.limit = 3 * len(body)
    fields = (f"Authorization: Bearer {TOKEN.decode()}", f"Content-Length: {len(body)}")
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(await connected(api.port)) for _ in range(3)]
        for line in held:
            line.send(head("POST", "/v0/cluster/events", *fields) + body[:-1])
        await until(lambda: api.context.bodies.used >= 3 * (len(body) - 1))
        answer = await api.request("POST", "/v0/cluster/events", WRITE, data=body)
        assert (answer.status, answer.json["error_code"]) == (503, "ServerBusy")
        assert answer.json["details"] == {"limit": "request bodies"}
        assert "Retry-After" in answer.headers
        for line in held:
            line.send(body[-1:])
            assert (await line.reply()).status == 201
    assert api.context.bodies.used == 0
    assert (await api.request("POST", "/v0/cluster/events", WRITE, data=body)).status == 201
