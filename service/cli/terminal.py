"""Output of the commands, and its errors.

The text comes from servers, which are not trusted, so control characters are removed. The terminal
may have any encoding, and the streams may be closed.
"""

import errno
import io
import os
import sys
from typing import TextIO

import click

from service.events import clean

_WRITE_ERRORS = {
    errno.EPIPE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EBADF,
    errno.EAGAIN,
    errno.ENXIO,
}
"""Errors of a write to a file, a pipe or a terminal."""


def replace_missing_characters() -> None:
    """Make stdout print `?` for a character that its encoding does not have.

    On stderr, Python escapes such characters by default.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def say(text: str) -> None:
    """Print a line to stdout; without a terminal, colours are removed.

    Raises `OSError` if the write fails (see `is_lost`).
    """
    # Without `file`, click would write UTF-8 to a terminal whose encoding is ASCII.
    click.echo(text, file=sys.stdout)


def note(text: str) -> None:
    """Print a message to stderr, without control characters. A failed write is ignored."""
    try:
        click.echo(clean(text), file=sys.stderr)
    except OSError:
        discard(sys.stderr)


def one_line(text: str) -> str:
    """The text without control characters and line breaks."""
    return " ".join(clean(text).split())


def is_lost(error: OSError) -> bool:
    """Whether the error is a failed write of our output."""
    return error.errno in _WRITE_ERRORS


def discard(stream: TextIO | None) -> None:
    """Discard the unwritten data of a stream.

    Otherwise Python would try to write it at its exit, fail again, and exit with 120.
    """
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
