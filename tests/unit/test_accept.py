"""`Accept`: which media type a client is given."""

import pytest

from service.api.http import accept
from service.api.http.accept import preferred

JSON, STREAM = "application/json", "text/event-stream"
OFFERS = (JSON, STREAM)

CASES: list[tuple[list[str], str]] = [
    # The default: nothing is preferred.
    ([], JSON),
    ([""], JSON),
    ([" , ,"], JSON),
    (["*/*"], JSON),
    (["application/json"], JSON),
    (["text/event-stream, application/json"], JSON),
    (["text/event-stream;q=0.5, */*;q=0.5"], JSON),
    (["text/html"], JSON),
    (["application/json;q=0, text/html"], JSON),
    # Weights.
    (["text/event-stream"], STREAM),
    (["application/json;q=1, text/event-stream;q=0.1"], JSON),
    (["application/json;q=0.1, text/event-stream"], STREAM),
    (["application/json;q=0.998,text/event-stream;q=0.999"], STREAM),
    (["application/json;q=0, text/event-stream;q=0.001"], STREAM),
    (["text/event-stream;q=0"], JSON),
    (["text/event-stream;q=0.0"], JSON),
    (["text/event-stream;q=0.000, application/json;q=0"], JSON),
    (["TEXT/Event-Stream;Q=1.000 , application/json ; q=0.9"], STREAM),
    (["\ttext/event-stream\t;\tq=0.3\t,application/json;q=0."], STREAM),
    # The most specific range counts, wherever it stands.
    (["*/*, text/event-stream;q=0.5"], JSON),
    (["*/*;q=0.4, text/event-stream;q=0.5"], STREAM),
    (["text/event-stream;q=0.5, */*;q=0.4"], STREAM),
    (["text/*, application/json;q=0.9"], STREAM),
    (["text/*, text/event-stream;q=0, application/json;q=0.1"], JSON),
    (["text/*, application/*"], JSON),
    (["text/*;q=0.5, */*;q=0.4"], STREAM),
    (["application/*;q=0, */*"], STREAM),
    (["*/*;q=0, text/event-stream"], STREAM),
    # Several lines are one list (RFC 9110, section 5.3).
    (["application/json;q=0.5", "text/event-stream"], STREAM),
    (["text/event-stream;q=0.5", "application/json"], JSON),
    # Parameters.
    (["text/event-stream;q=0;v=1"], JSON),
    (["text/event-stream;v=1"], JSON),
    (["text/event-stream;charset=utf-8, application/json;q=0.5"], STREAM),
    (["application/json; charset=UTF-8, text/event-stream;q=0.5"], JSON),
    (['text/event-stream;charset="utf-8"'], STREAM),
    (["text/event-stream;q=0.9;charset=utf-8, application/json;q=0.8"], STREAM),
    (["text/event-stream;charset=utf-16"], JSON),
    (["text/event-stream;;q=1;"], STREAM),
    # Quoted strings hide commas, semicolons and weights.
    (['text/html;x=", text/event-stream, ", application/json;q=0.5'], JSON),
    (['text/html;x=";q=0", text/event-stream'], STREAM),
    (['text/html;x="\\", text/event-stream;q=1, \\"", application/json;q=0.5'], JSON),
    (['text/html;x="no end, text/event-stream'], JSON),
    # What is not well-formed is ignored, and nothing else with it.
    (["text/event-stream;q=2"], JSON),
    (["text/event-stream;q=-1"], JSON),
    (["text/event-stream;q=.5"], JSON),
    (["text/event-stream;q=1.5, application/json;q=0.1"], JSON),
    (["text/event-stream;q = 1"], JSON),
    (["text/event-stream;q"], JSON),
    (['text/event-stream;q="1"'], JSON),
    (["text/event-stream; q=0,5"], JSON),
    (["*/event-stream"], JSON),
    (["*, text/event-stream"], STREAM),
    (["text, /, text/, /event-stream, text /event-stream, text/event-stream x"], JSON),
    (["text/event-streams"], JSON),
    (["text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"], JSON),
    (["text/event\ufffdstream, \udcff"], JSON),
]


@pytest.mark.parametrize(("fields", "expected"), CASES)
def test_the_clients_preference_decides(fields: list[str], expected: str) -> None:
    """RFC 9110, section 12.5.1: weights, then specificity; the first offer where the client has no
    preference."""
    assert preferred(fields, OFFERS) == expected


def test_any_offers_can_be_chosen_from() -> None:
    """It knows no media type of its own, and the first offer is the default."""
    offers = ("text/plain", "application/json", "text/html")
    assert preferred(["text/html, text/plain;q=0.5"], offers) == "text/html"
    assert preferred(["text/*"], offers) == "text/plain"
    assert preferred(["text/event-stream"], offers) == "text/plain"


@pytest.mark.parametrize(
    "field",
    [
        "text/event-stream," * 5_000,
        "a/b;" * 5_000,
        '"' * 20_000,
        '"\\' * 20_000,
        ";" * 20_000,
        'a/b;x="' * 5_000,
    ],
    ids=["ranges", "parameters", "quotes", "backslashes", "semicolons", "open quotes"],
)
def test_what_a_field_can_cost_is_bounded(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the field, few ranges of few characters are looked into."""
    looked_into: list[str] = []
    parse = accept._parse

    def counted(element: str) -> object:
        looked_into.append(element)
        return parse(element)

    monkeypatch.setattr(accept, "_parse", counted)
    preferred([field], OFFERS)
    assert len(looked_into) <= 64
