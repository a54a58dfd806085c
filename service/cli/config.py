"""The commands about the configuration: `config check`, `config show` and `openapi`."""

import json
import os

import click

from service.cli.common import load_settings, print_result, with_settings
from service.cli.terminal import one_line, say
from service.errors import SettingsError


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
    from service.monitor.services import resource_warnings, services
    from service.settings.report import warnings

    settings = load_settings(log_unused=False)
    # The API needs only the names of the services, so this is not a problem.
    without_urls = settings.services_file is None and not any(settings.services.values())
    problems: list[str] = []
    for check in (JwtVerifier, *(() if without_urls else (services,))):
        try:
            check(settings)
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    of_resources = () if without_urls else resource_warnings(settings)
    for warning in (*warnings(os.environ), *of_resources):
        say(one_line(f"Warning: {warning}."))
    if without_urls:
        say("The settings are valid. No service has a URL: that is enough for the API only.")
    else:
        say(f"The settings are valid. Services: {', '.join(settings.services)}.")


@config.command("show")
@click.option("--host", help="As for `serve`: the address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="As for `serve`: the port to listen on."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings
def config_show(host: str | None, port: int | None, *, as_json: bool) -> None:
    """Show the effective value and the origin of every setting.

    Secrets are masked, durations are in seconds.
    """
    from service.cli import tables
    from service.settings.report import effective

    rows = {
        setting.variable: {
            "value": setting.value,
            "from": setting.origin.kind.value,
            "file": str(setting.origin.file) if setting.origin.file is not None else None,
        }
        for setting in effective(load_settings(host=host, port=port))
    }
    print_result(rows, as_json=as_json, table=tables.settings)


@click.command()
@with_settings
def openapi() -> None:
    """Print the OpenAPI 3.1 document for the configured services."""
    from service.api.docs.openapi import document

    settings = load_settings()
    say(
        json.dumps(
            document(settings.service_names, metrics=settings.metrics_port is None), indent=2
        )
    )
