"""The domain: what an event's bytes are, and which texts are times, ids and infos."""

import uuid
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.events import (
    INFO_LIMIT,
    LAST_US,
    Event,
    Observation,
    Selector,
    Status,
    canonical_uuid,
    clean_info,
    microseconds,
    rfc3339,
    rfc3339_seconds,
    service_names,
    uuid7,
)
from tests.support.observations import ALL_GOOD, GOOD, ONE_BAD

ID = "0190b7c2-1d2e-7f3a-8b4c-5d6e7f8a9b0c"
NOON_US = 1_720_008_000_123_456
EVENT = Event(ID, NOON_US, ONE_BAD)
FIRST_US = -62_135_596_800_000_000
"""The first microsecond of the year 1."""

names = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True).filter(
    lambda name: not name.endswith(("_status", "_info"))
)
texts = st.text(st.characters(codec="utf-8"), max_size=50)
observations = st.builds(Observation, st.sampled_from(Status), texts, texts)
events = st.builds(
    Event,
    st.uuids().map(str),
    st.integers(FIRST_US, LAST_US),
    st.dictionaries(
        st.sampled_from(["api", "compiler", "runner", "db", "a_b", "x9"]), observations, min_size=1
    ),
)


# -- wire bytes ------------------------------------------------------------------------------------


def test_all_has_every_field_in_the_contracts_order() -> None:
    """`all` begins with id, time and verdict; then each service's three fields, in the configured
    order."""
    fields = orjson.loads(EVENT.to_bytes(Selector.ALL))
    assert list(fields) == [
        "id",
        "recorded_at",
        "all_healthy",
        "api_status",
        "api_self_info",
        "api_resources_info",
        "compiler_status",
        "compiler_self_info",
        "compiler_resources_info",
        "runner_status",
        "runner_self_info",
        "runner_resources_info",
    ]
    assert fields["recorded_at"] == "2024-07-03T12:00:00.123456Z"
    assert fields["compiler_status"] == "Unhealthy"
    assert (fields["compiler_self_info"], fields["compiler_resources_info"]) == (
        "broken",
        "none of two",
    )


def test_status_leaves_infos_out() -> None:
    """`status` is `all` without the infos: they are absent, not null."""
    everything = orjson.loads(EVENT.to_bytes(Selector.ALL))
    fields = orjson.loads(EVENT.to_bytes(Selector.STATUS))
    assert fields == {
        name: value for name, value in everything.items() if not name.endswith("_info")
    }
    assert list(fields) == [
        "id",
        "recorded_at",
        "all_healthy",
        "api_status",
        "compiler_status",
        "runner_status",
    ]


def test_other_services_keep_their_order() -> None:
    """The fields follow the order of the services, which need not be alphabetical."""
    event = Event(ID, NOON_US, {"zebra": GOOD, "ape": GOOD})
    assert list(orjson.loads(event.to_bytes(Selector.STATUS)))[3:] == ["zebra_status", "ape_status"]


@pytest.mark.parametrize(
    ("statuses", "healthy"),
    [
        ([Status.HEALTHY, Status.HEALTHY], True),
        ([Status.HEALTHY, Status.UNHEALTHY], False),
        ([Status.INITIAL_UNHEALTHY, Status.HEALTHY], False),
        ([Status.UNHEALTHY], False),
    ],
)
def test_all_healthy_needs_every_service(statuses: list[Status], healthy: bool) -> None:
    """`all_healthy` is true only if every service is `Healthy`."""
    event = Event(ID, NOON_US, {f"s{n}": Observation(status) for n, status in enumerate(statuses)})
    assert event.all_healthy is healthy
    assert orjson.loads(event.to_bytes(Selector.STATUS))["all_healthy"] is healthy


@given(events)
def test_bytes_and_events_are_the_same_thing(event: Event) -> None:
    """An event comes back from its `all` bytes as it was, with its services in their order."""
    back = Event.from_bytes(event.to_bytes(Selector.ALL))
    assert back == event
    assert list(back.services) == list(event.services)
    assert back.to_bytes(Selector.ALL) == event.to_bytes(Selector.ALL)


