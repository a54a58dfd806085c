"""The description is valid OpenAPI 3.1, and true: it has every route, and every answer is as it
says."""

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from service.api.app import ROUTES
from service.api.docs.openapi import document
from service.api.http.limits import FIELD_LIMIT, FIELDS, HEADERS_LIMIT, TARGET_LIMIT
from service.auth import Role, mint
from service.events import Selector
from tests.support.api import Api
from tests.support.observations import ALL_GOOD
from tests.support.settings import READ, WRITE

SERVICES = ("api", "compiler", "runner")
ID = "01940000-0000-7000-8000-000000000000"


def test_it_is_valid() -> None:
    """The document passes the specification's own schema, for whatever services are configured."""
    validate(document(SERVICES))
    validate(document(["a", "b_2"]))


def test_it_has_every_route_and_no_other() -> None:
    """A route that is not described, or a description without a route, is a mistake."""
    described = {
        (method.upper(), path)
        for path, item in document(SERVICES)["paths"].items()
        for method in item
    }
    assert described == {(route.method, route.path) for route in ROUTES}


def test_it_says_which_routes_are_open_to_all() -> None:
    """A route without a role is described without a credential, and the other way round."""
    paths = document(SERVICES)["paths"]
    for route in ROUTES:
        assert (paths[route.path][route.method.lower()].get("security") == []) == (
            route.role is None
        ), route.path


def test_every_route_says_what_is_too_long() -> None:
    """The limits of a request's head hold on every route, and the description names their
    figures."""
    described = document(SERVICES)
    for item in described["paths"].values():
        for operation in item.values():
            assert {"414", "431"} <= set(operation["responses"])
    texts = described["components"]["responses"]
    assert f"{TARGET_LIMIT:,}" in texts["UriTooLong"]["description"]
    for limit in (FIELD_LIMIT, HEADERS_LIMIT, FIELDS):
        assert f"{limit:,}" in texts["FieldsTooLarge"]["description"]


def test_fields_follow_the_services() -> None:
    """The fields of an event are those of the configured services, in the contract's order."""
    schemas = document(["one", "two"])["components"]["schemas"]
    assert list(schemas["EventAll"]["properties"]) == [
        "id",
        "recorded_at",
        "all_healthy",
        *("one_status", "one_self_info", "one_resources_info"),
        *("two_status", "two_self_info", "two_resources_info"),
    ]
    assert schemas["NewEvent"]["required"] == ["one_status", "two_status"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v0/cluster/events", None, 200),
        ("GET", "/v0/cluster/events?selector=all", None, 200),
        ("GET", "/v0/cluster/events?limit=x", None, 400),
        ("GET", "/v0/cluster/events/latest", None, 200),
        ("GET", "/v0/cluster/events/latest?selector=all", None, 200),
        ("GET", f"/v0/cluster/events/{ID}", None, 404),
        ("GET", "/v0/cluster/events/x", None, 400),
        ("POST", "/v0/cluster/events", ALL_GOOD, 201),
        ("POST", "/v0/cluster/events", {}, 400),
        ("GET", "/v0/cluster_healthz", None, 200),
        ("GET", "/v0/config", None, 200),
        ("POST", "/v0/api_keys", {"name": "agents"}, 201),
        (
            "POST",
            "/v0/api_keys",
            {"name": "agents", "role": "write", "expires_at": "2999-01-01T00:00:00Z"},
            201,
        ),
        ("POST", "/v0/api_keys", {"name": "there already"}, 400),
        ("POST", "/v0/api_keys", {"name": "there"}, 409),
        ("GET", "/v0/api_keys", None, 200),
        ("GET", "/v0/api_keys/there", None, 200),
        ("GET", "/v0/api_keys/not-there", None, 404),
        ("DELETE", "/v0/api_keys/there", None, 200),
        ("DELETE", "/v0/api_keys/not-there", None, 404),
        ("GET", "/healthz", None, 200),
        ("GET", "/readyz", None, 200),
        ("GET", "/openapi.json", None, 200),
    ],
)
async def test_answers_are_as_described(
    api: Api, method: str, path: str, body: Any, status: int
) -> None:
    """The status is described for the route, and the body fits the schema of that status."""
    await api.context.replica.append(ALL_GOOD)
    await api.store.create_api_key(mint("there", Role.READ, 0)[1])
    if body is ALL_GOOD:
        body = {f"{name}_status": seen.status for name, seen in ALL_GOOD.items()}
    got = await api.request(
        method, path, WRITE if method != "GET" or "api_keys" in path else READ, json=body
    )
    assert got.status == status
    described = document(SERVICES)
    template = re.sub(r"/events/[^?]+", "/events/{event_id}", path.partition("?")[0])
    template = re.sub(r"/api_keys/.+", "/api_keys/{name}", template)
    responses = described["paths"][template][method.lower()]["responses"]
    response = responses[str(status)]
    if "$ref" in response:
        response = described["components"]["responses"][response["$ref"].rpartition("/")[2]]
    schema = response["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": described["components"]}).validate(got.json)


async def test_every_header_of_an_event_is_described(api: Api) -> None:
    """What an answer says in its own header fields is in the description."""
    await api.context.replica.append(ALL_GOOD)
    got = await api.get(f"/v0/cluster/events/latest?selector={Selector.ALL}")
    described = document(SERVICES)["paths"]["/v0/cluster/events/{event_id}"]["get"]["responses"][
        "200"
    ]["headers"]
    assert {name for name in got.headers if name.startswith("Cluster-") or name == "ETag"} <= set(
        described
    )
