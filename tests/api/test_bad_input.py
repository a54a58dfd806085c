"""Input that is wrong in every way we could think of: told what is wrong with it, or understood
after all."""

import logging
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from service.api.handlers import events
from service.api.handlers.event_body import body_limit
from service.events import INFO_LIMIT, Observation, Status, clean_info
from tests.support.api import Api, Got
from tests.support.observations import ALL_GOOD, BAD
from tests.support.raw import Reply
from tests.support.settings import READ, WRITE

ID = "01997e2b-4c5d-7abc-8def-0123456789ab"
DIGITS = ID.replace("-", "")
POST = "/v0/cluster/events"
GOOD: dict[str, object] = {f"{name}_status": "Healthy" for name in ("api", "compiler", "runner")}


def error(answer: Got, status: int, code: str) -> dict[str, Any]:
    """The details of an error, which has the status, the code and the one body."""
    assert (
        answer.status,
        Reply("HTTP/1.1", answer.status, answer.headers, answer.body).error_code,
    ) == (status, code)
    details = answer.json["details"]
    assert isinstance(details, dict)
    return details


# -- ids -------------------------------------------------------------------------------------------

SPELLINGS = [
    ID,
    ID.upper(),
    ID[:9] + ID[9:].upper(),
    DIGITS,
    DIGITS.upper(),
    f"urn:uuid:{ID}",
    f"URN:UUID:{ID.upper()}",
    quote(f"urn:uuid:{ID}", safe=""),
    quote(f"{{{ID}}}"),
    quote(f"{{{ID.upper()}}}"),
    "".join(f"%{ord(character):02x}" for character in ID),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_every_spelling_of_a_uuid_is_understood(api: Api, spelling: str) -> None:
    """Hyphenated, plain, as URN or in braces, in any case, percent-encoded or not: it is the same
    event."""
    recorded = (await api.store.append(ALL_GOOD, ID)).event
    await api.settle()
    answer = await api.get(f"{POST}/{spelling}")
    assert (answer.status, answer.json["id"]) == (200, recorded.id)


@pytest.mark.parametrize("version", ["1", "4", "7", "0", "f"])
async def test_uuids_of_every_version_are_looked_up(api: Api, version: str) -> None:
    """An id of any version is an id: there is no such event, rather than no such id."""
    event_id = f"01997e2b-4c5d-{version}abc-8def-0123456789ab"
    answer = await api.get(f"{POST}/{event_id.upper()}")
    assert error(answer, 404, "UnknownClusterMonitorEvent") == {"event_id": event_id}
    assert "1,000 events" in answer.json["message"]
    assert "72 h" in answer.json["message"]


BAD_IDS = {
    "slash": ("a%2fb", "a/b"),
    "encoded dots": ("%2e%2e", None),
    "NUL": ("%00", "\x00"),
    "NUL behind": (ID + "%00", ID + "\x00"),
    "not UTF-8": ("%ff", None),
    "not hex": ("%zz", None),
    "half an escape": ("%", None),
    "space": ("%20", " "),
    "space around": (f"%20{ID}%20", f" {ID} "),
    "line feed behind": (ID + "%0a", ID + "\n"),
    "two kilobytes": ("x" * 2_000, "x" * 99 + "…"),
    "full-width digit": (quote(ID[:-1] + "\uff11"), ID[:-1] + "\uff11"),
    "Arabic digit": (quote("\u0661" + ID[1:]), "\u0661" + ID[1:]),
    "too short": (ID[:-1], ID[:-1]),
    "too long": (ID + "0", ID + "0"),
    "not hexadecimal": (ID[:-1] + "g", ID[:-1] + "g"),
    "hyphens elsewhere": (f"{DIGITS[:4]}-{DIGITS[4:]}", f"{DIGITS[:4]}-{DIGITS[4:]}"),
    "some hyphens": (ID.replace("-", "", 1), ID.replace("-", "", 1)),
    "underscores": (ID.replace("-", "_"), ID.replace("-", "_")),
    "half a brace": ("%7b" + ID, "{" + ID),
    "braces without hyphens": (f"%7b{DIGITS}%7d", f"{{{DIGITS}}}"),
    "another URN": (f"urn:isbn:{ID}", f"urn:isbn:{ID}"),
    "URN twice": (f"urn:uuid:urn:uuid:{ID}", f"urn:uuid:urn:uuid:{ID}"),
    "latest in capitals": ("LATEST", "LATEST"),
    "latest with a space": ("latest%20", "latest "),
    "number": ("-1", "-1"),
    "markup": ("%3cscript%3e", "<script>"),
    "asterisk": ("*", "*"),
}


@pytest.mark.parametrize(("path", "value"), BAD_IDS.values(), ids=BAD_IDS)
async def test_what_is_no_uuid_is_refused(api: Api, path: str, value: str | None) -> None:
    """An id that is neither `latest` nor a UUID is named, cut, in the error; the store is not
    asked."""
    details = error(await api.get(f"{POST}/{path}"), 400, "InvalidUuidParam")
    assert details.keys() == {"value", "error"}
    assert len(details["value"]) <= 100
    assert value is None or details["value"] == value
    assert details["error"] == "expected `latest` or a UUID"


async def test_unknown_path_is_cut(api: Api) -> None:
    """An unknown path is named in the error, cut to what a log can bear."""
    details = error(await api.get("/" + "x" * 2_000), 404, "UnknownEndpoint")
    assert details == {"path": "/" + "x" * 98 + "…"}


# -- query -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("selector=", ""),
        ("selector", ""),
        ("selector=ALL", "ALL"),
        ("selector=Status", "Status"),
        ("selector=most", "most"),
        ("selector=all%20", "all "),
        ("selector=%20all", " all"),
        ("selector=all%00", "all\x00"),
        ("selector=%EF%BD%81ll", "\uff41ll"),
        ("selector=all;selector=all", "all;selector=all"),
        ("selector=status&selector=all", "status,all"),
        ("selector=all&selector=all", "all,all"),
        ("selector=all&x=1&selector=", "all,"),
        ("x=1&selector=most", "most"),
        ("selector=" + "x" * 2_000, "x" * 99 + "…"),
    ],
)
async def test_wrong_selector_is_refused(api: Api, query: str, value: str) -> None:
    """An unknown, empty or repeated selector is refused: no first or last wins."""
    await api.store.append(ALL_GOOD)
    await api.settle()
    details = error(await api.get(f"{POST}/latest?{query}"), 400, "InvalidQueryParam")
    assert details.keys() == {"param", "value", "error"}
    assert (details["param"], details["value"]) == ("selector", value)