@given(events)
def test_the_status_bytes_keep_the_statuses(event: Event) -> None:
    """From its `status` bytes an event comes back with empty infos."""
    back = Event.from_bytes(event.to_bytes(Selector.STATUS))
    assert back.services == {
        name: Observation(seen.status) for name, seen in event.services.items()
    }
    assert (back.id, back.recorded_at) == (event.id, event.recorded_at)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'"text"',
        b"{",
        b'{"id": "x"}',
        b'{"id": "x", "recorded_at": "yesterday"}',
        b'{"id": "x", "recorded_at": 5}',
        b'{"id": "x", "recorded_at": "2024-07-03T12:00:00"}',
    ],
)
def test_bytes_that_are_no_event(data: bytes) -> None:
    """Bytes that are not an event are a `ValueError`, whatever is wrong with them."""
    with pytest.raises(ValueError):  # noqa: PT011  # The words are the parser's.
        Event.from_bytes(data)


def test_service_names_come_from_the_fields() -> None:
    """The services of an event are those that have a status."""
    assert service_names(orjson.loads(EVENT.to_bytes(Selector.ALL))) == [
        "api",
        "compiler",
        "runner",
    ]


# -- times -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (NOON_US, "2024-07-03T12:00:00.123456Z"),
        (1_709_164_800_000_000, "2024-02-29T00:00:00.000000Z"),
        (LAST_US, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_rfc_3339_with_microseconds(us: int, text: str) -> None:
    """Times always have six digits of fraction and `Z`, and whole-second times have none."""
    assert rfc3339(us) == text
    assert microseconds(text) == us
    assert rfc3339_seconds(us) == text[:19] + "Z"


@given(st.integers(FIRST_US, LAST_US))
def test_times_come_back_exactly(us: int) -> None:
    """No microsecond is lost between a number and its text, which the standard library reads the
    same way."""
    assert microseconds(rfc3339(us)) == us
    whole = datetime.fromisoformat(rfc3339(us))
    assert whole.tzinfo == UTC
    assert whole.microsecond == us % 1_000_000


@given(st.lists(st.integers(FIRST_US, LAST_US), min_size=2))
def test_times_sort_as_their_texts(times: list[int]) -> None:
    """The order of times is the order of their texts."""
    assert sorted(map(rfc3339, times)) == [rfc3339(us) for us in sorted(times)]


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("2024-07-03T14:00:00.123456+02:00", "2024-07-03T12:00:00.123456Z"),
        ("2024-07-03T06:29:59.5-05:30", "2024-07-03T11:59:59.500000Z"),
        ("2024-07-03T12:00:00-00:00", "2024-07-03T12:00:00.000000Z"),
        ("2024-07-03t12:00:00z", "2024-07-03T12:00:00.000000Z"),
        ("2024-07-03T12:00:00.1Z", "2024-07-03T12:00:00.100000Z"),
        ("2024-07-03T12:00:00.1234567Z", "2024-07-03T12:00:00.123456Z"),
        ("2024-07-03T12:00:00.123456789+00:00", "2024-07-03T12:00:00.123456Z"),
        ("2024-07-03T12:00:00." + "9" * 4_000 + "Z", "2024-07-03T12:00:00.999999Z"),
        ("1969-12-31T23:59:59.9999999Z", "1969-12-31T23:59:59.999999Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000Z"),
        ("2016-12-31T18:59:60.25-05:00", "2017-01-01T00:00:00.250000Z"),
        ("2024-07-03T12:00:60Z", "2024-07-03T12:01:00.000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("0001-01-01T23:59:00+23:59", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T00:00:59.9999999-23:59", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_every_spelling_of_rfc_3339_is_understood(text: str, printed: str) -> None:
    """Any offset, case and number of fraction digits; a fraction is cut to microseconds, second 60
    is the next minute's first."""
    assert rfc3339(microseconds(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "5",
        "2024-07-03",
        "2024-07-03T12:00:00",
        "2024-07-03T12:00Z",
        "2024-07-03 12:00:00Z",
        "2024-07-03T12:00:00 02:00",
        "20240703T120000Z",
        "2024-W27-3T12:00:00Z",
        "2024-07-03T12:00:00.Z",
        "2024-07-03T12:00:00,5Z",
        "2024-07-03T12:00:00+0200",
        "2024-07-03T12:00:00+02",
        "2024-07-03T12:00:00+02:00Z",
        "2024-07-03T12:00:00Z ",
        "2024-07-03T12:00:00Z\n",
        "2024-07-03T12:00:0\N{ARABIC-INDIC DIGIT ONE}Z",
        "2024-13-03T12:00:00Z",
        "2023-02-29T12:00:00Z",
        "2024-07-03T24:00:00Z",
        "2024-07-03T12:60:00Z",
        "2024-07-03T12:00:61Z",
        "2024-07-03T12:00:00+24:00",
        "2024-07-03T12:00:00+00:60",
        "12024-07-03T12:00:00Z",
    ],
)
def test_texts_that_are_no_time(text: str) -> None:
    """What the grammar of RFC 3339, section 5.6, does not give, or no clock shows, is a
    `ValueError`."""
    with pytest.raises(ValueError):  # noqa: PT011  # The words are partly the library's.
        microseconds(text)


@pytest.mark.parametrize(
    "text",
    [
        "9999-12-31T23:59:59-23:59",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T23:59:60Z",
        "0001-01-01T00:00:00+00:01",
        "0000-12-31T23:59:59Z",
    ],
)
def test_times_that_cannot_be_printed_are_refused(text: str) -> None:
    """A time outside the years 1 to 9999 in UTC has no spelling, and is none."""
    with pytest.raises(ValueError):  # noqa: PT011  # The words are partly the library's.
        microseconds(text)


@pytest.mark.parametrize("us", [LAST_US + 1, -62_135_596_800_000_001, 10**30, -(10**30)])
def test_what_has_no_spelling_is_a_value_error(us: int) -> None:
    """Numbers beyond the years 1 to 9999 are refused in one way, however far beyond."""
    for spelling in (rfc3339, rfc3339_seconds):
        with pytest.raises(ValueError, match="years 1 to 9999"):
            spelling(us)


# -- ids -------------------------------------------------------------------------------------------


@given(st.integers(0, 2**48 * 1_000 - 1))
def test_uuid7_is_a_uuid7_of_its_time(us: int) -> None:
    """A generated id has version 7, the variant of RFC 9562, and its time to the quarter of a
    microsecond."""
    text = uuid7(us)
    made = uuid.UUID(text)
    assert text == str(made)
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    ms, rand_a = made.int >> 80, made.int >> 64 & 0xFFF
    assert ms * 1_000 + -(-rand_a * 1_000 // 4_096) == us


@given(st.lists(st.integers(0, LAST_US), unique=True, min_size=2, max_size=20))
def test_ids_sort_as_their_times(times: list[int]) -> None:
    """The order of ids is the order of their times, to the microsecond."""
    ids = [uuid7(us) for us in sorted(times)]
    assert ids == sorted(ids)


@settings(max_examples=20)
@given(st.integers(0, LAST_US))
def test_ids_of_the_same_moment_differ(us: int) -> None:
    """Two writers at the same microsecond get different ids."""
    assert len({uuid7(us) for _ in range(50)}) == 50


@pytest.mark.parametrize(
    "text",
    [
        ID,
        ID.upper(),
        ID.title(),
        ID.replace("-", ""),
        ID.replace("-", "").upper(),
        f"urn:uuid:{ID}",
        f"URN:UUID:{ID.upper()}",
        f"urn:uuid:{ID.replace('-', '')}",
        f"{{{ID}}}",
        f"{{{ID.upper()}}}",
    ],
)
def test_spellings_of_a_uuid(text: str) -> None:
    """Each spelling of a UUID is understood and becomes the one canonical spelling."""
    assert canonical_uuid(text) == ID


@pytest.mark.parametrize(
    "text",
    [
        "00000000-0000-0000-0000-000000000000",
        str(uuid.UUID(int=2**128 - 1)),
        "cab57113-6f45-4c51-9d1e-32828de398bc",
    ],
)
def test_uuids_of_any_version(text: str) -> None:
    """A UUID need not be of version 7."""
    assert canonical_uuid(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latest",
        ID[:-1],
        ID + "0",
        ID + "\n",
        " " + ID,
        ID + " ",
        ID.replace("-", "", 1),
        ID.replace("-", "", 3),
        ID.replace("-", "_"),
        ID.replace("-", "--", 1),
        ID[1:9] + ID[0] + ID[9:],
        "-" + ID.replace("-", ""),
        "g" + ID[1:],
        "{" + ID,
        ID + "}",
        "{" + ID.replace("-", "") + "}x",
        "urn:uuid:{" + ID + "}",
        "urn:uuid:urn:uuid:" + ID,
        "uuid:" + ID,
        "urn:" + ID,
        "\N{FULLWIDTH DIGIT ZERO}" + ID[1:],
        "\N{ARABIC-INDIC DIGIT ONE}" + ID[1:],
        ID.replace("-", "\N{NON-BREAKING HYPHEN}"),
        "urn:uu\N{LATIN SMALL LETTER DOTLESS I}d:" + ID,
        ID[:10] + "\0" + ID[11:],
        "0x" + ID.replace("-", "")[2:],
        ID * 100,
    ],
)
def test_texts_that_are_no_uuid(text: str) -> None:
    """What is not exactly a UUID in ASCII is none, though `uuid.UUID` may take it."""
    assert canonical_uuid(text) is None


@given(st.uuids(), st.sampled_from(["{}", "urn:uuid:{}", "{{{}}}"]), st.booleans())
def test_every_uuid_is_known_in_every_form(value: uuid.UUID, form: str, upper: bool) -> None:
    """Any UUID is understood in any form and case."""
    text = form.format(value)
    assert canonical_uuid(text.upper() if upper else text) == str(value)


@given(st.text(max_size=60))
def test_any_text_is_a_uuid_or_none(text: str) -> None:
    """No text makes the check fail otherwise, and what it takes the standard library takes too."""
    canonical = canonical_uuid(text)
    assert canonical is None or canonical == str(uuid.UUID(text))


# -- infos -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        ("fine", "fine"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("carriage\r\nreturn", "carriage \nreturn"),
        ("bell\x07 and escape\x1b[31m", "bell  and escape [31m"),
        ("nul\x00", "nul "),
        ("delete\x7f and C1\x85\x9f", "delete  and C1  "),
        ("line\u2028and paragraph\u2029", "line and paragraph "),
        ("a lone surrogate \ud800", "a lone surrogate  "),
        ("title \x1b]0;pwned\x07 and \x9b2J", "title  ]0;pwned  and  2J"),
        ("embedded \u202aa\u202bb\u202cc\u202dd\u202e", "embedded  a b c d "),
        ("isolated \u2066a\u2067b\u2068c\u2069", "isolated  a b c "),
        ("marks \u200ea\u200fb\u061cc", "marks  a b c"),
        ("\u2029\u202f\u2065\u206a\u061b", " \u202f\u2065\u206a\u061b"),
        ("ünïcödé 🙂 \u200b", "ünïcödé 🙂 \u200b"),
    ],
)
def test_control_characters_become_spaces(text: str, clean: str) -> None:
    """Control characters are stripped from what services say; line feeds and tabs stay."""
    assert clean_info(text) == clean


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 8_192, "x" * 8_192),
        ("x" * 8_193, "x" * 8_189 + "…"),
        ("é" * 4_096, "é" * 4_096),
        ("é" * 4_097, "é" * 4_094 + "…"),
        ("\U0001f600" * 2_048, "\U0001f600" * 2_048),
        ("x" + "\U0001f600" * 2_048, "x" + "\U0001f600" * 2_047 + "…"),
        ("\x9b" * 8_192, " " * 8_192),
    ],
)
def test_long_infos_are_cut(text: str, expected: str) -> None:
    """An info has at most 8,192 bytes in UTF-8; it is cut between two characters, and the last one
    shows the cut."""
    assert clean_info(text) == expected
    assert len(expected.encode()) <= INFO_LIMIT


@given(st.text(st.characters(), max_size=200), st.integers(1, 80))
def test_clean_infos_are_fit_for_json(text: str, times: int) -> None:
    """Whatever a service says, its info can be stored, is bounded, and is not changed by cleaning
    it again."""
    clean = clean_info(text * times)
    assert len(clean.encode()) <= INFO_LIMIT
    assert len(orjson.dumps(clean)) <= 2 * INFO_LIMIT + 2
    assert orjson.loads(orjson.dumps(clean)) == clean
    assert clean_info(clean) == clean


def test_the_fixtures_of_all_tests_are_what_they_say() -> None:
    """The observations that the tests share are healthy and unhealthy as named."""
    assert Event(ID, 0, ALL_GOOD).all_healthy
    assert not Event(ID, 0, ONE_BAD).all_healthy
