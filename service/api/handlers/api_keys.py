"""The routes that manage API keys: create, list, get, revoke.

They read and write the store itself, not the snapshot: these requests are rare, and a client sees
at once what was changed through another replica. This process knows a change before it responds;
the others learn of it by a notification.
"""

import asyncio
import contextlib
from collections.abc import Mapping

import orjson
from aiohttp import web

from service.api.authorise import client_address
from service.api.context import ApiContext
from service.api.http.bodies import JsonFields, read_body
from service.api.http.no_store import no_store_response
from service.api.route import PRINCIPAL
from service.auth import Role, audit, check_name, describe, mint, parse_role
from service.errors import InsufficientPermissions, InvalidApiKey, StoreUnavailable, UnknownApiKey
from service.events import microseconds

BODY_LIMIT = 4_096
"""Bytes of the body of a new key: a name, a role and a time."""


async def create(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """Creates a key: 201. This response is the only one that shows the key."""
    body = await read_body(request, BODY_LIMIT, context.bodies.reserve().resize)
    name, role, expires_at = parse_new_key(body, round(context.replica.wall() * 1_000_000))
    principal = request[PRINCIPAL]
    # A key must not have more permissions than its creator.
    if role > principal.role:
        raise InsufficientPermissions(role.label, principal.role.label)
    key, stored = mint(name, role, await context.store.now(), expires_at)
    await context.store.create_api_key(stored)
    audit.created(stored.id, name, role.label, principal.name, client_address(context, request))
    await _refresh_snapshot(context)
    return no_store_response(orjson.dumps({"id": stored.id, "name": name, "api_key": key}), 201)


async def list_keys(context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """All keys by name, without their secrets, of which the store has only digests."""
    keys, used = await asyncio.gather(context.store.api_keys(), context.store.api_keys_used())
    return no_store_response(orjson.dumps([describe(key, used) for _, key in sorted(keys.items())]))


async def get(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """One key."""
    name = request.match_info["name"]
    keys, used = await asyncio.gather(context.store.api_keys(), context.store.api_keys_used())
    if name not in keys:
        raise UnknownApiKey(name)
    return no_store_response(orjson.dumps(describe(keys[name], used)))


async def delete(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """Revokes a key.

    This process rejects it from now on, every other process within `MAX_STALENESS`.
    """
    name = request.match_info["name"]
    key = (await context.store.api_keys()).get(name)
    if key is None:
        raise UnknownApiKey(name)
    await context.store.delete_api_key(name)
    audit.deleted(key.id, name, request[PRINCIPAL].name, client_address(context, request))
    await _refresh_snapshot(context)
    context.replica.drop_api_key(name)
    return no_store_response(orjson.dumps({"id": key.id, "name": name}))


async def note_used(context: ApiContext, days: Mapping[str, int]) -> None:
    """Writes the days on which keys were last used, by public id. Raises `StoreUnavailable`."""
    snapshot = context.replica.snapshot
    keys = snapshot.api_keys.values() if snapshot is not None else ()
    known = {key: days[key.id] for key in keys if key.id in days}
    if known:
        await context.store.note_api_keys_used(known)


def parse_new_key(body: bytes, now: int) -> tuple[str, Role, int | None]:
    """The name, the role and the expiry of a new key; times are in µs since 1970.

    Raises `InvalidApiKey` with every invalid field.
    """
    fields = JsonFields(body, InvalidApiKey)
    name, role = _take_name(fields), _take_role(fields)
    expires_at = _take_expiry(fields, now)
    fields.finish()
    return name, role, expires_at


def _take_name(fields: JsonFields) -> str:
    value = fields.take("name")
    name = value if isinstance(value, str) else ""
    try:
        check_name(name)
    except ValueError as error:
        fields.reject("name", str(error) if value is not None else "the field is required")
    return name


def _take_role(fields: JsonFields) -> Role:
    role = parse_role(fields.take("role", "read"))
    if role is Role.NONE:
        fields.reject("role", "expected one of: read, write")
    return role


def _take_expiry(fields: JsonFields, now: int) -> int | None:
    value = fields.take("expires_at")
    if value is None:
        return None
    try:
        expires_at = microseconds(value if isinstance(value, str) else "")
    except ValueError as error:
        fields.reject("expires_at", str(error))
        return None
    if expires_at <= now:
        fields.reject("expires_at", "expected a time in the future")
    return expires_at


async def _refresh_snapshot(context: ApiContext) -> None:
    """Makes the last write known to this process. An outage is ignored: the write has succeeded."""
    with contextlib.suppress(StoreUnavailable):
        await context.replica.refresh_after_now()
