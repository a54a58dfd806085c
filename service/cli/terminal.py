"""Output of the commands: cleaned text for a terminal of any encoding.

Texts come from servers, which are not trusted: no printed text can control the terminal.
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
"""The errors of writing to a file, a pipe or a terminal that has gone."""


def replace_missing_characters() -> None:
    """Makes stdout print `?` for a character that its encoding lacks.

    Python escapes such characters on stderr already.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def say(text: str) -> None:
    """Prints a line to stdout, with colours. Raises `OSError` (see `is_lost`)."""
    # Without `file`, click encodes as UTF-8 for a terminal whose encoding is ASCII.
    click.echo(text, file=sys.stdout)


def note(text: str) -> None:
    """Prints lines for people to stderr, cleaned. A failure is ignored."""
    try:
        click.echo(clean(text), file=sys.stderr)
    except OSError:
        discard(sys.stderr)


def one_line(text: str) -> str:
    """The text, cleaned, without line breaks."""
    return " ".join(clean(text).split())


def is_lost(error: OSError) -> bool:
    """Whether the error means that the output cannot be written."""
    return error.errno in _GONE


def discard(stream: TextIO | None) -> None:
    """Drops what a stream has not written yet.

    Python would try to write it at its end, fail, and exit with 120.
    """
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
