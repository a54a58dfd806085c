"""Types of settings, and the parsing of durations, switches, lists, URLs and host names."""

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
"""The prefix of all variables."""

SYMMETRIC_ALGORITHMS = ("HS256", "HS384", "HS512")
ASYMMETRIC_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
KEY_SET_ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
"""For published keys: the algorithms that issuers use in practice, since fewer is safer."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", re.ASCII)
_UNITS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3_600),
    "d": Decimal(86_400),
}
"""Seconds of each unit, as exact decimals: 500ms and 0.5s are the same float."""
_LONGEST_S = 36_500 * 86_400.0
"""A hundred years: Redis refuses much longer expiries."""
_ANOTHER = re.compile(r"(?<![?&A-Za-z0-9_])[a-z][a-z0-9_]*=[a-z+]+://", re.ASCII)
"""Another `name=URL` inside a URL. A URL may be a parameter of another."""
SERVICE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_RESERVED_SERVICE_NAMES = frozenset({"all_healthy", "stale", "stale_after_seconds"})
"""Fields of the verdict, which also has a field named after each service."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(
    r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII
)


def seconds(value: str, bare_unit: str = "s") -> float:
    """Parse a duration with a unit (`500ms`, `30s`, `10m`, `72h`, `90d`) into seconds.

    A number without a unit is in `bare_unit`. Raises `ValueError` for another text.
    """
    match = _DURATION.fullmatch(value.strip())
    if not match:
        raise ValueError("expected a duration such as 500ms, 30s, 10m or 72h")
    duration = float(Decimal(match[1]) * _UNITS[match[2] or bare_unit])
    if duration > _LONGEST_S:
        raise ValueError("expected at most 36500d")
    return duration


def parse_duration(value: object) -> object:
    """A text as seconds; other values unchanged, for pydantic."""
    return seconds(value) if isinstance(value, str) else value


def parse_retention_hours(value: object) -> object:
    """A text as hours; other values unchanged, for pydantic."""
    return seconds(value, "h") / 3_600 if isinstance(value, str) else value


