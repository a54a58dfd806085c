"""Outages in short: `python -m tests.soak.outages` does the same for longer."""

from dataclasses import replace

import pytest

from tests.soak.outages import FAULTS, Limits, Outage, Seen, run

pytestmark = pytest.mark.slow

SHORT = Limits(heartbeat=0.1, max_staleness=0.4, stale_if_error=1.2)


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_outage_is_told_as_it_is(fault: str) -> None:
    """Current, then marked with its age, then 503, then current again; a store that lost everything
    is believed, and counted."""
    outage = await run(fault, 1.8, calm=0.3, limits=SHORT)
    assert not outage.problems
    during = outage.during("latest")
    if fault == "FLUSHALL":
        assert {one.status for one in during} >= {404}
    else:
        assert {(one.status, one.stale) for one in during} == {
            (200, None),
            (200, "store-unreachable"),
            (503, None),
        }
        assert {one.age for one in during} >= {0, 1}
        assert {one.status for one in outage.during("ready")} == {200, 503}


CURRENT = Seen(0.1, 0.1, 200, None, None, None, b"{}")
MARKED = replace(CURRENT, asked=0.6, there=0.6, age=0, stale="store-unreachable")
GONE = replace(
    CURRENT,
    asked=1.5,
    there=1.5,
    status=503,
    retry_after="1",
    body=b'{"error_code":"StoreUnavailable"}',
)


@pytest.mark.parametrize(
    ("one", "complaint"),
    [
        (CURRENT, None),
        (MARKED, None),
        (GONE, None),
        (replace(CURRENT, asked=0.6, there=0.6), "passed off as current"),
        (replace(MARKED, age=2), "Age 2"),
        (replace(MARKED, asked=1.1, there=1.1, age=0), "Age 0"),
        (replace(MARKED, body=b'{"other":1}'), "another event"),
        (replace(MARKED, asked=1.5, there=1.5, age=1), "200 1.50 s"),
        (replace(GONE, asked=0.5, there=0.5), "503 0.50 s"),
        (replace(GONE, retry_after=None), "Retry-After None"),
        (replace(CURRENT, there=1.1), "waited for longer"),
    ],
)
def test_wrong_answers_are_found(one: Seen, complaint: str | None) -> None:
    """The comparison sees what is passed off, marked wrongly, too early, too late, or kept
    waiting."""
    outage = Outage("SIGKILL", SHORT, began=0.0, mended=2.0, up=2.0, known=b"{}")
    after = replace(CURRENT, asked=3.0, there=3.0)
    outage.seen = {name: [after] for name in outage.seen} | {"latest": [one, after]}
    assert (not outage.problems) if complaint is None else complaint in " ".join(outage.problems)
