"""What the commands share: exit codes, settings, output.

Imports of the service are inside functions: a client command starts in a fraction of the
server's time.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from service.cli.terminal import note, one_line, say
from service.errors import SettingsError

if TYPE_CHECKING:
    from socket import socket

    from service.settings import Settings


FAILED = 1
UNHEALTHY = 2
WRONG_SETTINGS = 2
WRONG_COMMAND_LINE = 64
INTERRUPTED = 130

P = ParamSpec("P")


def with_settings(command: Callable[P, None]) -> Callable[P, None]:
    """Makes a command report invalid settings, one per line, and exit with 2."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SettingsError as error:
            for problem in error.problems:
                note(f"cluster-events: {one_line(problem)}")
            sys.exit(WRONG_SETTINGS)

    return wrapped


def open_socket(host: str, port: int) -> "socket":
    """A listening socket. Raises `ClickException` if the address cannot be used."""
    from service.sockets import listen

    try:
        return listen(host, port)
    except OSError as error:
        raise click.ClickException(str(error.strerror)) from error


def load_settings(*, log_unused: bool = True, **overrides: Any) -> "Settings":
    """The settings of the environment. Raises `SettingsError`.

    Variables that are no settings are logged, unless the command prints them itself.
    """
    import logging

    from service.logs import configure_logging
    from service.settings import load
    from service.settings.report import warnings

    unused = warnings(os.environ)
    try:
        settings = load(os.environ, **overrides)
    except SettingsError as error:  # A misspelt one may be the reason.
        raise SettingsError([*error.problems, *unused]) from error
    configure_logging(settings.log_format)
    for warning in unused if log_unused else ():
        logging.getLogger("service.settings.model").warning("%s", warning)
    return settings


def print_result(result: Any, *, as_json: bool, table: Callable[[Any], None]) -> None:
    """Prints a result as JSON for programs, or as a table for people."""
    if as_json:
        # In ASCII: without control characters, whatever the terminal's encoding.
        say(json.dumps(result))
    else:
        table(result)
