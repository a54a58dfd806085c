"""The dead man's switch: a watcher outside hears of each completed check, and its own trouble
delays none."""

import asyncio
import logging

import pytest
from pydantic import SecretStr

from service.errors import SettingsError, StoreUnavailable
from service.metrics import Metrics
from service.monitor.loop import Monitor
from service.monitor.notify import heartbeat
from service.monitor.notify.heartbeat import beating
from tests.support.settings import make_settings
from tests.support.waiting import PATIENCE_S, until
from tests.support.world import MakeWorld


async def until_called(metrics: Metrics, result: str, number: int) -> None:
    """Waits until so many calls had that result."""
    await until(
        lambda: (
            metrics.registry.get_sample_value("cluster_events_heartbeats_total", {"result": result})
            == number
        )
    )


async def test_each_completed_check_is_told(
    make_world: MakeWorld,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watcher is called after each check that the store knows of, healthy or not, and after no
    other."""
    world = await make_world("api", "watcher")
    api, watcher = world.services["api"], world.services["watcher"]
    world.settings = make_settings(services=f"api=http://127.0.0.1:{api.port}/")
    async with beating(
        SecretStr(f"http://127.0.0.1:{watcher.port}/ping/secret"), world.metrics
    ) as beat:
        told = 0

        def tell() -> None:
            nonlocal told
            told += 1
            beat()

        monitor = Monitor(world.settings, world.store, world.metrics, on_check=tell)
        for number, healthy in enumerate((True, False, False), start=1):
            api.healthy = healthy
            await monitor.check(world.client)
            await until_called(world.metrics, "delivered", number)

        async def away(*_: object) -> None:
            raise StoreUnavailable("it cannot be reached")

        monkeypatch.setattr(world.store, "read", away)
        await monitor.check(world.client)
    assert told == watcher.asked == 3


async def test_trouble_with_the_watcher_is_told_once(
    make_world: MakeWorld,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A watcher that answers with an error is counted, and logged once without its URL; so is its
    return."""
    world = await make_world("watcher")
    watcher, url = (
        world.services["watcher"],
        SecretStr(f"http://127.0.0.1:{world.services['watcher'].port}/ping/secret"),
    )
    with caplog.at_level(logging.INFO, logger="service.monitor.notify.heartbeat"):
        async with beating(url, world.metrics) as beat:
            watcher.healthy = False
            for number in (1, 2):
                beat()
                await until_called(world.metrics, "failed", number)
            watcher.healthy = True
            beat()
            await until_called(world.metrics, "delivered", 1)
    assert [record.getMessage() for record in caplog.records] == [
        "heartbeat URL unreachable",
        "heartbeat URL reachable again",
    ]
    assert vars(caplog.records[0])["reason"] == "HTTP 503"
    assert "secret" not in caplog.text


async def test_hanging_watcher_is_asked_once_at_a_time(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a call hangs, further checks start no second one, and the end of the process does not
    wait for it."""
    monkeypatch.setattr(heartbeat, "TIMEOUT_S", 3_600.0)  # Who waits for the call waits for long.
    world = await make_world("watcher", "later")
    watcher, later = world.services["watcher"], world.services["later"]
    watcher.hangs = True
    async with asyncio.timeout(PATIENCE_S):
        async with (
            beating(SecretStr(f"http://127.0.0.1:{watcher.port}/"), Metrics()) as beat,
            beating(SecretStr(f"http://127.0.0.1:{later.port}/"), world.metrics) as beat_later,
        ):
            beat()
            await until(lambda: watcher.asked == 1)
            beat()
            beat()
            beat_later()  # Once this call has been answered, an earlier one would have arrived.
            await until_called(world.metrics, "delivered", 1)
    assert watcher.asked == watcher.most_at_once == 1


async def test_no_url_no_call() -> None:
    """Without a watcher nothing is called."""
    async with beating(None, Metrics()) as beat:
        beat()


@pytest.mark.parametrize(
    "url", ["ftp://watcher/secret", "watcher/secret", "http:///secret", "http://[secret"]
)
def test_what_is_no_url_is_refused_unseen(url: str) -> None:
    """A watcher's URL that cannot be called is a wrong setting, and is not repeated in the
    message."""
    with pytest.raises(SettingsError, match="CLUSTER_EVENTS_HEARTBEAT_URL: expected") as error:
        make_settings(heartbeat_url=url)
    assert "secret" not in str(error.value)
