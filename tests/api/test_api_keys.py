"""API keys by HTTP: made, listed, used, revoked everywhere, and never told again."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import jwt
import orjson
import pytest

from service.api import app
from service.api.live import event_stream as stream
from service.api.poll_path.memo import MemoEntry
from service.api.responses.cache import EVENTS
from service.auth import Role, mint
from service.auth import key_usage as usage
from service.errors import StoreUnavailable
from service.events import LAST_US
from service.replica import Replica
from tests.support.api import Api, Got
from tests.support.clocks import put_credentials_forward, set_wall
from tests.support.observations import ALL_GOOD
from tests.support.raw import Line, connected
from tests.support.settings import JWT_SECRET, READ, WRITE, bearer
from tests.support.waiting import PATIENCE_S, until

KEYS = "/v0/api_keys"
LATEST = "/v0/cluster/events/latest"
TODAY = datetime.now(UTC).date


async def create(api: Api, headers: dict[str, str] | None = None, **body: Any) -> Got:
    """The answer to a request for a new key."""
    return await api.request("POST", KEYS, headers or WRITE, json=body)


async def test_key_from_its_making_to_its_end(api: Api) -> None:
    """A key is shown once, opens what its role allows at once, is described without its secret, and
    ends with its deletion."""
    await api.store.append(ALL_GOOD)
    made = await create(api, name="agents")
    assert made.status == 201
    assert list(made.json) == ["id", "name", "api_key"]
    assert made.headers["Cache-Control"] == "no-store"
    key = made.json["api_key"]
    assert key.startswith(f"apikey:{made.json['id']}_")
    assert (await api.request("GET", LATEST, bearer(key))).status == 200
    assert (await api.request("POST", "/v0/cluster/events", bearer(key), data=b"{}")).status == 403

    one, listed = (
        await api.request("GET", f"{KEYS}/agents", WRITE),
        await api.request("GET", KEYS, WRITE),
    )
    assert listed.json == [one.json]
    assert list(one.json) == ["id", "name", "role", "created_at", "expires_at", "last_used_on"]
    assert one.json | {"created_at": ""} == {
        "id": made.json["id"],
        "name": "agents",
        "role": "read",
        "created_at": "",
        "expires_at": None,
        "last_used_on": None,
    }
    secret = key.partition("_")[2]
    assert secret not in (one.body + listed.body).decode()

    gone = await api.request("DELETE", f"{KEYS}/agents", WRITE)
    assert (gone.status, gone.json) == (200, {"id": made.json["id"], "name": "agents"})
    assert (await api.request("GET", LATEST, bearer(key))).status == 401
    for method in ("GET", "DELETE"):
        again = await api.request(method, f"{KEYS}/agents", WRITE)
        assert (again.status, again.json["error_code"], again.json["details"]) == (
            404,
            "UnknownApiKey",
            {"name": "agents"},
        )


async def test_role_and_end_are_what_was_asked_for(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key may write if that was asked for, and is refused from the moment on that was asked
    for."""
    ends_at = int(time.time()) + 600
    end = datetime.fromtimestamp(ends_at, UTC).isoformat()
    made = await create(api, name="deploy", role="write", expires_at=end)
    key = made.json["api_key"]
    described = (await api.request("GET", f"{KEYS}/deploy", bearer(key))).json
    assert described["role"] == "write"
    assert datetime.fromisoformat(described["expires_at"]) == datetime.fromisoformat(end)
    for now, status in ((ends_at - 0.001, 200), (ends_at, 401)):
        set_wall(monkeypatch, api, now)
        for path in ("/v0/config", "/v0/cluster/events") * 3:
            assert (await api.request("GET", path, bearer(key))).status == status


async def test_names_are_taken_once(api: Api) -> None:
    """A second key of a name is refused, and the first one goes on; a name is free again after its
    key is deleted."""
    first = (await create(api, name="agents")).json["api_key"]
    second = await create(api, name="agents", role="write")
    assert (second.status, second.json["error_code"], second.json["details"]) == (
        409,
        "DuplicateName",
        {"name": "agents"},
    )
    assert (await api.request("GET", "/v0/config", bearer(first))).status == 200
    await api.request("DELETE", f"{KEYS}/agents", WRITE)
    third = (await create(api, name="agents")).json["api_key"]
    assert (await api.request("GET", "/v0/config", bearer(first))).status == 401
    assert (await api.request("GET", "/v0/config", bearer(third))).status == 200


