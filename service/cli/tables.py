"""Tables for people, made with rich: coloured on a terminal, plain text elsewhere."""

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
"""The colour of a cell, by its text."""
_PLAIN_WIDTH = 200
"""Columns if stdout is not a terminal: enough for every table but that of the settings."""
_LONGEST_LINE = 100_000
"""Columns for texts of any length, such as the URLs of many services."""


def events(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line for each event."""
    if not rows:
        _console().print("No event has been recorded yet.")
        return
    services = service_names(rows[0])
    table = _table("recorded at", "all healthy", *services, "id")
    for row in rows:
        statuses = [row.get(f"{name}_status", "") for name in services]
        _add(table, row["recorded_at"], row["all_healthy"], *statuses, row["id"])
    _console().print(table)


def line(event: dict[str, Any]) -> str:
    """An event as one line with colours, which `terminal.say` removes if there is no terminal."""
    verdict = ("healthy  ", "green") if event["all_healthy"] else ("unhealthy", "red")
    statuses = {name: _text(event[f"{name}_status"]) for name in service_names(event)}
    services = [
        f"{one_line(name)} {_coloured(one_line(status), COLOURS.get(status))}"
        for name, status in statuses.items()
    ]
    return "  ".join([one_line(event["recorded_at"]), _coloured(*verdict), *services])


def _coloured(text: str, colour: str | None) -> str:
    return text if os.environ.get("NO_COLOR") else style(text, colour)


def event(fields: dict[str, Any]) -> None:
    """Print an event, a line for each field."""
    table = _table("field", "value")
    for field, value in fields.items():
        _add(table, field, value)
    _console().print(table)


def checks(results: dict[str, Any]) -> None:
    """Print the results of one check, a line for each service."""
    table = _table("service", "healthy", "self info", "resources info")
    for name, result in results.items():
        _add(table, name, result["healthy"], result["self_info"], result["resources_info"])
    _console().print(table)


def health(verdict: dict[str, Any]) -> None:
    """Print the verdict in one line, then a line for each service."""
    console = _console()
    if verdict.get("stale"):
        line = Text(
            "The state of the cluster is not known: the last known state is stale.", "yellow"
        )
    elif verdict["all_healthy"]:
        line = Text("The cluster is healthy.", "green")
    else:
        line = Text("The cluster is unhealthy.", "red")
    console.print(line)
    table = _table("service", "healthy", "unchanged since", "checked at", "message")
    for name, service in verdict.items():
        if isinstance(service, dict):
            details = [service.get(field) for field in ("unchanged_since", "checked_at", "message")]
            _add(table, name, service["healthy"], *details)
    console.print(table)


def keys(descriptions: Sequence[dict[str, Any]]) -> None:
    """Print a line for each API key."""
    if not descriptions:
        _console().print("There are no API keys.")
        return
    table = _table("name", "role", "id", "created at", "expires at", "last used on")
    for key in descriptions:
        expires, used = key["expires_at"] or "never", key["last_used_on"] or "never"
        _add(table, key["name"], key["role"], key["id"], key["created_at"], expires, used)
    _console().print(table)


def settings(rows: dict[str, dict[str, Any]]) -> None:
    """Print a line of any length for each setting: its variable, its origin and its value."""
    table = _table("setting", "from", "value")
    for variable, row in rows.items():
        _add(table, variable, f"{row['from']} {row['file'] or ''}".rstrip(), _value(row["value"]))
    _console(plain_width=_LONGEST_LINE).print(table)


def _value(value: Any) -> str:
    """The value of a setting, as it is written in a variable."""
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
    """Add a row.

    Cells may contain text from services and servers, which is not trusted: control characters are
    removed, and rich's markup is not interpreted.
    """
    cells = [clean(_text(value)) for value in values]
    table.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in cells))


def _text(value: Any) -> str:
    """The value of a field for people; fields of later versions may have any JSON type."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
