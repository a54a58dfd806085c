"""The commands. Data goes to stdout, messages to stderr.

Exit codes: 0 done; 1 it failed, or what was asked cannot be known; 2 unhealthy (`health`), or wrong
settings; 64 a wrong command line. What a command needs is imported when it runs: the client
commands start in a fraction of the server's time.
"""

import io
import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import click

from service import __version__
from service.cli.terminal import discard, is_lost, note, one_line, replace_missing_characters, say
from service.errors import ApiError, SettingsError
from service.text import stripped

if TYPE_CHECKING:
    from socket import socket

    from service.cli.http_client import Client, Reply
    from service.settings import Settings
    from service.store import Store

FAILED = 1
UNHEALTHY = 2
WRONG_SETTINGS = 2
WRONG_COMMAND_LINE = 64
INTERRUPTED = 130

P = ParamSpec("P")


def main() -> NoReturn:
    """The console script."""
    replace_missing_characters()
    try:
        code = _run()
        if sys.stdout is not None:
            sys.stdout.flush()  # Now, and not at Python's end, where a failure is a traceback.
    except BrokenPipeError:  # The reader of our output has gone; nothing is left to be said.
        discard(sys.stdout)
        code = FAILED
    except OSError as error:
        if not is_lost(error):
            raise
        discard(sys.stdout)
        note(f"Error: cannot write: {error.strerror or error}")
        code = FAILED
    sys.exit(code)


def _run() -> int | str | None:
    """The exit code of the command that the command line names. Raises `OSError` where its output
    cannot be written."""
    try:
        code: int | None = cli(standalone_mode=False, auto_envvar_prefix=None)
    except SystemExit as ended:
        return ended.code
    except click.exceptions.NoArgsIsHelpError as error:
        note(error.format_message())
        return WRONG_COMMAND_LINE
    except click.UsageError as error:
        text = io.StringIO()
        error.show(file=text)
        note(text.getvalue().rstrip())
        return WRONG_COMMAND_LINE
    except click.ClickException as error:
        note(f"Error: {one_line(error.format_message())}")
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Is the platform healthy, and since when?

    Settings come from the environment (CLUSTER_EVENTS_*); the README lists them.
    """


# -- running ---------------------------------------------------------------------------------------


def with_settings(command: Callable[P, None]) -> Callable[P, None]:
    """Tells wrong settings, one a line, and exits with 2."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SettingsError as error:
            for problem in error.problems:
                note(f"cluster-events: {one_line(problem)}")
            sys.exit(WRONG_SETTINGS)

    return wrapped


@cli.command()
@click.option("--host", help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes on the port.",
)
@with_settings
def serve(host: str | None, port: int | None, workers: int) -> None:
    """Serve the API."""
    from service.run import run, serve_with_workers
    from service.run import serve as serve_api

    settings = _settings(host=host, port=port)
    sock = _listen(settings.host, settings.port)
    metrics_sock = (
        _listen(settings.host, settings.metrics_port) if settings.metrics_port is not None else None
    )
    if workers > 1:
        serve_with_workers(settings, sock, metrics_sock, workers)
    else:
        run(serve_api(settings, sock, metrics_sock))


@cli.command()
@click.option(
    "--once",
    is_flag=True,
    help="Check once, print what was found, record nothing; exits with 2 if unhealthy.",
)
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON.")
@with_settings
def monitor(*, once: bool, as_json: bool) -> None:
    """Check the services and record events."""
    from service.run import monitor as run_monitor
    from service.run import run

    if once:
        _check_once(as_json=as_json)
    if as_json:
        raise click.UsageError("--json goes with --once")
    try:
        run(run_monitor(_settings()))
    except OSError as error:
        raise click.ClickException(f"cannot start: {error.strerror or error}") from error


def _check_once(*, as_json: bool) -> NoReturn:
    import asyncio

    from service.cli import tables
    from service.monitor.process import check_once

    found = asyncio.run(check_once(_settings()))
    rows = {
        name: {"healthy": one.healthy, "self_info": one.info, "resources_info": one.resources}
        for name, one in found.items()
    }
    _print(rows, as_json=as_json, table=tables.checks)
    sys.exit(0 if all(one.healthy for one in found.values()) else UNHEALTHY)


@cli.group()
def config() -> None:
    """Look at the settings."""


@config.command("check")
@with_settings
def config_check() -> None:
    """Report all problems of the settings, the keys and the services file; exits with 2 if there
    are any."""
    from service.auth import JwtVerifier
    from service.monitor.services import services
    from service.settings.report import warnings

    settings = _settings(log_unused=False)
    without_urls = settings.services_file is None and not any(settings.services.values())
    problems: list[str] = []
    for check in (JwtVerifier, *(() if without_urls else (services,))):
        try:
            check(settings)
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    for warning in warnings(os.environ):
        say(one_line(f"Warning: {warning}."))
    if without_urls:
        say(
            "The settings are right. No service has a URL: enough for the API, not for the monitor."
        )
    else:
        say(f"The settings are right. Services: {', '.join(settings.services)}.")


