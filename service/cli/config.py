"""The commands about settings, and the API description: `config`, `openapi`."""

import json
import os
from typing import TYPE_CHECKING

import click

from service.cli.common import (
    load_settings,
    print_result,
    with_settings,
)
from service.cli.terminal import one_line, say
from service.errors import SettingsError

if TYPE_CHECKING:
    pass


@click.group()
def config() -> None:
    """Check or show the settings."""


@config.command("check")
@with_settings
def config_check() -> None:
    """Report all problems of the settings, the keys and the services file.

    Exits with 2 if there are any.
    """
    from service.auth import JwtVerifier
    from service.monitor.services import services
    from service.settings.report import warnings

    settings = load_settings(log_unused=False)
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
    """Show the effective settings, and where each comes from.

    Secrets are masked. Durations are in seconds.
    """
    from service.cli import tables
    from service.settings.report import effective

    rows = {
        one.variable: {
            "value": one.value,
            "from": one.origin.kind.value,
            "file": str(one.origin.file) if one.origin.file is not None else None,
        }
        for one in effective(load_settings(host=host, port=port))
    }
    print_result(rows, as_json=as_json, table=tables.settings)


@click.command()
@with_settings
def openapi() -> None:
    """Print the API's description (OpenAPI 3.1) for the configured services."""
    from service.api.docs.openapi import document

    settings = load_settings()
    say(
        json.dumps(
            document(settings.service_names, metrics=settings.metrics_port is None), indent=2
        )
    )
