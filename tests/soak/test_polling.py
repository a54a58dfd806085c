"""Polling in short: `python -m tests.soak.polling` does the same for half a minute."""

import pytest

from tests.soak.polling import KINDS, Model, run, wrong_bodies
from tests.soak.writer import status_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("poll_path", [True, False], ids=["on", "off"])
async def test_no_answer_is_old_or_torn(poll_path: bool) -> None:
    """Under polls of all kinds and 20 changes a second, each answer is a state of the history, and
    none from before the ask."""
    outcome = await run(2, poll_path=poll_path)
    assert not outcome.problems
    assert set(outcome.model.requests) == set(KINDS)
    assert len(outcome.model.ids) > 10
    assert len(outcome.model.bodies["latest"]) > 5


def test_wrong_answers_are_found() -> None:
    """The comparison sees bytes that were never recorded, and lists that are no state of the
    history."""
    model = Model()
    for number in range(3):
        full = b'{"id":"%036d","recorded_at":"%d","all_healthy":true,"api_self_info":""}' % (
            number,
            number,
        )
        model.ids.append(f"{number:036}")
        model.recorded.full[model.ids[-1]] = full
    fulls = list(model.recorded.full.values())
    model.bodies = {"latest": {status_of(fulls[0])}, "by id, all": {fulls[1]}}
    assert not wrong_bodies(model)
    model.bodies["latest, all"] = {fulls[0][:30] + fulls[1][30:] + b" "}
    model.lists[model.ids[2]] = {b"a digest of something else"}
    assert len(wrong_bodies(model)) == 2
    model.not_older("latest", model.ids[1], 2)
    assert len(model.older) == 1
