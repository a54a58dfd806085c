"""What a test needs and a machine may lack: the test is skipped, with the reason.

With `CLUSTER_EVENTS_TESTS_NEED_ALL=1` (as in CI) a test fails instead, where a program or package
is missing that can be installed. What a platform cannot have is skipped all the same.
"""

import importlib
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

NEED_ALL = "CLUSTER_EVENTS_TESTS_NEED_ALL"


def program(name: str, *, installable: bool = True) -> str:
    """The path of a program. Not `installable` is one that Debian does not package."""
    if (found := shutil.which(name)) is None:
        if not installable:
            absent(f"{name}, which is not installed and which Debian does not package")
        _missing(name)
    return found


def file(path: str, *, of: str) -> Path:
    """A file that a package of the system has."""
    if not Path(path).exists():
        _missing(f"{path} of the package {of}")
    return Path(path)


def package(name: str) -> Any:
    """A Python module."""
    try:
        return importlib.import_module(name)
    except ImportError:
        _missing(f"the Python package {name}")


def proc() -> None:
    """The file system of processes (Linux)."""
    if not Path("/proc/self/stat").exists():
        absent("/proc, which this system does not have")


def linux(what: str) -> None:
    """Something that only Linux does."""
    if sys.platform != "linux":
        absent(f"{what}, which only Linux has")


def attribute(module: Any, name: str) -> Any:
    """A function or constant of the standard library that not every platform has."""
    if not hasattr(module, name):
        absent(f"{module.__name__}.{name}, which this system does not have")
    return getattr(module, name)


def ipv6() -> None:
    """The loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        absent("IPv6, which this machine does not have")


def absent(what: str) -> NoReturn:
    """Skips: what the test needs does not exist on this platform, or in the case that a parameter
    stands for."""
    pytest.skip(f"needs {what}")


def _missing(what: str) -> NoReturn:
    reason = f"needs {what}, which is not installed"
    if os.environ.get(NEED_ALL) == "1":
        pytest.fail(f"{reason} ({NEED_ALL}=1)", pytrace=False)
    pytest.skip(reason)
