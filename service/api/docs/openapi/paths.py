"""The routes of the OpenAPI document: one function for each operation."""

from service.api.docs.openapi.builders import (
    HTML,
    PLAIN_TEXT,
    Json,
    array,
    json_content,
    json_response,
    operation,
    ref,
    schema,
)
from service.api.docs.openapi.responses import error_responses, event_response

_NEEDS_WRITE = "Needs the role `write`."
_NOT_MODIFIED = {"304": ref("responses", "NotModified")}
_EVENT_ERRORS = error_responses(
    "Unauthorized", "Forbidden", "Misdirected", "TooMany", "Disabled", "Unavailable"
)
_KEY_ERRORS = error_responses("Unauthorized", "Forbidden", "Misdirected", "TooMany", "Unavailable")


def paths() -> Json:
    """The operations by path and method, in the order of the route table."""
    return {
        "/v0/cluster/events": {"get": _list_events(), "post": _post_event()},
        "/v0/cluster/events/{event_id}": {"get": _get_event()},
        "/v0/cluster_healthz": {"get": _get_verdict()},
        "/v0/config": {"get": _get_config()},
        "/v0/api_keys": {"get": _list_api_keys(), "post": _post_api_key()},
        "/v0/api_keys/{name}": {"get": _get_api_key(), "delete": _delete_api_key()},
        **_probes(),
        **_documentation(),
    }


def _list_events() -> Json:
    return operation(
        "listClusterEvents",
        "events",
        "The retained events, newest first",
        {
            "200": event_response(
                {"anyOf": [array("EventStatus"), array("EventAll")]}, stream=True
            ),
            **_NOT_MODIFIED,
            **_EVENT_ERRORS,
            **error_responses("BadRequest", "NotFound"),
        },
        description="Sorted by recorded_at, then id, descending. Without parameters: all events "
        "with their `status` fields. A client that prefers `text/event-stream` receives each event "
        "when it is recorded, starting after `Last-Event-ID`. An event stream accepts only "
        "`selector`, `service` and `status`.",
        parameters=(
            *("Limit", "Before", "Since", "Until", "Selector"),
            *("Service", "StatusFilter", "IfNoneMatch"),
        ),
    )


def _post_event() -> Json:
    return operation(
        "postClusterEvent",
        "events",
        "Record an event from outside",
        {
            "200": json_response("The same event was recorded before.", schema("EventAll")),
            "201": json_response("The event was recorded.", schema("EventAll")),
            **_EVENT_ERRORS,
            **error_responses("BadRequest", "Conflict", "TooLarge"),
        },
        description=f"{_NEEDS_WRITE} A repeated request with the same id and content changes "
        "nothing.",
        body="NewEvent",
    )


def _get_event() -> Json:
    return operation(
        "getClusterEvent",
        "events",
        "One event, or the latest",
        {
            "200": event_response({"anyOf": [schema("EventAll"), schema("EventStatus")]}),
            **_NOT_MODIFIED,
            **_EVENT_ERRORS,
            **error_responses("BadRequest", "NotFound"),
        },
        parameters=("EventId", "Selector", "IfNoneMatch"),
    )


def _get_verdict() -> Json:
    verdict_or_error = {"anyOf": [schema("Verdict"), schema("Error")]}
    return operation(
        "getClusterHealth",
        "health",
        "The verdict: is the cluster healthy, and since when?",
        {
            "200": json_response(
                "All services are healthy, and the state is current.", schema("Verdict")
            ),
            "503": json_response(
                "A service is not healthy or the state is stale (a verdict), or the state is "
                "unknown (an error).",
                verdict_or_error,
            ),
            **error_responses("Unauthorized", "Forbidden", "NotFound"),
            **error_responses("Misdirected", "TooMany", "Disabled"),
        },
    )


def _get_config() -> Json:
    responses = {"200": json_response("Edition and version.", schema("Config")), **_KEY_ERRORS}
    return operation("getConfig", "operation", "Edition and version", responses)


def _list_api_keys() -> Json:
    return operation(
        "listApiKeys",
        "credentials",
        "All API keys, by name",
        {"200": json_response("The API keys.", array("ApiKey")), **_KEY_ERRORS},
        description=_NEEDS_WRITE,
    )


def _post_api_key() -> Json:
    return operation(
        "postApiKey",
        "credentials",
        "Create an API key",
        {
            "201": json_response("The API key was created.", schema("CreatedApiKey")),
            **_KEY_ERRORS,
            **error_responses("BadRequest", "NameTaken", "TooLarge"),
        },
        description=f"{_NEEDS_WRITE} The new role cannot exceed the caller's own. The response is "
        "the only one that shows the key.",
        body="NewApiKey",
    )


def _get_api_key() -> Json:
    return operation(
        "getApiKey",
        "credentials",
        "One API key",
        {
            "200": json_response("The API key.", schema("ApiKey")),
            **_KEY_ERRORS,
            **error_responses("NoSuchKey"),
        },
        description=_NEEDS_WRITE,
        parameters=("KeyName",),
    )


def _delete_api_key() -> Json:
    return operation(
        "deleteApiKey",
        "credentials",
        "Revoke an API key",
        {
            "200": json_response("The API key was revoked.", schema("RevokedApiKey")),
            **_KEY_ERRORS,
            **error_responses("NoSuchKey"),
        },
        description=f"{_NEEDS_WRITE} Every replica rejects the key within `MAX_STALENESS`.",
        parameters=("KeyName",),
    )


def _probes() -> Json:
    status = json_content(schema("Liveness"))
    not_ready = {
        "description": "The process is draining, or the store was not read recently enough.",
        "content": status,
    }
    ready = {"200": {"description": "The process can respond with events.", "content": status}}
    alive = {"200": {"description": "The process serves requests.", "content": status}}
    metrics = {"200": {"description": "The metrics.", "content": PLAIN_TEXT}}
    return {
        "/healthz": _public_get("getHealthz", "Liveness", alive),
        "/readyz": _public_get("getReadyz", "Readiness", ready | {"503": not_ready}),
        "/metrics": _public_get("getMetrics", "Metrics in the Prometheus text format", metrics),
    }


def _documentation() -> Json:
    misdirected = error_responses("Misdirected")
    page = {"200": {"description": "The page.", "content": HTML}}
    file = {"200": {"description": "The file.", "content": HTML}}
    description = {"200": json_response("OpenAPI 3.1.", {"type": "object"})}
    return {
        "/docs": _public_get("getDocs", "A page to try this API", page | misdirected),
        "/docs/{file}": _public_get(
            "getDocsFile", "A file that the page loads", file | misdirected, "File"
        ),
        "/openapi.json": _public_get("getOpenapi", "This description", description | misdirected),
    }


def _public_get(operation_id: str, summary: str, responses: Json, *parameters: str) -> Json:
    """The only operation of a path: a GET that needs no credential."""
    return {
        "get": {
            "operationId": operation_id,
            "tags": ["operation"],
            "summary": summary,
            "security": [],
            "parameters": [ref("parameters", name) for name in parameters],
            "responses": responses,
        }
    }
