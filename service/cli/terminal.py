"""What the commands print, and where it fails: cleaned text for a terminal of any encoding, on
streams that may be gone.

Texts come from servers, which are not trusted: nothing that is printed acts on the terminal.
"""

import errno
import io
import os
import sys
from typing import TextIO

import click

from service.events import clean

_GONE = {
    errno.EPIPE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EBADF,
    errno.EAGAIN,
    errno.ENXIO,
}
"""How writing to a file, a pipe or a terminal fails."""


def replace_missing_characters() -> None:
    """From now on stdout prints `?` for a character that its encoding lacks. (Python escapes it on
    stderr already.)"""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def say(text: str) -> None:
    """Prints a line to stdout, colours included. Raises `OSError` where that fails; see
    `is_lost`."""
    # Without `file`, click encodes as UTF-8 for a terminal whose encoding is ASCII.
    click.echo(text, file=sys.stdout)


def note(text: str) -> None:
    """Prints lines for people to stderr, cleaned. Where that fails, it does not matter."""
    try:
        click.echo(clean(text), file=sys.stderr)
    except OSError:
        discard(sys.stderr)


def one_line(text: str) -> str:
    """The text, cleaned, without line breaks."""
    return " ".join(clean(text).split())


def is_lost(error: OSError) -> bool:
    """Whether the error says that what was printed cannot be written."""
    return error.errno in _GONE


def discard(stream: TextIO | None) -> None:
    """Lets go of what a stream still has to write: Python would fail on it once more at its end,
    with exit code 120."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
