"""The command line: the group of all commands, and its errors and exit codes.

Data goes to stdout, messages go to stderr. Exit codes: 0 success; 1 failure, or the answer is not
known; 2 unhealthy (`health`, `wait`, `monitor --once`), or invalid settings; 64 invalid command
line; 130 interrupted.

Each command imports what it needs when it runs. So the client commands start in a fraction of the
time of the server.
"""

import io
import sys
from typing import NoReturn

import click

from service import __version__
from service.cli import ask, config, keys, serve
from service.cli.common import FAILED, INTERRUPTED, INVALID_COMMAND_LINE
from service.cli.terminal import discard, is_lost, note, one_line, replace_missing_characters


def main() -> NoReturn:
    """The console script."""
    replace_missing_characters()
    try:
        code = _run()
        if sys.stdout is not None:
            # Flush now: if the flush at Python's exit fails, Python prints a traceback.
            sys.stdout.flush()
    except BrokenPipeError:
        # The process that reads our output has ended: a message would not help.
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
    """Run the command of the command line and return its exit code.

    Raises `OSError` if its output cannot be written.
    """
    try:
        code: int | None = cli(standalone_mode=False, auto_envvar_prefix=None)
    except SystemExit as ended:
        return ended.code
    except click.exceptions.NoArgsIsHelpError as error:
        note(error.format_message())
        return INVALID_COMMAND_LINE
    except click.UsageError as error:
        text = io.StringIO()
        error.show(file=text)
        note(text.getvalue().rstrip())
        return INVALID_COMMAND_LINE
    except click.ClickException as error:
        note(f"Error: {one_line(error.format_message())}")
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Monitor the services of a platform, and read their status.

    Settings come from the environment (CLUSTER_EVENTS_*); deploy/SETTINGS.md lists them.
    """


for command in (
    *(serve.serve, serve.monitor, serve.dev),
    *(ask.events, ask.event, ask.health, ask.watch, ask.wait),
    *(keys.keys, keys.token),
    *(config.config, config.openapi),
):
    cli.add_command(command)
