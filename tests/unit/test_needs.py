"""What the tests need: they say so when they skip, and in CI nothing that can be installed may be
missing."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.processes import from_proc, from_ps

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        (lambda: needs.program("no-such-program"), "needs no-such-program, which is not installed"),
        (
            lambda: needs.package("no_such_package"),
            "needs the Python package no_such_package, which is not installed",
        ),
    ],
    ids=["program", "package"],
)
def test_missing(need: Callable[[], object], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program or package skips, and fails where everything must be there."""
    monkeypatch.delenv(needs.NEED_ALL, raising=False)
    with pytest.raises(pytest.skip.Exception) as skipped:
        need()
    assert str(skipped.value) == reason
    monkeypatch.setenv(needs.NEED_ALL, "1")
    with pytest.raises(pytest.fail.Exception, match=re.escape(reason)):
        need()


def test_what_a_platform_cannot_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be installed skips in any case, with its reason."""
    monkeypatch.setenv(needs.NEED_ALL, "1")
    monkeypatch.setattr(sys, "platform", "darwin")
    for need in (
        lambda: needs.program("no-such-program", installable=False),
        lambda: needs.attribute(shutil, "no_such_function"),
        lambda: needs.linux("a kernel of that name"),
    ):
        with pytest.raises(pytest.skip.Exception, match=r"^needs .*, which "):
            need()


def test_what_is_there() -> None:
    """What is there is given to the test."""
    assert Path(needs.program("sh")).exists()
    assert needs.package("json").dumps(1) == "1"
    assert needs.attribute(shutil, "which") is shutil.which


def test_every_skip_has_its_reason_from_here() -> None:
    """No test skips by itself: only so does CI know what was missing."""
    skips = re.compile(r"pytest\.(skip|importorskip)\(|mark\.skip|SkipTest")
    here = {Path(__file__), TESTS / "support" / "needs.py"}
    assert [
        path for path in TESTS.rglob("*.py") if path not in here and skips.search(path.read_text())
    ] == []


def test_both_tables_of_processes_agree() -> None:
    """`ps` tells of this process what /proc tells."""
    needs.proc()
    needs.program("ps")
    shown, told = from_ps()[os.getpid()], from_proc()[os.getpid()]
    assert shown.parent == told.parent == os.getppid()
    assert shown.command.split() == told.command.split()
