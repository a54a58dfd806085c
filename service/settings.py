"""Every setting: its meaning, unit, default, and why that number (DESIGN, section 10).

Settings are read once, from a mapping (`os.environ`, or a test's dictionary), into one frozen object. All mistakes
are reported together. A value that is a secret is a `SecretStr`: no `repr`, log or error shows it.
"""

import base64
import ipaddress
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from service.errors import SettingsError
from service.text import decoded, stripped

PREFIX = "CLUSTER_EVENTS_"
CLIENT_VARIABLES = ("CLUSTER_EVENTS_URL", "CLUSTER_EVENTS_TOKEN")
"""What the client commands read besides: no settings of the service."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", re.ASCII)
_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3_600), "d": Decimal(86_400)}
"""Exact, so that the same duration in two units is the same number."""
_LONGEST_S = 36_500 * 86_400.0
"""A hundred years: beyond, Redis takes no expiry, and nobody means it."""
SERVICE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_RESERVED_SERVICE_NAMES = frozenset({"all_healthy", "stale", "stale_after_seconds"})
"""Names of the verdict's own fields, beside which each service has a field."""
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_REDIS_SCHEMES = ("redis", "rediss", "unix")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SYMMETRIC = ("HS256", "HS384", "HS512")
_ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
_KEY_SET = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
"""What issuers sign with in earnest; fewer is safer."""
_CHECK_TIMEOUT_S = 5.0
"""By default: a service that has not answered by then does not answer its clients in time either."""
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII)
_MOST_SECRETS = 4
"""Two while one takes over from the other; more is a mistake in the file."""


def seconds(value: str, bare_unit: str = "s") -> float:
    """A duration in seconds: a plain number (in `bare_unit`), or one with a unit: `500ms`, `30s`, `10m`, `72h`, `90d`.

    Raises `ValueError` for anything else.
    """
    match = _DURATION.fullmatch(value.strip())
    if not match:
        raise ValueError("expected a duration such as 500ms, 30s, 10m or 72h")
    duration = float(Decimal(match[1]) * _UNITS[match[2] or bare_unit])
    if duration > _LONGEST_S:
        raise ValueError("expected at most 36500d")
    return duration


def _duration(value: object) -> object:
    return seconds(value) if isinstance(value, str) else value


def _retention_hours(value: object) -> object:
    return seconds(value, "h") / 3_600 if isinstance(value, str) else value


def _switch(value: object) -> object:
    """`on` and `off`; pydantic's own booleans (yes, no, true, false, 1, 0) are taken as well."""
    return {"on": True, "off": False}.get(value.lower(), value) if isinstance(value, str) else value


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _services(value: object) -> object:
    """`name=URL` pairs, or names alone where nothing is checked, separated by commas; or a mapping of a services file."""
    if isinstance(value, str):
        pairs = [part.partition("=")[::2] for part in value.split(",") if part.strip()]
    elif isinstance(value, Mapping):
        pairs = [(name, url if isinstance(url, str) else "") for name, url in value.items()]
    else:
        return value
    services: dict[str, str] = {}
    for name, url in ((name.strip(), url.strip()) for name, url in pairs):
        if not SERVICE_NAME.fullmatch(name) or name in _RESERVED_SERVICE_NAMES:
            shown = name.partition("://")[0][:40]  # Where the `=` is missing this is a URL, perhaps with a password.
            raise ValueError(f"'{shown}' cannot be a service's name: use lower-case identifiers, as in api=http://…")
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


def _pairs(value: object) -> object:
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
    known = parts.scheme in {"http", "https", "redis", "rediss"} or (parts.scheme == "tcp" and port is not None)
    return known and bool(parts.hostname)


def read_text(path: Path) -> str:
    """The text of a file. Raises `OSError`, or `ValueError` with what the file is instead of UTF-8."""
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
        raise ValueError(f"'{wrong[0]}' is not a table: expected a [name] for each service, and its settings below it")
    return tables


Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0)]
DurationOrZero = Annotated[float, BeforeValidator(_duration), Field(ge=0)]
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


