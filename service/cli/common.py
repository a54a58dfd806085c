"""Code shared by the commands: exit codes, loading of the settings, and output of results."""

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from service.cli.terminal import note, one_line, say
from service.errors import SettingsError

if TYPE_CHECKING:
    from service.settings import Settings

FAILED = 1
UNHEALTHY = 2
INVALID_SETTINGS = 2
INVALID_COMMAND_LINE = 64
"""EX_USAGE of the BSD header sysexits.h."""
INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""

P = ParamSpec("P")


def with_settings(command: Callable[P, None]) -> Callable[P, None]:
    """Print the problems of invalid settings, one a line, and exit with `INVALID_SETTINGS`."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SettingsError as error:
            for problem in error.problems:
                note(f"cluster-events: {one_line(problem)}")
            sys.exit(INVALID_SETTINGS)

    return wrapped


def load_settings(*, log_unused: bool = True, **overrides: Any) -> "Settings":
    """Load the settings from the environment, and configure logging.

    Variables with our prefix that are not used are logged, unless `log_unused` is false. Raises
    `SettingsError`.
    """
    import logging

    from service.logs import configure_logging
    from service.settings import load
    from service.settings.report import warnings

    unused = warnings(os.environ)
    try:
        settings = load(os.environ, **overrides)
    except SettingsError as error:
        # A misspelt variable may be the cause of the problems.
        raise SettingsError([*error.problems, *unused]) from error
    configure_logging(settings.log_format)
    for warning in unused if log_unused else ():
        logging.getLogger("service.settings").warning("%s", warning)
    return settings


def print_result(result: Any, *, as_json: bool, table: Callable[[Any], None]) -> None:
    """Print a result to stdout, as JSON or with the function `table`.

    JSON is printed in ASCII: it contains no control characters, and every encoding has all of it.
    """
    if as_json:
        say(json.dumps(result))
    else:
        table(result)
