"""The responses and response headers of the OpenAPI document that several routes share."""

from service.api.docs.openapi.builders import Json, json_content, json_response, ref, schema

_ERRORS = {
    "BadRequest": (
        400,
        (
            "A parameter, an id or the body is invalid (`InvalidQueryParam`, `InvalidUuidParam`, "
            "`InvalidEvent`, `InvalidApiKey`)."
        ),
    ),
    "Unauthorized": (
        401,
        "The credential is missing, invalid, expired or revoked (`AuthenticationFailed`).",
    ),
    "Forbidden": (
        403,
        (
            "The role does not allow the request (`InsufficientPermissions`). With `AUTH=none`: "
            "the request creates or deletes an API key."
        ),
    ),
    "Misdirected": (
        421,
        "With `AUTH=none`: the `Host` is not a name of this service (`MisdirectedRequest`).",
    ),
    "NotFound": (
        404,
        (
            "The event does not exist (`UnknownClusterMonitorEvent`), or no event has been "
            "recorded yet (`NoClusterMonitorEventsAvailable`)."
        ),
    ),
    "Conflict": (409, "An event with this id and other content exists (`EventConflict`)."),
    "NoSuchKey": (404, "No API key has this name (`UnknownApiKey`)."),
    "NameTaken": (409, "An API key with this name exists (`DuplicateName`)."),
    "TooMany": (
        429,
        (
            "Too many requests with invalid credentials came from this address (`TooManyRequests`, "
            "with `Retry-After`)."
        ),
    ),
    "TooLarge": (413, "The body exceeds the limit of this route (`PayloadTooLarge`)."),
    "UriTooLong": (414, "The request target exceeds 4,096 bytes (`UriTooLong`)."),
    "FieldsTooLarge": (
        431,
        (
            "A header field exceeds 8,190 bytes, all header fields together exceed 32,768 bytes, "
            "or the request has more than 64 header fields (`HeadersTooLarge`)."
        ),
    ),
    "Disabled": (
        501,
        "Monitoring is switched off in this deployment (`ClusterMonitoringDisabled`).",
    ),
    "Unavailable": (
        503,
        (
            "The current state is unknown (`StoreUnavailable`), the keys of the token's issuer are "
            "unavailable (`SigningKeysUnavailable`), or the process has reached a memory limit for "
            "unsent pages or received bodies (`ServerBusy`)."
        ),
    ),
}
"""Status and description of each response with the error body, by the component's name."""

_EVENT_HEADERS = {
    "ETag": "ETag",
    "Cluster-Checked-At": "CheckedAt",
    "Cluster-Stale": "Stale",
    "Age": "Age",
    "Link": "Link",
}
"""The header fields of a response with events, and the component that describes each."""


def error_responses(*names: str) -> Json:
    """References to error responses, by status."""
    return {str(_ERRORS[name][0]): ref("responses", name) for name in names}


def event_response(body: Json, *, stream: bool = False) -> Json:
    """The response with one event or several; with `stream`, also as an event stream."""
    content = json_content(body)
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "description": "The requested event or events.",
        "headers": {name: ref("headers", header) for name, header in _EVENT_HEADERS.items()},
        "content": content,
    }


def response_components() -> Json:
    """The components of kind `responses`."""
    errors = {name: json_response(text, schema("Error")) for name, (_, text) in _ERRORS.items()}
    not_modified = {
        "description": "The client's copy is current.",
        "headers": {"ETag": ref("headers", "ETag")},
    }
    return errors | {"NotModified": not_modified}


def header_components() -> Json:
    """The components of kind `headers`."""
    return {
        "ETag": {"description": "A strong entity tag of the body.", "schema": {"type": "string"}},
        "CheckedAt": {
            "description": "When the monitor last completed a check, in whole seconds.",
            "schema": {"type": "string", "format": "date-time"},
        },
        "Stale": {
            "description": "Present if the response may be outdated; the value is the reason.",
            "schema": {"enum": ["store-unreachable", "monitor-silent"]},
        },
        "Link": {
            "description": "The next page of a list that was cut (`rel=next`).",
            "schema": {"type": "string"},
        },
        "Age": {
            "description": "With `Cluster-Stale: store-unreachable`: seconds since the response "
            "was last known to be current.",
            "schema": {"type": "integer"},
        },
    }
