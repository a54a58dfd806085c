"""The commands that run the service: `serve`, `monitor` and `dev`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from service.cli.common import UNHEALTHY, load_settings, print_result, with_settings
from service.cli.terminal import say

if TYPE_CHECKING:
    from socket import socket


@click.command()
@click.option("--host", help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="The number of processes that listen on the port.",
)
@with_settings
def serve(host: str | None, port: int | None, workers: int) -> None:
    """Serve the API."""
    from service.run import run, serve_with_workers
    from service.run import serve as serve_api

    settings = load_settings(host=host, port=port)
    sock = _listen(settings.host, settings.port)
    metrics_sock = (
        _listen(settings.host, settings.metrics_port) if settings.metrics_port is not None else None
    )
    if workers > 1:
        serve_with_workers(settings, sock, metrics_sock, workers)
    else:
        run(serve_api(settings, sock, metrics_sock))


@click.command()
@click.option(
    "--once",
    is_flag=True,
    help="Check once, print the result, record nothing; exits with 2 if a service is unhealthy.",
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
        raise click.UsageError("--json can only be used with --once")
    try:
        run(run_monitor(load_settings()))
    except OSError as error:
        raise click.ClickException(f"cannot start: {error.strerror or error}") from error


def _check_once(*, as_json: bool) -> NoReturn:
    import asyncio

    from service.cli import tables
    from service.monitor.process import check_once

    results = asyncio.run(check_once(load_settings()))
    rows = {
        name: {
            "healthy": result.healthy,
            "self_info": result.info,
            "resources_info": result.resources,
        }
        for name, result in results.items()
    }
    print_result(rows, as_json=as_json, table=tables.checks)
    sys.exit(0 if all(result.healthy for result in results.values()) else UNHEALTHY)


@click.command()
@click.option("--host", help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the events in this folder.",
)
@with_settings
def dev(host: str | None, port: int | None, data_dir: Path | None) -> None:
    """Run the whole service on this machine, with sample services."""
    from service.dev import dev as run_dev
    from service.run import run

    settings = load_settings(host=host, port=port)
    sock = _listen(settings.host, settings.port)
    try:
        if data_dir is not None:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        run(run_dev(os.environ, sock, data_dir, say))
    except OSError as error:
        # With a file name, the text of the exception contains both the reason and the name.
        reason = error if error.filename else error.strerror or error
        raise click.ClickException(f"cannot start: {reason}") from error


def _listen(host: str, port: int) -> "socket":
    from service.sockets import listen

    try:
        return listen(host, port)
    except OSError as error:
        raise click.ClickException(str(error.strerror)) from error
