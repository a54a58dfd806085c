"""The Dockerfile: what it says fits the project. (Building it needs a Docker engine; this does
not.)"""

import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pytest

from service.cli.main import cli
from service.settings import PREFIX, Settings, load
from tests.support.folders import ROOT
from tests.support.manifests import Manifests


@dataclass(frozen=True)
class Instruction:
    """One instruction of a stage."""

    stage: int
    word: str
    rest: str


def instructions() -> tuple[Instruction, ...]:
    """The Dockerfile's instructions, continued lines joined, comments left out."""
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    found: list[Instruction] = []
    stage = -1
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            stage += word == "FROM"
            found.append(Instruction(stage, word, rest.strip()))
    return tuple(found)


INSTRUCTIONS = instructions()
FINAL = INSTRUCTIONS[-1].stage
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def of(word: str, *, stage: int | None = None) -> list[str]:
    """What follows each instruction of that word, in one stage or in all."""
    return [one.rest for one in INSTRUCTIONS if one.word == word and stage in {None, one.stage}]


def pip_commands(*, stage: int | None = None) -> list[list[str]]:
    """The words of each pip command."""
    commands = (
        shlex.split(command) for run in of("RUN", stage=stage) for command in run.split("&&")
    )
    return [command for command in commands if command and command[0] == "pip"]


def copied() -> list[str]:
    """What is taken from the build's context."""
    return [
        source
        for rest in of("COPY")
        if not rest.startswith("--from=")
        for source in (word for word in rest.split()[:-1] if not word.startswith("--"))
    ]


def environment() -> dict[str, str]:
    """The variables of the final stage."""
    return dict(word.split("=", 1) for rest in of("ENV", stage=FINAL) for word in shlex.split(rest))


def test_the_base_image_is_a_version() -> None:
    """Every stage starts from one image, whose tag names a Python version that the project
    supports."""
    assert of("FROM") == ["${BASE} AS build", "${BASE}"]
    default = of("ARG", stage=-1)[0].removeprefix("BASE=")
    tag = re.fullmatch(r"python:(3\.\d+)-slim.*", default)
    assert tag
    assert f"Programming Language :: Python :: {tag[1]}" in PROJECT["project"]["classifiers"]


def test_the_process_is_not_root(manifests: Manifests) -> None:
    """The image runs as a numeric user that is not root: the one that the pods ask for."""
    (user,) = of("USER", stage=FINAL)
    pod = manifests.pod("cluster-events-api")["spec"]["securityContext"]
    assert re.fullmatch(r"\d+:\d+", user)
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}" == "10001:10001"


@pytest.mark.parametrize("command", pip_commands(), ids=" ".join)
def test_pip_takes_nothing_unchecked(command: list[str]) -> None:
    """Pip installs wheels of locked hashes, or what lies in the build already; it never chooses for
    itself."""
    if "uninstall" in command or command[-1] == "check":
        return
    if "--requirement" in command:
        lock = PurePosixPath(command[command.index("--requirement") + 1]).name
        assert {"--require-hashes", "--no-deps"} <= set(command)
        assert command[command.index("--only-binary") + 1] == ":all:"
        assert (ROOT / "deploy" / lock).is_file()
    else:
        assert "--no-deps" in command
        assert "install" in command or "--no-build-isolation" in command


def test_the_final_stage_installs_nothing() -> None:
    """What builds stays behind: the final stage takes the finished environment, and pip away."""
    assert [command[1] for command in pip_commands(stage=FINAL)] == ["uninstall"]
    assert [rest.split()[0] for rest in of("COPY", stage=FINAL)] == ["--from=build"]


@pytest.mark.parametrize("source", copied())
def test_everything_copied_exists_and_reaches_the_build(source: str) -> None:
    """Each source of a COPY is there, and .dockerignore, which leaves out all else, lets it
    through."""
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert (ROOT / source).exists()
    assert "*" in rules
    assert f"!{source}" in rules[rules.index("*") :]


def test_the_build_has_what_the_project_is_made_of() -> None:
    """The packages and the readme that pyproject.toml names are copied."""
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {"pyproject.toml", PROJECT["project"]["readme"], *packages} <= set(copied())


def test_the_backend_is_the_one_developed_with() -> None:
    """build.lock pins the build backend and its needs as tests/requirements.lock does; its first
    lines say how to renew it."""
    pins = {
        name: set(
            re.findall(
                r"^[a-z0-9-]+==\S+|--hash=\S+",
                (ROOT / name).read_text(encoding="utf-8"),
                re.MULTILINE,
            )
        )
        for name in ("deploy/build.lock", "tests/requirements.lock")
    }
    backend = re.split("[<>=]", PROJECT["build-system"]["requires"][0])[0]
    assert any(pin.startswith(f"{backend}==") for pin in pins["deploy/build.lock"])
    assert pins["deploy/build.lock"] <= pins["tests/requirements.lock"]


def test_the_service_gets_the_signals() -> None:
    """The entry point is in exec form, so that no shell stands between SIGTERM and the service; its
    commands exist."""
    (entrypoint,), (arguments,) = (
        json.loads(of(word, stage=FINAL)[0]) for word in ("ENTRYPOINT", "CMD")
    )
    assert entrypoint in PROJECT["project"]["scripts"]
    assert arguments in cli.commands


def test_the_image_listens_where_it_says() -> None:
    """The image's own settings are settings, reach beyond its loopback, and the exposed port is the
    default."""
    given = {name: value for name, value in environment().items() if name.startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in given} <= set(Settings.model_fields)
    settings = load(given)
    assert settings.host == "0.0.0.0"
    assert of("EXPOSE", stage=FINAL) == [str(settings.port)]


def test_bytecode_is_made_at_build_time() -> None:
    """Both the environment's and the standard library's bytecode is in the image, and nothing
    writes any later."""
    compiling = [run for run in of("RUN") if "compileall" in run]
    assert len(compiling) == 2
    assert all("--invalidation-mode unchecked-hash" in run for run in compiling)
    assert environment()["PYTHONDONTWRITEBYTECODE"] == "1"


@pytest.mark.parametrize("label", ["title", "description", "version", "revision", "base.name"])
def test_the_image_says_what_it_is(label: str) -> None:
    """The OCI labels are there."""
    assert f"org.opencontainers.image.{label}=" in "".join(of("LABEL", stage=FINAL))
