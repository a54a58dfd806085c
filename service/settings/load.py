"""Loading: environment, files of secrets and services; every problem is reported at once."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import (
    SecretStr,
    ValidationError,
)
from pydantic_core import ErrorDetails

from service.errors import SettingsError
from service.settings.model import Kind, Origin, Settings, is_secret
from service.settings.types import PREFIX
from service.text import decoded, stripped

CLIENT_VARIABLES = ("CLUSTER_EVENTS_URL", "CLUSTER_EVENTS_TOKEN")
"""What the client commands read besides: no settings of the service."""


def read_text(path: Path) -> str:
    """The text of a file. Raises `OSError`, or `ValueError` with what the file is instead of
    UTF-8."""
    return decoded(path.read_bytes())


def read_toml(path: Path) -> Mapping[str, Any]:
    """The tables of a services file. Raises `ValueError`, with a reason for people."""
    try:
        text = read_text(path)
    except OSError as error:
        raise ValueError(f"cannot read the file it names: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"the file {path} is {error}") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the file {path} is not TOML: {error}") from error
    if wrong := [name for name, table in tables.items() if not isinstance(table, dict)]:
        raise ValueError(
            f"'{wrong[0]}' is not a table: expected a [name] for each service, and its settings below it"
        )
    return tables


_SERVICE_LINK = re.compile(
    r"(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)",
    re.ASCII,
)
_LINKED_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://.*", re.ASCII | re.IGNORECASE)


def is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes sets such a variable for a Service whose name begins with ours. `name` is
    without our prefix.

    Kubernetes documents them as "Environment variables" of Services: `NAME_SERVICE_HOST`,
    `NAME_SERVICE_PORT[_PORTNAME]`, `NAME_PORT` with an address, and
    `NAME_PORT_80_TCP[_PROTO|_PORT|_ADDR]`. The Service `cluster-events-monitor` thus sets
    `CLUSTER_EVENTS_MONITOR_PORT`, which only the value distinguishes from the setting.
    """
    if name.lower() in Settings.model_fields:
        return name.endswith("PORT") and _LINKED_ADDRESS.fullmatch(text) is not None
    is_address = (name == "PORT" or name.endswith("_PORT")) and _LINKED_ADDRESS.fullmatch(
        text
    ) is not None
    return is_address or _SERVICE_LINK.fullmatch(name) is not None


def variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Our variables and what they say, without white space around it; not those that are empty, nor
    service links."""
    for variable, raw in environ.items():
        if variable.startswith(PREFIX) and raw:
            text = stripped(raw)
            if not is_service_link(variable.removeprefix(PREFIX), text):
                yield variable, text


def secret_of_file(variable: str) -> str | None:
    """The secret whose file the variable `CLUSTER_EVENTS_<NAME>_FILE` names, as the name of a
    field; `None` if it names none."""
    name = variable.removeprefix(PREFIX).lower()
    if name in Settings.model_fields or not name.endswith("_file"):
        return None
    secret = name.removesuffix("_file")
    return secret if secret in Settings.model_fields and is_secret(secret) else None


@dataclass(slots=True)
class _Found:
    """What was found for each field, where, and what is wrong with it."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def take(self, name: str, value: Any, kind: Kind, file: Path | None = None) -> None:
        """Takes a value, in place of any that was there."""
        self.values[name], self.origins[name] = value, Origin(kind, file)