class Kind(StrEnum):
    """The kinds of places from which a setting can come."""

    ENVIRONMENT = "environment variable"
    FILE = "file"
    SECRETS_DIR = "SECRETS_DIR"
    SERVICES_FILE = "services file"
    COMMAND_LINE = "command line"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting comes from; `file` where that is one."""

    kind: Kind
    file: Path | None = None


_FROM_DEFAULT = Origin(Kind.DEFAULT)
_SECRET_FILES = frozenset({Kind.FILE, Kind.SECRETS_DIR})


class Settings(BaseModel):
    """All settings of all commands; each command uses those that concern it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    _origins: Mapping[str, Origin] = PrivateAttr(default_factory=dict)

    host: str = "127.0.0.1"
    """The address to listen on. Loopback by default: listening to the world is a decision."""
    port: int = Field(8080, ge=0, le=65_535)
    """The TCP port to listen on; 0 takes a free one."""
    metrics_port: int | None = Field(None, ge=0, le=65_535)
    """A TCP port of its own for the API's `/metrics`, on the same host; 0 takes a free one. By default
    `/metrics` is on the API's port, where every client can read it. The monitor's metrics are on
    `MONITOR_PORT` in any case."""

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Where the store is: `redis://`, `rediss://` or `unix://`. A secret, since it may carry a password."""
    cluster_name: str = "default"
    """The cluster whose events these are: the hash tag of all keys."""
    write_replicas: int = Field(0, ge=0, le=10)
    """How many Redis replicas must have an event before its recording counts as safe (`WAIT`); 0 asks for none."""
    redis_timeout: Duration = 0.5
    """The most seconds that one request to the store may take: a poller would rather hear 503 than wait."""

    heartbeat: Duration = 0.5
    """Seconds between two looks of a replica at the store's version: what bounds staleness when notices are lost."""
    max_staleness: Duration = 2.0
    """Seconds since the last good heartbeat for which the snapshot counts as current: four heartbeats."""
    stale_if_error: DurationOrZero = 30.0
    """Seconds for which an unreachable store's last state is still served, marked as such; 0 never does."""
    stale_after: Duration | None = None
    """Seconds without a completed check after which the verdict is 503. Default: three check intervals."""
    drain: DurationOrZero = 5.0
    """Seconds between SIGTERM and the end of service: time for load balancers to notice `/readyz`."""
    idle_timeout: Duration = 75.0
    """Seconds after which an idle keep-alive connection is closed. It must be longer than the load balancer in front keeps its
    idle connections (nginx 60 s; Traefik 90 s, Azure 120 s, Google 600 s), or requests meet a connection that was just closed."""
    reply_timeout: Duration = 60.0
    """The most seconds that a client may take to receive one whole response."""
    reply_memory: int = Field(32 * 1024 * 1024, ge=1024 * 1024)
    """The most bytes of responses that only one client gets (pages of the list) and that wait to be sent. Beyond it, such a
    request is answered 503 `ServerBusy`."""
    events_memory: int = Field(16 * 1024 * 1024, ge=0)
    """The most bytes of full events, beyond the latest, that a replica keeps in memory."""
    poll_path: Switch = True
    """Whether known request heads are answered ahead of the HTTP parser (`on`/`off`)."""
    cors_origins: Names = ()
    """The origins from which browsers may read the API (`https://status.example`), or `*` for all. None by default. One that no
    browser would send, such as one with a path, is refused with its right spelling."""
    access_log: Switch = False
    """Whether each request is logged (`on`/`off`); it costs more than answering a poll does."""

    auth: Auth = Auth.REQUIRED
    """`none` lets everyone do everything, and then listens on loopback only unless forced."""
    auth_none_anywhere: Switch = False
    """Allows `AUTH=none` on addresses other than loopback."""
    allowed_hosts: Names = ()
    """With `AUTH=none`: names besides loopback ones and the address of the connection that a request's `Host` may have, without
    ports; any other is answered 421. That keeps out web pages whose own name resolves to this service (DNS rebinding)."""
    jwt_secret: SecretStr | None = None
    """The shared secret of HS256 tokens, at least as many bytes as the hash (RFC 7518, section 3.2). Of several, one a line,
    all are accepted and the first one signs: so one can take over from another."""
    jwt_public_key: SecretStr | None = None
    """The public key of RSA, ECDSA or Ed25519 tokens, as PEM, or several of them."""
    jwt_jwks_url: Names = ()
    """Where the issuers publish their keys: one `https://` URL for each of `JWT_ISSUER`, in the same order. Default, where
    neither a secret nor a public key is set: what each issuer says at `/.well-known/openid-configuration`."""
    jwt_jwks_refresh: Duration = 300.0
    """Seconds between two looks at the published keys; a token with a key that is not known is a reason to look sooner."""
    jwt_algorithms: Names = ()
    """The signature algorithms accepted. Default: HS256 for a secret, else the one that fits the public key, or with published
    keys RS256, PS256, ES256 and EdDSA. `Ed25519` is another name of `EdDSA` (RFC 9864): either allows both."""
    jwt_issuer: Names = ()
    """The only `iss` accepted, when set; several are separated by commas. Required with published keys."""
    jwt_audience: str | None = None
    """The only `aud` accepted, when set. Required with published keys: an issuer signs for other services too."""
    jwt_max_lifetime: Duration = 86_400.0
    """The most seconds from a token's `iat` to its `exp`: nobody can revoke a token, so it must end by itself."""
    jwt_leeway: Annotated[float, BeforeValidator(_duration), Field(ge=0, le=60)] = 5.0
    """Seconds by which the clocks of issuer and service may differ: a token is accepted that long before its `nbf` and after its
    `exp`. At most 60."""
    jwt_role_claim: str = "role"
    """The claim that carries `read` or `write`; a token without it may read."""
    secrets_dir: Path | None = None
    """A folder of files named like the secrets here (`jwt_secret` or `jwt-secret`), for those that are not set otherwise."""
    secrets_refresh: Duration = 5.0
    """Seconds between two looks at the files of JWT secrets and public keys: a new one takes effect without a restart."""
    auth_failures_per_minute: int = Field(300, ge=0)
    """Bad credentials that one client address may send in a minute before it is answered 429; 0 sets no limit. No number of
    guesses finds a credential: this keeps a fleet with a stale token, all behind one address, from filling the log."""
    trusted_proxies: Names = ()
    """The networks (`10.0.0.0/8`) of proxies whose `X-Forwarded-For` is believed. None by default: anyone can send that field."""

    services: Annotated[Mapping[str, str], BeforeValidator(_services)] = Field(
        default_factory=lambda: {"api": "", "compiler": "", "runner": ""}
    )
    """The monitored services in order: `api=http://…/healthz,compiler=…`. The API needs the names only."""
    services_file: Path | None = None
    """A TOML file with a table for each service: what no variable should hold, such as headers and certificates. Where
    `SERVICES` is not set, the file also says which services there are, in its order."""
    check_interval: Duration = 10.0
    """Seconds between the starts of two checks."""
    check_timeout: Duration = Field(
        default_factory=lambda known: min(_CHECK_TIMEOUT_S, known.get("check_interval", 10.0))
    )
    """The most seconds that one service's answer may take. Default: 5, or `CHECK_INTERVAL` where that is less."""
    record_interval: Duration = 600.0
    """Seconds between two events while all stays healthy."""

    lease_ttl: Duration = 5.0
    """Seconds after which the lease of a leading monitor that died is free: a standby checks within 6 s, and nobody's verdict is
    stale by then. It outlasts four lost renewals."""
    lease_renew: Duration = 1.0
    """Seconds between two renewals by the leader, give or take a fifth; those who stand by ask twice as often, so that an orderly
    hand-over takes less than a second."""
    lease_deadline: Duration = 4.0
    """Seconds after the sending of the last good renewal when a leader stops on its own: before `lease_ttl` is over by the
    store's clock, whatever the two clocks' speeds."""
    monitor_host: str = "127.0.0.1"
    """The address on which the monitor tells how it is. Loopback by default, as for the API."""
    monitor_port: int | None = Field(None, ge=0, le=65_535)
    """The TCP port of the monitor's `/healthz`, `/readyz` and `/metrics`. None by default: it listens on nothing."""
    monitor_resources: Switch = False
    """Whether the Kubernetes objects behind the services are looked at (`on`/`off`); `off` says so in each event."""
    resources: Annotated[Mapping[str, str], BeforeValidator(_pairs)] = Field(default_factory=dict)
    """The objects behind the services: `api=deployment/api-server,compiler=statefulset/compiler` (or `NAMESPACE/deployment/NAME`,
    or `deployment?LABEL=VALUE`)."""
    resources_unknown: Unknown = Unknown.IGNORE
    """What it means when Kubernetes cannot be asked: `ignore` leaves the verdict to the service's own check."""
    kubernetes_url: str | None = None
    """The API server. Default: that of the cluster in which the monitor runs."""
    kubernetes_credentials: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """The folder with `token`, `ca.crt` and `namespace`: where Kubernetes puts them. Read again as they are rotated."""
    webhook_url: SecretStr | None = None
    """A URL that gets a signed POST for each recorded change (Standard Webhooks). A secret, as such URLs often carry a token."""
    webhook_secret: SecretStr | None = None
    """What signs it: `whsec_` and the base64 of 24 to 64 random bytes."""
    heartbeat_url: SecretStr | None = None
    """A URL that the leading monitor calls after each completed check, for a watcher outside that raises an alarm when the calls
    stop. A secret, since whoever knows it can keep that watcher quiet."""

    retention_events: int = Field(1_000, ge=1, le=100_000)
    """The most events retained, newest first."""
    retention_hours: Annotated[float, BeforeValidator(_retention_hours), Field(gt=0)] = 72.0
    """Hours for which an event is retained (or a duration with a unit); the latest stays however old it is."""
    retention_bytes: int = Field(64 * 1024 * 1024, ge=64 * 1024)
    """The most bytes of retained events, as stored; the latest stays whatever its size. It keeps one writer of large events from
    filling the store."""

    monitoring: Switch = True
    """`off` answers 501 on the event routes: a deployment without a monitor says so."""
    log_format: LogFormat = LogFormat.TEXT
    """`text` for people, `json` for programs."""

    @property
    def service_names(self) -> tuple[str, ...]:
        """The services' names, in the configured order."""
        return tuple(self.services)

    @property
    def stale_after_s(self) -> float:
        """`stale_after`, or its default."""
        return self.stale_after if self.stale_after is not None else 3 * self.check_interval

    @property
    def retention_us(self) -> int:
        """The age limit in microseconds."""
        return round(self.retention_hours * 3_600_000_000)

    @property
    def retention(self) -> str:
        """The retention in words, for the answer about an event that is no longer there."""
        return (
            f"at most {self.retention_events:,} events are retained, of {self.retention_bytes / 1024**2:g} MiB together, "
            f"and none older than {self.retention_hours:g} h, except the latest"
        )

    @property
    def algorithms(self) -> tuple[str, ...]:
        """`jwt_algorithms`, or HS256 where there is a secret; empty where the public key decides."""
        return self.jwt_algorithms or (("HS256",) if self.jwt_secret else ())

    @property
    def jwt_secrets(self) -> tuple[str, ...]:
        """The shared secrets, the one that signs first."""
        text = self.jwt_secret.get_secret_value() if self.jwt_secret else ""
        return tuple(line for line in map(stripped, text.splitlines()) if line)

    @property
    def key_sets(self) -> Mapping[str, str | None]:
        """Where each issuer publishes its keys, or `None` where it is to be asked; empty without published keys."""
        if self.jwt_secret or self.jwt_public_key:
            return {}
        return dict(zip(self.jwt_issuer, self.jwt_jwks_url or [None] * len(self.jwt_issuer), strict=True))

    @property
    def key_set_algorithms(self) -> tuple[str, ...]:
        """The algorithms accepted with published keys."""
        return self.jwt_algorithms or _KEY_SET

    def origin(self, name: str) -> Origin:
        """Where the setting of that (field) name comes from."""
        return self._origins.get(name, _FROM_DEFAULT)

    @property
    def jwt_secret_files(self) -> Mapping[str, Path]:
        """The files of JWT secrets and public keys, by setting."""
        origins = {name: self.origin(name) for name in ("jwt_secret", "jwt_public_key")}
        return {name: one.file for name, one in origins.items() if one.kind in _SECRET_FILES and one.file is not None}

    def reread(self) -> "Settings":
        """The same settings with what the files of secrets say now. Blocks. Raises `SettingsError`."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        problems: list[str] = []
        for name, file in self.jwt_secret_files.items():
            if secret := _read(f"{PREFIX}{name}".upper(), file, problems):
                values[name] = SecretStr(secret)
        if problems:
            raise SettingsError(problems)
        settings = _validated(values)
        settings._origins = self._origins  # noqa: SLF001  # Its own class.
        return settings

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """What no single field can tell. Every problem names its variables; all are told at once."""
        problems = [
            *self._redis_problems(),
            *self._jwt_problems(),
            *self._bound_problems(),
            *self._port_problems(),
            *self._lease_problems(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _redis_problems(self) -> list[str]:
        problems = []
        try:
            url = urlsplit(self.redis_url.get_secret_value())
            if url.scheme not in _REDIS_SCHEMES or not (url.path if url.scheme == "unix" else url.hostname):
                problems.append(f"{PREFIX}REDIS_URL: expected redis://host:port/db, rediss://… or unix:///path")
            _ = url.port if url.scheme != "unix" else None
        except ValueError:
            problems.append(f"{PREFIX}REDIS_URL: not a URL")
        if not _CLUSTER_NAME.fullmatch(self.cluster_name):
            problems.append(f"{PREFIX}CLUSTER_NAME: expected 1 to 64 of A-Z a-z 0-9 . _ -")
        return problems

    def _jwt_problems(self) -> list[str]:
        problems = []
        kinds = ("jwt_secret", "jwt_public_key", "jwt_jwks_url")
        several = [f"{PREFIX}{name.upper()}" for name in kinds if getattr(self, name)]
        if len(several) > 1:
            problems.append(f"{' and '.join(several)}: set one of them only")
        elif self.jwt_jwks_url or (self.jwt_issuer and not several):
            problems += self._key_set_problems()
        family = _SYMMETRIC if self.jwt_secret else _ASYMMETRIC if self.jwt_public_key else _KEY_SET
        wrong = [name for name in self.jwt_algorithms if name not in family]
        if wrong and (several or self.jwt_issuer):
            problems.append(f"{PREFIX}JWT_ALGORITHMS: with this kind of key, expected some of {', '.join(family)}")
        elif wrong and any(name not in _SYMMETRIC for name in wrong):
            problems.append(f"{PREFIX}JWT_ALGORITHMS: expected some of {', '.join(_SYMMETRIC + _ASYMMETRIC)}")
        if self.jwt_secret and not wrong:
            needed = max(int(name[2:]) // 8 for name in self.algorithms)
            if min((len(secret.encode()) for secret in self.jwt_secrets), default=0) < needed:
                problems.append(
                    f"{PREFIX}JWT_SECRET: expected at least {needed} bytes for {', '.join(self.algorithms)}"
                )
            if len(self.jwt_secrets) > _MOST_SECRETS:
                problems.append(f"{PREFIX}JWT_SECRET: expected at most {_MOST_SECRETS} secrets, one a line")
        return problems

    def _key_set_problems(self) -> list[str]:
        problems = []
        if not self.jwt_issuer:
            problems.append(
                f"{PREFIX}JWT_ISSUER: with published keys, name the only issuer (or issuers) to be accepted"
            )
        elif self.jwt_jwks_url and len(self.jwt_jwks_url) != len(self.jwt_issuer):
            problems.append(f"{PREFIX}JWT_JWKS_URL: expected one URL for each of {PREFIX}JWT_ISSUER")
        elif not self.jwt_jwks_url and not all(map(is_safe_url, self.jwt_issuer)):
            problems.append(
                f"{PREFIX}JWT_ISSUER: expected https:// URLs, whose keys can be found, or set {PREFIX}JWT_SECRET, "
                f"{PREFIX}JWT_PUBLIC_KEY or {PREFIX}JWT_JWKS_URL"
            )
        if len(set(self.jwt_issuer)) != len(self.jwt_issuer):
            problems.append(f"{PREFIX}JWT_ISSUER: an issuer is named twice")
        if not all(map(is_safe_url, self.jwt_jwks_url)):
            problems.append(
                f"{PREFIX}JWT_JWKS_URL: expected https:// URLs without a password (http:// on loopback only)"
            )
        if not self.jwt_audience:
            problems.append(f"{PREFIX}JWT_AUDIENCE: with published keys, name the only audience to be accepted")
        return problems

    def _bound_problems(self) -> list[str]:
        problems = []
        if self.auth is Auth.NONE and not self.auth_none_anywhere and not is_loopback(self.host):
            problems.append(
                f"{PREFIX}AUTH: none listens on loopback only; set {PREFIX}HOST=127.0.0.1 or {PREFIX}AUTH_NONE_ANYWHERE=yes"
            )
        problems += filter(None, map(_origin_problem, self.cors_origins))
        for network in self.trusted_proxies:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                problems.append(f"{PREFIX}TRUSTED_PROXIES: expected networks such as 10.0.0.0/8, separated by commas")
                break
        if wrong := [host for host in self.allowed_hosts if not _is_host(host)]:
            problems.append(
                f"{PREFIX}ALLOWED_HOSTS: '{wrong[0][:40]}' is not a host name or an IP address: expected those, without "
                "scheme and port, separated by commas"
            )
        if self.max_staleness <= self.heartbeat:
            problems.append(f"{PREFIX}MAX_STALENESS: expected more than {PREFIX}HEARTBEAT ({self.heartbeat:g} s)")
        if self.check_timeout > self.check_interval:
            problems.append(
                f"{PREFIX}CHECK_TIMEOUT: expected at most {PREFIX}CHECK_INTERVAL ({self.check_interval:g} s)"
            )
        return problems

    def _port_problems(self) -> list[str]:
        """No two listeners share a port. The default `PORT` does not count for a monitor, which usually runs apart."""
        problems = []
        if self.metrics_port and self.metrics_port == self.port:
            problems.append(f"{PREFIX}METRICS_PORT: expected another port than {PREFIX}PORT ({self.port})")
        taken = {"METRICS_PORT": self.metrics_port, "PORT": self.port if "port" in self.model_fields_set else None}
        if self.monitor_port and self.monitor_host == self.host:
            problems += [
                f"{PREFIX}MONITOR_PORT: expected another port than {PREFIX}{name} ({port})"
                for name, port in taken.items()
                if port == self.monitor_port
            ]
        return problems

    def _lease_problems(self) -> list[str]:
        problems = []
        if not self.lease_renew < self.lease_deadline < self.lease_ttl:
            problems.append(
                f"{PREFIX}LEASE_DEADLINE: expected more than {PREFIX}LEASE_RENEW ({self.lease_renew:g} s) "
                f"and less than {PREFIX}LEASE_TTL ({self.lease_ttl:g} s)"
            )
        for name, url in (("HEARTBEAT_URL", self.heartbeat_url), ("WEBHOOK_URL", self.webhook_url)):
            if url and not _is_http(url.get_secret_value()):
                problems.append(f"{PREFIX}{name}: expected an http:// or https:// URL")
        if self.kubernetes_url and not _is_http(self.kubernetes_url):
            problems.append(f"{PREFIX}KUBERNETES_URL: expected an http:// or https:// URL")
        if bool(self.webhook_url) != bool(self.webhook_secret):
            problems.append(f"{PREFIX}WEBHOOK_SECRET: set it and {PREFIX}WEBHOOK_URL, or neither")
        elif self.webhook_secret and webhook_key(self.webhook_secret) is None:
            problems.append(f"{PREFIX}WEBHOOK_SECRET: expected whsec_ and the base64 of 24 to 64 bytes")
        return problems


def webhook_key(secret: SecretStr) -> bytes | None:
    """The bytes that a webhook's secret stands for, or `None` if it is none (Standard Webhooks, "Signature scheme")."""
    prefix, _, encoded = secret.get_secret_value().partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    return key if prefix == "whsec" and 24 <= len(key) <= 64 else None  # noqa: PLR2004  # As the standard says.


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def _is_host(text: str) -> bool:
    """Whether it is a host name in ASCII, or an IP address (that of IPv6 with or without brackets)."""
    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]") if ":" in text else text)
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return True


