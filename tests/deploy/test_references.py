"""SETTINGS.md and METRICS.md: current, complete, and true to what the service reads and exposes."""

import enum
from pathlib import Path
from typing import Annotated

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field, SecretStr

from deploy import references
from service.metrics import Metrics  # Where the registry of all metrics is made.
from service.settings import PREFIX, Settings, is_secret, load
from service.settings.types import Duration, DurationOrZero
from tests.support.folders import ROOT

SETTINGS = {one.name: one for one in references.settings()}


@pytest.mark.parametrize("name", references.PAGES)
def test_a_reference_is_current(name: str) -> None:
    """The file is what the generator writes now."""
    written = (ROOT / "deploy" / name).read_text(encoding="utf-8")
    assert written == references.PAGES[name](), (
        f"deploy/{name} is not current: run `make references`"
    )


def test_references_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make references` writes both files."""
    monkeypatch.setattr(references, "FOLDER", tmp_path)
    references.main()
    assert {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()} == {
        name: page() for name, page in references.PAGES.items()
    }


def test_every_setting_has_a_row() -> None:
    """The table has all settings in their order, and the secrets that the service masks."""
    assert list(SETTINGS) == [name.upper() for name in Settings.model_fields]
    assert [name for name, one in SETTINGS.items() if one.secret] == [
        name.upper() for name in Settings.model_fields if is_secret(name)
    ]


def test_every_default_can_be_set_as_it_is_written() -> None:
    """A user who copies all defaults from the table gets the settings of one who sets nothing."""
    written = {f"{PREFIX}{name}": one.value for name, one in SETTINGS.items() if one.value}
    assert load(written).model_dump() == load({}).model_dump()


@pytest.mark.parametrize(
    "one", [one for one in SETTINGS.values() if one.unit in {"s", "h"}], ids=lambda one: one.name
)
def test_a_bare_number_counts_in_the_unit_of_the_table(one: references.Setting) -> None:
    """With its unit a number means the same as without."""
    assert one.format.startswith("duration")
    number = getattr(load({}), one.name.lower()) or 30.0
    bare, with_unit = (
        load({f"{PREFIX}{one.name}": f"{number:g}{unit}"}) for unit in ("", one.unit)
    )
    assert bare.model_dump() == with_unit.model_dump()


class Colour(enum.StrEnum):
    """The values of a setting of the model below."""

    RED = "red"
    BLUE = "blue"


class Model(BaseModel):
    """Settings of each kind."""

    colour: Colour = Colour.RED
    """A colour,
    in two lines."""
    pause: Duration | None = None
    """A | pause."""
    wait: Annotated[Duration, Field(ge=0, le=60)] = 0.5
    """A pause within limits."""
    grace: DurationOrZero | None = None
    """A pause, or none."""
    port: int | None = Field(None, ge=1, le=65_535)
    """A number within limits."""
    cache_bytes: int = 3 * 1024 * 1024
    """A size."""
    share: float = 0.5
    """A number that is no duration."""
    key: SecretStr | None = None
    """A secret."""


def test_rows_of_settings() -> None:
    """A row has the name, the format, the default, the unit, "yes" for a secret, and the text."""
    assert [one.row() for one in references.settings(Model)] == [
        "| `COLOUR` | `red` or `blue` | `red` |  |  | A colour, in two lines. |",
        "| `PAUSE` | duration |  | s |  | A &#124; pause. |",
        "| `WAIT` | duration, 0 to 60 s | `500ms` | s |  | A pause within limits. |",
        "| `GRACE` | duration or 0 |  | s |  | A pause, or none. |",
        "| `PORT` | integer, 1 to 65535 |  |  |  | A number within limits. |",
        "| `CACHE_BYTES` | integer | `3145728` (3 MiB) | bytes |  | A size. |",
        "| `SHARE` | number | `0.5` |  |  | A number that is no duration. |",
        "| `KEY` | text |  |  | yes | A secret. |",
    ]


class Silent(BaseModel):
    """A model with a field that has no text."""

    described: int = 1
    """A number."""
    silent: int = 2


def test_a_setting_without_a_text_is_refused() -> None:
    """Nobody adds a setting without saying what it does."""
    with pytest.raises(ValueError, match=r"Silent\.silent has no text"):
        list(references.settings(Silent))


def test_every_metric_has_a_row() -> None:
    """The table has each metric that the registry exposes, once, with a text."""
    rows = references.metrics()
    exposed = {family.name: family.type for family in Metrics().registry.collect()}
    assert {
        row.name.removesuffix("_total") if row.type == "counter" else row.name: row.type
        for row in rows
    } == exposed
    assert len(rows) == len(exposed)
    assert [row.name for row in rows if not row.text.strip()] == []


class Late(Collector):
    """A collector that makes its families when they are collected."""

    def collect(self) -> list[CounterMetricFamily]:
        """A counter without samples."""
        return [CounterMetricFamily("late", "Later.", labels=["route"])]


def test_rows_of_metrics() -> None:
    """A row has the labels of a metric, also where it has no samples yet."""
    registry = CollectorRegistry()
    Gauge("b", "A gauge.", ["one", "two"], registry=registry)
    registry.register(Late())
    assert [one.row() for one in references.metrics(registry)] == [
        "| `b` | gauge | `one`, `two` | A gauge. |",
        "| `late_total` | counter | `route` | Later. |",
    ]