async def test_nobody_gives_more_than_they_have(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where readers may make keys, they make keys for reading."""
    routes = [
        replace(route, role=Role.READ) if route.path == KEYS else route for route in app.ROUTES
    ]
    monkeypatch.setattr(app, "ROUTES", tuple(routes))
    api = await make_api()
    assert (await create(api, READ, name="reader")).status == 201
    refused = await create(api, READ, name="writer", role="write")
    assert (refused.status, refused.json["details"]) == (
        403,
        {"required": "write", "actual": "read"},
    )
    assert [key["name"] for key in (await api.request("GET", KEYS, READ)).json] == ["reader"]


BAD_BODIES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", [""]),
    "not JSON": (b"{", [""]),
    "not UTF-8": (b'{"name": "\xff"}', [""]),
    "array": (b"[]", [""]),
    "null": (b"null", [""]),
    "no name": (b"{}", ["name"]),
    "name null": (b'{"name": null}', ["name"]),
    "name number": (b'{"name": 7}', ["name"]),
    "name empty": (b'{"name": ""}', ["name"]),
    "name with a slash": (b'{"name": "a/b"}', ["name"]),
    "name with a space": (b'{"name": "a b"}', ["name"]),
    "name with a line feed": (b'{"name": "a\\n"}', ["name"]),
    "name with NUL": (b'{"name": "a\\u0000"}', ["name"]),
    "name beyond ASCII": ('{"name": "é"}'.encode(), ["name"]),
    "name too long": (b'{"name": "%s"}' % (b"x" * 65), ["name"]),
    "name a dot": (b'{"name": "."}', ["name"]),
    "name two dots": (b'{"name": ".."}', ["name"]),
    "role unknown": (b'{"name": "a", "role": "admin"}', ["role"]),
    "role in capitals": (b'{"name": "a", "role": "WRITE"}', ["role"]),
    "role null": (b'{"name": "a", "role": null}', ["role"]),
    "role list": (b'{"name": "a", "role": ["write"]}', ["role"]),
    "end past": (b'{"name": "a", "expires_at": "2020-01-01T00:00:00Z"}', ["expires_at"]),
    "end a duration": (b'{"name": "a", "expires_at": "90d"}', ["expires_at"]),
    "end a number": (b'{"name": "a", "expires_at": 1893456000}', ["expires_at"]),
    "end without an offset": (
        b'{"name": "a", "expires_at": "2999-01-01T00:00:00"}',
        ["expires_at"],
    ),
    "end no date": (b'{"name": "a", "expires_at": "2999-02-30T00:00:00Z"}', ["expires_at"]),
    "end in year 0": (b'{"name": "a", "expires_at": "0000-01-01T00:00:00Z"}', ["expires_at"]),
    "end after year 9999": (
        b'{"name": "a", "expires_at": "9999-12-31T23:59:59-23:59"}',
        ["expires_at"],
    ),
    "end with a bare space": (
        b'{"name": "a", "expires_at": "2999-01-01T00:00:00 02:00"}',
        ["expires_at"],
    ),
    "another field": (b'{"name": "a", "scopes": ["all"]}', ["scopes"]),
    "all at once": (b'{"role": 1, "expires_at": 1, "x": 1}', ["name", "role", "expires_at", "x"]),
}


@pytest.mark.parametrize(("body", "fields"), BAD_BODIES.values(), ids=BAD_BODIES)
async def test_bodies_that_describe_no_key_are_refused(
    api: Api, body: bytes, fields: list[str]
) -> None:
    """Every field at fault is named, and nothing is made."""
    answer = await api.request("POST", KEYS, WRITE, data=body)
    assert (answer.status, answer.json["error_code"]) == (400, "InvalidApiKey")
    assert [error["field"] for error in answer.json["details"]["errors"]] == fields
    assert await api.store.api_keys() == {}


@pytest.mark.parametrize(
    ("end", "printed"),
    [
        ("2999-01-01T00:00:00.123456789Z", "2999-01-01T00:00:00.123456Z"),
        ("2998-12-31t23:59:60z", "2999-01-01T00:00:00.000000Z"),
        ("2999-01-01T02:30:00.5+02:30", "2999-01-01T00:00:00.500000Z"),
        ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
async def test_end_in_any_spelling_is_kept_and_printed(api: Api, end: str, printed: str) -> None:
    """Whatever RFC 3339 can say of a time is understood, and told in the one form."""
    assert (await create(api, name="agents", expires_at=end)).status == 201
    assert [key["expires_at"] for key in (await api.request("GET", KEYS, WRITE)).json] == [printed]


UNREADABLE: dict[str, bytes] = {
    "not JSON": b"{",
    "not an object": b"[]",
    "not UTF-8": b'"\xff"',
    "no digest": b'{"name":"odd","id":"12345678","role":"read","created_at":0}',
    "made after year 9999": b'{"name":"odd","id":"12345678","role":"read","sha256":"","created_at":%d}'  # noqa: E501
    % (LAST_US + 1),
    "ended before "
    "year 1": b'{"name":"odd","id":"12345678","role":"read","sha256":"","created_at":0,"expires_at":%d}'  # noqa: E501
    % -(2**60),
}


@pytest.mark.parametrize("record", UNREADABLE.values(), ids=UNREADABLE)
async def test_unreadable_record_hides_no_other(api: Api, record: bytes) -> None:
    """A record that cannot be read or printed opens nothing; the other keys are listed, shown,
    made, used and deleted."""
    await api.store.append(ALL_GOOD)
    key = (await create(api, name="agents")).json["api_key"]
    client, keys = api.store._client, api.store.keys
    await client.hset(keys.api_keys, "odd", record)
    await client.hset(
        keys.api_keys_used, mapping={"agents": b"never", "odd": b"12345678 99999999999"}
    )
    await client.hincrby(keys.meta, "version", 1)
    await api.settle()
    assert [found["name"] for found in (await api.request("GET", KEYS, WRITE)).json] == ["agents"]
    assert (await api.request("GET", f"{KEYS}/agents", WRITE)).json["last_used_on"] is None
    assert (await api.request("GET", LATEST, bearer(key))).status == 200
    assert (await create(api, name="more")).status == 201
    assert (await api.request("DELETE", f"{KEYS}/agents", WRITE)).status == 200


async def test_end_that_an_earlier_version_stored_is_read(api: Api) -> None:
    """A key whose end lies after the year 9999 goes on working, and its end is told as the last
    moment that has a spelling."""
    key, stored = mint("agents", Role.READ, 0)
    await api.store.create_api_key(replace(stored, expires_at=LAST_US + 86_340_000_000))
    await api.settle()
    assert (await api.request("GET", "/v0/config", bearer(key))).status == 200
    assert [found["expires_at"] for found in (await api.request("GET", KEYS, WRITE)).json] == [
        "9999-12-31T23:59:59.999999Z"
    ]


def test_no_key_is_made_with_an_end_that_cannot_be_printed() -> None:
    """Whoever asks for it: what cannot be printed is not stored."""
    with pytest.raises(ValueError, match="years 1 to 9999"):
        mint("agents", Role.READ, 0, LAST_US + 1)


async def test_large_body_is_refused(api: Api) -> None:
    """No key needs more than a few hundred bytes to be described."""
    answer = await api.request("POST", KEYS, WRITE, data=b"x" * 5_000)
    assert (answer.status, answer.json["details"]) == (413, {"limit_bytes": 4_096})


@pytest.mark.parametrize(
    "name", ["a b", "{x}", "{name}", "..", "é", "x" * 500, "\n", "%2f", "\x00", "latest", "a/b"]
)
async def test_odd_names_are_unknown(api: Api, name: str) -> None:
    """Whatever stands in the path is looked up as a name, and is not one."""
    for method in ("GET", "DELETE"):
        answer = await api.request(method, f"{KEYS}/{quote(name, safe='')}", WRITE)
        assert (answer.status, answer.json["error_code"]) == (404, "UnknownApiKey")


async def test_key_is_known_to_other_replicas_at_once(make_api: Callable[..., Any]) -> None:
    """A key that is made on one replica is listed on another at once, and is accepted there as soon
    as the notification has arrived: no heartbeat and no refresh comes before the test ends."""
    one, other = [await make_api(heartbeat="10m", max_staleness="1h") for _ in range(2)]
    key = (await create(one, name="agents")).json["api_key"]

    async def accepted() -> bool:
        answer = await other.request("GET", "/v0/config", bearer(key))
        return bool(answer.status == 200)

    await until(accepted)
    assert [found["name"] for found in (await other.request("GET", KEYS, WRITE)).json] == ["agents"]


# -- revocation ------------------------------------------------------------------------------------

MAX_STALENESS = 2.0


async def poll(line: Line, key: str, accepted: list[float]) -> None:
    """Polls without a pause until the key is refused, and notes when each poll was sent that was
    accepted."""
    request = f"GET {LATEST} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    while True:
        sent = time.monotonic()
        line.send(request)
        reply = await line.reply("GET")
        if reply.status != 200:
            assert reply.status == 401
            return
        accepted.append(sent)


@pytest.mark.parametrize("notices", [True, False], ids=["notices", "notices lost"])
async def test_revoked_key_ends_on_every_replica(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, notices: bool
) -> None:
    """Polled at full speed on two replicas, a key is not accepted in a poll that is sent later than
    `MAX_STALENESS` after its deletion was answered."""
    if not notices:

        async def deaf(_: Replica) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(Replica, "_listen", deaf)
    apis = [
        await make_api(max_staleness=f"{MAX_STALENESS}s"),
        await make_api(max_staleness=f"{MAX_STALENESS}s"),
    ]
    await apis[0].store.append(ALL_GOOD)
    key = (await create(apis[0], name="agents")).json["api_key"]
    for api in apis:
        await api.settle()
    async with await connected(apis[0].port) as one, await connected(apis[1].port) as two:
        accepted: list[list[float]] = [[], []]
        lines = zip((one, two), accepted, strict=True)
        polls = [asyncio.create_task(poll(line, key, times)) for line, times in lines]
        await until(lambda: all(len(times) > 50 for times in accepted))
        assert all(
            len(api.poll_server.memo.entries) == 1 for api in apis
        )  # They are answered by the poll path.
        assert (await apis[0].request("DELETE", f"{KEYS}/agents", WRITE)).status == 200
        answered = time.monotonic()
        await asyncio.gather(*polls)
    here, there = (times[-1] - answered for times in accepted)
    assert here <= 0  # The replica that answers the deletion knows of it.
    assert there <= MAX_STALENESS


async def test_revocation_reaches_what_was_being_answered(api: Api) -> None:
    """A key that is revoked between its verification and the answer opens nothing on the poll path
    afterwards."""
    await api.store.append(ALL_GOOD)
    key = (await create(api, name="agents")).json["api_key"]

    def entry() -> MemoEntry:
        snapshot = api.context.replica.snapshot
        assert snapshot is not None
        principal = api.context.authenticator.authenticate(f"Bearer {key}", snapshot.api_keys)
        return MemoEntry(
            api.context.responses.entry(EVENTS),
            principal.expires,
            principal.verified_against,
            None,
            close=False,
        )

    await api.get("/v0/cluster/events")  # Makes the answer ready.
    before = entry()
    assert api.poll_server.respond(b"", before, api.poll_server.monotonic()) is not None
    await api.request("DELETE", f"{KEYS}/agents", WRITE)
    await api.get("/v0/cluster/events")
    assert api.poll_server.respond(b"", before, api.poll_server.monotonic()) is None


# -- last use --------------------------------------------------------------------------------------


async def used_on(api: Api, name: str = "agents") -> Any:
    """The day that is told of a key."""
    return (await api.request("GET", f"{KEYS}/{name}", WRITE)).json["last_used_on"]


async def test_day_of_last_use_is_told(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A used key is told to be used today, by any replica; a key that was not used is not, and
    neither changes the version."""
    monkeypatch.setattr(usage, "FLUSH_S", 0.05)
    api, other = await make_api(), await make_api()
    key = (await create(api, name="agents")).json["api_key"]
    await create(api, name="idle")
    await other.settle()
    version = other.context.replica.snapshot.version
    await api.request("GET", "/v0/config", bearer(key))
    await until(lambda: used_on(other))
    assert await used_on(other) == TODAY().isoformat()
    assert await used_on(other, "idle") is None
    await other.settle()
    assert other.context.replica.snapshot.version == version


async def test_day_of_last_use_is_written_once_a_day() -> None:
    """However often a key is used, the store hears of it once a day, and again when that failed."""
    written: list[dict[str, int]] = []
    failing = False

    async def write(days: Any) -> None:
        if failing:
            raise StoreUnavailable("it is away")
        written.append(dict(days))

    days = usage.KeyUsage()
    for now in (0.0, 1.0, 86_399.0):
        days.note("k", now)
        await days.flush(write)
    assert written == [{"k": 0}]
    failing = True
    days.note("k", 86_400.0)
    await days.flush(write)
    failing = False
    await days.flush(write)
    await days.flush(write)
    assert written == [{"k": 0}, {"k": 1}]


async def test_poll_path_asks_again_on_a_new_day(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is polled across midnight is verified, and noted, on the new day; a token is not
    asked for again."""
    key, stored = mint("agents", Role.READ, 0)
    await api.store.create_api_key(stored)
    await api.settle()
    authenticator = api.context.authenticator
    now = time.time()
    principal = authenticator.authenticate(f"Bearer {key}", api.context.replica.snapshot.api_keys)  # type: ignore[union-attr]
    midnight = authenticator.valid_until(principal)
    assert 0 < midnight - now <= 86_400
    assert midnight % 86_400 == 0
    token = authenticator.authenticate(READ["Authorization"], {})
    assert authenticator.valid_until(token) == token.expires


async def test_last_use_is_forgotten_with_the_key(api: Api) -> None:
    """A deleted key leaves nothing behind, and a new one of its name begins unused, also if an old
    use is told late."""
    made = (await create(api, name="agents")).json
    old = (await api.store.api_keys())["agents"]
    await api.store.note_api_keys_used({old: 20_000})
    assert await used_on(api) == "2024-10-04"
    await api.store.note_api_keys_used({old: 19_999})
    assert await used_on(api) == "2024-10-04"
    await api.request("DELETE", f"{KEYS}/agents", WRITE)
    await api.store.note_api_keys_used({old: 20_001})
    assert await api.store.api_keys_used() == {}
    await create(api, name="agents")
    await api.store.note_api_keys_used({old: 20_002})
    assert made["id"] != (await api.store.api_keys())["agents"].id
    assert await used_on(api) is None


# -- the audit log ---------------------------------------------------------------------------------


async def test_who_made_and_deleted_keys_is_logged(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """Making and deleting a key are one line each: which key, who, from where; no line anywhere has
    a secret."""
    caplog.set_level(logging.DEBUG)
    boss = (await create(api, name="boss", role="write")).json
    made = (await create(api, bearer(boss["api_key"]), name="agents")).json
    await api.request("GET", "/v0/config", bearer(made["api_key"]))
    await api.request("GET", "/v0/config", bearer(made["api_key"][:-1] + "!"))
    await api.request("DELETE", f"{KEYS}/agents", bearer(boss["api_key"]))
    lines = [vars(record) for record in caplog.records if record.name == "service.audit"]
    told = [(line["message"], line.get("key"), line["who"], line["remote"]) for line in lines]
    assert told == [
        ("API key created", "boss", "a test", "127.0.0.1"),
        ("API key created", "agents", f"key:{boss['id']}", "127.0.0.1"),
        ("request refused", None, None, "127.0.0.1"),
        ("API key deleted", "agents", f"key:{boss['id']}", "127.0.0.1"),
    ]
    everything = orjson.dumps([vars(record) for record in caplog.records], default=repr).decode()
    for secret in (boss["api_key"], made["api_key"], WRITE["Authorization"].partition(" ")[2]):
        assert secret[-40:] not in everything


# -- replies that take long ------------------------------------------------------------------------


async def test_stream_ends_with_its_key(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that a key opened ends as soon as the key is revoked, and tells it no event more."""
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 86_400)
    await api.store.append(ALL_GOOD)
    key = (await create(api, name="agents")).json["api_key"]
    headers = bearer(key) | {"Accept": "text/event-stream"}
    async with api.client.get(api.url + "/v0/cluster/events", headers=headers) as answer:
        assert answer.status == 200
        await create(api, name="another")  # Keys have changed, but not this one.
        await api.store.append(ALL_GOOD)
        text = ""
        while "data:" not in text:
            text += (await answer.content.readline()).decode()
        await api.request("DELETE", f"{KEYS}/agents", WRITE)
        await api.store.append(ALL_GOOD)
        async with asyncio.timeout(PATIENCE_S):
            assert b"data:" not in await answer.content.read()


async def test_stream_ends_when_its_credential_expires(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream lives as long as its token, with the leeway, and no longer."""
    end = int(time.time()) + 100
    token = jwt.encode({"exp": end - 5}, JWT_SECRET)  # It ends with the leeway.
    headers = bearer(token) | {"Accept": "text/event-stream"}
    async with api.client.get(api.url + "/v0/cluster/events", headers=headers) as answer:
        put_credentials_forward(monkeypatch, api.context, 30)
        await api.store.append(ALL_GOOD)
        async with asyncio.timeout(PATIENCE_S):
            while b"data:" not in await answer.content.readline():
                pass
        put_credentials_forward(monkeypatch, api.context, 101)
        async with asyncio.timeout(PATIENCE_S):
            assert b"data:" not in await answer.content.read()


async def test_waiting_reply_is_refused_once_its_key_is_revoked(api: Api) -> None:
    """Who waits with a key that is revoked meanwhile hears nothing of what is new."""
    await api.store.append(ALL_GOOD)
    key = (await create(api, name="agents")).json["api_key"]
    etag = (await api.request("GET", LATEST, bearer(key))).headers["ETag"]
    fields = bearer(key) | {"If-None-Match": etag, "Prefer": "wait=30"}
    waiting = asyncio.create_task(api.request("GET", LATEST, fields))
    await until(lambda: len(api.context.long_polls) == 1)
    await api.request("DELETE", f"{KEYS}/agents", WRITE)
    await api.store.append(ALL_GOOD)
    async with asyncio.timeout(PATIENCE_S):
        assert (await waiting).status == 401
