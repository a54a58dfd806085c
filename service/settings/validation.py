"""Rules that concern several settings, or whose message needs more than one field.

Each function returns a line for every problem, which begins with the variable at fault.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from service.settings.types import (
    ASYMMETRIC_ALGORITHMS,
    KEY_SET_ALGORITHMS,
    PREFIX,
    SYMMETRIC_ALGORITHMS,
    Auth,
    cors_origin_problem,
    is_host_name,
    is_http_url,
    is_loopback,
    is_safe_url,
    webhook_key,
)

if TYPE_CHECKING:
    from service.settings.model import Settings

_CLUSTER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_REDIS_SCHEMES = ("redis", "rediss", "unix")
_MOST_SECRETS = 4
"""Two during a rotation; more is probably a mistake in the file."""


def combination_problems(settings: "Settings") -> list[str]:
    """All problems of settings whose single fields are valid."""
    return [
        *_redis_problems(settings),
        *_jwt_problems(settings),
        *_access_problems(settings),
        *_duration_problems(settings),
        *_port_problems(settings),
        *_lease_problems(settings),
        *_url_problems(settings),
    ]


def _redis_problems(settings: "Settings") -> Iterator[str]:
    try:
        url = urlsplit(settings.redis_url.get_secret_value())
        location = url.path if url.scheme == "unix" else url.hostname
        if url.scheme not in _REDIS_SCHEMES or not location:
            yield f"{PREFIX}REDIS_URL: expected redis://host:port/db, rediss://… or unix:///path"
        if url.scheme != "unix":
            _ = url.port  # Only for its `ValueError`.
    except ValueError:
        yield f"{PREFIX}REDIS_URL: not a URL"
    if not _CLUSTER_NAME.fullmatch(settings.cluster_name):
        yield f"{PREFIX}CLUSTER_NAME: expected 1 to 64 of A-Z a-z 0-9 . _ -"


def _jwt_problems(settings: "Settings") -> Iterator[str]:
    sources = ("jwt_secret", "jwt_public_key", "jwt_jwks_url")
    configured = [f"{PREFIX}{name.upper()}" for name in sources if getattr(settings, name)]
    if len(configured) > 1:
        yield f"{' and '.join(configured)}: set one of them only"
    elif settings.jwt_jwks_url or (settings.jwt_issuer and not configured):
        yield from _key_set_problems(settings)
    allowed: tuple[str, ...]
    if settings.jwt_secret:
        allowed = SYMMETRIC_ALGORITHMS
    elif settings.jwt_public_key:
        allowed = ASYMMETRIC_ALGORITHMS
    else:
        allowed = KEY_SET_ALGORITHMS
    wrong = [name for name in settings.jwt_algorithms if name not in allowed]
    if wrong and (configured or settings.jwt_issuer):
        names = ", ".join(allowed)
        yield f"{PREFIX}JWT_ALGORITHMS: with this kind of key, expected some of {names}"
    elif wrong:
        # Without a key it is not known which algorithms fit: `dev` adds a secret later.
        known = SYMMETRIC_ALGORITHMS + ASYMMETRIC_ALGORITHMS
        if not set(wrong) <= set(known):
            yield f"{PREFIX}JWT_ALGORITHMS: expected some of {', '.join(known)}"
    if settings.jwt_secret and not wrong:
        yield from _secret_problems(settings)


def _secret_problems(settings: "Settings") -> Iterator[str]:
    # A secret must be as long as the hash (RFC 7518, section 3.2): 32 bytes for HS256.
    needed = max(int(name.removeprefix("HS")) // 8 for name in settings.algorithms)
    if min((len(secret.encode()) for secret in settings.jwt_secrets), default=0) < needed:
        names = ", ".join(settings.algorithms)
        yield f"{PREFIX}JWT_SECRET: expected at least {needed} bytes for {names}"
    if len(settings.jwt_secrets) > _MOST_SECRETS:
        yield f"{PREFIX}JWT_SECRET: expected at most {_MOST_SECRETS} secrets, one a line"


def _key_set_problems(settings: "Settings") -> Iterator[str]:
    if not settings.jwt_issuer:
        yield (
            f"{PREFIX}JWT_ISSUER: with published keys, "
            "name the only issuer (or issuers) to be accepted"
        )
    elif settings.jwt_jwks_url and len(settings.jwt_jwks_url) != len(settings.jwt_issuer):
        yield f"{PREFIX}JWT_JWKS_URL: expected one URL for each of {PREFIX}JWT_ISSUER"
    elif not settings.jwt_jwks_url and not all(map(is_safe_url, settings.jwt_issuer)):
        yield (
            f"{PREFIX}JWT_ISSUER: expected https:// URLs, whose keys can be found, or set "
            f"{PREFIX}JWT_SECRET, {PREFIX}JWT_PUBLIC_KEY or {PREFIX}JWT_JWKS_URL"
        )
    if len(set(settings.jwt_issuer)) != len(settings.jwt_issuer):
        yield f"{PREFIX}JWT_ISSUER: an issuer is named twice"
    if not all(map(is_safe_url, settings.jwt_jwks_url)):
        yield (
            f"{PREFIX}JWT_JWKS_URL: expected https:// URLs without a password "
            "(http:// on loopback only)"
        )
    if not settings.jwt_audience:
        yield f"{PREFIX}JWT_AUDIENCE: with published keys, name the only audience to be accepted"


def _access_problems(settings: "Settings") -> Iterator[str]:
    anywhere = settings.auth_none_anywhere or is_loopback(settings.host)
    if settings.auth is Auth.NONE and not anywhere:
        yield (
            f"{PREFIX}AUTH: none listens on loopback only; "
            f"set {PREFIX}HOST=127.0.0.1 or {PREFIX}AUTH_NONE_ANYWHERE=yes"
        )
    yield from filter(None, map(cors_origin_problem, settings.cors_origins))
    if not all(map(_is_network, settings.trusted_proxies)):
        yield (
            f"{PREFIX}TRUSTED_PROXIES: expected networks such as 10.0.0.0/8, separated by commas"
        )
    if wrong := [host for host in settings.allowed_hosts if not is_host_name(host)]:
        yield (
            f"{PREFIX}ALLOWED_HOSTS: '{wrong[0][:40]}' is not a host name or an IP address: "
            "expected those, without scheme and port, separated by commas"
        )


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _duration_problems(settings: "Settings") -> Iterator[str]:
    if settings.max_staleness <= settings.heartbeat:
        yield (
            f"{PREFIX}MAX_STALENESS: "
            f"expected more than {PREFIX}HEARTBEAT ({settings.heartbeat:g} s)"
        )
    if settings.check_timeout > settings.check_interval:
        yield (
            f"{PREFIX}CHECK_TIMEOUT: "
            f"expected at most {PREFIX}CHECK_INTERVAL ({settings.check_interval:g} s)"
        )


def _port_problems(settings: "Settings") -> Iterator[str]:
    """Listeners on the same port.

    The default of `PORT` does not count for `MONITOR_PORT`: API and monitor usually run on
    different hosts.
    """
    if settings.metrics_port and settings.metrics_port == settings.port:
        yield f"{PREFIX}METRICS_PORT: expected another port than {PREFIX}PORT ({settings.port})"
    used = {
        "METRICS_PORT": settings.metrics_port,
        "PORT": settings.port if "port" in settings.model_fields_set else None,
    }
    if settings.monitor_port and settings.monitor_host == settings.host:
        for name, port in used.items():
            if port == settings.monitor_port:
                yield f"{PREFIX}MONITOR_PORT: expected another port than {PREFIX}{name} ({port})"


def _lease_problems(settings: "Settings") -> Iterator[str]:
    if not settings.lease_renew < settings.lease_deadline < settings.lease_ttl:
        yield (
            f"{PREFIX}LEASE_DEADLINE: expected more than "
            f"{PREFIX}LEASE_RENEW ({settings.lease_renew:g} s) and less than "
            f"{PREFIX}LEASE_TTL ({settings.lease_ttl:g} s)"
        )


def _url_problems(settings: "Settings") -> Iterator[str]:
    secret_urls = {"HEARTBEAT_URL": settings.heartbeat_url, "WEBHOOK_URL": settings.webhook_url}
    for name, url in secret_urls.items():
        if url and not is_http_url(url.get_secret_value()):
            yield f"{PREFIX}{name}: expected an http:// or https:// URL"
    if settings.kubernetes_url and not is_http_url(settings.kubernetes_url):
        yield f"{PREFIX}KUBERNETES_URL: expected an http:// or https:// URL"
    if bool(settings.webhook_url) != bool(settings.webhook_secret):
        yield f"{PREFIX}WEBHOOK_SECRET: set it and {PREFIX}WEBHOOK_URL, or neither"
    elif settings.webhook_secret and webhook_key(settings.webhook_secret) is None:
        yield f"{PREFIX}WEBHOOK_SECRET: expected whsec_ and the base64 of 24 to 64 bytes"
