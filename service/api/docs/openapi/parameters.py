"""The parameters of the OpenAPI document."""

from collections.abc import Sequence

from service.api.docs.openapi.builders import TIME, UUID, Json, integer
from service.events import Selector, Status
from service.replica.event_filter import MOST
from service.settings import SERVICE_NAME


def parameter_components(services: Sequence[str]) -> Json:
    """The components of kind `parameters`."""
    return {
        "File": _path(
            "file", "A script or a style sheet.", {"enum": ["explore.js", "explore.css"]}
        ),
        **_paging(),
        **_filters(services),
        "EventId": _path(
            "event_id",
            "`latest`, or a UUID in any of its forms.",
            {"anyOf": [{"const": "latest"}, UUID]},
        ),
        "KeyName": _path("name", "The name of the API key.", {"type": "string"}),
        "Selector": _query(
            "selector",
            "Which fields are returned.",
            {"type": "string", "enum": list(Selector), "default": Selector.STATUS},
        ),
        "IfNoneMatch": {
            "name": "If-None-Match",
            "in": "header",
            "description": "Entity tags of responses that the client has; 304 if one is current.",
            "schema": {"type": "string"},
        },
    }


def _paging() -> Json:
    return {
        "Limit": _query(
            "limit",
            "The maximum number of events. A page has fewer events if they would exceed 4 MiB. "
            "With `selector=all` it has at most 100, also without `limit`. A page that was cut "
            "has a `Link` to the next events.",
            integer(1, MOST),
        ),
        "Before": _query("before", "The id of an event: only older events.", UUID),
        "Since": _query("since", "Only events recorded at or after this time.", TIME),
        "Until": _query("until", "Only events recorded before this time.", TIME),
    }


def _filters(services: Sequence[str]) -> Json:
    statuses = "|".join(Status)
    return {
        "Service": _query(
            "service",
            "The service to which `status` applies; it may be a former one.",
            {"type": "string", "pattern": f"^{SERVICE_NAME.pattern}$", "examples": list(services)},
        ),
        "StatusFilter": _query(
            "status",
            "Only events in which `service` (or any service) had one of these statuses, separated "
            "by commas.",
            {"type": "string", "pattern": f"^({statuses})(,({statuses}))*$"},
        ),
    }


def _query(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _path(name: str, description: str, schema: Json) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
    }