def parse_percent(value: object) -> object:
    """A percentage as a number, for pydantic: `10`, `10 %` and the share `0.1` are 10.

    Other values are returned unchanged.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if re.fullmatch(r"0?\.[0-9]+", text, re.ASCII):
        return float(text) * 100
    return text.removesuffix("%").rstrip()


def _switch(value: object) -> object:
    """`on` and `off` as booleans; pydantic itself accepts yes, no, true, false, 1 and 0."""
    return {"on": True, "off": False}.get(value.lower(), value) if isinstance(value, str) else value


def parts(text: str) -> list[str]:
    """The parts of a text that are separated by commas or line breaks, without empty ones."""
    return [part.strip() for part in re.split(r"[,\r\n]", text) if part.strip()]


def _split(value: object) -> object:
    return tuple(parts(value)) if isinstance(value, str) else value


def parse_services(value: object) -> object:
    """Parse services from `name=URL` pairs, or from a services file.

    Pairs are separated by commas or line breaks.

    A name without a URL is a service that is not checked. The result maps names to URLs, which may
    be empty. Raises `ValueError`.
    """
    if isinstance(value, str):
        pairs = [part.partition("=")[::2] for part in parts(value)]
    elif isinstance(value, Mapping):
        pairs = [(name, url if isinstance(url, str) else "") for name, url in value.items()]
    else:
        return value
    services: dict[str, str] = {}
    for name, url in ((name.strip(), url.strip()) for name, url in pairs):
        if not SERVICE_NAME.fullmatch(name) or name in _RESERVED_SERVICE_NAMES:
            # If the `=` is missing, the name is a URL, which may contain a password.
            shown = name.partition("://")[0][:40]
            raise ValueError(
                f"'{shown}' cannot be a service's name: "
                "use lower-case identifiers, as in api=http://…"
            )
        if name in services:
            raise ValueError(f"the service '{name}' is named twice")
        if url and (_ANOTHER.search(url) or re.search(r"\s", url)):
            raise ValueError(
                f"the URL of '{name}' contains white space or another service: "
                "separate services by commas or line breaks"
            )
        if url and not can_be_checked(url):
            raise ValueError(
                f"the URL of '{name}' is not an http:// or https:// URL, "
                "nor tcp://host:port, redis://… or rediss://…"
            )
        services[name] = url
    if not services:
        raise ValueError("name at least one service, as in api=http://…")
    return services


def parse_pairs(value: object) -> object:
    """Parse `name=text` pairs, separated by commas or line breaks.

    The text may contain equals signs, but no white space. Raises `ValueError`.
    """
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in parts(value)]
    if wrong := [name for name, _, text in pairs if not name or not text]:
        raise ValueError(f"'{wrong[0][:40]}' has no value: expected name=value pairs")
    if broken := [name for name, _, text in pairs if re.search(r"\s", text)]:
        raise ValueError(
            f"the value of '{broken[0][:40]}' contains white space: "
            "separate pairs by commas or line breaks"
        )
    return {name: text for name, _, text in pairs}


def can_be_checked(url: str) -> bool:
    """Whether there is a probe for the scheme of the URL, and the URL is complete."""
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        return False
    has_probe = split.scheme in {"http", "https", "redis", "rediss"} or (
        split.scheme == "tcp" and port is not None
    )
    return has_probe and bool(split.hostname) and not re.search(r"\s", url)


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
DurationOrZero = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class Auth(StrEnum):
    """Whether requests need a credential."""

    REQUIRED = "required"
    NONE = "none"


class Unknown(StrEnum):
    """How a workload counts if it cannot be read from Kubernetes."""

    IGNORE = "ignore"
    UNHEALTHY = "unhealthy"


class LogFormat(StrEnum):
    """The format of log lines: text for people, or one JSON object a line."""

    TEXT = "text"
    JSON = "json"


def webhook_key(secret: SecretStr) -> bytes | None:
    """The key bytes of a webhook secret, or `None` if the secret is invalid.

    The form is `whsec_` and base64 (Standard Webhooks, "Signature scheme").
    """
    prefix, _, encoded = secret.get_secret_value().partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    # The standard requires 24 to 64 bytes.
    return key if prefix == "whsec" and 24 <= len(key) <= 64 else None  # noqa: PLR2004


def is_http_url(url: str) -> bool:
    """Whether the text is an `http://` or `https://` URL with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def is_host_name(text: str) -> bool:
    """Whether the text is an ASCII host name or an IP address.

    An IPv6 address may have brackets.
    """
    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]") if ":" in text else text)
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return True


def cors_origin_problem(text: str) -> str | None:
    """Why a browser never sends this origin, or `None` if it may.

    The value of `Origin` is compared with the setting, and browsers send only one form of each
    origin (Fetch standard, "serializing a request origin").
    """
    variable = f"{PREFIX}CORS_ORIGINS"
    canonical = _canonical_origin(text)
    if text in {"*", canonical}:
        return None
    if canonical is None:
        return (
            f"{variable}: expected origins such as https://status.example, "
            "separated by commas, or * for all"
        )
    return (
        f"{variable}: expected {canonical}, as browsers send it: in lower case, "
        "without a default port, path or slash at its end"
    )


def _canonical_origin(text: str) -> str | None:
    """The origin of a URL, or of a host without a scheme, in the form that browsers send.

    `None` if the text has no origin.
    """
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            host = f"[{ipaddress.IPv6Address(host)}]"
        elif host:
            host = host.encode("idna").decode()
    except ValueError:
        return None
    # Every sandboxed page sends `null`, so it identifies no page.
    if not is_host_name(host) or host == "null" or parts.netloc.endswith(":"):
        return None
    scheme = parts.scheme or ("http" if is_loopback(host.strip("[]")) else "https")
    return f"{scheme}://{host}" + (
        f":{port}" if port is not None and port != _DEFAULT_PORTS.get(scheme) else ""
    )


def is_loopback(host: str) -> bool:
    """Whether the host is a loopback address or `localhost`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_safe_url(url: str) -> bool:
    """Whether keys may be fetched from the URL.

    It must be an https URL, or an http URL of this machine, and must not contain a password.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    return safe and bool(host) and "@" not in parts.netloc
