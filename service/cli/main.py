"""The console script. Data goes to stdout, messages to stderr.

Exit codes: 0 success; 1 failure, or the answer is not known; 2 unhealthy (`health`), or invalid
settings; 64 an invalid command line.
"""

import io
import sys
from typing import NoReturn

import click

from service import __version__
from service.cli.ask import event, events, health, wait, watch
from service.cli.common import FAILED, INTERRUPTED, WRONG_COMMAND_LINE
from service.cli.config import config, openapi
from service.cli.keys import keys, token
from service.cli.serve import dev, monitor, serve
from service.cli.terminal import discard, is_lost, note, one_line, replace_missing_characters


def main() -> NoReturn:
    """Runs the command line, and exits with its code."""
    replace_missing_characters()
    try:
        code = _run()
        if sys.stdout is not None:
            sys.stdout.flush()  # At Python's end a failure would be a traceback.
    except BrokenPipeError:  # The reader of the output has closed it.
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
    """The exit code of the command. Raises `OSError` if its output cannot be written."""
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

    Settings come from the environment (CLUSTER_EVENTS_*); deploy/SETTINGS.md lists them.
    """


for command in (
    serve,
    monitor,
    dev,
    config,
    events,
    event,
    health,
    watch,
    wait,
    keys,
    token,
    openapi,
):
    cli.add_command(command)
