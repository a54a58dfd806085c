"""The routes that manage API keys: issue, list, look at, revoke.

They read and write the store itself, not the snapshot: they are rare, and whoever manages keys on
one replica sees at once what was done on another. A change is known to this process before it is
answered, to others by the change notice.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from itertools import islice

import orjson
from aiohttp import web

from service.api.authorise import client_address
from service.api.context import ApiContext
from service.api.handlers.events import read_body
from service.api.handlers.health import json
from service.api.route import PRINCIPAL
from service.auth import Role, audit, check_name, describe, mint, parse_role
from service.errors import (
    InsufficientPermissions,
    InvalidApiKey,
    StoreUnavailable,
    UnknownApiKey,
)
from service.events import microseconds

BODY_LIMIT = 4_096
"""Bytes: a name, a role and a time."""
_MOST_UNKNOWN = 10
"""Unknown fields that a refusal lists."""


async def create(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """Makes a key and shows it, this once: 201."""
    name, role, expires_at = parse_new_key(
        await read_body(context, request, BODY_LIMIT), round(context.replica.wall() * 1_000_000)
    )
    principal = request[PRINCIPAL]
    if role > principal.role:  # Nobody gives more than they have.
        raise InsufficientPermissions(role.label, principal.role.label)
    key, stored = mint(name, role, await context.store.now(), expires_at)
    await context.store.create_api_key(stored)
    audit.created(stored.id, name, role.label, principal.name, client_address(context, request))
    await _know(context)
    return json(orjson.dumps({"id": stored.id, "name": name, "api_key": key}), 201)


async def list_keys(context: ApiContext, _request: web.Request) -> web.StreamResponse:
    """All keys by name; what is secret of them is not known here."""
    keys, used = await asyncio.gather(context.store.api_keys(), context.store.api_keys_used())
    return json(orjson.dumps([describe(key, used) for _, key in sorted(keys.items())]))


async def get(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """One key."""
    name = request.match_info["name"]
    keys, used = await asyncio.gather(context.store.api_keys(), context.store.api_keys_used())
    if name not in keys:
        raise UnknownApiKey(name)
    return json(orjson.dumps(describe(keys[name], used)))


async def delete(context: ApiContext, request: web.Request) -> web.StreamResponse:
    """Revokes a key: from now on this process refuses it, every other within `MAX_STALENESS`."""
    name = request.match_info["name"]
    key = (await context.store.api_keys()).get(name)
    if key is None:
        raise UnknownApiKey(name)
    await context.store.delete_api_key(name)
    audit.deleted(key.id, name, request[PRINCIPAL].name, client_address(context, request))
    await _know(context)
    context.replica.drop_api_key(name)
    return json(orjson.dumps({"id": key.id, "name": name}))


async def note_used(context: ApiContext, days: Mapping[str, int]) -> None:
    """Writes the days of last use of keys, by public id. Raises `StoreUnavailable`."""
    snapshot = context.replica.snapshot
    keys = snapshot.api_keys.values() if snapshot is not None else ()
    known = {key: days[key.id] for key in keys if key.id in days}
    if known:
        await context.store.note_api_keys_used(known)


def parse_new_key(body: bytes, now: int) -> tuple[str, Role, int | None]:
    """The name, the role and the end of a key that is asked for; times are in µs since 1970.

    Raises `InvalidApiKey` with every field at fault.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidApiKey([("", "the body is not JSON")]) from None
    if not isinstance(fields, dict):
        raise InvalidApiKey([("", "expected a JSON object")])
    errors: list[tuple[str, str]] = []
    name, role, end = (
        fields.pop("name", None),
        fields.pop("role", "read"),
        fields.pop("expires_at", None),
    )
    try:
        check_name(name if isinstance(name, str) else "")
    except ValueError as error:
        errors.append(("name", str(error) if name is not None else "it is required"))
    if parse_role(role) is Role.NONE:
        errors.append(("role", "expected one of: read, write"))
    expires_at = None
    if end is not None:
        try:
            expires_at = microseconds(end if isinstance(end, str) else "")
            if expires_at <= now:
                errors.append(("expires_at", "expected a time to come"))
        except ValueError as error:
            errors.append(("expires_at", str(error)))
    errors += [(field, "there is no such field") for field in islice(fields, _MOST_UNKNOWN)]
    if errors:
        raise InvalidApiKey(errors)
    return name, parse_role(role), expires_at


async def _know(context: ApiContext) -> None:
    """Lets this process know what was just written, if the store still answers: the write stands
    all the same."""
    with contextlib.suppress(StoreUnavailable):
        await context.replica.refresh_after_now()
