"""`Prefer: wait=N`: a conditional read is held until its answer changes."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from service.api.live.long_poll import wait_preference
from service.auth import Role, mint
from service.errors import StoreUnavailable
from tests.support.api import Api, Got
from tests.support.clocks import put_credentials_forward
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.settings import JWT_SECRET, READ, WRITE, bearer, make_settings, make_token
from tests.support.waiting import PATIENCE_S, until

LATEST = "/v0/cluster/events/latest"
VERDICT = "/v0/cluster_healthz"


@pytest.fixture
async def started(api: Api) -> Api:
    """A process that has an event to answer with."""
    await api.context.replica.append(ALL_GOOD)
    return api


async def waiting(
    api: Api, path: str, seconds: int = 60, credential: Mapping[str, str] = READ
) -> "asyncio.Task[Got]":
    """A read that waits for something other than what is there now."""
    etag = (await api.get(path)).headers["ETag"]
    headers = {**credential, "If-None-Match": etag, "Prefer": f"wait={seconds}"}
    task = asyncio.create_task(api.request("GET", path, headers))
    await until(lambda: len(api.context.long_polls))
    return task


@pytest.mark.parametrize("path", [LATEST, f"{LATEST}?selector=all", VERDICT])
async def test_a_change_wakes_at_once(started: Api, path: str) -> None:
    """The reply comes with the event, long before the wait is over, and says that the preference
    was applied."""
    task = await waiting(started, path)
    await started.context.replica.append(ONE_BAD)
    got = await asyncio.wait_for(task, PATIENCE_S)
    assert got.status == (503 if path == VERDICT else 200)
    assert got.json["all_healthy"] is False
    assert got.headers["Preference-Applied"] == "wait=60"


async def test_the_end_of_the_wait_is_304(started: Api) -> None:
    """Without a change it is 304 after N seconds, at most a tenth earlier."""
    began = time.monotonic()
    got = await (await waiting(started, LATEST, 1))
    assert (got.status, got.body, got.headers["Preference-Applied"]) == (304, b"", "wait=1")
    assert time.monotonic() - began >= 0.85


async def test_what_has_changed_already_is_not_waited_for(started: Api) -> None:
    """A tag that is not the current one is answered at once."""
    got = await asyncio.wait_for(
        started.get(LATEST, {"If-None-Match": '"old"', "Prefer": "respond-async, wait=60"}),
        PATIENCE_S,
    )
    assert (got.status, got.headers["Preference-Applied"]) == (200, "wait=60")


@pytest.mark.parametrize(
    "headers", [{"Prefer": "wait=60"}, {"Prefer": "wait=x", "If-None-Match": "*"}]
)
async def test_nothing_to_wait_for(started: Api, headers: dict[str, str]) -> None:
    """Without a condition, or with a preference that is none, the reply comes at once and applies
    nothing."""
    got = await asyncio.wait_for(started.get(LATEST, headers), PATIENCE_S)
    assert "Preference-Applied" not in got.headers


async def test_a_silent_monitor_ends_the_wait_for_the_verdict(make_api: Callable[..., Any]) -> None:
    """The verdict turns stale with the clock, without a write, and who waits for it hears of
    that."""
    api: Api = await make_api(stale_after="1s", heartbeat="100ms")
    await api.context.replica.append(ALL_GOOD)
    got = await asyncio.wait_for(await waiting(api, VERDICT), PATIENCE_S)
    assert (got.status, got.json["stale"]) == (503, True)


async def test_a_check_alone_does_not_end_the_wait_for_the_verdict(started: Api) -> None:
    """A verdict that differs in nothing but the time of the check is no news."""
    task = await waiting(started, VERDICT, 1)
    await started.store.record_check()
    await started.settle()
    assert (await task).status == 304


async def test_a_client_that_goes_frees_its_place(started: Api) -> None:
    """The end of the connection ends the wait at once."""
    task = await waiting(started, LATEST)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not len(started.context.long_polls))


async def test_draining_answers_who_waits(started: Api) -> None:
    """A process that is to stop sends everyone away with 304 and the end of the connection."""
    task = await waiting(started, LATEST)
    await started.context.drain()
    got = await asyncio.wait_for(task, PATIENCE_S)
    assert got.status == 304
    assert got.headers["Connection"] == "close"


async def test_many_wait_at_little_cost(started: Api) -> None:
    """A hundred waiting requests are no tasks of a timer each, and one change answers them all."""
    etag = (await started.get(LATEST)).headers["ETag"]
    headers = READ | {"If-None-Match": etag, "Prefer": "wait=60"}
    tasks = [asyncio.create_task(started.request("GET", LATEST, headers)) for _ in range(90)]
    await until(lambda: len(started.context.long_polls) == 90)
    await started.context.replica.append(ONE_BAD)
    assert {got.status for got in await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S)} == {
        200
    }


# -- the end of a credential -----------------------------------------------------------------------


async def refused(task: "asyncio.Task[Got]") -> None:
    """The wait ends with 401, though nothing has changed: the wait itself would end later than
    this."""
    async with asyncio.timeout(50):
        got = await task
    assert (got.status, got.json["error_code"]) == (401, "AuthenticationFailed")


async def new_key(api: Api, name: str = "agents") -> str:
    """An API key that may read."""
    made = await api.request("POST", "/v0/api_keys", WRITE, json={"name": name})
    key = made.json["api_key"]
    assert isinstance(key, str)
    return key


@pytest.mark.parametrize("path", [LATEST, VERDICT])
async def test_a_wait_ends_when_its_key_is_revoked(started: Api, path: str) -> None:
    """Other keys may come and go meanwhile; once its own is gone, the reply is 401 at once."""
    task = await waiting(started, path, 60, bearer(await new_key(started)))
    await new_key(started, "another")
    await started.request("DELETE", "/v0/api_keys/another", WRITE)
    assert len(started.context.long_polls) == 1
    await started.request("DELETE", "/v0/api_keys/agents", WRITE)
    await refused(task)


async def test_a_wait_ends_when_its_key_is_revoked_on_another_replica(
    make_api: Callable[..., Any],
) -> None:
    """The change of keys reaches the wait as it reaches every request."""
    one, other = await make_api(), await make_api()
    await one.context.replica.append(ALL_GOOD)
    key = await new_key(one)
    await other.settle()
    task = await waiting(other, LATEST, 60, bearer(key))
    await one.request("DELETE", "/v0/api_keys/agents", WRITE)
    await refused(task)


async def test_a_wait_ends_when_its_key_is_revoked_and_the_store_goes_away(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that is answered ends the waits, also where it cannot be read back."""
    api: Api = await make_api(
        max_staleness="5m", stale_after="5m"
    )  # Else their ends would wake it.
    await api.context.replica.append(ALL_GOOD)
    task = await waiting(api, LATEST, 60, bearer(await new_key(api)))
    monkeypatch.setattr(api.context.replica, "refresh_after_now", away)
    monkeypatch.setattr(api.context.replica, "refresh", away)
    assert (await api.request("DELETE", "/v0/api_keys/agents", WRITE)).status == 200
    await refused(task)


