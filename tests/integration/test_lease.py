"""Who leads: the lease and the epoch, on each kind of store."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.store import Fenced, Store
from tests.support.observations import ALL_GOOD, ONE_BAD

MakeStore = Callable[..., Store]


async def test_one_leads_and_the_other_hears_who(make_store: MakeStore) -> None:
    """The first to ask leads; another is told who does, in which epoch, and for how long yet."""
    store = make_store()
    assert await store.lease("a", 5.0) == await store.lease("a", 5.0)
    held = await store.lease("b", 9.0)
    assert (held.owner, held.epoch) == ("a", 1)
    assert 4.0 < held.remaining <= 5.0


async def test_a_renewal_keeps_the_epoch(make_store: MakeStore) -> None:
    """Renewing prolongs the lease within its epoch."""
    store = make_store()
    await store.lease("a", 0.5)
    renewed = await store.lease("a", 5.0, seen_epoch=1)
    assert renewed.epoch == 1
    assert (await store.lease("b", 5.0)).remaining > 4.0


async def test_a_lease_ends_with_its_time(make_store: MakeStore) -> None:
    """Once the time is up, whoever asks leads, in a new epoch, the former leader too."""
    store = make_store()
    await store.lease("a", 0.05)
    await asyncio.sleep(0.08)
    assert (await store.lease("b", 0.05)).epoch == 2
    await asyncio.sleep(0.08)
    taken = await store.lease("b", 5.0, seen_epoch=2)
    assert (taken.owner, taken.epoch) == ("b", 3)


async def test_a_lease_given_back_is_free_at_once(make_store: MakeStore) -> None:
    """After a release another leads without waiting; releasing what another holds changes
    nothing."""
    store = make_store()
    await store.lease("a", 5.0)
    await store.release("b")
    assert (await store.lease("b", 5.0)).owner == "a"
    await store.release("a")
    assert (await store.lease("b", 5.0)).owner == "b"
    await store.release("a")
    assert (await store.lease("a", 5.0)).owner == "b"


@pytest.mark.parametrize("lost", ["everything", "the epoch"])
async def test_epochs_never_come_twice(make_store: MakeStore, any_client: Any, lost: str) -> None:
    """A store that lost its data hands out an epoch above all that the asker has seen."""
    store = make_store()
    for owner in "abc":
        await store.lease(owner, 0.001)
        await asyncio.sleep(0.005)
    assert (await store.lease("c", 5.0)).epoch == 4
    await (
        any_client.flushall() if lost == "everything" else any_client.hdel(store.keys.meta, "epoch")
    )
    assert (await store.lease("c", 5.0, seen_epoch=4)).epoch == 5


async def test_who_does_not_hold_the_lease_writes_nothing(make_store: MakeStore) -> None:
    """A writer with the current epoch is refused while the lease is another's; the holder is
    not."""
    store = make_store()
    epoch = (await store.lease("a", 5.0)).epoch
    with pytest.raises(Fenced):
        await store.append(ONE_BAD, epoch=epoch, owner="b")
    with pytest.raises(Fenced):
        await store.record_check(epoch, "b")
    rows = await store.read()
    assert (rows.version, rows.checked_at) == (0, None)
    await store.record_check(epoch, "a")
    assert (await store.append(ALL_GOOD, epoch=epoch, owner="a")).created


async def test_a_former_leader_is_refused_after_the_lease_moved(make_store: MakeStore) -> None:
    """A leader whose lease ran out writes nothing once another has led, even when nobody leads any
    more."""
    store = make_store()
    epoch = (await store.lease("a", 5.0)).epoch
    await store.release("a")
    await store.lease("b", 5.0)
    await store.release("b")
    with pytest.raises(Fenced):
        await store.append(ALL_GOOD, epoch=epoch, owner="a")


async def test_a_leader_whose_reply_was_lost_learns_that_it_is_in(make_store: MakeStore) -> None:
    """The same bytes sent again by a leader that has been replaced meanwhile are found, not
    refused."""
    store = make_store()
    epoch = (await store.lease("a", 5.0)).epoch
    event = (await store.append(ALL_GOOD, epoch=epoch, owner="a")).event
    await store.release("a")
    await store.lease("b", 5.0)
    again = await store.append(ALL_GOOD, event.id, epoch=epoch, owner="a")
    assert again.event == event
