"""The life of a credential on the command line."""

import json
import time
from datetime import UTC, datetime

import orjson
import pytest

from service.auth import Role, mint
from service.events import LAST_US
from tests.support.api import Api
from tests.support.commands import FAILED, HEALTHY, WRONG_SETTINGS, run, tells_one_line
from tests.support.settings import JWT_SECRET, bearer

DAY_S = 86_400


@pytest.mark.slow
async def test_key_is_shown_with_its_end_and_its_last_use(api: Api, valkey: str) -> None:
    """A key made for 90 days says when it ends, and on which day it was last used; its secret is
    not told again."""
    made = await run("keys", "create", "agents", "--expires", "90d", redis_url=valkey)
    before = json.loads((await run("keys", "show", "agents", "--json", redis_url=valkey)).out)
    assert list(before) == ["id", "name", "role", "created_at", "expires_at", "last_used_on"]
    left = datetime.fromisoformat(before["expires_at"]).timestamp() - time.time()
    assert 90 * DAY_S - 60 < left <= 90 * DAY_S
    assert before["last_used_on"] is None
    key = (await api.store.api_keys())["agents"]
    today = int(time.time()) // DAY_S
    await api.store.note_api_keys_used({key: today})
    shown = await run("keys", "show", "agents", redis_url=valkey)
    assert datetime.fromtimestamp(today * DAY_S, UTC).date().isoformat() in shown.out
    assert made.out.strip().partition("_")[2] not in shown.out + json.dumps(before)


async def test_unreadable_record_hides_no_key(api: Api, valkey: str) -> None:
    """A record that cannot be read, of a key or of its last use, is told in the log; the other keys
    are listed and shown."""
    await run("keys", "create", "agents", redis_url=valkey)
    client, keys = api.store._client, api.store.keys
    await client.hset(
        keys.api_keys, "odd", orjson.dumps({"name": "odd", "created_at": LAST_US + 1})
    )
    await client.hset(keys.api_keys_used, "odd", b"\xff")
    for command in (["list"], ["show", "agents"]):
        ran = await run("keys", *command, redis_url=valkey)
        assert (ran.code, "agents" in ran.out, "odd" in ran.out) == (HEALTHY, True, False), ran.err
        assert "unreadable" in ran.err
    assert (await run("keys", "delete", "odd", redis_url=valkey)).code == HEALTHY
    assert "unreadable" not in (await run("keys", "show", "agents", redis_url=valkey)).err.replace(
        "day of last", ""
    )


@pytest.mark.parametrize("name", [".", ".."])
async def test_key_of_an_earlier_version_named_like_a_path_can_be_deleted(
    api: Api, valkey: str, name: str
) -> None:
    """Such a name is refused for new keys, but a key that has it is listed and can be revoked."""
    _, stored = mint(name, Role.READ, await api.store.now())
    await api.store.create_api_key(stored)
    assert name in (await run("keys", "list", redis_url=valkey)).out.split()
    assert (await run("keys", "delete", name, redis_url=valkey)).code == 0
    assert await api.store.api_keys() == {}


@pytest.mark.slow
async def test_unknown_key_is_one_line(valkey: str) -> None:
    """A key that is not there fails with its name."""
    ran = await run("keys", "show", "nobody", redis_url=valkey)
    assert (ran.code, tells_one_line(ran)) == (FAILED, "Error: There is no API key named 'nobody'.")


@pytest.mark.slow
async def test_token_is_signed_with_the_newer_secret(api: Api) -> None:
    """Of two secrets, the first one signs, which a service with only that one accepts."""
    ran = await run("token", jwt_secret=f"{JWT_SECRET}\n{'old' * 20}")
    assert (await api.request("GET", "/v0/config", bearer(ran.out.strip()))).status == 200


@pytest.mark.parametrize("more", [{}, {"jwt_max_lifetime": "1h"}])
async def test_token_that_would_be_refused_is_not_signed(more: dict[str, str]) -> None:
    """A token that lives longer than the service accepts is not made; the message names the
    setting."""
    ran = await run("token", "--expires", "90d", jwt_secret="x" * 64, **more)
    assert ran.code == WRONG_SETTINGS
    assert "CLUSTER_EVENTS_JWT_MAX_LIFETIME" in tells_one_line(ran)