@pytest.mark.parametrize("query", ["selector=%ff", "%ff=1&selector=%zz"])
async def test_undecodable_query_is_refused(api: Api, query: str) -> None:
    """A selector that is not UTF-8 is refused like any unknown one."""
    assert (
        error(await api.get(f"{POST}/latest?{query}"), 400, "InvalidQueryParam")["param"]
        == "selector"
    )


@pytest.mark.parametrize(
    ("query", "infos"),
    [
        ("", False),
        ("?", False),
        ("?selector=status", False),
        ("?selector=all", True),
        ("?selector=%61ll", True),
        ("?x=1&selector=all&y", True),
        ("?Selector=all", False),
        ("?selectors=all&&=&x=%ff", False),
        ("?" + "&".join(f"x{n}=1" for n in range(200)), False),
    ],
)
async def test_selector_chooses_the_fields(api: Api, query: str, infos: bool) -> None:
    """`all` adds the infos, `status` and none leave them out, and other parameters are ignored."""
    await api.store.append(ALL_GOOD)
    await api.settle()
    answer = await api.get(f"{POST}/latest{query}")
    assert answer.status == 200
    assert ("api_self_info" in answer.json) is infos


# -- bodies ----------------------------------------------------------------------------------------


async def post(api: Api, body: object, **headers: str) -> Got:
    """The answer to a POST of a value, or of bytes as they are."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return await api.request("POST", POST, WRITE | headers, data=data)


NOT_JSON = {
    "empty": b"",
    "blank": b"  ",
    "form": b"api_status=Healthy",
    "cut": orjson.dumps(GOOD)[:-1],
    "two values": orjson.dumps(GOOD) * 2,
    "comma behind": orjson.dumps(GOOD)[:-1] + b",}",
    "comment": b"/* */" + orjson.dumps(GOOD),
    "single quotes": b"{'api_status': 'Healthy'}",
    "NaN": b'{"api_status": NaN}',
    "Infinity": b'{"api_status": -Infinity}',
    "byte order mark": b"\xef\xbb\xbf" + orjson.dumps(GOOD),
    "UTF-16": orjson.dumps(GOOD).decode().encode("utf-16"),
    "not UTF-8": b'{"api_self_info": "\xff"}',
    "lone surrogate": b'{"api_self_info": "\\ud800"}',
    "lone surrogate in UTF-8": b'{"api_self_info": "\xed\xa0\x80"}',
    "raw control character": b'{"api_self_info": "a\x00b"}',
    "raw line feed": b'{"api_self_info": "a\nb"}',
    "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "nested 30,000 objects deep": b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
async def test_body_that_is_not_json_is_refused(api: Api, body: bytes) -> None:
    """A body that is not JSON, strictly, is refused in one sentence."""
    details = error(await post(api, body), 400, "InvalidEvent")
    assert details == {"errors": [{"field": "", "error": "the body is not JSON"}]}


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"1", b'"Healthy"', b"true", orjson.dumps([GOOD])]
)
async def test_body_that_is_no_object_is_refused(api: Api, body: bytes) -> None:
    """An event is an object, not a list of events."""
    details = error(await post(api, body), 400, "InvalidEvent")
    assert details == {"errors": [{"field": "", "error": "expected a JSON object"}]}


WRONG_FIELDS: dict[str, tuple[dict[str, object], list[str]]] = {
    "unknown status": (GOOD | {"api_status": "healthy"}, ["api_status"]),
    "status empty": (GOOD | {"api_status": ""}, ["api_status"]),
    "status null": (GOOD | {"api_status": None}, ["api_status"]),
    "status true": (GOOD | {"api_status": True}, ["api_status"]),
    "status number": (GOOD | {"api_status": 1}, ["api_status"]),
    "status huge number": (GOOD | {"api_status": 1e308}, ["api_status"]),
    "status list": (GOOD | {"api_status": ["Healthy"]}, ["api_status"]),
    "status object": (GOOD | {"api_status": {"a": 1}}, ["api_status"]),
    "info null": (GOOD | {"api_self_info": None}, ["api_self_info"]),
    "info number": (GOOD | {"runner_resources_info": 7}, ["runner_resources_info"]),
    "info object": (GOOD | {"compiler_self_info": {"a": 1}}, ["compiler_self_info"]),
    "info too long": (GOOD | {"api_self_info": "x" * (INFO_LIMIT + 1)}, ["api_self_info"]),
    "info too long in bytes": (
        GOOD | {"api_resources_info": "é" * (INFO_LIMIT // 2) + "x"},
        ["api_resources_info"],
    ),
    "id null": (GOOD | {"id": None}, ["id"]),
    "id number": (GOOD | {"id": 7}, ["id"]),
    "id list": (GOOD | {"id": [ID]}, ["id"]),
    "id latest": (GOOD | {"id": "latest"}, ["id"]),
    "id empty": (GOOD | {"id": ""}, ["id"]),
    "id with full-width digit": (GOOD | {"id": ID[:-1] + "\uff11"}, ["id"]),
    "unknown field": (GOOD | {"extra": 1}, ["extra"]),
    "unknown service": (GOOD | {"kafka_status": "Healthy"}, ["kafka_status"]),
    "field in capitals": (GOOD | {"API_STATUS": "Healthy"}, ["API_STATUS"]),
    "field of the answer": (GOOD | {"all_healthy": True}, ["all_healthy"]),
    "time": (GOOD | {"recorded_at": "2026-01-01T00:00:00Z"}, ["recorded_at"]),
    "all missing": ({}, ["api_status", "compiler_status", "runner_status"]),
    "one missing": ({key: GOOD[key] for key in list(GOOD)[1:]}, ["api_status"]),
    "everything": (
        {"id": 1, "api_status": "?", "api_self_info": 1, "x": 1},
        ["id", "api_status", "api_self_info", "compiler_status", "runner_status", "x"],
    ),
}


@pytest.mark.parametrize(("body", "fields"), WRONG_FIELDS.values(), ids=WRONG_FIELDS)
async def test_every_wrong_field_is_named(
    api: Api, body: dict[str, object], fields: list[str]
) -> None:
    """All fields at fault are named at once, each with what would be right, and nothing is
    recorded."""
    details = error(await post(api, body), 400, "InvalidEvent")
    assert [wrong["field"] for wrong in details["errors"]] == fields
    assert all(wrong.keys() == {"field", "error"} and wrong["error"] for wrong in details["errors"])
    assert not (await api.store.read()).entries


async def test_names_of_wrong_fields_are_cut(api: Api) -> None:
    """A field's name is repeated in the error, but not all of it."""
    details = error(await post(api, GOOD | {"x" * 5_000: 1}), 400, "InvalidEvent")
    assert details["errors"][0]["field"] == "x" * 99 + "…"


