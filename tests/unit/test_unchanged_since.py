"""Since when a service is as it is: the oldest event of the unbroken run of the same
healthy-or-not."""

import pytest

from service.api.responses.verdict import unchanged_since
from service.events import Event, Observation, Selector, Status
from service.store import Entry

LETTERS = {"H": Status.HEALTHY, "U": Status.UNHEALTHY, "I": Status.INITIAL_UNHEALTHY}
ID = "01940000-0000-7000-8000-000000000000"


def history(api: str, runner: str) -> list[Entry]:
    """Events, newest first, with these statuses of two services; a dot stands for an event that
    knows nothing of it."""
    entries = []
    for number, letters in enumerate(zip(api, runner, strict=True)):
        seen = {
            name: LETTERS[letter]
            for name, letter in zip(("api", "api_2"), letters, strict=True)
            if letter != "."
        }
        event = Event(
            ID, 100 - number, {name: Observation(status) for name, status in seen.items()}
        )
        entries.append(Entry(event.id, event.recorded_at, event.to_bytes(Selector.STATUS)))
    return entries


@pytest.mark.parametrize(
    ("api", "other", "since"),
    [
        ("H", "H", {"api": 100, "api_2": 100}),
        ("HHH", "UUH", {"api": 98, "api_2": 99}),
        ("UIH", "IUU", {"api": 99, "api_2": 98}),
        ("HUH", "UHU", {"api": 100, "api_2": 100}),
        ("HH.H", "HHHH", {"api": 99, "api_2": 97}),
        (".H", "HH", {"api_2": 99}),
    ],
)
def test_runs(api: str, other: str, since: dict[str, int]) -> None:
    """Both unhealthy statuses are one run; an event that knows nothing of the service ends it;
    names do not mix."""
    assert unchanged_since(history(api, other), ["api", "api_2"]) == since


def test_nothing_recorded() -> None:
    """No events, no runs."""
    assert unchanged_since([], ["api"]) == {}
