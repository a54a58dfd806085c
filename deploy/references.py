"""Writes SETTINGS.md and METRICS.md from the code: `make references`.

A setting is described by the text below its field in `Settings`, a metric by its text in the
registry. A test fails while the files are not current.
"""

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, get_args

from prometheus_client import CollectorRegistry
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

# All that is needed of the service. Only these lines change when a module moves.
from service.metrics import Metrics
from service.settings import PREFIX, Settings

FOLDER = Path(__file__).parent
_BYTES = ("_bytes", "_memory")
"""How the names of settings end that count bytes."""
_SPELLINGS = ((3_600, "h"), (60, "m"))
"""Units in which a duration of whole seconds is written if it has whole ones."""

SETTINGS_HEAD = f"""\
# Settings

<!-- Generated from the code by `make references`: do not edit. -->

A setting is an environment variable, `{PREFIX}<NAME>`. The table has the names without the
prefix.

- A **duration** is a number with a unit: `500ms`, `30s`, `10m`, `72h` or `90d`. A number without a
  unit counts in the unit of the column *unit*.
- A **switch** is `on` or `off`. `yes`, `true` and `1` mean `on`; `no`, `false` and `0` mean `off`.
- A **list** has commas between its elements. **Pairs** are a list of `name=value`.
- A **secret** is never shown in logs and errors. There are three ways to set it, of which one is
  enough: its variable; a file that `{PREFIX}<NAME>_FILE` names; a file in `SECRETS_DIR` that
  has the name of the setting (in any case, with `-` or `_`).
- White space and byte order marks around a value, and around the content of a file, are ignored.
  An empty variable counts as not set. An option of a command wins over the variable.
- Settings are read at the start. Two kinds of files are read again while the service runs: files of
  `JWT_SECRET` and `JWT_PUBLIC_KEY` every `SECRETS_REFRESH`, and `SERVICES_FILE` at SIGHUP (by the
  monitor).

All invalid settings are reported together, and the exit code is 2. A variable with the prefix that
is not a setting is logged, with the nearest name, by every command that reads the settings.
Variables that Kubernetes sets for a Service named `cluster-events-…` are ignored.
`cluster-events config check` reports all problems. `cluster-events config show` prints the values
in effect and their origins ([commands](COMMANDS.md)).

| setting | format | default | unit | secret | what it does |
|---|---|---|---|---|---|
"""

METRICS_HEAD = """\
# Metrics

<!-- Generated from the code by `make references`: do not edit. -->

Both roles serve their metrics at `/metrics` in the text format of Prometheus, without a credential:
the API on its port or on `METRICS_PORT`, the monitor on `MONITOR_PORT`
([operations](README.md#metrics)). Both roles have all metrics of the table. The metrics that only
the other role sets are 0, or have no samples.

With `serve --workers N`, each sample has one label more: `worker`, the number of the process. To
get the figures of the service, sum the counters and histograms over this label.

A histogram has the samples `<name>_bucket` (with the label `le`), `<name>_sum` and `<name>_count`.

| metric | type | labels | meaning |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Setting:
    """A row of the table of settings.

    `value` is the default as it can be set; `remark` says it in other words.
    """

    name: str
    format: str
    value: str
    remark: str
    unit: str
    secret: bool
    text: str

    def row(self) -> str:
        """The row in Markdown."""
        default = f"{_code(self.value)}{self.remark}" if self.value else ""
        return _row(
            _code(self.name),
            self.format,
            default,
            self.unit,
            "yes" if self.secret else "",
            self.text,
        )


@dataclass(frozen=True)
class MetricRow:
    """A row of the table of metrics."""

    name: str
    type: str
    labels: Sequence[str]
    text: str

    def row(self) -> str:
        """The row in Markdown."""
        return _row(_code(self.name), self.type, ", ".join(map(_code, self.labels)), self.text)


def settings(model: type[BaseModel] = Settings) -> Iterator[Setting]:
    """Every setting, in the order of the code. Raises `ValueError` for a field without a text."""
    texts, schema = _texts(model), model.model_json_schema()
    values = model()
    for name, field in model.model_fields.items():
        if name not in texts:
            raise ValueError(f"{model.__name__}.{name} has no text that describes it")
        kind = _kind(schema["properties"][name], schema.get("$defs", {}))
        unit = _unit(name, kind, _annotated(field))
        value = getattr(values, name)
        yield Setting(
            name.upper(),
            _format(kind, _limits(field.annotation, field.metadata), unit),
            _spelled(value, unit),
            _remark(value, unit),
            unit,
            secret=kind.get("format") == "password",
            text=texts[name],
        )


def _texts(model: type[BaseModel]) -> Mapping[str, str]:
    """The texts below the fields of a class, each in one line."""
    texts = {}
    nodes = (
        node.body
        for node in ast.parse(inspect.getsource(model)).body
        if isinstance(node, ast.ClassDef)
    )
    for field, text in pairwise(chain.from_iterable(nodes)):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(found))
            ):
                texts[name] = " ".join(found.split())
    return texts


def _kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON schema of a field's value, where it is set."""
    schema = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    reference = schema.get("$ref")
    return definitions[reference.rpartition("/")[2]] if reference else schema


