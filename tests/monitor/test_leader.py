"""Who leads, as the monitors see it, and what a process tells of it."""

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis import Redis

from service.errors import SettingsError, StoreUnavailable
from service.events import Event
from service.metrics import Metrics
from service.monitor.leader import LeaseHolder, boottime
from service.monitor.listener import listening
from service.monitor.loop import Monitor
from service.store import open_store
from tests.support import needs
from tests.support.clocks import put_forward
from tests.support.environment import environment
from tests.support.folders import ROOT
from tests.support.settings import make_settings
from tests.support.stores import entry_of
from tests.support.waiting import PATIENCE_S, until
from tests.support.world import MakeWorld, World


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


Stand = Callable[..., LeaseHolder]


@pytest.fixture
async def stand(valkey: str) -> AsyncIterator[Stand]:
    """Makes candidates for one store: `stand(clock, lease_ttl="1s")`."""
    async with AsyncExitStack() as stack:

        def make(clock: Callable[[], float] = boottime, **values: Any) -> LeaseHolder:
            settings = make_settings(redis_url=valkey, redis_timeout="2s", **values)
            store = open_store(settings)
            stack.push_async_callback(store.aclose)
            return LeaseHolder(settings, store, Metrics(), clock)

        yield make


def unavailable(lease_holder: LeaseHolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the store does not answer this candidate."""

    async def lease(*_: Any) -> None:
        raise StoreUnavailable("it cannot be reached")

    monkeypatch.setattr(lease_holder._store, "lease", lease)


# -- a candidate -----------------------------------------------------------------------------------


async def test_first_leads_and_second_stands_by(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two candidates one leads; the other knows who, shows it, and says so once."""
    first, second = stand(), stand()
    with caplog.at_level(logging.INFO, logger="service.monitor.leader"):
        for _ in range(2):
            await first.try_acquire()
            await second.try_acquire()
    assert (first.leads, second.leads) == (True, False)
    assert (first.leader_known, second.leader_known) == (True, True)
    assert [record.getMessage() for record in caplog.records] == ["leading", "standing by"]
    assert vars(caplog.records[1])["leader"] == first.owner
    for lease_holder, leading in ((first, 1), (second, 0)):
        registry = lease_holder._metrics.registry
        assert registry.get_sample_value("cluster_events_monitor_leading") == leading
        assert registry.get_sample_value("cluster_events_monitor_epoch") == 1


async def test_leadership_ends_at_the_own_deadline(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that hears nothing of the store stops on its own, counted from the sending of its
    last renewal."""
    clock = Clock()
    lease_holder = stand(clock)
    lease = lease_holder._store.lease

    async def slow(*arguments: Any) -> Any:
        clock.now += 1.5
        return await lease(*arguments)

    monkeypatch.setattr(lease_holder._store, "lease", slow)
    await lease_holder.try_acquire()
    sent = clock.now - 1.5
    clock.now = sent + 3.99
    before = lease_holder.leads
    clock.now = sent + 4.0
    assert (before, lease_holder.leads) == (True, False)


async def test_renewal_moves_the_deadline(stand: Stand) -> None:
    """Each good renewal prolongs the lead, within the same epoch."""
    clock = Clock()
    lease_holder = stand(clock)
    for _ in range(5):
        await lease_holder.try_acquire()
        clock.now += 3.0
    assert lease_holder.leads
    assert lease_holder.epoch == 1


async def test_suspended_leader_does_not_lead(stand: Stand) -> None:
    """A leader that was stopped for longer than its lease finds, before it asks anybody, that it
    may not write."""
    clock = Clock()
    former, other = (
        stand(clock, lease_ttl="100ms", lease_deadline="80ms", lease_renew="20ms"),
        stand(Clock(), lease_ttl="60s"),
    )
    await former.try_acquire()
    clock.now += 0.12
    assert not former.leads

    async def taken_over() -> bool:
        await other.try_acquire()
        return other.leads

    await until(taken_over)
    await former.try_acquire()
    assert (other.leads, other.epoch) == (True, 2)
    assert not former.leads


async def test_cut_off_leader_says_why_it_stops(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the store has been away for too long, that is one line of the log; it is not known who
    leads; checks go on."""
    clock = Clock()
    lease_holder = stand(clock)
    await lease_holder.try_acquire()
    unavailable(lease_holder, monkeypatch)
    with caplog.at_level(logging.WARNING, logger="service.monitor.leader"):
        for _ in range(8):
            clock.now += 1.0
            await lease_holder.try_acquire()
    assert [record.getMessage() for record in caplog.records] == ["no longer leading"]
    assert not lease_holder.leader_known
    async with asyncio.timeout(PATIENCE_S):
        await lease_holder.wait_until_checking()


@pytest.fixture
def full(valkey: str) -> Iterator[Callable[[bool], None]]:
    """Makes the store refuse what needs memory, or take it again."""
    with Redis.from_url(valkey) as admin:

        def make(is_full: bool) -> None:
            admin.config_set("maxmemory", int(is_full))

        yield make
        make(False)


def failures(metrics: Metrics, operation: str) -> float | None:
    """How often that was counted as failed."""
    return metrics.registry.get_sample_value(
        "cluster_events_monitor_store_failures_total", {"operation": operation}
    )


async def test_full_store_that_gives_no_lease_is_logged_once(
    stand: Stand, full: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A monitor that cannot lead because the store takes no writes says so once, with the reason,
    and counts each attempt."""
    lease_holder = stand()
    full(True)
    with caplog.at_level(logging.INFO, logger="service.monitor.leader"):
        for _ in range(3):
            await lease_holder.try_acquire()
        full(False)
        await lease_holder.try_acquire()
    assert [record.getMessage() for record in caplog.records] == [
        "cannot acquire the lease",
        "leading",
    ]
    assert vars(caplog.records[0])["reason"].startswith("it is out of memory (")
    assert failures(lease_holder._metrics, "lease") == 3


async def test_leader_of_a_full_store_says_why_it_stops(
    stand: Stand, full: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A leader whose lease the store no longer renews names the reason, in one line."""
    clock = Clock()
    lease_holder = stand(clock)
    await lease_holder.try_acquire()
    full(True)
    with caplog.at_level(logging.INFO, logger="service.monitor.leader"):
        for _ in range(8):
            clock.now += 1.0
            await lease_holder.try_acquire()
    (record,) = caplog.records
    assert record.getMessage() == "no longer leading"
    assert "it is out of memory" in vars(record)["why"]
    assert failures(lease_holder._metrics, "lease") == 8


async def test_full_store_that_takes_no_event_is_logged_once(
    make_world: MakeWorld,
    full: Callable[[bool], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A leading monitor whose events the store refuses says so once, with the reason, and counts
    each check."""
    world = await make_world("api")
    full(True)
    with caplog.at_level(logging.WARNING, logger="service.monitor.loop"):
        await world.check(3)
    (record,) = caplog.records
    assert vars(record)["reason"].startswith("it is out of memory (")
    assert failures(world.metrics, "record") == 3


async def test_standby_of_a_store_away_stays_one(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who stood by when the store went away does not start to check: the one who led looks after
    the services."""
    leader, standby = stand(), stand()
    await leader.try_acquire()
    await standby.try_acquire()
    with monkeypatch.context() as patched:
        unavailable(standby, patched)
        await standby.try_acquire()
    assert not standby.leader_known
    turn = asyncio.create_task(standby.wait_until_checking())
    await asyncio.sleep(0)
    assert not turn.done(), "it would be, if it were this one's turn"
    await leader.release()
    await standby.try_acquire()
    await turn


async def test_store_away_at_the_start_leaves_the_turn_to_all(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A monitor that has heard nothing of the store yet checks, and may not write."""
    lease_holder = stand()
    unavailable(lease_holder, monkeypatch)
    await lease_holder.try_acquire()
    async with asyncio.timeout(PATIENCE_S):
        await lease_holder.wait_until_checking()
    assert not lease_holder.leads


async def test_fenced_leader_asks_again_at_once(stand: Stand) -> None:
    """A leader whose write was refused does not lead any more, and learns without waiting who
    does."""
    former, other = stand(lease_ttl="1h", lease_renew="20m", lease_deadline="40m"), stand()
    task = asyncio.create_task(former.run())
    await until(lambda: former.leads)
    await former._store.release(former.owner)
    await other.try_acquire()
    former.on_fenced()
    assert not former.leads
    async with asyncio.timeout(PATIENCE_S):  # The next renewal is due in more than 15 minutes.
        await former.wait_until_replaced()
    assert former.leader_known
    task.cancel()


async def test_takeover_after_a_release(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stands by leads 0.6 `LEASE_RENEW` after the leader's orderly exit at the latest, in a new
    epoch: that is within a second."""
    assert 0.6 * make_settings().lease_renew < 1.0
    values = {"lease_ttl": "1h", "lease_renew": "20m", "lease_deadline": "40m"}
    leader, standby = stand(**values), stand(**values)
    await leader.try_acquire()
    task = asyncio.create_task(standby.run())
    await until(lambda: standby.leader_known)
    await leader.release()
    assert not leader.leads
    put_forward(monkeypatch, 0.6 * 1_200)
    async with asyncio.timeout(PATIENCE_S):
        await standby.wait_until_checking()
    assert standby.epoch == 2
    task.cancel()


def test_the_clock_counts_suspension() -> None:
    """The leader's clock is the one that goes on while the machine sleeps, and that nobody sets."""
    clock = needs.attribute(time, "CLOCK_BOOTTIME")
    before = time.clock_gettime(clock)
    assert before <= boottime() <= time.clock_gettime(clock)


@pytest.mark.parametrize(
    "values",
    [{"lease_deadline": "5s"}, {"lease_renew": "4s"}, {"lease_ttl": "3s"}, {"lease_ttl": "1s"}],
)
def test_times_that_do_not_fit_are_refused(values: dict[str, str]) -> None:
    """A deadline that is not between the renewal and the end of the lease is a wrong setting."""
    with pytest.raises(SettingsError, match="CLUSTER_EVENTS_LEASE_DEADLINE: expected more than"):
        make_settings(**values)


# -- a monitor that leads, or does not -------------------------------------------------------------


def led(world: World, lease_holder: LeaseHolder) -> Monitor:
    """A monitor of the world that does as the candidate says."""
    return Monitor(
        world.settings, world.store, world.metrics, lambda: world.now, leader=lease_holder
    )


async def test_who_does_not_lead_records_nothing(make_world: MakeWorld, stand: Stand) -> None:
    """A check by a monitor without the lease changes nothing in the store."""
    world = await make_world("api")
    other, lease_holder = stand(), stand()
    await other.try_acquire()
    await lease_holder.try_acquire()
    await led(world, lease_holder).check(world.client)
    assert await world.events() == []
    assert await world.checked_at() is None


async def test_leader_that_lost_the_lease_unknowingly_is_fenced(
    make_world: MakeWorld,
    stand: Stand,
) -> None:
    """A leader that is sure of its lease, wrongly, is refused by the store, for events and for
    completed checks."""
    world = await make_world("api")
    clock = Clock()
    former, other = stand(clock), stand()
    await former.try_acquire()
    monitor = led(world, former)
    await monitor.check(world.client)
    before = await world.checked_at()
    await former._store.release(former.owner)
    await other.try_acquire()
    sure = former.leads
    await monitor.check(world.client)
    assert (sure, former.leads) == (True, False)
    await former.try_acquire()
    world.services["api"].healthy = False
    await monitor.check(world.client)
    assert len(await world.events()) == 1
    assert await world.checked_at() == before
    assert former._metrics.registry.get_sample_value("cluster_events_monitor_fenced_total") == 1


async def test_append_checks_the_deadline_once_more(
    make_world: MakeWorld,
    stand: Stand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A leader whose deadline passes between its reading of the store and its append does not
    append."""
    world = await make_world("api")
    clock = Clock()
    lease_holder = stand(clock)
    await lease_holder.try_acquire()
    read = world.store.read

    async def slow(*arguments: Any) -> Any:
        clock.now += 10.0
        return await read(*arguments)

    monkeypatch.setattr(world.store, "read", slow)
    await led(world, lease_holder).check(world.client)
    monkeypatch.undo()
    assert await world.events() == []


async def test_lapsed_leader_keeps_what_it_finds(
    make_world: MakeWorld,
    stand: Stand,
) -> None:
    """A change seen without the lease is recorded when this monitor leads again, with the time at
    which it was found."""
    world = await make_world("api")
    clock = Clock()
    lease_holder = stand(clock)
    await lease_holder.try_acquire()
    monitor = led(world, lease_holder)
    await monitor.check(world.client)
    clock.now += 10.0
    world.services["api"].healthy = False
    for _ in range(3):
        world.now += 10.0
        await monitor.check(world.client)
    assert len(await world.events()) == 1
    await lease_holder.try_acquire()
    await monitor.check(world.client)
    latest = (await world.events())[-1]
    full = await world.store.full(entry_of(latest))
    assert full is not None
    info = Event.from_bytes(full).services["api"].self_info.splitlines()
    assert info[0].startswith("Reachable, but unhealthy: HTTP 503")
    found_at = latest.recorded_at // 1_000_000 - 20
    seconds = {time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found_at - late)) for late in (0, 1)}
    assert info[1] in {f"Found at {one}; it could not be recorded then." for one in seconds}


@asynccontextmanager
async def two_loops(world: World, stand: Stand, **values: str) -> AsyncIterator[list[LeaseHolder]]:
    """Two monitors of the world's services, each with a loop and a candidate of its own."""
    candidates = [
        stand(lease_ttl="60s", lease_renew="10s", lease_deadline="40s", **values) for _ in range(2)
    ]
    monitors = [
        Monitor(world.settings, one._store, world.metrics, leader=one) for one in candidates
    ]
    tasks = [asyncio.create_task(one.run()) for one in candidates]
    tasks += [asyncio.create_task(one.run()) for one in monitors]
    try:
        yield candidates
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_only_the_leader_checks(
    make_world: MakeWorld,
    stand: Stand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two monitors one asks the services; when it is cut off and its lease is over, the other
    does at once, and the first learns of it."""
    world = await make_world("api", check_interval="5m")
    async with two_loops(world, stand) as candidates:
        await until(world.checked_at)
        assert world.services["api"].asked == 1
        leader = next(one for one in candidates if one.leads)
        other = next(one for one in candidates if one is not leader)
        await until(lambda: other.leader_known)
        with monkeypatch.context() as patched:
            unavailable(leader, patched)
            await other._store.release(leader.owner)
            put_forward(monkeypatch, 6)  # The other one asks for the lease.
            await until(lambda: other.leads)
            await until(lambda: world.services["api"].asked == 2)
        put_forward(monkeypatch, 12)  # The first one asks for it.
        async with asyncio.timeout(PATIENCE_S):
            await leader.wait_until_replaced()


# -- what is told ----------------------------------------------------------------------------------


async def get(
    client: aiohttp.ClientSession, address: tuple[str, int], path: str
) -> tuple[int, str]:
    """The status and the text of an answer."""
    host, port = address
    async with client.get(f"http://{host}:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_listener_tells_who_leads(
    make_world: MakeWorld,
    stand: Stand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A monitor says that it leads, that it stands by, or that it is not known who does, and lives
    in each case."""
    world = await make_world("api")
    leader, standby, cut_off = stand(), stand(), stand()
    unavailable(cut_off, monkeypatch)
    for lease_holder, expected in (
        (leader, (200, '{"status": "leading"}')),
        (standby, (200, '{"status": "standing by"}')),
        (
            cut_off,
            (503, '{"status": "it is not known who leads", "reason": "it cannot be reached"}'),
        ),
    ):
        await lease_holder.try_acquire()
        async with listening(
            "127.0.0.1", 0, world.monitor, lease_holder, lease_holder._metrics
        ) as address:
            assert await get(world.client, address, "/readyz") == expected
            assert await get(world.client, address, "/healthz") == (200, '{"status": "healthy"}')


async def test_listener_exposes_the_age_of_the_last_check(
    make_world: MakeWorld,
    stand: Stand,
) -> None:
    """The metrics tell how long ago this monitor completed a check, and nothing before it has."""
    world = await make_world("api")
    lease_holder = stand()
    async with listening("127.0.0.1", 0, world.monitor, lease_holder, world.metrics) as address:
        _, before = await get(world.client, address, "/metrics")
        await world.check()
        world.now += 32.0
        _, after = await get(world.client, address, "/metrics")
    assert "cluster_events_check_age_seconds NaN" in before
    assert "cluster_events_check_age_seconds 42.0" in after


# -- processes -------------------------------------------------------------------------------------


@contextmanager
def process(
    valkey: str, port: int, folder: Path, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`cluster-events monitor` of one service, in a process of its own."""
    values = {
        "redis_url": valkey,
        "services": f"api=http://127.0.0.1:{port}/",
        "check_interval": "500ms",
    } | settings
    with (folder / f"log-{time.monotonic_ns()}").open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "service", "monitor"],
            cwd=ROOT,
            env=environment(check_timeout="500ms", **values),
            stderr=output,
        )
        try:
            yield started
        finally:
            started.kill()
            started.wait(5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "lease"),
    [
        (signal.SIGTERM, {"lease_ttl": "1h", "lease_deadline": "40m"}),
        (signal.SIGKILL, {"lease_ttl": "1s", "lease_deadline": "800ms"}),
    ],
)
async def test_standby_process_takes_over(
    make_world: MakeWorld,
    valkey: str,
    tmp_path: Path,
    number: int,
    lease: dict[str, str],
) -> None:
    """After the leader's orderly end the standby checks long before the lease (1 h) is over; after
    its death once the lease (1 s) is over."""
    world = await make_world("api")
    api, short = world.services["api"], lease | {"lease_renew": "200ms"}
    with process(valkey, api.port, tmp_path, **short) as leader, Redis.from_url(valkey) as client:
        await until(lambda: api.asked >= 1)
        holder = client.get(world.store.keys.leader)
        with process(valkey, api.port, tmp_path, **short):
            await until(
                lambda: "standing by" in "".join(log.read_text() for log in tmp_path.iterdir())
            )
            before = api.asked
            leader.send_signal(number)
            await until(lambda: leader.poll() is not None)
            await until(lambda: client.get(world.store.keys.leader) not in {holder, None})
            await until(lambda: api.asked > before + 1)
    assert leader.returncode == (0 if number == signal.SIGTERM else -signal.SIGKILL)
