"""The commands that manage credentials: `keys` and `token`."""

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.cli.common import load_settings, print_result, with_settings
from service.cli.terminal import note, say
from service.errors import ApiError

if TYPE_CHECKING:
    from service.store import Store

T = TypeVar("T")


@click.group()
def keys() -> None:
    """Manage API keys, directly in the store."""


@keys.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(["read", "write"]), default="read", show_default=True)
@click.option(
    "--expires", help="The lifetime, such as 90d. By default the key is valid until it is deleted."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings
def keys_create(name: str, role: str, expires: str | None, *, as_json: bool) -> None:
    """Create a key and print it. The key is shown only once."""
    from service.auth import check_name, mint, parse_role

    try:
        lifetime = _lifetime(expires) if expires is not None else None
        check_name(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from error

    async def create(store: "Store") -> tuple[str, str]:
        now = await store.now()
        expires_at = now + round(lifetime * 1_000_000) if lifetime is not None else None
        try:
            key, stored = mint(name, parse_role(role), now, expires_at)
        except ValueError as error:
            raise click.UsageError(f"--expires: {error}") from error
        await store.create_api_key(stored)
        return key, stored.id

    key, key_id = _with_store(create)
    if as_json:
        say(json.dumps({"id": key_id, "name": name, "role": role, "api_key": key}))
    else:
        say(key)
        note(
            f"This is the key '{name}' ({role}). "
            "It is shown only once: the store has only its digest."
        )


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings
def keys_list(*, as_json: bool) -> None:
    """List the keys, without their secrets."""
    from service.cli import tables

    print_result(_descriptions(), as_json=as_json, table=tables.keys)


@keys.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings
def keys_show(name: str, *, as_json: bool) -> None:
    """Show one key, without its secret."""
    from service.cli import tables
    from service.errors import UnknownApiKey

    description = next((key for key in _descriptions() if key["name"] == name), None)
    if description is None:
        raise click.ClickException(UnknownApiKey(name).message)
    print_result(description, as_json=as_json, table=lambda key: tables.keys([key]))


@keys.command("delete")
@click.argument("name")
@with_settings
def keys_delete(name: str) -> None:
    """Revoke a key."""

    async def delete(store: "Store") -> None:
        await store.delete_api_key(name)

    _with_store(delete)
    note(f"The key '{name}' is revoked.")


@click.command()
@click.option("--role", type=click.Choice(["read", "write"]), default="read", show_default=True)
@click.option("--subject", default="cli", show_default=True)
@click.option(
    "--expires", default="1h", show_default=True, help="The lifetime, such as 10m or 24h."
)
@with_settings
def token(role: str, subject: str, expires: str) -> None:
    """Print a JWT signed with the configured secret, to try the API."""
    from service.auth import issue, parse_role

    try:
        lifetime = _lifetime(expires)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    say(issue(load_settings(), subject, parse_role(role), lifetime))


def _descriptions() -> list[dict[str, Any]]:
    """The descriptions of all keys in the store, by name."""
    from service.auth import describe

    async def read(store: "Store") -> list[dict[str, Any]]:
        keys_by_name, used = await store.api_keys(), await store.api_keys_used()
        return [describe(key, used) for _, key in sorted(keys_by_name.items())]

    return _with_store(read)


def _lifetime(text: str) -> float:
    """A lifetime in seconds. Raises `ValueError` for an invalid duration, or less than a second."""
    from service.settings import seconds

    lifetime = seconds(text)
    if lifetime < 1:
        raise ValueError("expected at least 1s")
    return lifetime


def _with_store(work: Callable[["Store"], Awaitable[T]]) -> T:
    """The result of `work` with the store of the settings.

    An `ApiError` becomes an error message with exit code 1.
    """
    import asyncio

    from service.store import open_store

    settings = load_settings()

    async def run() -> T:
        store = open_store(settings)
        try:
            return await work(store)
        finally:
            await store.aclose()

    try:
        return asyncio.run(run())
    except ApiError as error:
        raise click.ClickException(error.message) from error
