"""The API's description in OpenAPI 3.1.

It is written by hand and depends on the configured services. Tests compare it with the route table
and with real responses.
"""

from collections.abc import Sequence

from service import __version__
from service.api.docs.openapi.builders import Json
from service.api.docs.openapi.parameters import parameter_components
from service.api.docs.openapi.paths import paths
from service.api.docs.openapi.responses import (
    error_responses,
    header_components,
    response_components,
)
from service.api.docs.openapi.schemas import schema_components

__all__ = ["document"]


def document(services: Sequence[str], *, metrics: bool = True) -> Json:
    """The description as a JSON object, for these services in this order.

    `metrics` is whether the API's port serves `/metrics`.
    """
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
            {"name": "events", "description": "Recorded observations of all services."},
            {"name": "health", "description": "The current state."},
            {"name": "credentials", "description": "API keys."},
            {"name": "operation", "description": "The service itself."},
        ],
        "paths": _paths(metrics=metrics),
        "components": _components(services),
    }


def _paths(*, metrics: bool) -> Json:
    described = paths()
    if not metrics:
        del described["/metrics"]
    # The limits of a request's head apply to every route.
    for operations in described.values():
        for operation in operations.values():
            operation["responses"] |= error_responses("UriTooLong", "FieldsTooLarge")
    return described


def _components(services: Sequence[str]) -> Json:
    return {
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "A JWT, or an API key that starts with `apikey:`.",
            }
        },
        "parameters": parameter_components(services),
        "headers": header_components(),
        "responses": response_components(),
        "schemas": schema_components(services),
    }