async def away() -> None:
    """A store that does not answer."""
    raise StoreUnavailable("it is away")


@pytest.mark.parametrize("kind", ["token", "key"])
async def test_a_wait_ends_when_its_credential_expires(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """No change is needed for that."""
    api: Api = await make_api(jwt_leeway="0s", stale_after="10m")
    await api.context.replica.append(ALL_GOOD)
    credential = make_token(Role.READ, 40)
    if kind == "key":
        credential, stored = mint("agents", Role.READ, 0, round((time.time() + 40) * 1_000_000))
        await api.store.create_api_key(stored)
        await api.settle()
    task = await waiting(api, LATEST, 60, bearer(credential))
    put_credentials_forward(monkeypatch, api.context, 41)
    await refused(task)


async def test_a_wait_ends_when_its_signing_key_is_replaced(started: Api) -> None:
    """While its token is as good by the new keys, it goes on; with other keys the reply is 401."""
    task = await waiting(started, LATEST, 60)
    started.context.authenticator._reload_secrets(
        make_settings(jwt_secret=f"{'a newer secret ' * 8}\n{JWT_SECRET}")
    )
    assert (await started.get("/v0/config")).status == 200
    assert len(started.context.long_polls) == 1
    started.context.authenticator._reload_secrets(make_settings(jwt_secret="a newer secret " * 8))
    await refused(task)


async def test_a_wait_that_outlives_a_rotation_is_answered(started: Api) -> None:
    """What a token that is still good waited for reaches it."""
    task = await waiting(started, LATEST, 60)
    started.context.authenticator._reload_secrets(
        make_settings(jwt_secret=f"{'a newer secret ' * 8}\n{JWT_SECRET}")
    )
    await started.context.replica.append(ONE_BAD)
    async with asyncio.timeout(50):
        assert (await task).json["all_healthy"] is False


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        (["wait=5"], 5),
        (["wait = 5"], 5),
        (['WAIT="5"'], 5),
        (["respond-async, wait=7"], 7),
        (["respond-async", "wait=7"], 7),
        (["wait=7; x=1"], 7),
        (["wait=100000"], 60),
        (["wait=0"], 0),
        (["wait"], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["nowait=5"], None),
        (["wait=9999999999"], None),
    ],
)
def test_the_preference(fields: list[str], seconds: int | None) -> None:
    """The preference in its spellings (RFC 7240); one that is not well-formed counts as none."""
    assert wait_preference(fields) == seconds
