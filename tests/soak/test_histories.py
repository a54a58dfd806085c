"""Random histories in short: `python -m tests.soak.histories` runs for as long as one likes.

Each fault that was once found is put back by a switch here, and a random history must see it.
"""

from collections.abc import Callable
from typing import Any

import pytest

from service import events
from service.api import authorise
from service.errors import AuthenticationFailed
from service.replica import CurrentOrStale, Replica, full_events, replica
from service.replica.advance import Reading, advance
from service.replica.snapshot import Snapshot
from service.store import Store, replies, store
from tests.soak.histories import State as Truth
from tests.soak.histories import lost, run

SEEDS = (0, 1, 2)
STEPS = 80
MOST_SEEDS = 20
"""A fault that is put back must show in one of so many histories."""

Switch = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
async def test_no_answer_is_wrong(seed: int, valkey: str) -> None:
    """Whatever is cut off, lost, used again or written by another version: each answer is true,
    marked, or 503."""
    history = await run(seed, valkey, steps=STEPS)
    assert not history.problems
    assert history.steps.keys() >= {
        "record",
        "foreign",
        "key",
        "cut or mend",
        "own unread",
        "go back",
    }
    assert sum(node.losses for node in history.nodes) > 0


# -- faults put back -------------------------------------------------------------------------------


def denies_what_it_does_not_know(patch: pytest.MonkeyPatch) -> None:
    """A stale snapshot says 404."""
    patch.setattr(CurrentOrStale, "_unless_unknown", lambda _, entry: entry)


def refuses_keys_it_does_not_know(patch: pytest.MonkeyPatch) -> None:
    """A stale snapshot says 401."""
    never = type("Never", (AuthenticationFailed,), {})
    patch.setattr(authorise, "ApiKeyMissing", never)


def keeps_full_events_by_id(patch: pytest.MonkeyPatch) -> None:
    """What was kept of an id outlives it."""
    patch.setattr(full_events, "_key", lambda entry: (entry.id, 0))


def compares_versions_only(patch: pytest.MonkeyPatch) -> None:
    """An equal version is taken for the same history."""
    patch.setattr(store, "new_stamp", lambda: "always the same")


def overlooks_own_losses(patch: pytest.MonkeyPatch) -> None:
    """Nothing is compared where an own event was not read back."""
    look = Replica._check_for_data_loss

    def look_unless_provisional(self: Replica, known: Snapshot | None, rows: Any) -> None:
        if known is None or not known.provisional:
            look(self, known, rows)

    patch.setattr(Replica, "_check_for_data_loss", look_unless_provisional)


def passes_off_own_events(patch: pytest.MonkeyPatch) -> None:
    """An own event on top of what is known counts as the current state."""
    patch.setattr(Snapshot, "__post_init__", lambda self: object.__setattr__(self, "flaw", ""))


def fails_for_other_statuses(patch: pytest.MonkeyPatch) -> None:
    """A status of another version is an error."""
    patch.setattr(events, "_status", events.Status)


def takes_anything_for_an_event(patch: pytest.MonkeyPatch) -> None:
    """What cannot be read is served."""
    patch.setattr(replies, "is_event", lambda _data, _id: True)


def lists_events_without_bodies(patch: pytest.MonkeyPatch) -> None:
    """An event without its full body is in one list and not in the other."""
    script = store._script

    def without_the_check(name: str) -> str:
        return script(name).replace("redis.call('HSTRLEN', body, 'all') > 0 and '1' or ''", "'1'")

    patch.setattr(store, "_script", without_the_check)
    patch.setattr(Replica, "_forget", lambda _self, _entries: None)


def resets_who_is_up_to_date(patch: pytest.MonkeyPatch) -> None:
    """A watcher whose last event retention took is reset, though it has missed nothing."""

    def only_after_the_latest(
        known: Snapshot | None, reading: Reading, *arguments: Any
    ) -> Snapshot | None:
        entries = reading.state.entries
        if (
            known is not None
            and entries
            and known.latest is not None
            and entries[-1] != known.latest
        ):
            return None
        return advance(known, reading, *arguments)

    patch.setattr(replica, "advance", only_after_the_latest)


def makes_checks_younger(patch: pytest.MonkeyPatch) -> None:
    """A check counts from when its note arrives."""
    checked = Store.record_check
    patch.setattr(Store, "record_check", lambda self, checked_at: checked(self))  # noqa: ARG005  # As before.


def forgets_former_services(patch: pytest.MonkeyPatch) -> None:
    """History cannot be searched for a service that is no longer configured."""
    from service.api.handlers import event_query as listing  # noqa: PLC0415

    def configured_only(text: str) -> str:
        raise ValueError(f"expected one of the configured services, not {text}")

    patch.setattr(listing, "_service", configured_only)


def deletes_keys_by_halves(patch: pytest.MonkeyPatch) -> None:
    """A key is gone though its deletion failed."""
    script = store._script

    def in_another_order(name: str) -> str:
        text = script(name)
        if name == "api_key":
            text = text.replace(
                "redis.call('HLEN', used)",
                "redis.call('HDEL', api_keys, name)\nredis.call('HLEN', used)",
            )
        return text

    patch.setattr(store, "_script", in_another_order)


FAULTS: tuple[Switch, ...] = (
    denies_what_it_does_not_know,
    refuses_keys_it_does_not_know,
    keeps_full_events_by_id,
    compares_versions_only,
    overlooks_own_losses,
    passes_off_own_events,
    fails_for_other_statuses,
    takes_anything_for_an_event,
    lists_events_without_bodies,
    resets_who_is_up_to_date,
    makes_checks_younger,
    forgets_former_services,
    deletes_keys_by_halves,
)


@pytest.mark.slow
@pytest.mark.timeout(300)  # A fault that is not found takes all the histories.
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_fault_that_is_put_back_is_found(
    fault: Switch, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The random history itself sees each fault, without a test that was made for it."""
    fault(monkeypatch)
    for seed in range(MOST_SEEDS):
        if (await run(seed, valkey, steps=STEPS)).problems:
            return
    pytest.fail(f"{fault.__name__} was not found in {MOST_SEEDS} histories")


def test_what_must_be_found_lost() -> None:
    """A state that goes on is no loss; one that went back, or has other changes at the same number,
    is."""
    known = Truth(changes=(1, 2, 3))
    assert not lost(known, Truth(changes=(1, 2, 3, 4)))
    assert lost(known, Truth(changes=(1, 2)))
    assert lost(known, Truth(changes=(1, 2, 4)))