async def test_flat_event_is_recorded(api: Api) -> None:
    """Statuses and infos come back as they were sent, and the event is the latest from then on."""
    sent = GOOD | {
        "api_status": "Unhealthy",
        "api_self_info": "it's “down”",
        "runner_resources_info": "x" * INFO_LIMIT,
    }
    answer = await post(api, sent)
    assert answer.status == 201
    assert answer.json.items() >= sent.items()
    assert (answer.json["all_healthy"], answer.json["compiler_self_info"]) == (False, "")
    assert (await api.get(f"{POST}/latest?selector=all")).body == answer.body


@pytest.mark.parametrize(
    "info", ["a\nb\tc", '"\\', "\U0001f600" * (INFO_LIMIT // 4), "é" * (INFO_LIMIT // 2), "\u200b"]
)
async def test_any_text_is_an_info(api: Api, info: str) -> None:
    """A text without control characters, as long as it may be, comes back as it was."""
    answer = await post(api, GOOD | {"api_self_info": info, "runner_self_info": info})
    assert (answer.status, answer.json["api_self_info"]) == (201, info)
    assert not any(byte < 0x20 for byte in answer.body)


HOSTILE = {
    "NUL": "a\x00b",
    "CSI": "\x1b[31mred",
    "OSC": "\x1b]0;title\x07",
    "carriage return": "fine\rbad",
    "DEL": "a\x7fb",
    "C1": "\x9b2J\x85",
    "bidirectional override": "\u202etxt.exe",
    "bidirectional isolate": "\u2066a\u2069",
    "bidirectional mark": "a\u200f\u061cb",
    "line separator": "a\u2028b\u2029",
}


@pytest.mark.parametrize("info", HOSTILE.values(), ids=HOSTILE)
async def test_posted_infos_are_cleaned_like_those_of_the_monitor(api: Api, info: str) -> None:
    """What acts on a terminal is not stored; the same text again under the same id is the same
    event."""
    sent = GOOD | {"id": ID, "api_self_info": info, "runner_resources_info": info}
    first, again = await post(api, sent), await post(api, sent)
    assert (first.status, again.status) == (201, 200)
    assert (
        first.json["api_self_info"]
        == first.json["runner_resources_info"]
        == clean_info(info)
        != info
    )
    assert again.body == first.body == (await api.get(f"{POST}/latest?selector=all")).body


async def test_infos_are_measured_after_cleaning(api: Api) -> None:
    """The limit is for what is stored: a control character of two bytes counts as the space that it
    becomes."""
    answer = await post(api, GOOD | {"api_self_info": "\x9b" * INFO_LIMIT})
    assert (answer.status, answer.json["api_self_info"]) == (201, " " * INFO_LIMIT)
    details = error(
        await post(api, GOOD | {"api_self_info": "\x9b" * (INFO_LIMIT + 1)}), 400, "InvalidEvent"
    )
    assert details["errors"] == [
        {"field": "api_self_info", "error": "expected a text of at most 8,192 bytes in UTF-8"}
    ]


async def test_event_of_an_earlier_version_is_compared_after_cleaning(api: Api) -> None:
    """An event that an earlier version stored with its control characters is found again by what
    was sent."""
    services = ALL_GOOD | {"api": Observation(Status.HEALTHY, "\x1b[1mfine\u202e")}
    stored = (await api.store.append(services)).event
    sent = {
        f"{name}_{kind}": value
        for name, seen in services.items()
        for kind, value in asdict(seen).items()
    }
    assert (await post(api, sent | {"id": stored.id})).status == 200
    error(await post(api, sent | {"id": stored.id, "api_self_info": "other"}), 409, "EventConflict")


@pytest.mark.parametrize(
    "media_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"]
)
async def test_type_of_the_body_does_not_matter(api: Api, media_type: str) -> None:
    """A body is read as JSON whatever it calls itself: `curl -d` is enough."""
    assert (await post(api, GOOD, **{"Content-Type": media_type})).status == 201


async def test_largest_event_fits_however_it_is_escaped(api: Api) -> None:
    """Infos of the most bytes fit into the limit for bodies, also where a client escapes every
    character."""
    text = "".join(f"\\u{ord(character):04x}" for character in "x" * INFO_LIMIT)
    names = [
        f"{name}_{kind}_info"
        for name in ("api", "compiler", "runner")
        for kind in ("self", "resources")
    ]
    infos = "".join(f',"{name}":"{text}"' for name in names)
    answer = await post(api, orjson.dumps(GOOD)[:-1] + infos.encode() + b"}")
    assert (answer.status, answer.json["runner_resources_info"]) == (201, "x" * INFO_LIMIT)


async def test_same_event_again_is_the_event(api: Api) -> None:
    """A POST whose answer was lost can be sent again, under any spelling of its id: 200, and the
    event as first recorded."""
    first = await post(api, GOOD | {"id": ID, "api_self_info": "once"})
    again = await post(api, GOOD | {"id": f"urn:uuid:{ID.upper()}", "api_self_info": "once"})
    assert (first.status, again.status) == (201, 200)
    assert first.json["id"] == ID
    assert again.body == first.body
    assert len((await api.store.read()).entries or ()) == 1


@pytest.mark.parametrize("change", [{"api_status": "Unhealthy"}, {"api_self_info": "twice"}])
async def test_other_event_of_the_same_id_conflicts(api: Api, change: dict[str, str]) -> None:
    """An id stands for one event: other content under it is a conflict, and the event stays as it
    is."""
    first = await post(api, GOOD | {"id": ID})
    details = error(await post(api, GOOD | {"id": ID.upper()} | change), 409, "EventConflict")
    assert details == {"event_id": ID}
    assert (await api.get(f"{POST}/{ID}?selector=all")).body == first.body


async def test_events_without_an_id_are_all_recorded(api: Api) -> None:
    """Without an id, the same content sent twice is two events."""
    answers = [await post(api, GOOD) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    assert len({answer.json["id"] for answer in answers}) == 2


async def test_body_at_its_limit_is_read(api: Api) -> None:
    """One byte over the limit is too large, whatever it holds; at the limit it is read."""
    spaces = body_limit(3) - len(orjson.dumps(GOOD))
    assert (await post(api, orjson.dumps(GOOD) + b" " * spaces)).status == 201
    details = error(
        await post(api, orjson.dumps(GOOD) + b" " * (spaces + 1)), 413, "PayloadTooLarge"
    )
    assert details == {"limit_bytes": body_limit(3)}


# -- errors ----------------------------------------------------------------------------------------


async def test_latest_before_the_first_event(api: Api) -> None:
    """In an empty store there is no latest event and no verdict; the list is empty."""
    for path in (f"{POST}/latest", f"{POST}/latest?selector=all", "/v0/cluster_healthz"):
        assert error(await api.get(path), 404, "NoClusterMonitorEventsAvailable") == {}
    answer = await api.get(POST)
    assert (answer.status, answer.json) == (200, [])


async def test_monitoring_switched_off(make_api: Any) -> None:
    """A deployment without a monitor says so on the event routes and the verdict, and serves the
    rest."""
    api: Api = await make_api(monitoring="off")
    for path in (POST, f"{POST}/latest", f"{POST}/{ID}", "/v0/cluster_healthz"):
        assert error(await api.get(path), 501, "ClusterMonitoringDisabled") == {}
    assert error(await post(api, GOOD), 501, "ClusterMonitoringDisabled") == {}
    assert (await api.get("/v0/config")).status == 200


@pytest.mark.parametrize(
    "bug",
    [
        RuntimeError("its inside"),
        KeyError("its inside"),
        ConnectionError("its inside"),
        TimeoutError("its inside"),
    ],
)
async def test_bug_is_logged_under_the_id_that_the_reply_names(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bug: Exception
) -> None:
    """A bug's traceback goes to the log, its id to the client, nothing else of it; the next request
    is served."""

    def buggy(_text: str) -> str:
        raise bug

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(events, "canonical_uuid", buggy)
        answer = await api.get(f"{POST}/{ID}")
    details = error(answer, 500, "InternalError")
    assert details.keys() == {"request_id"}
    assert not any(
        word in answer.body
        for word in (b"Traceback", b"its inside", b"buggy", type(bug).__name__.encode())
    )
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert vars(record)["request_id"] == details["request_id"]
    assert record.exc_info is not None
    assert record.exc_info[1] is bug
    assert (await api.get(f"{POST}/{ID}")).status == 404


async def test_secrets_are_not_logged(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a bug nor a refusal writes a credential into the log."""

    def buggy(_text: str) -> str:
        raise RuntimeError("broken")

    monkeypatch.setattr(events, "canonical_uuid", buggy)
    with caplog.at_level(logging.DEBUG):
        await api.get(f"{POST}/{ID}")
        await api.request("GET", POST, {"Authorization": READ["Authorization"] + "x"})
    assert READ["Authorization"].removeprefix("Bearer ")[:40] not in caplog.text


async def test_unhealthy_verdict_is_no_error(api: Api) -> None:
    """A verdict of 503 is an answer, not an error: it has the body of the healthy one, and no
    `Retry-After`."""
    await api.store.append({"api": BAD, "compiler": BAD, "runner": BAD})
    await api.settle()
    answer = await api.get("/v0/cluster_healthz")
    assert (answer.status, answer.json["all_healthy"]) == (503, False)
    assert "error_code" not in answer.json
    assert "Retry-After" not in answer.headers
