"""Content codings: what is made of an Accept-Encoding field."""

import pytest

from service.api.http import content_coding as coding
from service.api.http.content_coding import CODINGS, Accepted, negotiate
from service.errors import NotAcceptable

BEST = next(iter(CODINGS))


@pytest.mark.parametrize(
    ("field", "accepted"),
    [
        ("gzip", Accepted("gzip")),
        ("GZIP", Accepted("gzip")),
        ("x-gzip", Accepted("gzip")),
        ("gzip, deflate, br", Accepted("gzip")),
        ("deflate, gzip;q=0.5", Accepted("gzip")),
        ("gzip;q=1.0, identity; q=0.5, *;q=0", Accepted("gzip")),
        ("*", Accepted(BEST)),
        ("br", Accepted(None)),
        ("", Accepted(None)),
        ("identity", Accepted(None)),
        ("gzip;q=0", Accepted(None)),
        ("gzip;q=0.000", Accepted(None)),
        ("gzip;q=0.2, identity;q=0.8", Accepted(None)),
        ("gzip;q=0.8, identity;q=0.2", Accepted("gzip")),
        ("gzip, identity;q=0", Accepted("gzip", identity=False)),
        ("gzip, *;q=0", Accepted("gzip", identity=False)),
        ("gzip;q=2", Accepted(None)),
        ("gzip;level=9", Accepted(None)),
        ("gz\x00ip, ;;;, gzip", Accepted("gzip")),
    ],
)
def test_negotiation(field: str, accepted: Accepted) -> None:
    """The client's weights decide; what is not well-formed is ignored."""
    assert negotiate(field) == accepted


@pytest.mark.parametrize("field", ["identity;q=0", "*;q=0", "br, identity;q=0", "gzip;q=0, *;q=0"])
def test_nothing_acceptable(field: str) -> None:
    """A client that refuses the plain body and names no coding of ours cannot be served."""
    with pytest.raises(NotAcceptable):
        negotiate(field)


def test_what_a_field_can_cost_is_bounded() -> None:
    """Of a long field few elements are looked at, and its meaning is not remembered."""
    assert negotiate(", ".join(["x"] * 64 + ["gzip"])) == Accepted(None)
    assert negotiate(", ".join(["x"] * 63 + ["gzip"])) == Accepted("gzip")
    before = coding._negotiate.cache_info().currsize
    for number in range(20):
        negotiate(f"gzip, {number}" + "x" * 1_000)
    assert coding._negotiate.cache_info().currsize == before


@pytest.mark.parametrize("name", CODINGS)
def test_the_same_body_gives_the_same_bytes(name: str) -> None:
    """Replicas agree on the bytes, and so on the entity tag, of a compressed body."""
    assert CODINGS[name](b"body" * 1_000) == CODINGS[name](b"body" * 1_000)
