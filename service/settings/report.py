"""Reports about settings: their effective values and origins, and unknown variables."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from service.settings.load import CLIENT_VARIABLES, secret_field_name, secret_of_file, variables
from service.settings.model import Origin, Settings, is_secret
from service.settings.types import PREFIX
from service.text import stripped

MASK = "********"
"""Shown in place of a secret."""

_MASKED_URLS = frozenset({"redis_url"})
"""Secrets that are shown as URLs, with a masked user and query."""
_FIELDS = frozenset(name.upper() for name in Settings.model_fields)
_SECRETS = tuple(name for name in Settings.model_fields if is_secret(name))
_NAMES = (
    *sorted(_FIELDS),
    *(f"{name}_FILE".upper() for name in _SECRETS),
    *(name.removeprefix(PREFIX) for name in CLIENT_VARIABLES),
)
"""All valid names of variables, without the prefix."""
_USER = re.compile(r"://.*@", re.DOTALL)
"""Up to the last `@`, since a password that is not percent-encoded may contain separators."""
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_MISSPELT_RATIO = 0.8
"""The similarity (`difflib`, 0 to 1) from which a file name counts as a misspelt secret name."""


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting: its variable, its value for JSON with secrets masked, and its origin."""

    variable: str
    value: Any
    origin: Origin


def effective(settings: Settings) -> Sequence[Effective]:
    """All settings in the order of the model, with defaults that depend on other settings."""
    derived = {
        "stale_after": settings.stale_after_s,
        "jwt_algorithms": settings.key_set_algorithms if settings.key_sets else settings.algorithms,
    }
    return [
        Effective(
            f"{PREFIX}{name}".upper(),
            _shown(name, derived.get(name, getattr(settings, name))),
            settings.origin(name),
        )
        for name in Settings.model_fields
    ]


def _shown(name: str, value: Any) -> Any:
    if not isinstance(value, SecretStr):
        return _plain(value)
    return masked(value.get_secret_value()) if name in _MASKED_URLS else MASK


def _plain(value: Any) -> Any:
    """The value for JSON, with masked URLs."""
    match value:
        case Enum():
            return value.value
        case str() | Path():
            return masked(str(value))
        case Mapping():
            return {name: _plain(element) for name, element in value.items()}
        case tuple():
            return [_plain(element) for element in value]
        case _:
            return value


def masked(text: str) -> str:
    """A text in which the user and the query of a URL are masked, since they may be secret."""
    if "://" not in text:
        return text
    return _QUERY.sub(f"?{MASK}", _USER.sub(f"://{MASK}@", text))


def warnings(environ: Mapping[str, str]) -> Sequence[str]:
    """A line for each variable, and each file in `SECRETS_DIR`, that is not used.

    It contains the nearest valid name.
    """
    unused = []
    for variable, text in variables(environ):
        name = variable.removeprefix(PREFIX).upper()
        plain = name.removesuffix("_FILE")
        if not text or name in _FIELDS or variable in CLIENT_VARIABLES or secret_of_file(variable):
            continue
        if plain != name and plain in _FIELDS:
            unused.append(
                f"{variable} is not used: "
                f"only secrets are read from files; set {PREFIX}{plain} itself"
            )
        else:
            (nearest,) = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.0)
            unused.append(
                f"{variable} is not used: "
                f"there is no such setting; the nearest is {PREFIX}{nearest}"
            )
    return [*unused, *_misspelt_files(stripped(environ.get(f"{PREFIX}SECRETS_DIR", "")))]


def _misspelt_files(folder: str) -> Sequence[str]:
    """A line for each file in `SECRETS_DIR` whose name is nearly that of a secret.

    The folder may contain other files, which are not reported.
    """
    try:
        files = sorted(Path(folder).iterdir()) if folder else []
    except OSError:  # `load` reports it.
        files = []
    names = {file: secret_field_name(file) for file in files}
    nearest = {
        file: difflib.get_close_matches(name, _SECRETS, n=1, cutoff=_MISSPELT_RATIO)
        for file, name in names.items()
    }
    return [
        (
            f"{PREFIX}SECRETS_DIR: {file.name} is not used: "
            f"there is no such secret; the nearest is {matches[0]}"
        )
        for file, matches in nearest.items()
        if matches and matches[0] != names[file]
    ]
