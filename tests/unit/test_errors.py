"""Every error has one body, and its name is its code."""

from typing import Any

import orjson
import pytest

from service import errors
from service.errors import ApiError, SettingsError
from service.text import cut

CASES: dict[type[ApiError], tuple[tuple[Any, ...], int, dict[str, Any]]] = {
    errors.BadMessage: ((), 400, {}),
    errors.VersionNotSupported: ((), 505, {}),
    errors.UriTooLong: ((4_096,), 414, {"limit_bytes": 4_096}),
    errors.HeadersTooLarge: (
        ("There are too many.", {"limit_fields": 64}),
        431,
        {"limit_fields": 64},
    ),
    errors.MisdirectedRequest: (("evil.example",), 421, {"host": "evil.example"}),
    errors.NotImplemented: ((), 501, {}),
    errors.RequestTimeout: ((5.0,), 408, {}),
    errors.UnmetExpectation: ((), 417, {}),
    errors.UnsupportedMediaType: ((), 415, {}),
    errors.PayloadTooLarge: ((1_024,), 413, {"limit_bytes": 1_024}),
    errors.InvalidUuidParam: (("x",), 400, {"value": "x", "error": "expected `latest` or a UUID"}),
    errors.InvalidQueryParam: (
        ("selector", "x", "no"),
        400,
        {"param": "selector", "value": "x", "error": "no"},
    ),
    errors.NotAcceptable: ((["gzip", "zstd"],), 406, {"codings": ["gzip", "zstd"]}),
    errors.InvalidEvent: (
        ([("api_status", "missing")],),
        400,
        {"errors": [{"field": "api_status", "error": "missing"}]},
    ),
    errors.AuthenticationFailed: ((), 401, {}),
    errors.SigningKeysUnavailable: ((), 503, {}),
    errors.TooManyRequests: ((7,), 429, {"retry_after_s": 7}),
    errors.InsufficientPermissions: (
        ("write", "read"),
        403,
        {"required": "write", "actual": "read"},
    ),
    errors.UnknownClusterMonitorEvent: (("an id", "72 h"), 404, {"event_id": "an id"}),
    errors.NoClusterMonitorEventsAvailable: ((), 404, {}),
    errors.UnknownEndpoint: (("/x",), 404, {"path": "/x"}),
    errors.MethodNotAllowed: (("PUT", ["GET", "HEAD"]), 405, {"method": "PUT"}),
    errors.InvalidApiKey: (
        ([("name", "it is required")],),
        400,
        {"errors": [{"field": "name", "error": "it is required"}]},
    ),
    errors.UnknownApiKey: (("agents",), 404, {"name": "agents"}),
    errors.DuplicateName: (("agents",), 409, {"name": "agents"}),
    errors.EventConflict: (("an id",), 409, {"event_id": "an id"}),
    errors.InternalError: (("f00",), 500, {"request_id": "f00"}),
    errors.ClusterMonitoringDisabled: ((), 501, {}),
    errors.StoreUnavailable: (("it is away",), 503, {"reason": "it is away"}),
    errors.ServerBusy: (("REPLY_MEMORY",), 503, {"limit": "REPLY_MEMORY"}),
}
"""Error → how it is made, its status, its details."""

HEADERS = {
    errors.AuthenticationFailed: {"WWW-Authenticate": "Bearer"},
    errors.MethodNotAllowed: {"Allow": "GET, HEAD"},
    errors.SigningKeysUnavailable: {"Retry-After": "5"},
    errors.StoreUnavailable: {"Retry-After": "1"},
    errors.ServerBusy: {"Retry-After": "1"},
    errors.TooManyRequests: {"Retry-After": "7"},
}


def subclasses(kind: type[ApiError]) -> set[type[ApiError]]:
    """All kinds of API error that there are."""
    return {kind for child in kind.__subclasses__() for kind in {child} | subclasses(child)}


def test_every_error_has_a_case() -> None:
    """An API error that is added without a row in this table fails."""
    ours = {kind for kind in subclasses(ApiError) if kind.__module__ == "service.errors"}
    assert ours == set(CASES)


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_the_body_is_the_contracts(kind: type[ApiError]) -> None:
    """The body has a message, the class's name as its code, and the details, and nothing else."""
    arguments, status, details = CASES[kind]
    error = kind(*arguments)
    body = orjson.loads(error.body())
    assert list(body) == ["message", "error_code", "details"]
    assert body["error_code"] == error.error_code == kind.__name__
    assert body["details"] == details
    assert body["message"] == str(error)
    assert body["message"].endswith(".")
    assert error.status == status
    assert error.headers == HEADERS.get(kind, {})


def test_the_message_of_an_unknown_event_names_the_retention() -> None:
    """Who asks for an event that was cleaned up learns for how long events are retained."""
    assert (
        "at most 1,000 events"
        in errors.UnknownClusterMonitorEvent("x", "at most 1,000 events").message
    )


def test_a_method_of_no_endpoint() -> None:
    """A method that no endpoint takes is told with an empty `Allow`."""
    error = errors.MethodNotAllowed("TRACE", [])
    assert error.headers == {"Allow": ""}
    assert error.message == "No endpoint supports this method."


def test_retry_after_can_be_set() -> None:
    """The time after which to come back is the caller's choice."""
    assert errors.StoreUnavailable("x", retry_after_s=7).headers == {"Retry-After": "7"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ""),
        ("x" * 100, "x" * 100),
        ("x" * 101, "x" * 99 + "…"),
        ("\ud800", "?"),
        ("ü", "ü"),
    ],
)
def test_what_a_client_sent_is_repeated_cut(value: str, expected: str) -> None:
    """A value is repeated in at most 100 characters, and without what JSON cannot carry."""
    assert cut(value) == expected
    assert orjson.loads(errors.InvalidUuidParam(value).body())["details"]["value"] == expected


def test_details_are_a_copy() -> None:
    """Changing what an error was made of does not change the error."""
    details = {"a": 1}
    error = ApiError("x.", details)
    details["a"] = 2
    assert error.details == {"a": 1}


def test_settings_errors_tell_every_problem() -> None:
    """All problems are in the error's text, one a line."""
    error = SettingsError(["one", "two"])
    assert str(error) == "one\ntwo"
    assert error.problems == ("one", "two")
