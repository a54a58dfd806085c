"""The commands that run the service: `serve`, `monitor`, `dev`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from service.cli.common import UNHEALTHY, load_settings, open_socket, print_result, with_settings
from service.cli.terminal import say

if TYPE_CHECKING:
    pass


@click.command()
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

    settings = load_settings(host=host, port=port)
    sock = open_socket(settings.host, settings.port)
    metrics_sock = (
        open_socket(settings.host, settings.metrics_port)
        if settings.metrics_port is not None
        else None
    )
    if workers > 1:
        serve_with_workers(settings, sock, metrics_sock, workers)
    else:
        run(serve_api(settings, sock, metrics_sock))


@click.command()
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
        run(run_monitor(load_settings()))
    except OSError as error:
        raise click.ClickException(f"cannot start: {error.strerror or error}") from error


def _check_once(*, as_json: bool) -> NoReturn:
    import asyncio

    from service.cli import tables
    from service.monitor.process import check_once

    found = asyncio.run(check_once(load_settings()))
    rows = {
        name: {"healthy": one.healthy, "self_info": one.info, "resources_info": one.resources}
        for name, one in found.items()
    }
    print_result(rows, as_json=as_json, table=tables.checks)
    sys.exit(0 if all(one.healthy for one in found.values()) else UNHEALTHY)


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
    """Run everything on this machine, with sample services."""
    from service.dev import dev as run_dev
    from service.run import run

    settings = load_settings(host=host, port=port)
    sock = open_socket(settings.host, settings.port)
    try:
        if data_dir is not None:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        run(run_dev(os.environ, sock, data_dir, say))
    except OSError as error:
        reason = error if error.filename else error.strerror or error
        raise click.ClickException(f"cannot start: {reason}") from error