@config.command("show")
@click.option("--host", help="As for `serve`: the address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="As for `serve`: the port to listen on."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings
def config_show(host: str | None, port: int | None, *, as_json: bool) -> None:
    """Show every setting as it is in effect, and where it comes from; secrets are masked, durations
    are in seconds."""
    from service.cli import tables
    from service.settings.report import effective

    rows = {
        one.variable: {
            "value": one.value,
            "from": one.origin.kind.value,
            "file": str(one.origin.file) if one.origin.file is not None else None,
        }
        for one in effective(_settings(host=host, port=port))
    }
    _print(rows, as_json=as_json, table=tables.settings)


@cli.command()
@click.option("--host", help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the events in this folder.",
)
@with_settings
def dev(host: str | None, port: int | None, data_dir: Path | None) -> None:
    """Run everything on this machine, with sample services."""
    from service.dev import dev as run_dev
    from service.run import run

    settings = _settings(host=host, port=port)
    sock = _listen(settings.host, settings.port)
    try:
        if data_dir is not None:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        run(run_dev(os.environ, sock, data_dir, say))
    except OSError as error:
        reason = error if error.filename else error.strerror or error
        raise click.ClickException(f"cannot start: {reason}") from error


def _listen(host: str, port: int) -> "socket":
    from service.sockets import listen

    try:
        return listen(host, port)
    except OSError as error:
        raise click.ClickException(str(error.strerror)) from error


def _settings(*, log_unused: bool = True, **overrides: Any) -> "Settings":
    """The settings of the environment; variables that are none of them are logged, unless the
    command prints them."""
    import logging

    from service.logs import configure_logging
    from service.settings import load
    from service.settings.report import warnings

    unused = warnings(os.environ)
    try:
        settings = load(os.environ, **overrides)
    except SettingsError as error:  # One that is misspelt may be the reason.
        raise SettingsError([*error.problems, *unused]) from error
    configure_logging(settings.log_format)
    for warning in unused if log_unused else ():
        logging.getLogger("service.settings.model").warning("%s", warning)
    return settings


# -- asking ----------------------------------------------------------------------------------------


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Options of the commands that ask a running service; `ClientError` exits with 1."""

    @click.option(
        "--url", envvar="CLUSTER_EVENTS_URL", default="http://127.0.0.1:8080", show_default=True
    )
    @click.option(
        "--token",
        envvar="CLUSTER_EVENTS_TOKEN",
        help="A JWT or an API key; better in CLUSTER_EVENTS_TOKEN.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print the service's JSON.")
    @wraps(command)
    def wrapped(*args: Any, url: str, token: str | None, **kwargs: Any) -> None:
        from service.cli.http_client import Client, ClientError

        try:
            command(Client(stripped(url), stripped(token or "") or None), *args, **kwargs)
        except ClientError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


@cli.command()
@click.option("--limit", type=click.IntRange(1, 1000), help="The newest N only.")
@asks
def events(client: "Client", limit: int | None, *, as_json: bool) -> None:
    """List the retained events, newest first."""
    from service.cli import tables

    reply = client.events(limit)
    _warn_if_stale(reply)
    _print(reply.body, as_json=as_json, table=tables.events)


@cli.command()
@click.argument("event_id", metavar="ID|latest")
@click.option("--selector", type=click.Choice(["status", "all"]), default="all", show_default=True)
@asks
def event(client: "Client", event_id: str, selector: str, *, as_json: bool) -> None:
    """Show one event."""
    from service.cli import tables

    reply = client.event(event_id, selector)
    _warn_if_stale(reply)
    _print(reply.body, as_json=as_json, table=tables.event)


@cli.command()
@asks
def health(client: "Client", *, as_json: bool) -> None:
    """Tell whether the cluster is healthy: exits with 0 if it is, 2 if not, 1 if that is not
    known."""
    from service.cli import tables

    verdict = client.verdict().body
    _print(verdict, as_json=as_json, table=tables.health)
    if verdict.get("stale"):
        sys.exit(FAILED)
    sys.exit(0 if verdict["all_healthy"] else UNHEALTHY)


@cli.command()
@click.option(
    "--selector", type=click.Choice(["status", "all"]), default="status", show_default=True
)
@asks
def watch(client: "Client", selector: str, *, as_json: bool) -> None:
    """Print the latest event, then each event as it is recorded, until Ctrl-C."""
    from service.cli import tables

    for found in client.watch(
        selector, note=lambda text: note(f"cluster-events: {one_line(text)}")
    ):
        say(json.dumps(found) if as_json else tables.line(found))


@cli.command()
@click.option(
    "--until", type=click.Choice(["healthy", "unhealthy"]), default="healthy", show_default=True
)
@click.option(
    "--timeout", default="5m", show_default=True, help="How long to wait, such as 30s or 5m."
)
@asks
def wait(client: "Client", until: str, timeout: str, *, as_json: bool) -> None:
    """Wait until the cluster is as wanted: exits with 0 once it is, 2 if it is not in time, 1 if
    that is not known.

    While the service cannot be reached, it is tried again until the time is up.
    """
    import time

    from service.cli import tables
    from service.cli.http_client import ClientError
    from service.settings import seconds

    try:
        deadline = time.monotonic() + seconds(timeout)
    except ValueError as error:
        raise click.UsageError(f"--timeout: {error}") from error
    last: Any = ClientError("there was no time to ask")
    for last in client.verdicts(deadline):
        if isinstance(last, ClientError) or last.body.get("stale"):
            continue
        if last.body["all_healthy"] == (until == "healthy"):
            _print(last.body, as_json=as_json, table=tables.health)
            return
    if isinstance(last, ClientError):
        raise last
    _print(last.body, as_json=as_json, table=tables.health)
    note(f"cluster-events: not {until} within {timeout}")
    sys.exit(FAILED if last.body.get("stale") else UNHEALTHY)


def _warn_if_stale(reply: "Reply") -> None:
    if reply.stale:
        note(f"cluster-events: this may not be the current state: {one_line(reply.stale)}")


def _print(found: Any, *, as_json: bool, table: Callable[[Any], None]) -> None:
    if as_json:
        say(
            json.dumps(found)
            # In ASCII: no control character and nothing that an encoding lacks, and all of it to be
            # read back.
        )
    else:
        table(found)


# -- credentials -----------------------------------------------------------------------------------


@cli.group()
def keys() -> None:
    """Manage API keys, straight in the store."""


@keys.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(["read", "write"]), default="read", show_default=True)
@click.option(
    "--expires", help="A duration such as 90d. Without it the key holds until it is deleted."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings
def keys_create(name: str, role: str, expires: str | None, *, as_json: bool) -> None:
    """Create a key and print it: it is shown this once."""
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

    key, key_id = _in_store(create)
    if as_json:
        say(json.dumps({"id": key_id, "name": name, "role": role, "api_key": key}))
    else:
        say(key)
        note(
            f"This is the key '{name}' ({role}). It is shown this once; the store keeps a digest only."
        )


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings
def keys_list(*, as_json: bool) -> None:
    """List the keys; what is secret of them is not known here."""
    from service.cli import tables

    _print(_described(), as_json=as_json, table=tables.keys)


@keys.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings
def keys_show(name: str, *, as_json: bool) -> None:
    """Show one key; what is secret of it is not known here."""
    from service.cli import tables
    from service.errors import UnknownApiKey

    found = next((key for key in _described() if key["name"] == name), None)
    if found is None:
        raise click.ClickException(UnknownApiKey(name).message)
    _print(found, as_json=as_json, table=lambda key: tables.keys([key]))


@keys.command("delete")
@click.argument("name")
@with_settings
def keys_delete(name: str) -> None:
    """Revoke a key."""

    async def delete(store: "Store") -> None:
        await store.delete_api_key(name)

    _in_store(delete)
    note(f"The key '{name}' is revoked.")


@cli.command()
@click.option("--role", type=click.Choice(["read", "write"]), default="read", show_default=True)
@click.option("--subject", default="cli", show_default=True)
@click.option(
    "--expires", default="1h", show_default=True, help="How long it is valid, such as 10m or 24h."
)
@with_settings
def token(role: str, subject: str, expires: str) -> None:
    """Print a JWT signed with the configured secret, for trying out."""
    from service.auth import issue, parse_role

    try:
        lifetime = _lifetime(expires)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    say(issue(_settings(), subject, parse_role(role), lifetime))


@cli.command()
@with_settings
def openapi() -> None:
    """Print the API's description (OpenAPI 3.1) for the configured services."""
    from service.api.docs.openapi import document

    settings = _settings()
    say(
        json.dumps(
            document(settings.service_names, metrics=settings.metrics_port is None), indent=2
        )
    )


def _described() -> list[dict[str, Any]]:
    """All keys of the store, by name."""
    from service.auth import describe

    async def read(store: "Store") -> list[dict[str, Any]]:
        found, used = await store.api_keys(), await store.api_keys_used()
        return [describe(key, used) for _, key in sorted(found.items())]

    keys: list[dict[str, Any]] = _in_store(read)
    return keys


def _lifetime(text: str) -> float:
    """A duration in seconds, at least one: what expires at once is no credential. Raises
    `ValueError`."""
    from service.settings import seconds

    lifetime = seconds(text)
    if lifetime < 1:
        raise ValueError("expected at least 1s")
    return lifetime


def _in_store(work: Callable[["Store"], Any]) -> Any:
    """The result of work on the store; its errors are told, and exit with 1."""
    import asyncio

    from service.store import open_store

    settings = _settings()

    async def run() -> Any:
        store = open_store(settings)
        try:
            return await work(store)
        finally:
            await store.aclose()

    try:
        return asyncio.run(run())
    except ApiError as error:
        raise click.ClickException(error.message) from error
