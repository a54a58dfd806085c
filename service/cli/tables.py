"""Tables for people: rich on a terminal, the same columns as plain text elsewhere."""

import json
import os
from collections.abc import Sequence
from typing import Any

from click import style
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.terminal import one_line
from service.events import clean, service_names

COLOURS = {
    "Healthy": "green",
    "Unhealthy": "red",
    "InitialUnhealthy": "yellow",
    "yes": "green",
    "no": "red",
}
_PLAIN_WIDTH = 200
"""Columns where there is no terminal to ask: enough that nothing is wrapped."""
_LONGEST_LINE = 100_000
"""Columns for what has any length, such as the URLs of many services."""


def events(found: Sequence[dict[str, Any]]) -> None:
    """A line per event."""
    if not found:
        _console().print("No event has been recorded yet.")
        return
    services = service_names(found[0])
    table = _table("recorded at", "all healthy", *services, "id")
    for row in found:
        statuses = [row.get(f"{name}_status", "") for name in services]
        _add(table, row["recorded_at"], row["all_healthy"], *statuses, row["id"])
    _console().print(table)


def line(found: dict[str, Any]) -> str:
    """An event in one line, with colours that are to be taken out where there is no terminal."""
    verdict = ("healthy  ", "green") if found["all_healthy"] else ("unhealthy", "red")
    statuses = {name: _text(found[f"{name}_status"]) for name in service_names(found)}
    services = [
        f"{one_line(name)} {_coloured(one_line(status), COLOURS.get(status))}"
        for name, status in statuses.items()
    ]
    return "  ".join([one_line(found["recorded_at"]), _coloured(*verdict), *services])


def _coloured(text: str, colour: str | None) -> str:
    return text if os.environ.get("NO_COLOR") else style(text, colour)


def event(found: dict[str, Any]) -> None:
    """An event, field by field."""
    table = _table("field", "value")
    for field, value in found.items():
        _add(table, field, value)
    _console().print(table)


def checks(found: dict[str, Any]) -> None:
    """What one check found, a line per service; the resources where they are looked at."""
    table = _table("service", "healthy", "says", "resources")
    for name, one in found.items():
        _add(table, name, one["healthy"], one["self_info"], one["resources_info"])
    _console().print(table)


def health(verdict: dict[str, Any]) -> None:
    """The verdict in one line, then a line per service."""
    console = _console()
    if verdict.get("stale"):
        line = Text("The state of the cluster is not known: the knowledge is stale.", "yellow")
    elif verdict["all_healthy"]:
        line = Text("The cluster is healthy.", "green")
    else:
        line = Text("The cluster is unhealthy.", "red")
    console.print(line)
    table = _table("service", "healthy", "unchanged since", "checked at", "message")
    for name, seen in verdict.items():
        if isinstance(seen, dict):
            details = [seen.get(field) for field in ("unchanged_since", "checked_at", "message")]
            _add(table, name, seen["healthy"], *details)
    console.print(table)


def keys(found: Sequence[dict[str, Any]]) -> None:
    """A line per API key."""
    if not found:
        _console().print("There are no API keys.")
        return
    table = _table("name", "role", "id", "created at", "expires at", "last used on")
    for key in found:
        ends, used = key["expires_at"] or "never", key["last_used_on"] or "never"
        _add(table, key["name"], key["role"], key["id"], key["created_at"], ends, used)
    _console().print(table)


def settings(found: dict[str, dict[str, Any]]) -> None:
    """A line per setting, however long: its variable, where its value comes from, the value."""
    table = _table("setting", "from", "value")
    for variable, one in found.items():
        _add(table, variable, f"{one['from']} {one['file'] or ''}".rstrip(), _value(one["value"]))
    _console(plain_width=_LONGEST_LINE).print(table)


def _value(value: Any) -> str:
    """A setting's value as one writes it in a variable."""
    match value:
        case None:
            return "-"
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:.15g}"
        case list():
            return ",".join(value)
        case dict():
            return ",".join(f"{name}={text}" if text else name for name, text in value.items())
        case _:
            return str(value)


def _console(plain_width: int = _PLAIN_WIDTH) -> Console:
    console = Console(highlight=False)
    return (
        console
        if console.is_terminal
        else Console(highlight=False, width=plain_width, color_system=None)
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(clean(column)), overflow="fold")
    return table


def _add(table: Table, *values: Any) -> None:
    """Adds a row. Cells are cleaned texts, never markup: they come from services and servers."""
    cells = [clean(_text(value)) for value in values]
    table.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in cells))


def _text(value: Any) -> str:
    """A field's value for people; fields of later versions may be of any kind."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
