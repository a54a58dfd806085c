"""The API's description in OpenAPI 3.1, written by hand for whatever services are configured, and
held to the code by tests."""

from collections.abc import Sequence
from typing import Any

from service import __version__
from service.events import INFO_LIMIT, Selector, Status
from service.replica.event_filter import MOST
from service.settings import SERVICE_NAME

_ERRORS = {
    "BadRequest": (
        400,
        "A bad parameter, id or body (`InvalidQueryParam`, `InvalidUuidParam`, `InvalidEvent`, `InvalidApiKey`).",
    ),
    "Unauthorized": (
        401,
        "No credential, or one that is bad, expired or revoked (`AuthenticationFailed`).",
    ),
    "Forbidden": (
        403,
        "The role does not allow it (`InsufficientPermissions`). With `AUTH=none`: making or deleting an API key.",
    ),
    "Misdirected": (
        421,
        "With `AUTH=none`: the `Host` is none that is answered for (`MisdirectedRequest`).",
    ),
    "NotFound": (
        404,
        "No such event (`UnknownClusterMonitorEvent`), or none yet (`NoClusterMonitorEventsAvailable`).",
    ),
    "Conflict": (409, "The id exists with other content (`EventConflict`)."),
    "NoSuchKey": (404, "No API key of that name (`UnknownApiKey`)."),
    "NameTaken": (409, "An API key of that name exists (`DuplicateName`)."),
    "TooMany": (
        429,
        "Too many bad credentials came from this address (`TooManyRequests`, with `Retry-After`).",
    ),
    "TooLarge": (413, "The body is larger than any event (`PayloadTooLarge`)."),
    "UriTooLong": (414, "The request target exceeds 4,096 bytes (`UriTooLong`)."),
    "FieldsTooLarge": (
        431,
        "A header field exceeds 8,190 bytes, all of them 32,768, or they are more than 64 (`HeadersTooLarge`).",
    ),
    "Disabled": (501, "This deployment does no monitoring (`ClusterMonitoringDisabled`)."),
    "Unavailable": (
        503,
        (
            "The current state cannot be known (`StoreUnavailable`), the keys of a token's issuer neither "
            "(`SigningKeysUnavailable`), or too many bytes of pages wait to be sent or of bodies were received (`ServerBusy`)."
        ),
    ),
}

Json = dict[str, Any]

_HTML: Json = {"text/html": {"schema": {"type": "string"}}}


def document(services: Sequence[str], *, metrics: bool = True) -> Json:
    """The description, as a JSON object, for these services in this order.

    `metrics` is whether the API's port serves `/metrics`.
    """
    paths = _paths()
    if not metrics:
        del paths["/metrics"]
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"] |= _refs("UriTooLong", "FieldsTooLarge")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cluster-events",
            "version": __version__,
            "description": "Is the platform healthy, and since when?",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [
            {"name": "events", "description": "What was recorded."},
            {"name": "health", "description": "What is now."},
            {"name": "credentials", "description": "Who may ask."},
            {"name": "operation", "description": "The service itself."},
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A JWT, or an API key that starts with `apikey:`.",
                }
            },
            "parameters": _parameters(services),
            "headers": _headers(),
            "responses": {name: _error(text) for name, (_, text) in _ERRORS.items()}
            | {"NotModified": _not_modified()},
            "schemas": _schemas(services),
        },
    }


