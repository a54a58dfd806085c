"""`cluster-events dev` as a person runs it: a process in its own session, seen through its output
and its HTTP."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.processes import alive, descendants

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
START_S = 15.0
STOP_S = 5.0
CHECK_S = 0.5


def environment(**settings: str) -> dict[str, str]:
    """This process' environment with these settings of ours and no others."""
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("CLUSTER_EVENTS_")
    }
    return others | {f"CLUSTER_EVENTS_{name.upper()}": value for name, value in settings.items()}


def until(found: Callable[[], Any], limit_s: float) -> Any:
    """What is found, as soon as it is anything."""
    deadline = time.monotonic() + limit_s
    while not (thing := found()):
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)
    return thing


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

        found: str = until(look, START_S)
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


def test_break_and_mend(tmp_path: Path) -> None:
    """What the printed text promises holds: the first event is there, and a service breaks and
    mends as told."""
    with dev(tmp_path) as running:
        healthy = {
            "api_status": "Healthy",
            "compiler_status": "Healthy",
            "runner_status": "Healthy",
        }
        assert running.statuses() == healthy
        assert running.get("/v0/cluster/events")[1]
        assert running.health() == 0
        assert (
            f'curl -s -H "Authorization: Bearer $CLUSTER_EVENTS_TOKEN" {running.url}/v0/cluster/events/latest'
            in (running.said)
        )
        for verb, compiler, code in (("break", "Unhealthy", 2), ("mend", "Healthy", 0)):
            url = running.printed(rf"curl -X POST (http://\S+/{verb})\n")
            assert ask("POST", url)[0] == 200
            expected = healthy | {"compiler_status": compiler}
            until(lambda expected=expected: running.statuses() == expected, 2 * CHECK_S + 1.0)  # type: ignore[misc]
            assert running.health() == code
        status, event = running.get("/v0/cluster/events/latest?selector=all")
        assert status == 200
        assert event["compiler_self_info"].startswith("Reachable: HTTP 200 OK.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    """A signal to the group ends the process and all that it started, at once, in order, and with
    exit code 0."""
    with dev(tmp_path) as running:
        url = running.url
        children = descendants(running.process.pid)
        assert any("valkey-server" in command for command in children.values())
        assert running.stop(number) == 0
        until(lambda: not any(map(alive, children)), STOP_S)
        logged = running.err.read_text()
        assert not [
            word for word in ("Traceback", "ERROR", "CRITICAL", "unavailable") if word in logged
        ]
        with pytest.raises(ConnectionRefusedError):
            ask("GET", url + "/healthz")


def test_signal_during_the_start(tmp_path: Path) -> None:
    """Ctrl-C before anything is up leaves nothing behind either, and no traceback."""
    with dev(tmp_path) as running:
        children: dict[int, str] = until(lambda: descendants(running.process.pid), START_S)
        assert running.stop(signal.SIGINT) == 0
        until(lambda: not any(map(alive, children)), STOP_S)
        assert "Traceback" not in running.err.read_text()


def test_data_dir_outlives_a_restart(tmp_path: Path) -> None:
    """With `--data-dir`, events and the token outlive a restart; the secret is readable by its
    owner alone."""
    data = tmp_path / "data"
    with dev(tmp_path / "first", "--data-dir", str(data)) as running:
        token, (_, before) = running.token, running.get("/v0/cluster/events")
        assert running.stop(signal.SIGINT) == 0
    assert (data / "jwt_secret").stat().st_mode & 0o777 == 0o600
    with dev(tmp_path / "second", "--data-dir", str(data)) as running:
        assert running.get("/v0/cluster/events/" + before[0]["id"], token) == (200, before[0])
        until(
            lambda: len(running.get("/v0/cluster/events", token)[1]) == len(before) + 1,
            CHECK_S + 0.5,
        )
        assert running.stop(signal.SIGTERM) == 0


def test_killed_store_does_not_pass_for_health(tmp_path: Path) -> None:
    """When the store dies, the verdict is no longer healthy, and a signal still ends everything."""
    with dev(tmp_path, max_staleness="300ms", heartbeat="100ms", stale_if_error="300ms") as running:
        assert running.get("/v0/cluster_healthz")[0] == 200
        (store,) = [
            pid
            for pid, command in descendants(running.process.pid).items()
            if "valkey-server" in command
        ]
        os.kill(store, signal.SIGKILL)
        until(lambda: running.get("/v0/cluster/events/latest")[0] == 503, 3.0)
        assert running.health() == 1
        assert running.stop(signal.SIGINT) == 0
        assert "Traceback" not in running.err.read_text()


def test_taken_port(tmp_path: Path) -> None:
    """A port that is taken is one line that names it, exit code 1, and nothing is left running."""
    with ExitStack() as stack:
        port = urlsplit(stack.enter_context(dev(tmp_path / "first")).url).port
        second = stack.enter_context(dev(tmp_path / "second", "--port", str(port)))
        assert second.process.wait(START_S) == 1
        assert second.said == ""
        assert (
            second.err.read_text()
            == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        )


def test_data_dir_that_cannot_be_used(tmp_path: Path) -> None:
    """A data folder that cannot be made is one line that names it, and exit code 1."""
    (tmp_path / "file").touch()
    with dev(tmp_path, "--data-dir", str(tmp_path / "file" / "data")) as running:
        assert running.process.wait(START_S) == 1
        (line,) = running.err.read_text().splitlines()
        assert line.startswith("Error: cannot start: ")
        assert str(tmp_path / "file" / "data") in line


def test_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder whose path is too long for a socket is no obstacle."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    with dev(tmp_path) as running:
        assert running.statuses()
        assert running.stop(signal.SIGINT) == 0


def test_another_check_interval(tmp_path: Path) -> None:
    """A short interval alone is a valid setting: the time-out follows it."""
    with dev(tmp_path, check_interval="1s") as running:
        assert running.statuses()
        assert "checked every 1 s" in running.out.read_text()


def test_metrics_on_a_port_of_their_own(tmp_path: Path) -> None:
    """`METRICS_PORT` moves the metrics of the API to that port."""
    with dev(tmp_path, metrics_port="0") as running:
        assert running.get("/metrics")[0] == 404
        found = re.search(r"serving metrics host='127.0.0.1' port=(\d+)", running.err.read_text())
        assert found is not None
        status, page = ask("GET", f"http://127.0.0.1:{found[1]}/metrics")
        assert status == 200
        assert "cluster_events_snapshot_age_seconds" in page
        assert running.stop(signal.SIGINT) == 0
