"""Data flows downward: the layers of the house hold, those of the tests too."""

import ast
from collections.abc import Iterator

from importlinter.application.use_cases import SUCCESS, lint_imports
from importlinter.configuration import configure

from tests.support.folders import ROOT


def test_imports_point_down() -> None:
    """Nothing imports upward, only the store speaks to Redis, and below the API and the monitor
    nothing speaks HTTP."""
    configure()
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == SUCCESS


def imported(source: str) -> Iterator[str]:
    """The full names of what a module imports: of modules, and of names in modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_tests_only(name: str) -> bool:
    """Whether a name is of a test module, or of a `conftest.py`, which only pytest reads."""
    first, *parts = name.split(".")
    return first == "tests" and any(
        part == "conftest" or part.startswith("test_") for part in parts
    )


def test_no_test_module_is_imported() -> None:
    """What tests share is in `tests/support`, and fixtures are in `conftest.py`: a test module can
    be read, moved and run alone."""
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / "tests").rglob("*.py")
        for name in imported(file.read_text(encoding="utf-8"))
        if of_tests_only(name)
    }
    assert not wrong


def test_imports_of_test_modules_are_found() -> None:
    """Each way to import a test module is one that the test above finds."""
    for line in (
        "import tests.api.test_wire",
        "from tests.api import test_wire",
        "from tests.api.test_wire import Line",
        "from tests.conftest import api",
    ):
        assert any(map(of_tests_only, imported(line))), line
    assert not any(map(of_tests_only, imported("from tests.support.api import Api")))