def _paths() -> Json:
    event_errors = _refs(
        "Unauthorized", "Forbidden", "Misdirected", "TooMany", "Disabled", "Unavailable"
    )
    key_errors = _refs("Unauthorized", "Forbidden", "Misdirected", "TooMany", "Unavailable")
    return {
        "/v0/cluster/events": {
            "get": {
                "operationId": "listClusterEvents",
                "tags": ["events"],
                "summary": "The retained events, newest first",
                "description": "By recorded_at, then id, descending. Without parameters: all, with their `status` fields. "
                "A client that prefers `text/event-stream` gets the events as they are recorded, after `Last-Event-ID`; it "
                "takes `selector`, `service` and `status` only.",
                "parameters": [
                    *(
                        _ref("parameters", name)
                        for name in ("Limit", "Before", "Since", "Until", "Selector")
                    ),
                    *(
                        _ref("parameters", name)
                        for name in ("Service", "StatusFilter", "IfNoneMatch")
                    ),
                ],
                "responses": {
                    "200": _event_answer(
                        {"anyOf": [_array("EventStatus"), _array("EventAll")]}, stream=True
                    ),
                    "304": _ref("responses", "NotModified"),
                }
                | event_errors
                | _refs("BadRequest", "NotFound"),
            },
            "post": {
                "operationId": "postClusterEvent",
                "tags": ["events"],
                "summary": "Record an event from outside",
                "description": "Needs the role `write`. Sending the same id and content again is harmless.",
                "requestBody": {"required": True, "content": _json(_ref("schemas", "NewEvent"))},
                "responses": {
                    "200": {
                        "description": "The same event had been recorded before.",
                        "content": _json(_ref("schemas", "EventAll")),
                    },
                    "201": {
                        "description": "Recorded.",
                        "content": _json(_ref("schemas", "EventAll")),
                    },
                }
                | event_errors
                | _refs("BadRequest", "Conflict", "TooLarge"),
            },
        },
        "/v0/cluster/events/{event_id}": {
            "get": {
                "operationId": "getClusterEvent",
                "tags": ["events"],
                "summary": "One event, or the latest",
                "parameters": [
                    _ref("parameters", "EventId"),
                    _ref("parameters", "Selector"),
                    _ref("parameters", "IfNoneMatch"),
                ],
                "responses": {
                    "200": _event_answer(
                        {"anyOf": [_ref("schemas", "EventAll"), _ref("schemas", "EventStatus")]}
                    ),
                    "304": _ref("responses", "NotModified"),
                }
                | event_errors
                | _refs("BadRequest", "NotFound"),
            }
        },
        "/v0/cluster_healthz": {
            "get": {
                "operationId": "getClusterHealth",
                "tags": ["health"],
                "summary": "The verdict: is the cluster healthy, and since when?",
                "responses": {
                    "200": {
                        "description": "All is healthy, and that is known.",
                        "content": _json(_ref("schemas", "Verdict")),
                    },
                    "503": {
                        "description": "Unhealthy or stale (a verdict), or nothing is known (an error).",
                        "content": _json(
                            {"anyOf": [_ref("schemas", "Verdict"), _ref("schemas", "Error")]}
                        ),
                    },
                }
                | _refs(
                    "Unauthorized", "Forbidden", "NotFound", "Misdirected", "TooMany", "Disabled"
                ),
            }
        },
        "/v0/config": {
            "get": {
                "operationId": "getConfig",
                "tags": ["operation"],
                "summary": "Edition and version",
                "responses": {
                    "200": {
                        "description": "What this is.",
                        "content": _json(_ref("schemas", "Config")),
                    }
                }
                | key_errors,
            }
        },
        "/v0/api_keys": {
            "get": {
                "operationId": "listApiKeys",
                "tags": ["credentials"],
                "summary": "All API keys, by name",
                "description": "Needs the role `write`.",
                "responses": {
                    "200": {"description": "The keys.", "content": _json(_array("ApiKey"))}
                }
                | key_errors,
            },
            "post": {
                "operationId": "postApiKey",
                "tags": ["credentials"],
                "summary": "Make an API key",
                "description": "Needs the role `write`, and gives no role beyond one's own. The key is shown this once.",
                "requestBody": {"required": True, "content": _json(_ref("schemas", "NewApiKey"))},
                "responses": {
                    "201": {
                        "description": "Made.",
                        "content": _json(_ref("schemas", "CreatedApiKey")),
                    }
                }
                | key_errors
                | _refs("BadRequest", "NameTaken", "TooLarge"),
            },
        },
        "/v0/api_keys/{name}": {
            "get": {
                "operationId": "getApiKey",
                "tags": ["credentials"],
                "summary": "One API key",
                "description": "Needs the role `write`.",
                "parameters": [_ref("parameters", "KeyName")],
                "responses": {
                    "200": {"description": "The key.", "content": _json(_ref("schemas", "ApiKey"))}
                }
                | key_errors
                | _refs("NoSuchKey"),
            },
            "delete": {
                "operationId": "deleteApiKey",
                "tags": ["credentials"],
                "summary": "Revoke an API key",
                "description": "Needs the role `write`. Every replica refuses the key within `MAX_STALENESS`.",
                "parameters": [_ref("parameters", "KeyName")],
                "responses": {
                    "200": {
                        "description": "Revoked.",
                        "content": _json(_ref("schemas", "RevokedApiKey")),
                    }
                }
                | key_errors
                | _refs("NoSuchKey"),
            },
        },
        "/healthz": _open(
            "Liveness",
            "getHealthz",
            "The process serves requests.",
            _json(_ref("schemas", "Liveness")),
            any_host=True,
        ),
        "/readyz": _open(
            "Readiness",
            "getReadyz",
            "Events can be answered.",
            _json(_ref("schemas", "Liveness")),
            any_host=True,
            unready=True,
        ),
        "/metrics": _open(
            "Metrics in Prometheus' text format",
            "getMetrics",
            "The metrics.",
            {"text/plain": {"schema": {"type": "string"}}},
            any_host=True,
        ),
        "/docs": _open("A page to explore this API with", "getDocs", "The page.", _HTML),
        "/docs/{file}": _open(
            "What that page is made of", "getDocsFile", "The file.", _HTML, "File"
        ),
        "/openapi.json": _open(
            "This description", "getOpenapi", "OpenAPI 3.1.", _json({"type": "object"})
        ),
    }


