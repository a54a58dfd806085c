"""`If-None-Match`: which fields mean that the client has the answer."""

import time

import pytest

from service.api.http.conditional import parse_if_none_match

ETAG = '"a1b2"'


def named(fields: list[str]) -> bool:
    """Whether the fields name the tag, or any."""
    return not (parse_if_none_match(fields) or frozenset()).isdisjoint({ETAG, "*"})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (['"a1b2"'], True),
        (['  "a1b2"\t'], True),
        (['W/"a1b2"'], True),
        (["*"], True),
        ([" * "], True),
        (['"x", "a1b2"'], True),
        (['"x","a1b2","y"'], True),
        (['"x" ,\tW/"a1b2"'], True),
        (['W/"x", "a1b2"'], True),
        (['"x"', '"a1b2"'], True),
        (['"with,comma", "a1b2"'], True),
        ([', ,"a1b2",'], True),
        (["", '"a1b2"'], True),
        ([], False),
        ([""], False),
        (['"x"'], False),
        (['"A1B2"'], False),
        (['"a1b"'], False),
        (['"a1b2 "'], False),
        (["a1b2"], False),
        (["'a1b2'"], False),
        (['w/"a1b2"'], False),
        (['W/ "a1b2"'], False),
        (['"a1b2'], False),
        (['"*"'], False),
        (['*, "x"'], False),
        (['""'], False),
        (['"\\"a1b2"'], False),
        (['"x"a1b2"'], False),
        (["\udcff\udcfe"], False),
    ],
)
def test_field_matches_exactly_what_it_names(fields: list[str], expected: bool) -> None:
    """An entity tag in any of the fields, weak or strong, matches; what is not one matches
    nothing."""
    assert named(fields) is expected


def test_no_field_is_no_condition() -> None:
    """Without the field, or with an empty one, there is no condition."""
    assert parse_if_none_match([]) is None
    assert parse_if_none_match([""]) is None


@pytest.mark.parametrize(
    "junk",
    [
        '"',
        "W/",
        '"a',
        " ",
        "\t,",
        ",",
        '",',
        '""',
        '"x" ',
        '"x",',
        'W/"x"\t',
        '"x"  ',
        "*",
        "é",
        "\x00",
        "a, ",
    ],
)
def test_junk_costs_linear_time(junk: str) -> None:
    """Sixteen times as much junk takes about sixteen times as long, not the square of that."""

    def seconds(length: int) -> float:
        field = (junk * length)[:length] + "!"
        started = time.perf_counter()
        assert not named([field])
        return time.perf_counter() - started

    short = min(seconds(2**14) for _ in range(3))
    assert min(seconds(2**18) for _ in range(2)) < max(
        16 * 8 * short, 0.01
    )  # A square would be 256 times as long.
