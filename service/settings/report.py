"""What can be said of the settings: which are in effect and where they come from, and which
variables are none."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from service.settings.load import CLIENT_VARIABLES, secret_named, secret_of_file, variables
from service.settings.model import Origin, Settings, is_secret
from service.settings.types import PREFIX
from service.text import stripped

MASK = "********"

_LOCATIONS = frozenset({"redis_url"})
"""Secrets of which only the parts that are masked in every URL are secret."""
_FIELDS = frozenset(name.upper() for name in Settings.model_fields)
_SECRETS = tuple(name for name in Settings.model_fields if is_secret(name))
_NAMES = (
    *sorted(_FIELDS),
    *(f"{name}_FILE".upper() for name in _SECRETS),
    *(name.removeprefix(PREFIX) for name in CLIENT_VARIABLES),
)
"""All names that a variable of ours can have, without the prefix."""
_USER = re.compile(r"://.*@", re.DOTALL)
"""Up to the last `@`: a password that is not encoded may contain any of the other separators."""
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_LIKE = 0.8
"""How much a file's name must resemble a secret's (`difflib`, 0 to 1) to be taken for a misspelt
one."""


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting: its variable, its value as JSON has it (secrets masked), and where that comes
    from."""

    variable: str
    value: Any
    origin: Origin


def effective(settings: Settings) -> Sequence[Effective]:
    """Every setting in the order of its documentation, what follows from others by default
    included."""
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
    return masked(value.get_secret_value()) if name in _LOCATIONS else MASK


def _plain(value: Any) -> Any:
    """The value as JSON has it; URLs in it are masked."""
    match value:
        case Enum():
            return value.value
        case str() | Path():
            return masked(str(value))
        case Mapping():
            return {name: _plain(one) for name, one in value.items()}
        case tuple():
            return [_plain(one) for one in value]
        case _:
            return value


def masked(text: str) -> str:
    """A text that may be a URL, without the user and the query of one: both may carry a password or
    a token."""
    if "://" not in text:
        return text
    return _QUERY.sub(f"?{MASK}", _USER.sub(f"://{MASK}@", text))


def warnings(environ: Mapping[str, str]) -> Sequence[str]:
    """What of our variables, and of the files in `SECRETS_DIR`, is not used: a line for each, with
    the nearest name."""
    found = []
    for variable, text in variables(environ):
        name = variable.removeprefix(PREFIX).upper()
        plain = name.removesuffix("_FILE")
        if not text or name in _FIELDS or variable in CLIENT_VARIABLES or secret_of_file(variable):
            continue
        if plain != name and plain in _FIELDS:
            found.append(
                f"{variable} is not used: only secrets are read from files; set {PREFIX}{plain} itself"
            )
        else:
            (nearest,) = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.0)
            found.append(
                f"{variable} is not used: there is no such setting; the nearest is {PREFIX}{nearest}"
            )
    return [*found, *_misspelt_files(stripped(environ.get(f"{PREFIX}SECRETS_DIR", "")))]


def _misspelt_files(folder: str) -> Sequence[str]:
    """Files in `SECRETS_DIR` that are nearly named like a secret; it may contain any others."""
    try:
        files = sorted(Path(folder).iterdir()) if folder else []
    except OSError:  # Reported when the settings are loaded.
        files = []
    likely = {
        file: difflib.get_close_matches(secret_named(file), _SECRETS, n=1, cutoff=_LIKE)
        for file in files
    }
    return [
        f"{PREFIX}SECRETS_DIR: {file.name} is not used: there is no such secret; the nearest is {best[0]}"
        for file, best in likely.items()
        if best and best[0] != secret_named(file)
    ]
