"""A crowd in small: `python -m tests.soak.watchers` measures thousands."""

import asyncio

import pytest

from service.api.live.event_stream import PER_TURN
from service.replica.event_filter import Selection
from tests.soak.watchers import run
from tests.support.api import Api
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.streams import Client

pytestmark = pytest.mark.slow


async def test_a_crowd_is_told_and_costs_little() -> None:
    """Everybody hears of a change once, watching or waiting; an idle watcher and an idle waiting
    read cost a few KiB."""
    outcome = await run(100, events=60, seconds=0.4, wrk_seconds=0, own_core=False)
    for cost in (outcome.watching, outcome.waiting):
        assert cost.count == 110
        assert cost.each_kib < 40
    assert outcome.lines.gzip_percent < 30
    assert len(outcome.marks) == 7


async def test_a_crowd_is_told_a_few_at_a_turn(api: Api) -> None:
    """Between those who are told there are turns for others; all get every change in order, and who
    has gone gets nothing."""
    watchers, replica = api.context.watchers, api.context.replica
    await replica.append(ALL_GOOD)
    crowd = [Client() for _ in range(5 * PER_TURN)]
    begun = [watchers.add(client, Selection(), None) for client in crowd]
    await asyncio.sleep(0.05)
    ids = [(await replica.append(ONE_BAD)).event.id]
    told = sum(client.ids == ids for client in crowd)
    assert PER_TURN <= told < len(crowd), "the answer to the writer does not wait for all"
    watchers.discard(begun[-1])
    ids.append((await replica.append(ALL_GOOD)).event.id)
    async with asyncio.timeout(2):
        while not all(client.ids == ids for client in crowd[:-1]):
            await asyncio.sleep(0)
    assert crowd[-1].ids == []


async def test_a_credential_that_ends_meanwhile_is_told_nothing(api: Api) -> None:
    """Whether a client may go on is asked when it is its turn."""
    watchers, replica = api.context.watchers, api.context.replica
    await replica.append(ALL_GOOD)
    over: list[bool] = []
    crowd = [Client(sent=lambda: over.append(True)) for _ in range(PER_TURN)]
    last = Client()
    for client in crowd:
        watchers.add(client, Selection(), None)
    watchers.add(last, Selection(), None, seconds_left=lambda: 0 if over else float("inf"))
    await asyncio.sleep(0.05)
    await replica.append(ONE_BAD)
    async with asyncio.timeout(2):
        while not last.closed:
            await asyncio.sleep(0)
    assert last.ids == []
    assert len(watchers) == PER_TURN
