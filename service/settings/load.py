"""Loads settings from the environment, files of secrets and the services file.

All problems are reported together.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from service.errors import SettingsError
from service.settings.model import Kind, Origin, Settings, is_secret
from service.settings.types import PREFIX
from service.text import decoded, stripped

CLIENT_VARIABLES = ("CLUSTER_EVENTS_URL", "CLUSTER_EVENTS_TOKEN")
"""Variables with our prefix that only the client commands read; they are not settings."""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises `OSError`, or `ValueError` with a message that continues "the file is".
    """
    return decoded(path.read_bytes())


def read_toml(path: Path) -> Mapping[str, Any]:
    """The tables of a services file. Raises `ValueError` with a message for the operator."""
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
    except RecursionError as error:
        raise ValueError(f"the file {path} has values that are nested too deeply") from error
    if wrong := [name for name, table in tables.items() if not isinstance(table, dict)]:
        raise ValueError(
            f"'{wrong[0]}' is not a table: "
            "expected a [name] for each service, and its settings below it"
        )
    return tables


_SERVICE_LINK = re.compile(
    r"(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)",
    re.ASCII,
)
"""Names of variables that only a Kubernetes service link has."""
_LINKED_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://.*", re.ASCII | re.IGNORECASE)


def is_service_link(name: str, text: str) -> bool:
    """Whether a variable comes from a Kubernetes Service whose name begins with `cluster-events`.

    `name` is the variable without our prefix. Kubernetes documents these variables as "Environment
    variables" of Services: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT[_PORTNAME]`, `NAME_PORT` with an
    address, and `NAME_PORT_80_TCP[_PROTO|_PORT|_ADDR]`. The Service `cluster-events-monitor` thus
    sets the variable of the setting `MONITOR_PORT`; only the value shows which one it is.
    """
    has_address = _LINKED_ADDRESS.fullmatch(text) is not None
    if name.lower() in Settings.model_fields:
        return name.endswith("PORT") and has_address
    is_port = name == "PORT" or name.endswith("_PORT")
    return (is_port and has_address) or _SERVICE_LINK.fullmatch(name) is not None


def variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables with our prefix and their values, without surrounding white space.

    Empty variables and service links are left out.
    """
    for variable, raw in environ.items():
        if variable.startswith(PREFIX) and raw:
            text = stripped(raw)
            if not is_service_link(variable.removeprefix(PREFIX), text):
                yield variable, text


def secret_of_file(variable: str) -> str | None:
    """The field name of the secret for a variable `CLUSTER_EVENTS_<NAME>_FILE`, else `None`."""
    name = variable.removeprefix(PREFIX).lower()
    if name in Settings.model_fields or not name.endswith("_file"):
        return None
    secret = name.removesuffix("_file")
    return secret if secret in Settings.model_fields and is_secret(secret) else None


@dataclass(slots=True)
class _Sources:
    """The values found for each field, their origins, and the problems."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, value: Any, kind: Kind, file: Path | None = None) -> None:
        """Add the value of a field, or replace an earlier one."""
        self.values[name], self.origins[name] = value, Origin(kind, file)


