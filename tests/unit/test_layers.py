"""Data flows downward: the layers of the house hold."""

from pathlib import Path

from importlinter.application.use_cases import SUCCESS, lint_imports
from importlinter.configuration import configure

ROOT = Path(__file__).parents[2]


def test_imports_point_down() -> None:
    """Nothing imports upward, only the store speaks to Redis, and below the API and the monitor
    nothing speaks HTTP."""
    configure()
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == SUCCESS
