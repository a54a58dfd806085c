"""The locks are complete, and every installation takes them as they are: pip resolves nothing."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.folders import ROOT

PROJECT: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUN: Sequence[str] = PROJECT["project"]["dependencies"]
DEV: Sequence[str] = [
    *PROJECT["project"]["optional-dependencies"]["dev-server"],
    *PROJECT["dependency-groups"]["dev"],
]
BUILD: Sequence[str] = PROJECT["build-system"]["requires"]
BENCH: Sequence[str] = PROJECT["dependency-groups"]["bench"]

LOCKS: Mapping[str, Sequence[str]] = {
    "deploy/requirements.lock": RUN,
    "deploy/build.lock": BUILD,
    "tests/requirements.lock": [*RUN, *DEV, *BUILD],
    "tests/load/requirements.lock": BENCH,
}
"""Each lock, and what it is the lock of."""
PYTHONS = ("3.11.0", "3.11.7", "3.12.0", "3.13.0", "3.14.0")
"""The oldest release that is supported, and one of each minor version that the locked packages have
wheels for."""
PLATFORMS = (
    {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
    },
    {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "aarch64",
        "os_name": "posix",
    },
    {
        "sys_platform": "darwin",
        "platform_system": "Darwin",
        "platform_machine": "arm64",
        "os_name": "posix",
    },
)

_ENTRY = re.compile(
    r"^([a-z0-9][a-z0-9.-]*)==(\S+?)(?: ; (.+?))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: "
    r"\\)?\n)+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Pin:
    """One package of a lock."""

    version: str
    marker: Marker | None

    def applies(self, environment: Mapping[str, str]) -> bool:
        """Whether the package is installed there."""
        return self.marker is None or self.marker.evaluate(dict(environment))


def pins(lock: str) -> Mapping[str, Pin]:
    """The packages of a lock. Fails if it has anything but pinned versions with hashes."""
    text = re.sub(r"^#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert not _ENTRY.sub("", text).strip(), "something else than NAME==VERSION with hashes"
    return {
        match[1]: Pin(match[2], Marker(match[3]) if match[3] else None)
        for match in _ENTRY.finditer(text)
    }


def environments() -> Iterator[Mapping[str, str]]:
    """What markers see on each supported Python and platform."""
    for python in PYTHONS:
        for platform in PLATFORMS:
            yield platform | {
                "python_version": python.rpartition(".")[0],
                "python_full_version": python,
                "implementation_name": "cpython",
                "implementation_version": python,
                "platform_python_implementation": "CPython",
            }


def missing(
    roots: Sequence[str], locked: Mapping[str, Pin], environment: Mapping[str, str]
) -> list[str]:
    """What a resolver would look for beyond the lock, as far as the metadata of the installed
    packages tells."""
    found, seen = [], set()
    todo = [(Requirement(root), "") for root in roots]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate(
            {**environment, "extra": extra}
        ):
            continue
        name = canonicalize_name(requirement.name)
        pin = locked.get(name)
        if (
            pin is None
            or not pin.applies(environment)
            or not requirement.specifier.contains(pin.version, True)
        ):
            found.append(str(requirement))
            continue
        for wanted in ["", *requirement.extras]:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(needed, wanted) for needed in needs(name, pin.version)]
    return found


def needs(name: str, version: str) -> list[Requirement]:
    """The requirements of a package, if just this version of it is installed here."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return []
    return (
        [Requirement(line) for line in distribution.requires or ()]
        if distribution.version == version
        else []
    )


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_complete(lock: str) -> None:
    """The lock meets what the project requires, and what each locked package that is installed here
    requires, on every supported Python. `.ci/run` asks the package index about the others."""
    locked = pins(lock)
    for environment in environments():
        assert missing(LOCKS[lock], locked, environment) == [], environment


def test_an_incomplete_lock_is_found() -> None:
    """A package that only an extra asks for (`pyjwt[crypto]`) is missed, and so is a version that
    is too old."""
    locked = dict(pins("deploy/requirements.lock"))
    environment = next(environments())
    del locked["cryptography"]
    assert any("cryptography" in requirement for requirement in missing(RUN, locked, environment))
    locked |= {"cryptography": Pin("1.0", None)}
    assert any("cryptography" in requirement for requirement in missing(RUN, locked, environment))


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock != "tests/requirements.lock"])
def test_locks_agree_on_versions(lock: str) -> None:
    """All locks name the same version of a package: what is tested is what is deployed."""
    tested, locked = pins("tests/requirements.lock"), pins(lock)
    common = tested.keys() & locked.keys()
    assert common
    assert [name for name in sorted(common) if tested[name].version != locked[name].version] == []


# -- how locks are installed -----------------------------------------------------------------------


def makefile_commands() -> list[list[str]]:
    """The pip commands that `make setup bench` would run, as make expands them."""
    dry_run = ["make", "--no-print-directory", "--dry-run", "--always-make", "setup", "bench"]
    printed = subprocess.run(
        dry_run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    lines = re.sub(r"\\\n\s*", "", printed).splitlines()
    return [shlex.split(step) for line in lines for step in line.split(";") if " -m pip " in step]


def dockerfile_commands() -> list[list[str]]:
    """The pip commands of the image's build."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8"))
    runs = [line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN ")]
    return [
        shlex.split(step) for run in runs for step in run.split("&&") if "pip" in shlex.split(step)
    ]


def locks_of(command: Sequence[str]) -> list[str]:
    """The locks that a pip command installs."""
    return [word for word in command if word.endswith(".lock")]


@pytest.mark.parametrize("commands", [makefile_commands, dockerfile_commands])
def test_nothing_is_resolved_at_installation(commands: Any) -> None:
    """Each `pip install` takes a lock with hashes and without dependencies, or what was built here;
    `pip check` follows."""
    found = commands()
    installs = [command for command in found if "install" in command]
    assert any(map(locks_of, installs)), "nothing is installed from a lock"
    for command in installs:
        assert "--no-deps" in command, command
        assert not locks_of(command) or "--require-hashes" in command, command
        local = any(word == "." or word.startswith("/build/dist/") for word in command)
        assert locks_of(command) or local, f"neither a lock nor this project: {command}"
    checks = [command for command in found if command[-1] == "check"]
    assert checks, "no `pip check` shows that nothing is missing"


def test_ci_installs_by_make() -> None:
    """`.ci/run` installs Python packages with the Makefile's targets only; what it does itself only
    looks."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make check" in script
    for line in re.sub(r"\\\n\s*", "", script).splitlines():
        if re.search(r"\bpip\b.*\binstall\b", line):
            assert "--dry-run" in line, line


def test_setup_says_what_it_does() -> None:
    """Each step prints a line before it begins, and how long it took; an interrupted setup begins
    anew."""
    dry_run = ["make", "--no-print-directory", "--dry-run", "--always-make", "setup"]
    printed = subprocess.run(
        dry_run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    steps = re.findall(r'step "(\d) of (\d), ', printed)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert {int(count) for _, count in steps} == {len(steps)}
    assert "-m venv --clear" in printed
    assert printed.rstrip().splitlines()[-1].startswith("touch ")


def test_an_interrupted_setup_recovers(tmp_path: Path) -> None:
    """Half an environment, left by an interrupted setup, is no complete one: make would begin
    anew."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    question = ["make", "--question", "setup", f"VENV={tmp_path}"]
    assert (
        subprocess.run(question, cwd=ROOT, capture_output=True, check=False, timeout=30).returncode
        == 1
    )
