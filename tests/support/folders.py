"""The folder of the repository, and temporary folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
"""The repository."""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder.

    The path of a unix socket has at most 103 bytes on macOS, whose own temporary folder takes 49.
    """
    with TemporaryDirectory(prefix="ce-", dir="/tmp") as folder:
        yield Path(folder)
