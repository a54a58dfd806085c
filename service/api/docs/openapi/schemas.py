"""The schemas of the OpenAPI document. Those of events have fields for each configured service."""

from collections.abc import Sequence

from service.api.docs.openapi.builders import TIME, UUID, Json, closed_object, schema
from service.events import INFO_LIMIT, Status

_INFO: Json = {
    "type": "string",
    "maxLength": INFO_LIMIT,
    "description": f"At most {INFO_LIMIT:,} bytes in UTF-8. Each control or bidirectional control "
    "character is replaced with a space.",
}
_ROLE: Json = {"type": "string", "enum": ["read", "write"]}
_TIME_OR_NULL: Json = {"type": ["string", "null"], "format": "date-time"}
_KEY: Json = {
    "id": {"type": "string", "description": "Public: it is part of the key and appears in logs."},
    "name": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
"""The properties that every description of an API key has."""


def schema_components(services: Sequence[str]) -> Json:
    """The components of kind `schemas`."""
    return {
        "Status": {"type": "string", "enum": list(Status)},
        **_events(services),
        **_verdict(services),
        "Config": closed_object({"edition": {"type": "string"}, "version": {"type": "string"}}),
        **_api_keys(),
        "Liveness": closed_object({"status": {"type": "string"}}),
        "Error": closed_object(
            {
                "message": {"type": "string"},
                "error_code": {"type": "string"},
                "details": {"type": "object"},
            }
        ),
    }


def _events(services: Sequence[str]) -> Json:
    head: Json = {
        "id": UUID,
        "recorded_at": TIME | {"description": "UTC, with microseconds."},
        "all_healthy": {"type": "boolean"},
    }
    statuses = {f"{name}_status": schema("Status") for name in services}
    full: Json = {}
    for name in services:
        full[f"{name}_status"] = schema("Status")
        full[f"{name}_self_info"] = _INFO
        full[f"{name}_resources_info"] = _INFO
    return {
        "EventStatus": closed_object(head | statuses),
        "EventAll": closed_object(head | full),
        "NewEvent": closed_object({"id": UUID} | full, required=list(statuses)),
    }


def _verdict(services: Sequence[str]) -> Json:
    verdict: Json = {
        "all_healthy": {"type": "boolean"},
        "stale": {"type": "boolean"},
        "stale_after_seconds": {"type": "integer"},
    }
    service: Json = {
        "healthy": {"type": "boolean"},
        "message": {"type": "string"},
        "unchanged_since": TIME,
        "checked_at": TIME,
    }
    return {
        "Verdict": closed_object(verdict | {name: schema("ServiceHealth") for name in services}),
        "ServiceHealth": closed_object(service),
    }


def _api_keys() -> Json:
    last_used: Json = {
        "type": ["string", "null"],
        "format": "date",
        "description": "A day in UTC.",
    }
    state = {
        "role": _ROLE,
        "created_at": TIME,
        "expires_at": _TIME_OR_NULL,
        "last_used_on": last_used,
    }
    secret = {"type": "string", "pattern": "^apikey:", "description": "Shown only once."}
    return {
        "ApiKey": closed_object(_KEY | state),
        "NewApiKey": _new_api_key(),
        "CreatedApiKey": closed_object(_KEY | {"api_key": secret}),
        "RevokedApiKey": closed_object(_KEY),
    }


def _new_api_key() -> Json:
    properties: Json = {
        # `.` and `..` are not allowed: clients remove them from the path of a URL.
        "name": {"type": "string", "pattern": r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}$"},
        "role": _ROLE | {"default": "read"},
        "expires_at": _TIME_OR_NULL | {"default": None},
    }
    return closed_object(properties, required=["name"])
