"""Tables for people: rich on a terminal, the same columns as plain text elsewhere."""

import os
from collections.abc import Sequence
from typing import Any

from click import style
from rich.console import Console
from rich.table import Table
from rich.text import Text

COLOURS = {"Healthy": "green", "Unhealthy": "red", "InitialUnhealthy": "yellow", "yes": "green", "no": "red"}
_PLAIN_WIDTH = 200
"""Columns where there is no terminal to ask: enough that nothing is wrapped."""
_LONGEST_LINE = 100_000
"""Columns for what has any length, such as the URLs of many services."""


def events(found: Sequence[dict[str, Any]]) -> None:
    """A line per event."""
    if not found:
        _console().print("No event has been recorded yet.")
        return
    services = [field.removesuffix("_status") for field in found[0] if field.endswith("_status")]
    table = _table("recorded at", "all healthy", *services, "id")
    for row in found:
        statuses = [row.get(f"{name}_status", "") for name in services]
        _add(table, row["recorded_at"], "yes" if row["all_healthy"] else "no", *statuses, row["id"])
    _console().print(table)


def line(found: dict[str, Any]) -> str:
    """An event in one line; colours are for whoever prints it to take out where there is no terminal."""
    statuses = {name.removesuffix("_status"): status for name, status in found.items() if name.endswith("_status")}
    verdict = ("healthy  ", "green") if found["all_healthy"] else ("unhealthy", "red")
    services = [f"{name} {_coloured(status, COLOURS.get(status))}" for name, status in statuses.items()]
    return "  ".join([found["recorded_at"], _coloured(*verdict), *services])


def _coloured(text: str, colour: str | None) -> str:
    return text if os.environ.get("NO_COLOR") else style(text, colour)


def event(found: dict[str, Any]) -> None:
    """An event, field by field."""
    table = _table("field", "value")
    for field, value in found.items():
        _add(table, field, ("yes" if value else "no") if isinstance(value, bool) else value)
    _console().print(table)


def checks(found: dict[str, Any]) -> None:
    """What one check found, a line per service; the resources where they are looked at."""
    table = _table("service", "healthy", "says", "resources")
    for name, one in found.items():
        _add(table, name, "yes" if one["healthy"] else "no", one["self_info"], one["resources_info"])
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
            _add(
                table,
                name,
                "yes" if seen["healthy"] else "no",
                seen["unchanged_since"],
                seen["checked_at"],
                seen["message"],
            )
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
    return console if console.is_terminal else Console(highlight=False, width=plain_width, color_system=None)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    """Cells are texts, never markup: they hold what services said."""
    table.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in cells))
