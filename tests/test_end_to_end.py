"""`cluster-events dev` as a person runs it: a process in its own session, seen through its output
and its HTTP."""

import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.dev import START_S, ask, dev
from tests.support.processes import alive, descendants
from tests.support.waiting import until_blocking

pytestmark = pytest.mark.slow


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
            f'curl -s -H "Authorization: Bearer $CLUSTER_EVENTS_TOKEN" {running.url}/v0/cluster/events/latest'  # noqa: E501
            in (running.said)
        )
        for verb, compiler, code in (("break", "Unhealthy", 2), ("mend", "Healthy", 0)):
            url = running.printed(rf"curl -X POST (http://\S+/{verb})\n")
            assert ask("POST", url)[0] == 200
            expected = healthy | {"compiler_status": compiler}
            until_blocking(lambda expected=expected: running.statuses() == expected)  # type: ignore[misc]
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
        until_blocking(lambda: not any(map(alive, children)))
        logged = running.err.read_text()
        assert not [
            word for word in ("Traceback", "ERROR", "CRITICAL", "unavailable") if word in logged
        ]
        with pytest.raises(ConnectionRefusedError):
            ask("GET", url + "/healthz")


def test_signal_during_the_start(tmp_path: Path) -> None:
    """Ctrl-C before anything is up leaves nothing behind either, and no traceback."""
    with dev(tmp_path) as running:
        children: dict[int, str] = until_blocking(lambda: descendants(running.process.pid))
        assert running.stop(signal.SIGINT) == 0
        until_blocking(lambda: not any(map(alive, children)))
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
        until_blocking(lambda: len(running.get("/v0/cluster/events", token)[1]) == len(before) + 1)
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
        until_blocking(lambda: running.get("/v0/cluster/events/latest")[0] == 503)
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