def _open(
    summary: str,
    operation: str,
    text: str,
    content: Json,
    *parameters: str,
    any_host: bool = False,
    unready: bool = False,
) -> Json:
    """A GET that needs no credential."""
    responses: Json = {"200": {"description": text, "content": content}}
    if not any_host:
        responses |= _refs("Misdirected")
    if unready:
        responses["503"] = {
            "description": "Not now: draining, or the store was not read recently enough.",
            "content": content,
        }
    return {
        "get": {
            "operationId": operation,
            "tags": ["operation"],
            "summary": summary,
            "security": [],
            "parameters": [_ref("parameters", name) for name in parameters],
            "responses": responses,
        }
    }


def _parameters(services: Sequence[str]) -> Json:
    time = {"type": "string", "format": "date-time"}
    return {
        "File": {
            "name": "file",
            "in": "path",
            "required": True,
            "description": "A script or a style.",
            "schema": {"enum": ["explore.js", "explore.css"]},
        },
        "Limit": _query(
            "limit",
            "The most events. A page has fewer where they would have more than 4 MiB, and 100 at most with `selector=all`, also "
            "without `limit`; one that is cut has a `Link` to the next events.",
            _number(1, MOST),
        ),
        "Before": _query(
            "before", "An event's id: only older ones.", {"type": "string", "format": "uuid"}
        ),
        "Since": _query("since", "Only events recorded at or after this time.", time),
        "Until": _query("until", "Only events recorded before this time.", time),
        "Service": _query(
            "service",
            "The service that `status` is about, also a former one.",
            {"type": "string", "pattern": f"^{SERVICE_NAME.pattern}$", "examples": list(services)},
        ),
        "StatusFilter": _query(
            "status",
            "Only events in which `service` (or any service) had one of these statuses, separated by commas.",
            {"type": "string", "pattern": f"^({'|'.join(Status)})(,({'|'.join(Status)}))*$"},
        ),
        "EventId": {
            "name": "event_id",
            "in": "path",
            "required": True,
            "description": "`latest`, or a UUID in any of its spellings.",
            "schema": {"anyOf": [{"const": "latest"}, {"type": "string", "format": "uuid"}]},
        },
        "KeyName": {
            "name": "name",
            "in": "path",
            "required": True,
            "description": "The API key's name.",
            "schema": {"type": "string"},
        },
        "Selector": {
            "name": "selector",
            "in": "query",
            "description": "Which fields are returned.",
            "schema": {"type": "string", "enum": list(Selector), "default": Selector.STATUS},
        },
        "IfNoneMatch": {
            "name": "If-None-Match",
            "in": "header",
            "description": "Entity tags of answers that the client has; 304 if one is still right.",
            "schema": {"type": "string"},
        },
    }


