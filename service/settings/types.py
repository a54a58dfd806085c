"""Types of settings: durations, switches, lists, URLs and hosts, and how their texts are parsed."""

import base64
import ipaddress
import re
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
)

PREFIX = "CLUSTER_EVENTS_"

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", re.ASCII)
_UNITS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3_600),
    "d": Decimal(86_400),
}
"""Exact, so that the same duration in two units is the same number."""
_LONGEST_S = 36_500 * 86_400.0
"""A hundred years: beyond, Redis takes no expiry, and nobody means it."""
SERVICE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_RESERVED_SERVICE_NAMES = frozenset({"all_healthy", "stale", "stale_after_seconds"})
"""Names of the verdict's own fields, beside which each service has a field."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(
    r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII
)


def seconds(value: str, bare_unit: str = "s") -> float:
    """A duration in seconds: a plain number (in `bare_unit`), or one with a unit: `500ms`, `30s`,
    `10m`, `72h`, `90d`.

    Raises `ValueError` for anything else.
    """
    match = _DURATION.fullmatch(value.strip())
    if not match:
        raise ValueError("expected a duration such as 500ms, 30s, 10m or 72h")
    duration = float(Decimal(match[1]) * _UNITS[match[2] or bare_unit])
    if duration > _LONGEST_S:
        raise ValueError("expected at most 36500d")
    return duration


def parse_duration(value: object) -> object:
    return seconds(value) if isinstance(value, str) else value


def parse_retention_hours(value: object) -> object:
    return seconds(value, "h") / 3_600 if isinstance(value, str) else value


def _switch(value: object) -> object:
    """`on` and `off`; pydantic's own booleans (yes, no, true, false, 1, 0) are taken as well."""
    return {"on": True, "off": False}.get(value.lower(), value) if isinstance(value, str) else value


def _split(value: object) -> object:
    return (
        tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, str)
        else value
    )


def parse_services(value: object) -> object:
    """`name=URL` pairs, or names alone where nothing is checked, separated by commas; or a mapping
    of a services file."""
    if isinstance(value, str):
        pairs = [part.partition("=")[::2] for part in value.split(",") if part.strip()]
    elif isinstance(value, Mapping):
        pairs = [(name, url if isinstance(url, str) else "") for name, url in value.items()]
    else:
        return value
    services: dict[str, str] = {}
    for name, url in ((name.strip(), url.strip()) for name, url in pairs):
        if not SERVICE_NAME.fullmatch(name) or name in _RESERVED_SERVICE_NAMES:
            shown = name.partition("://")[0][
                :40
            ]  # Where the `=` is missing this is a URL, perhaps with a password.
            raise ValueError(
                f"'{shown}' cannot be a service's name: use lower-case identifiers, as in api=http://…"
            )
        if name in services:
            raise ValueError(f"the service '{name}' is named twice")
        if url and not can_be_checked(url):
            raise ValueError(
                f"the URL of '{name}' is not an http:// or https:// URL, nor tcp://host:port, redis://… or rediss://…"
            )
        services[name] = url
    if not services:
        raise ValueError("name at least one service, as in api=http://…")
    return services


def parse_pairs(value: object) -> object:
    """`name=text` pairs, separated by commas; the text may contain further equals signs."""
    if not isinstance(value, str):
        return value
    pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
    if wrong := [name for name, _, text in pairs if not name or not text]:
        raise ValueError(f"'{wrong[0][:40]}' has no value: expected name=value pairs")
    return {name: text for name, _, text in pairs}


def can_be_checked(url: str) -> bool:
    """Whether there is a kind of check for the URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    known = parts.scheme in {"http", "https", "redis", "rediss"} or (
        parts.scheme == "tcp" and port is not None
    )
    return known and bool(parts.hostname)


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
DurationOrZero = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class Auth(StrEnum):
    """Whether requests need a credential."""

    REQUIRED = "required"
    NONE = "none"


class Unknown(StrEnum):
    """What it means when the resources behind a service cannot be known."""

    IGNORE = "ignore"
    UNHEALTHY = "unhealthy"


class LogFormat(StrEnum):
    """How log lines look: for people, or one JSON object a line."""

    TEXT = "text"
    JSON = "json"


def webhook_key(secret: SecretStr) -> bytes | None:
    """The bytes that a webhook's secret stands for, or `None` if it is none (Standard Webhooks,
    "Signature scheme")."""
    prefix, _, encoded = secret.get_secret_value().partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    return key if prefix == "whsec" and 24 <= len(key) <= 64 else None  # noqa: PLR2004  # As the standard says.


def is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def is_host_name(text: str) -> bool:
    """Whether it is a host name in ASCII, or an IP address (that of IPv6 with or without
    brackets)."""
    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]") if ":" in text else text)
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return True


def cors_origin_problem(text: str) -> str | None:
    """What is wrong with an origin of browsers: it is compared with what they send (the Fetch
    standard, "serializing a request origin"), so only one spelling of it ever matches."""
    variable = f"{PREFIX}CORS_ORIGINS"
    right = _origin_of(text)
    if text in {"*", right}:
        return None
    if right is None:
        return f"{variable}: expected origins such as https://status.example, separated by commas, or * for all"
    return f"{variable}: expected {right}, as browsers send it: in lower case, without a default port, path or slash at its end"


def _origin_of(text: str) -> str | None:
    """The origin of a URL, or of a host without a scheme, as browsers send it; `None` where there
    is none."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            host = f"[{ipaddress.IPv6Address(host)}]"
        elif host:
            host = host.encode("idna").decode()
    except ValueError:
        return None
    # `null` is what every sandboxed page sends.
    if not is_host_name(host) or host == "null" or parts.netloc.endswith(":"):
        return None
    scheme = parts.scheme or ("http" if is_loopback(host.strip("[]")) else "https")
    return f"{scheme}://{host}" + (
        f":{port}" if port is not None and port != _DEFAULT_PORTS.get(scheme) else ""
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can be reached there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_safe_url(url: str) -> bool:
    """Whether keys may be fetched from there: by https, or by http from this machine, and without a
    password in the URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    return safe and bool(host) and "@" not in parts.netloc
