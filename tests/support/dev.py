"""`cluster-events dev` as a person runs it: a process in its own session."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.environment import environment
from tests.support.folders import ROOT
from tests.support.waiting import until_blocking

START_S = 15.0
STOP_S = 5.0
CHECK_S = 0.5


@dataclass
class Dev:
    """A running `cluster-events dev`."""

    process: subprocess.Popen[str]
    out: Path
    err: Path

    @property
    def said(self) -> str:
        """What it printed so far."""
        return self.out.read_text()

    def printed(self, pattern: str) -> str:
        """The first group of the pattern, as soon as it is printed."""

        def look() -> str | None:
            assert self.process.poll() is None, self.err.read_text()
            match = re.search(pattern, self.said)
            return match[1] if match else None

        found: str = until_blocking(look)
        return found

    @property
    def url(self) -> str:
        """Where it says that the API is."""
        return self.printed(r"CLUSTER_EVENTS_URL=(\S+)\n")

    @property
    def token(self) -> str:
        """The token that it gives."""
        return self.printed(r"CLUSTER_EVENTS_TOKEN=(\S+)\n")

    def get(self, path: str, token: str | None = None) -> tuple[int, Any]:
        """The status and JSON of a GET."""
        return ask("GET", self.url + path, token or self.token)

    def statuses(self) -> dict[str, str]:
        """The latest event's statuses."""
        status, event = self.get("/v0/cluster/events/latest")
        assert status == 200
        return {field: value for field, value in event.items() if field.endswith("_status")}

    def health(self) -> int:
        """The exit code of `cluster-events health`."""
        command = [sys.executable, "-m", "service", "health"]
        ran = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(url=self.url, token=self.token),
            capture_output=True,
            check=False,
        )
        return ran.returncode

    def stop(self, number: int) -> int:
        """Sends a signal to the whole group, as a terminal does for Ctrl-C; gives the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(STOP_S)


def ask(method: str, url: str, token: str = "") -> tuple[int, Any]:
    """The status and body of a request on a connection of its own."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
    try:
        connection.request(
            method,
            parts._replace(scheme="", netloc="").geturl(),
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    return answer.status, json.loads(body) if "json" in answer.headers[
        "Content-Type"
    ] else body.decode()


@contextmanager
def dev(folder: Path, *arguments: str, **settings: str) -> Iterator[Dev]:
    """Starts it in a session of its own, and sees to it that nothing of it is left."""
    folder.mkdir(exist_ok=True)
    if "check_interval" not in settings:
        settings |= {"check_interval": f"{CHECK_S}s", "check_timeout": f"{CHECK_S}s"}
    out, err = folder / "out", folder / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "dev", "--port", "0", *arguments],
            cwd=ROOT,
            env=environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    try:
        yield Dev(process, out, err)
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)
