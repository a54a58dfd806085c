"""Builders for the parts of an OpenAPI document that occur more than once."""

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]
"""A JSON object."""

HTML: Json = {"text/html": {"schema": {"type": "string"}}}
"""The content of a response in HTML."""
PLAIN_TEXT: Json = {"text/plain": {"schema": {"type": "string"}}}
"""The content of a response in plain text."""
TIME: Json = {"type": "string", "format": "date-time"}
"""The schema of a time (RFC 3339)."""
UUID: Json = {"type": "string", "format": "uuid"}
"""The schema of an event's id."""


def ref(kind: str, name: str) -> Json:
    """A reference to a component, for example of the kind `schemas`."""
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Json:
    """A reference to a schema."""
    return ref("schemas", name)


def array(name: str) -> Json:
    """The schema of an array; `name` is the schema of its items."""
    return {"type": "array", "items": schema(name)}


def closed_object(properties: Json, required: Sequence[str] | None = None) -> Json:
    """The schema of an object without other properties; by default, all are required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def integer(minimum: int, maximum: int) -> Json:
    """The schema of an integer between two limits, both included."""
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def json_content(body: Json) -> Json:
    """The content of a request or response in JSON; `body` is its schema."""
    return {"application/json": {"schema": body}}


def json_response(description: str, body: Json) -> Json:
    """A response in JSON; `body` is its schema."""
    return {"description": description, "content": json_content(body)}


def operation(
    operation_id: str,
    tag: str,
    summary: str,
    responses: Json,
    *,
    description: str = "",
    parameters: Sequence[str] = (),
    body: str = "",
) -> Json:
    """An operation that needs a credential.

    `parameters` are names of components; `body` is the schema of the request's body.
    """
    described: Json = {"operationId": operation_id, "tags": [tag], "summary": summary}
    if description:
        described["description"] = description
    if parameters:
        described["parameters"] = [ref("parameters", name) for name in parameters]
    if body:
        described["requestBody"] = {"required": True, "content": json_content(schema(body))}
    return described | {"responses": responses}
