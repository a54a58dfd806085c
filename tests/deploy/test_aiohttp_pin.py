"""The limits of aiohttp in pyproject.toml: the minor version whose details the poll path uses."""

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from service.api.aiohttp_internals import SUPPORTED  # The version that the poll path knows.
from tests.support.folders import ROOT

TO_CHECK = """\
aiohttp in pyproject.toml and SUPPORTED in service/api/aiohttp_internals.py must be the same minor
version. Before you raise them, check in the sources of the new aiohttp:
- that each private detail which that module names is still there, with the same meaning;
- that HttpRequestParser, in C and in pure Python, accepts and rejects the same requests
  (tests/api/test_framing.py, tests/api/test_wire.py);
- that a response of the poll path has the same bytes as one of aiohttp (tests/api/test_front.py);
- that outgoing requests are still bounded (tests/test_outgoing.py);
- that a poll costs no more than before (make bench).
Then change both numbers, and run `make lock`."""


def allowed(dependencies: list[str]) -> SpecifierSet:
    """The versions of aiohttp that a list of requirements allows."""
    (specifiers,) = (
        one.specifier for one in map(Requirement, dependencies) if one.name == "aiohttp"
    )
    return specifiers


def misfits(specifiers: SpecifierSet, supported: tuple[int, int]) -> list[str]:
    """Versions that are allowed and not supported, or supported and not allowed."""
    major, minor = supported
    others = (
        f"{major}.{minor - 1}.999",
        f"{major}.{minor + 1}.0",
        f"{major}.{minor + 1}.1",
        f"{major + 1}.0.0",
    )
    wrong = [version for version in others if specifiers.contains(version)]
    return (
        wrong if specifiers.contains(f"{major}.{minor}.999") else [f"{major}.{minor}.999", *wrong]
    )


def test_aiohttp_is_pinned_to_the_minor_version_that_the_poll_path_knows() -> None:
    """Pip installs no aiohttp with which the poll path would switch itself off."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert misfits(allowed(project["dependencies"]), SUPPORTED) == [], TO_CHECK


@pytest.mark.parametrize(
    "requirement", ["aiohttp>=3.14.1,<4", "aiohttp>=3.13,<3.15", "aiohttp>=3.15,<3.16", "aiohttp"]
)
def test_another_pin_is_found(requirement: str) -> None:
    """Limits that are too wide, too low or too high do not pass the test above for version 3.14."""
    assert misfits(allowed(["other>=1", requirement]), (3, 14))
