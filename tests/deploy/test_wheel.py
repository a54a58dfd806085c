"""The wheel: what a user installs has the licence and the types."""

import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from service.api.docs.openapi import document  # The module of the OpenAPI document.
from tests.support.folders import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built with the backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(folder),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=30)
    (built,) = folder.iterdir()
    return zipfile.ZipFile(built)


def test_the_wheel_has_the_licence(wheel: zipfile.ZipFile) -> None:
    """The metadata name the licence of the OpenAPI document (PEP 639), and its text is there."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert (
        metadata["License-Expression"]
        == "MIT"
        == document(["api"])["info"]["license"]["identifier"]
    )
    text = wheel.read(f"{Path(name).parent}/licenses/{metadata['License-File']}")
    assert text.startswith(b"MIT License\n\nCopyright (c) ")


def test_the_wheel_has_the_types(wheel: zipfile.ZipFile) -> None:
    """`py.typed` (PEP 561) is in the package, as the classifier says."""
    assert "service/py.typed" in wheel.namelist()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "Typing :: Typed" in project["classifiers"]