def load(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """Load the settings from `environ`.

    The variables are `CLUSTER_EVENTS_<NAME>`. A secret may also be in the file that
    `CLUSTER_EVENTS_<NAME>_FILE` names, or else in a file in `SECRETS_DIR`. White space and byte
    order marks around a value are removed, and an empty value counts as not set. `overrides` are
    options of the command line and take precedence, unless they are `None`.

    Raises `SettingsError` with all problems, each with its variable. The messages do not contain
    the values of secrets.
    """
    sources = _Sources()
    for variable, text in variables(environ):
        name = variable.removeprefix(PREFIX).lower()
        if name in Settings.model_fields:
            _add_variable(sources, variable, name, text)
        elif secret := secret_of_file(variable):
            _read_secret_file(sources, variable, secret, text, environ)
    _read_secrets_dir(sources)
    _read_services(sources)
    for name, value in overrides.items():
        if value is not None:
            text_or_value = stripped(value) if isinstance(value, str) else value
            sources.add(name, text_or_value, Kind.COMMAND_LINE)
    settings = _validated(sources.values, sources.problems)
    # Not a field, so that pydantic does not validate or print it.
    settings._origins = sources.origins  # noqa: SLF001
    return settings


def reread(settings: Settings) -> Settings:
    """The same settings with the current contents of the files of JWT secrets and public keys.

    It blocks during the reads. Raises `SettingsError`.
    """
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    problems: list[str] = []
    for name, file in settings.jwt_secret_files.items():
        if secret := _read(f"{PREFIX}{name}".upper(), file, problems):
            values[name] = SecretStr(secret)
    if problems:
        raise SettingsError(problems)
    reread_settings = _validated(values)
    reread_settings._origins = settings._origins  # noqa: SLF001  # As in `load`.
    return reread_settings


def _add_variable(sources: _Sources, variable: str, name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Python decodes other bytes of the environment as lone surrogates (PEP 383).
        sources.problems.append(f"{variable}: not UTF-8 text")
        return
    if text:
        sources.add(name, text, Kind.ENVIRONMENT)
    # A secret of white space is a mistake: it must not count as "no secret".
    elif is_secret(name):
        sources.problems.append(f"{variable}: it is only white space")


def _read_services(sources: _Sources) -> None:
    """Take the services from the services file, unless `SERVICES` is set."""
    if "services_file" not in sources.values or "services" in sources.values:
        return
    file = Path(sources.values["services_file"])
    try:
        tables = read_toml(file)
    except ValueError as error:
        sources.problems.append(f"{PREFIX}SERVICES_FILE: {error}")
        return
    urls = {name: table.get("url") for name, table in tables.items()}
    sources.add("services", urls, Kind.SERVICES_FILE, file)


def _validated(values: Mapping[str, Any], earlier_problems: Sequence[str] = ()) -> Settings:
    """Settings with these values. Raises `SettingsError` with all problems."""
    problems = list(earlier_problems)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += _explain(error)
        invalid = {problem["loc"][0] for problem in _errors(error) if problem["loc"]}
        # pydantic checks combinations of fields only if all fields are valid. So validate once more
        # without the invalid fields, to report the problems of the other ones too.
        if invalid:
            try:
                Settings.model_validate(
                    {name: value for name, value in values.items() if name not in invalid}
                )
            except ValidationError as rest:
                problems += _explain(rest)
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _read_secret_file(
    sources: _Sources, variable: str, name: str, path: str, environ: Mapping[str, str]
) -> None:
    direct = variable.removesuffix("_FILE")
    if environ.get(direct):
        sources.problems.append(f"{variable}: {direct} is set too; set one of them")
    elif path and (secret := _read(variable, Path(path), sources.problems)):
        sources.add(name, secret, Kind.FILE, Path(path))


def _read_secrets_dir(sources: _Sources) -> None:
    """Read the secrets in `SECRETS_DIR` that are not set in another way."""
    folder = sources.values.get("secrets_dir")
    if not folder:
        return
    try:
        files = sorted(Path(folder).iterdir())
    except OSError as error:
        sources.problems.append(
            f"{PREFIX}SECRETS_DIR: cannot read the folder it names: {error.strerror}"
        )
        return
    for file in files:
        name = secret_field_name(file)
        if name not in Settings.model_fields or not is_secret(name) or name in sources.values:
            continue
        if secret := _read(f"{PREFIX}SECRETS_DIR ({file.name[:64]})", file, sources.problems):
            sources.add(name, secret, Kind.SECRETS_DIR, file)


def secret_field_name(file: Path) -> str:
    """The name of the field for a file in `SECRETS_DIR`; there may be no such field."""
    return file.name.lower().replace("-", "_")


def _read(variable: str, file: Path, problems: list[str]) -> str:
    """The secret in a file, or an empty text if there is a problem.

    The message about an unreadable file does not contain its name: the name may be the secret
    itself, set in the wrong variable.
    """
    try:
        secret = stripped(read_text(file))
    except OSError as error:
        problems.append(f"{variable}: cannot read the file it names: {error.strerror}")
        return ""
    except ValueError as error:
        problems.append(f"{variable}: the file {file} is {error}")
        return ""
    # An empty file is a mistake: it must not count as "no secret".
    if not secret:
        problems.append(f"{variable}: the file {file} is empty")
    return secret


def _explain(error: ValidationError) -> list[str]:
    """The validation errors as problems, with the variable of each invalid field."""
    lines: list[str] = []
    for problem in _errors(error):
        message = problem["msg"].removeprefix("Value error, ")
        # Problems of combinations have no location, and contain the variable already.
        variable = f"{PREFIX}{problem['loc'][0]}".upper() + ": " if problem["loc"] else ""
        lines += [variable + line for line in message.splitlines()]
    return lines


def _errors(error: ValidationError) -> list[ErrorDetails]:
    """The validation errors, without errors of defaults that depend on an invalid field."""
    errors = error.errors(include_input=False, include_url=False, include_context=False)
    return [one for one in errors if one["type"] != "default_factory_not_called"]