def _annotated(field: FieldInfo) -> Any:
    """The type of a field with its validators, and without its default."""
    annotation: Any = field.annotation
    for one in field.metadata:
        annotation = Annotated[annotation, one]
    return annotation


def _unit(name: str, kind: Mapping[str, Any], annotation: Any) -> str:
    """The unit in which a bare number counts.

    A duration is recognised by its validator, which reads `1s`.
    """
    if kind["type"] == "integer":
        return "bytes" if name.endswith(_BYTES) else ""
    if kind["type"] != "number":
        return ""
    try:
        return {1.0: "s", 1 / 3_600: "h"}[TypeAdapter(annotation).validate_python("1s")]
    except ValidationError:
        return ""


def _format(kind: Mapping[str, Any], limits: Mapping[str, float], unit: str) -> str:
    """What can be set, in a few words. `limits` are those of `_limits`."""
    if "enum" in kind:
        return " or ".join(map(_code, kind["enum"]))
    names = {"boolean": "switch", "array": "list", "object": "pairs", "string": "text"}
    name = "path" if kind.get("format") == "path" else names.get(kind["type"], kind["type"])
    duration = unit in {"s", "h"}
    if duration:
        name = "duration or 0" if limits.get("ge") == 0 and "le" not in limits else "duration"
    if "le" in limits:
        return f"{name}, {limits.get('ge', 0):.0f} to {limits['le']:.0f}" + (
            f" {unit}" if duration else ""
        )
    return f"{name}, at least {limits['ge']:.0f}" if limits.get("ge") else name


def _limits(annotation: Any, metadata: Iterable[Any] = ()) -> Mapping[str, float]:
    """The least (`ge`) and the most (`le`) that a type allows.

    The JSON schema has them for some types only.
    """
    limits: dict[str, float] = {}
    for one in metadata:
        limits |= _limits(None, one.metadata) if isinstance(one, FieldInfo) else {}
        limits |= {
            name: getattr(one, name)
            for name in ("ge", "le")
            if getattr(one, name, None) is not None
        }
    for part in get_args(annotation):
        limits |= _limits(part, getattr(part, "__metadata__", ()))
    return limits


def _spelled(value: Any, unit: str) -> str:
    """A default as it can be set; nothing for one that cannot."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    elif isinstance(value, Enum):
        value = value.value
    elif isinstance(value, bool):
        value = "on" if value else "off"
    elif isinstance(value, float) and unit:
        value = _duration(value * {"s": 1, "h": 3_600}[unit])
    elif isinstance(value, Mapping):
        value = ",".join(f"{name}={one}" if one else name for name, one in value.items())
    elif isinstance(value, tuple):
        value = ",".join(value)
    return "" if value is None else str(value)


def _duration(seconds: float) -> str:
    if seconds % 1:
        return f"{seconds * 1_000:g}ms"
    length, unit = next((one for one in _SPELLINGS if seconds and seconds % one[0] == 0), (1, "s"))
    return f"{seconds / length:g}{unit}"


def _remark(value: Any, unit: str) -> str:
    return f" ({value / 1024**2:g} MiB)" if unit == "bytes" and value else ""


def metrics(registry: CollectorRegistry | None = None) -> Sequence[MetricRow]:
    """Every metric, by name."""
    registry = registry or Metrics().registry
    rows = []
    # The registry has no public way to the labels of a metric without samples.
    for collector in registry._collector_to_names:  # noqa: SLF001
        described = getattr(collector, "describe", collector.collect)()
        for family in described:
            labels = getattr(family, "_labelnames", getattr(collector, "_labelnames", ()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            rows.append(MetricRow(name, family.type, labels, family.documentation))
    return sorted(rows, key=lambda row: row.name)


def settings_page() -> str:
    """The text of SETTINGS.md."""
    return SETTINGS_HEAD + _lines(one.row() for one in settings())


def metrics_page() -> str:
    """The text of METRICS.md."""
    return METRICS_HEAD + _lines(one.row() for one in metrics())


PAGES: Mapping[str, Callable[[], str]] = {"SETTINGS.md": settings_page, "METRICS.md": metrics_page}


def _lines(rows: Iterable[str]) -> str:
    return "".join(f"{row}\n" for row in rows)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _code(text: str) -> str:
    return f"`{text}`"


def main() -> None:
    """Writes both files."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