def _origin_problem(text: str) -> str | None:
    """What is wrong with an origin of browsers: it is compared with what they send (the Fetch standard, "serializing a
    request origin"), so only one spelling of it ever matches."""
    variable = f"{PREFIX}CORS_ORIGINS"
    right = _origin(text)
    if text in {"*", right}:
        return None
    if right is None:
        return f"{variable}: expected origins such as https://status.example, separated by commas, or * for all"
    return f"{variable}: expected {right}, as browsers send it: in lower case, without a default port, path or slash at its end"


def _origin(text: str) -> str | None:
    """The origin of a URL, or of a host without a scheme, as browsers send it; `None` where there is none."""
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
    if not _is_host(host) or host == "null" or parts.netloc.endswith(":"):
        return None
    scheme = parts.scheme or ("http" if is_loopback(host.strip("[]")) else "https")
    return f"{scheme}://{host}" + (f":{port}" if port is not None and port != _DEFAULT_PORTS.get(scheme) else "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can be reached there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_safe_url(url: str) -> bool:
    """Whether keys may be fetched from there: by https, or by http from this machine, and without a password in the URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    return safe and bool(host) and "@" not in parts.netloc


def is_secret(name: str) -> bool:
    """Whether the setting's value must not be shown."""
    annotation = Settings.model_fields[name].annotation
    return annotation is SecretStr or SecretStr in get_args(annotation)


_SERVICE_LINK = re.compile(
    r"(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)", re.ASCII
)
_LINKED_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://.*", re.ASCII | re.IGNORECASE)


def is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes sets such a variable for a Service whose name begins with ours. `name` is without our prefix.

    Kubernetes documents them as "Environment variables" of Services: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT[_PORTNAME]`,
    `NAME_PORT` with an address, and `NAME_PORT_80_TCP[_PROTO|_PORT|_ADDR]`. The Service `cluster-events-monitor` thus sets
    `CLUSTER_EVENTS_MONITOR_PORT`, which only the value distinguishes from the setting.
    """
    if name.lower() in Settings.model_fields:
        return name.endswith("PORT") and _LINKED_ADDRESS.fullmatch(text) is not None
    is_address = (name == "PORT" or name.endswith("_PORT")) and _LINKED_ADDRESS.fullmatch(text) is not None
    return is_address or _SERVICE_LINK.fullmatch(name) is not None


def variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Our variables and what they say, without white space around it; not those that are empty, nor service links."""
    for variable, raw in environ.items():
        if variable.startswith(PREFIX) and raw:
            text = stripped(raw)
            if not is_service_link(variable.removeprefix(PREFIX), text):
                yield variable, text


def secret_of_file(variable: str) -> str | None:
    """The secret whose file the variable `CLUSTER_EVENTS_<NAME>_FILE` names, as the name of a field; `None` if it names none."""
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
    """The settings of `environ`: `CLUSTER_EVENTS_<NAME>`, or for secrets `CLUSTER_EVENTS_<NAME>_FILE` naming a file, or
    else a file in `CLUSTER_EVENTS_SECRETS_DIR`. White space and byte order marks around them do not count.

    `overrides` come from the command line and win; those that are `None` are left out. An empty value counts as
    not set. Raises `SettingsError` with every problem, each with its variable; no value of a secret is repeated.
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
            found.take(name, stripped(value) if isinstance(value, str) else value, Kind.COMMAND_LINE)
    settings = _validated(found.values, found.problems)
    settings._origins = found.origins  # noqa: SLF001  # Not a setting: where they come from.
    return settings


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
        found.take("services", {name: table.get("url") for name, table in tables.items()}, Kind.SERVICES_FILE, file)


def _validated(values: Mapping[str, Any], found: Sequence[str] = ()) -> Settings:
    """Settings of these values. Raises `SettingsError` with every problem, those that were `found` before included."""
    problems = list(found)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += _explain(error)
        wrong = {problem["loc"][0] for problem in _errors(error) if problem["loc"]}
        if wrong:  # What the other fields have wrong among themselves would go untold until these are right.
            try:
                Settings.model_validate({name: value for name, value in values.items() if name not in wrong})
            except ValidationError as rest:
                problems += _explain(rest)
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _read_secret(found: _Found, variable: str, name: str, path: str, environ: Mapping[str, str]) -> None:
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
        found.problems.append(f"{PREFIX}SECRETS_DIR: cannot read the folder it names: {error.strerror}")
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

    A file that cannot be read is not named: its name may be the secret itself, in the wrong variable.
    """
    try:
        secret = stripped(read_text(file))
    except OSError as error:
        problems.append(f"{variable}: cannot read the file it names: {error.strerror}")
        return ""
    except ValueError as error:
        problems.append(f"{variable}: the file {file} is {error}")
        return ""
    if not secret:  # It would count as not set, which for a secret that somebody provided is never meant.
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
