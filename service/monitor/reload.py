"""Reloads the services file, at SIGHUP or when it has changed.

The files are polled. Kubernetes replaces mounted files by switching symbolic links, and a pod gets
no signal when it does.
"""

import asyncio
import logging
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from service.errors import SettingsError
from service.settings import Settings

log = logging.getLogger(__name__)

POLL_S = 5.0
"""Seconds between two looks at the files."""
SETTLE_S = 0.2
"""Seconds between two reads that must be equal: a file that is being written would differ."""
MOST_BYTES = 1024 * 1024
"""The most bytes of a file that are compared."""

_Contents = Mapping[Path, bytes | str]
"""What files contain, or why they cannot be read."""


class ServicesFile:
    """The services file of a monitor, and the certificates and keys that it names."""

    def __init__(self, settings: Settings, use: Callable[[Settings], None]) -> None:
        """`use` takes the services of the settings into use, or raises `SettingsError`."""
        self._settings = settings
        self._use = use
        self._loaded = contents(settings)

    def reload(self) -> None:
        """Reload the file. If it is invalid, that is logged, and the previous services are kept."""
        self._loaded = contents(self._settings)
        try:
            self._use(self._settings)
        except SettingsError as error:
            for problem in error.problems:
                # The traceback would add nothing.
                log.error("ignored invalid services file: %s", problem)  # noqa: TRY400
        else:
            log.info("reloaded the services file")

    async def watch(self, poll: float = POLL_S, settle: float = SETTLE_S) -> None:
        """Reload the file whenever one of the files has changed, until cancelled."""
        while True:
            await asyncio.sleep(poll)
            changed = await asyncio.to_thread(contents, self._settings)
            if changed == self._loaded:
                continue
            await asyncio.sleep(settle)
            if await asyncio.to_thread(contents, self._settings) == changed:
                self.reload()


def contents(settings: Settings) -> _Contents:
    """The contents of the services file and of the files that it names, as far as they exist."""
    if settings.services_file is None:
        return {}
    found: dict[Path, bytes | str] = {settings.services_file: _read(settings.services_file)}
    for file in _named(found[settings.services_file]):
        found[file] = _read(file)
    return found


def _read(file: Path) -> bytes | str:
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES)
    except OSError as error:
        return str(error.strerror)
    # A path with a null character.
    except ValueError as error:
        return str(error)


def _named(content: bytes | str) -> Iterator[Path]:
    """The certificates and keys that a services file names. It may be invalid."""
    try:
        tables = tomllib.loads(content.decode("utf-8-sig")) if isinstance(content, bytes) else {}
    # Python's parser is recursive.
    except (ValueError, RecursionError):
        return
    for table in tables.values():
        for name in ("ca_file", "client_cert", "client_key"):
            if isinstance(table, dict) and isinstance(file := table.get(name), str):
                yield Path(file)
