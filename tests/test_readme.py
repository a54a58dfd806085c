"""The examples of the README, word for word, against a running `cluster-events dev`."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.dev import Dev, ask, dev
from tests.support.environment import environment
from tests.support.folders import ROOT

pytestmark = pytest.mark.slow

WITHIN_S = 30.0
"""For a line to be printed, on a machine that is busy."""


def example(language: str, *, containing: str) -> str:
    """The block of the README in a language that contains a text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (found,) = (
        block
        for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
        if containing in block
    )
    return str(found)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """Everything on this machine, with sample services."""
    with dev(tmp_path_factory.mktemp("dev")) as started:
        yield started


@contextmanager
def agent(command: list[str], server: Dev, folder: Path) -> Iterator[Callable[[str, int], str]]:
    """Runs an example in a folder.

    Gives a function that waits until the example has printed a text so many times.
    """
    out = folder / "out"
    with out.open("w") as stdout:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(url=server.url, token=server.token),
            stdout=stdout,
            stderr=stdout,
        )

        def printed(text: str, times: int) -> str:
            deadline = time.monotonic() + WITHIN_S
            while (said := out.read_text()).count(text) < times:
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.02)
            return said

        try:
            yield printed
        finally:
            process.terminate()
            process.wait(WITHIN_S)


def change(server: Dev, verb: str) -> None:
    """Breaks or mends the sample service that the printed text names."""
    ask("POST", server.printed(rf"curl -X POST (\S+/{verb})\n"))


def test_the_python_example_polls(running: Dev, tmp_path: Path) -> None:
    """It prints the first state, then each change as it happens, and does not ask in vain."""
    code = example("python", containing="If-None-Match")
    with agent([sys.executable, "-c", code], running, tmp_path) as printed:
        assert printed("True current\n", 1) == "True current\n"
        change(running, "break")
        assert printed("False current\n", 1) == "True current\nFalse current\n"
        change(running, "mend")
        assert printed("True current\n", 2) == "True current\nFalse current\nTrue current\n"


def test_the_shell_example_polls(running: Dev, tmp_path: Path) -> None:
    """It prints the event of the first state, then the event of each change."""
    needs.program("curl")
    code = example("sh", containing="--etag-compare")
    with agent(["sh", "-c", code], running, tmp_path) as printed:
        printed('"all_healthy":true', 1)
        change(running, "break")
        printed('"compiler_status":"Unhealthy"', 1)
        change(running, "mend")
        said = printed('"all_healthy":true', 2)
    assert [line.count("recorded_at") for line in said.splitlines()] == [1, 1, 1]


@pytest.mark.parametrize("line", [0, 1], ids=["curl", "health"])
def test_the_first_commands_work(running: Dev, tmp_path: Path, line: int) -> None:
    """The commands to try it say that all is well."""
    needs.program("curl")
    block = example("sh", containing="cluster-events health").replace("\\\n", "")
    command = block.splitlines()[line]
    command = command.replace(".venv/bin/cluster-events", f"{sys.executable} -m service")
    ran = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env=environment(url=running.url, token=running.token),
        capture_output=True,
        text=True,
        check=True,
        timeout=WITHIN_S,
    )
    assert '"all_healthy":true' in ran.stdout or "The cluster is healthy." in ran.stdout
