"""The commands that query a running service: `events`, `event`, `health`, `watch` and `wait`."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from service.cli.common import FAILED, UNHEALTHY, print_result
from service.cli.terminal import note, one_line, say
from service.text import stripped

if TYPE_CHECKING:
    from service.cli.http_client import Client, Reply


def _with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a client command, and report `ClientError` with exit code 1."""

    @click.option(
        "--url", envvar="CLUSTER_EVENTS_URL", default="http://127.0.0.1:8080", show_default=True
    )
    @click.option(
        "--token",
        envvar="CLUSTER_EVENTS_TOKEN",
        help="A JWT or an API key. CLUSTER_EVENTS_TOKEN is safer.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print the JSON of the service.")
    @wraps(command)
    def wrapped(*args: Any, url: str, token: str | None, **kwargs: Any) -> None:
        from service.cli.http_client import Client, ClientError

        try:
            command(Client(stripped(url), stripped(token or "") or None), *args, **kwargs)
        except ClientError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


@click.command()
@click.option("--limit", type=click.IntRange(1, 1000), help="List only the newest N events.")
@_with_client
def events(client: "Client", limit: int | None, *, as_json: bool) -> None:
    """List the retained events, newest first."""
    from service.cli import tables

    reply = client.events(limit)
    _warn_if_stale(reply)
    print_result(reply.body, as_json=as_json, table=tables.events)


@click.command()
@click.argument("event_id", metavar="ID|latest")
@click.option("--selector", type=click.Choice(["status", "all"]), default="all", show_default=True)
@_with_client
def event(client: "Client", event_id: str, selector: str, *, as_json: bool) -> None:
    """Show one event."""
    from service.cli import tables

    reply = client.event(event_id, selector)
    _warn_if_stale(reply)
    print_result(reply.body, as_json=as_json, table=tables.event)


@click.command()
@_with_client
def health(client: "Client", *, as_json: bool) -> None:
    """Show whether the cluster is healthy.

    Exits with 0 if it is healthy, 2 if it is not, and 1 if that is not known.
    """
    from service.cli import tables

    verdict = client.verdict().body
    print_result(verdict, as_json=as_json, table=tables.health)
    if verdict.get("stale"):
        sys.exit(FAILED)
    sys.exit(0 if verdict["all_healthy"] else UNHEALTHY)


@click.command()
@click.option(
    "--selector", type=click.Choice(["status", "all"]), default="status", show_default=True
)
@_with_client
def watch(client: "Client", selector: str, *, as_json: bool) -> None:
    """Print the latest event, then each event as it is recorded, until Ctrl-C."""
    from service.cli import tables

    for recorded in client.watch(
        selector, note=lambda text: note(f"cluster-events: {one_line(text)}")
    ):
        say(json.dumps(recorded) if as_json else tables.line(recorded))


@click.command()
@click.option(
    "--until", type=click.Choice(["healthy", "unhealthy"]), default="healthy", show_default=True
)
@click.option(
    "--timeout", default="5m", show_default=True, help="How long to wait, such as 30s or 5m."
)
@_with_client
def wait(client: "Client", until: str, timeout: str, *, as_json: bool) -> None:
    """Wait until the cluster is healthy, or unhealthy.

    Exits with 0 once it is, 2 if it is not within the timeout, and 1 if that is not known. While
    the service is unreachable, the command tries again until the timeout.
    """
    import time

    from service.cli import tables
    from service.cli.http_client import ClientError
    from service.settings import seconds

    try:
        deadline = time.monotonic() + seconds(timeout)
    except ValueError as error:
        raise click.UsageError(f"--timeout: {error}") from error
    last: Any = ClientError("the timeout was over before the first request")
    for last in client.verdicts(deadline):
        if isinstance(last, ClientError) or last.body.get("stale"):
            continue
        if last.body["all_healthy"] == (until == "healthy"):
            print_result(last.body, as_json=as_json, table=tables.health)
            return
    if isinstance(last, ClientError):
        raise last
    print_result(last.body, as_json=as_json, table=tables.health)
    note(f"cluster-events: not {until} within {timeout}")
    sys.exit(FAILED if last.body.get("stale") else UNHEALTHY)


def _warn_if_stale(reply: "Reply") -> None:
    if reply.stale:
        note(f"cluster-events: this may not be the current state: {one_line(reply.stale)}")