def _query(name: str, text: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _number(least: int, most: int) -> Json:
    return {"type": "integer", "minimum": least, "maximum": most}


def _headers() -> Json:
    return {
        "ETag": {"description": "A strong entity tag of the body.", "schema": {"type": "string"}},
        "CheckedAt": {
            "description": "When the monitor last completed a check, in whole seconds.",
            "schema": {"type": "string", "format": "date-time"},
        },
        "Stale": {
            "description": "Present when the answer may not be the current state, and why.",
            "schema": {"enum": ["store-unreachable", "monitor-silent"]},
        },
        "Link": {
            "description": "Where a cut list goes on (`rel=next`).",
            "schema": {"type": "string"},
        },
        "Age": {
            "description": "With `Cluster-Stale: store-unreachable`: seconds since the answer was last known to be true.",
            "schema": {"type": "integer"},
        },
    }


def _schemas(services: Sequence[str]) -> Json:
    info = {
        "type": "string",
        "maxLength": INFO_LIMIT,
        "description": f"At most {INFO_LIMIT:,} bytes in UTF-8. Control and bidirectional control characters become spaces.",
    }
    head: Json = {
        "id": {"type": "string", "format": "uuid"},
        "recorded_at": {
            "type": "string",
            "format": "date-time",
            "description": "UTC, with microseconds.",
        },
        "all_healthy": {"type": "boolean"},
    }
    statuses = {f"{name}_status": _ref("schemas", "Status") for name in services}
    infos = {
        f"{name}_{kind}": info for name in services for kind in ("self_info", "resources_info")
    }
    full = {
        field: fields[field]
        for fields in (statuses | infos,)
        for name in services
        for field in _fields(name)
    }
    verdict: Json = {
        "all_healthy": {"type": "boolean"},
        "stale": {"type": "boolean"},
        "stale_after_seconds": {"type": "integer"},
    } | {name: _ref("schemas", "ServiceHealth") for name in services}
    return {
        "Status": {"type": "string", "enum": list(Status)},
        "EventStatus": _object(head | statuses),
        "EventAll": _object(head | full),
        "NewEvent": _object({"id": head["id"]} | full, required=list(statuses)),
        "Verdict": _object(verdict),
        "ServiceHealth": _object(
            {
                "healthy": {"type": "boolean"},
                "message": {"type": "string"},
                "unchanged_since": {"type": "string", "format": "date-time"},
                "checked_at": {"type": "string", "format": "date-time"},
            }
        ),
        "Config": _object({"edition": {"type": "string"}, "version": {"type": "string"}}),
        "ApiKey": _object(
            {
                **_key_fields(),
                "role": _role(),
                "created_at": {"type": "string", "format": "date-time"},
                "expires_at": {"type": ["string", "null"], "format": "date-time"},
                "last_used_on": {
                    "type": ["string", "null"],
                    "format": "date",
                    "description": "A day in UTC.",
                },
            }
        ),
        "NewApiKey": _object(
            {
                "name": {"type": "string", "pattern": r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}$"},
                "role": _role() | {"default": "read"},
                "expires_at": {"type": ["string", "null"], "format": "date-time", "default": None},
            },
            required=["name"],
        ),
        "CreatedApiKey": _object(
            {
                **_key_fields(),
                "api_key": {
                    "type": "string",
                    "pattern": "^apikey:",
                    "description": "Shown this once.",
                },
            }
        ),
        "RevokedApiKey": _object(_key_fields()),
        "Liveness": _object({"status": {"type": "string"}}),
        "Error": _object(
            {
                "message": {"type": "string"},
                "error_code": {"type": "string"},
                "details": {"type": "object"},
            }
        ),
    }


def _key_fields() -> Json:
    return {
        "id": {"type": "string", "description": "Public: it stands in the key and in logs."},
        "name": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    }


def _role() -> Json:
    return {"type": "string", "enum": ["read", "write"]}


def _fields(name: str) -> tuple[str, str, str]:
    return f"{name}_status", f"{name}_self_info", f"{name}_resources_info"


def _object(properties: Json, required: list[str] | None = None) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def _array(schema: str) -> Json:
    return {"type": "array", "items": _ref("schemas", schema)}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _refs(*names: str) -> Json:
    return {str(_ERRORS[name][0]): _ref("responses", name) for name in names}


def _event_answer(schema: Json, *, stream: bool = False) -> Json:
    headers = {
        "ETag": "ETag",
        "Cluster-Checked-At": "CheckedAt",
        "Cluster-Stale": "Stale",
        "Age": "Age",
        "Link": "Link",
    }
    return {
        "description": "What was asked for.",
        "headers": {name: _ref("headers", component) for name, component in headers.items()},
        "content": _json(schema)
        | ({"text/event-stream": {"schema": {"type": "string"}}} if stream else {}),
    }


def _not_modified() -> Json:
    return {
        "description": "The client's copy is still right.",
        "headers": {"ETag": _ref("headers", "ETag")},
    }


def _error(text: str) -> Json:
    return {"description": text, "content": _json(_ref("schemas", "Error"))}