def load(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """The settings of `environ`: `CLUSTER_EVENTS_<NAME>`, or for secrets
    `CLUSTER_EVENTS_<NAME>_FILE` naming a file, or else a file in `CLUSTER_EVENTS_SECRETS_DIR`.
    White space and byte order marks around them do not count.

    `overrides` come from the command line and win; those that are `None` are left out. An empty
    value counts as not set. Raises `SettingsError` with every problem, each with its variable; no
    value of a secret is repeated.
    """
    found = _Found()
    for variable, text in variables(environ):
        name = variable.removeprefix(PREFIX).lower()
        if name in Settings.model_fields:
            _take_text(found, variable, name, text)
        elif secret := secret_of_file(variable):
            _read_secret(found, variable, secret, text, environ)
    _read_folder(found)
    _read_services(found)
    for name, value in overrides.items():
        if value is not None:
            found.take(
                name, stripped(value) if isinstance(value, str) else value, Kind.COMMAND_LINE
            )
    settings = _validated(found.values, found.problems)
    settings._origins = found.origins  # noqa: SLF001  # Not a setting: where they come from.
    return settings


def reread(settings: Settings) -> Settings:
    """The same settings with the current contents of the files of JWT secrets. Blocks. Raises
    `SettingsError`."""
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    problems: list[str] = []
    for name, file in settings.jwt_secret_files.items():
        if secret := _read(f"{PREFIX}{name}".upper(), file, problems):
            values[name] = SecretStr(secret)
    if problems:
        raise SettingsError(problems)
    again = _validated(values)
    again._origins = settings._origins  # noqa: SLF001  # Not a setting: the origins of the values.
    return again


def _take_text(found: _Found, variable: str, name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # Bytes of the environment that are not UTF-8 (PEP 383).
        found.problems.append(f"{variable}: not UTF-8 text")
        return
    if text:
        found.take(name, text, Kind.ENVIRONMENT)
    elif is_secret(name):  # As for an empty file: a secret that somebody provided is meant.
        found.problems.append(f"{variable}: it is only white space")


def _read_services(found: _Found) -> None:
    """Without SERVICES, the services are those of the file."""
    if "services_file" not in found.values or "services" in found.values:
        return
    file = Path(found.values["services_file"])
    try:
        tables = read_toml(file)
    except ValueError as error:
        found.problems.append(f"{PREFIX}SERVICES_FILE: {error}")
    else:
        found.take(
            "services",
            {name: table.get("url") for name, table in tables.items()},
            Kind.SERVICES_FILE,
            file,
        )


def _validated(values: Mapping[str, Any], found: Sequence[str] = ()) -> Settings:
    """Settings of these values. Raises `SettingsError` with every problem, those that were `found`
    before included."""
    problems = list(found)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += _explain(error)
        wrong = {problem["loc"][0] for problem in _errors(error) if problem["loc"]}
        # What the other fields have wrong among themselves would go untold until these are right.
        if wrong:
            try:
                Settings.model_validate(
                    {name: value for name, value in values.items() if name not in wrong}
                )
            except ValidationError as rest:
                problems += _explain(rest)
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _read_secret(
    found: _Found, variable: str, name: str, path: str, environ: Mapping[str, str]
) -> None:
    direct = variable.removesuffix("_FILE")
    if environ.get(direct):
        found.problems.append(f"{variable}: {direct} is set too; set one of them")
    elif path and (secret := _read(variable, Path(path), found.problems)):
        found.take(name, secret, Kind.FILE, Path(path))


def _read_folder(found: _Found) -> None:
    """The secrets of `SECRETS_DIR` that are not set otherwise."""
    folder = found.values.get("secrets_dir")
    if not folder:
        return
    try:
        files = sorted(Path(folder).iterdir())
    except OSError as error:
        found.problems.append(
            f"{PREFIX}SECRETS_DIR: cannot read the folder it names: {error.strerror}"
        )
        return
    for file in files:
        name = secret_named(file)
        if name not in Settings.model_fields or not is_secret(name) or name in found.values:
            continue
        if secret := _read(f"{PREFIX}SECRETS_DIR ({file.name[:64]})", file, found.problems):
            found.take(name, secret, Kind.SECRETS_DIR, file)


def secret_named(file: Path) -> str:
    """The name of the field that a file in `SECRETS_DIR` is for, if there is one."""
    return file.name.lower().replace("-", "_")


def _read(variable: str, file: Path, problems: list[str]) -> str:
    """The secret in a file, or nothing if there is a problem.

    A file that cannot be read is not named: its name may be the secret itself, in the wrong
    variable.
    """
    try:
        secret = stripped(read_text(file))
    except OSError as error:
        problems.append(f"{variable}: cannot read the file it names: {error.strerror}")
        return ""
    except ValueError as error:
        problems.append(f"{variable}: the file {file} is {error}")
        return ""
    if (
        not secret
    ):  # It would count as not set, which for a secret that somebody provided is never meant.
        problems.append(f"{variable}: the file {file} is empty")
    return secret


def _explain(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for problem in _errors(error):
        message = problem["msg"].removeprefix("Value error, ")
        where = f"{PREFIX}{problem['loc'][0]}".upper() + ": " if problem["loc"] else ""
        lines += [where + line for line in message.splitlines()]
    return lines


def _errors(error: ValidationError) -> list[ErrorDetails]:
    """The mistakes, without those defaults that could only not be computed because of them."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return [one for one in found if one["type"] != "default_factory_not_called"]
