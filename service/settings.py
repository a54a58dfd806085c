"""Every setting: its meaning, unit, default, and why that number (DESIGN, section 10).

Settings are read once, from a mapping (`os.environ`, or a test's dictionary), into one frozen object. All mistakes
are reported together. A value that is a secret is a `SecretStr`: no `repr`, log or error shows it.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from service.errors import SettingsError

PREFIX = "CLUSTER_EVENTS_"

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_LONGEST_S = 36_500 * 86_400.0
"""A hundred years: beyond, Redis takes no expiry, and nobody means it."""
_SERVICE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_RESERVED_SERVICE_NAMES = frozenset({"all_healthy", "stale", "stale_after_seconds"})
"""Names of the verdict's own fields, beside which each service has a field."""
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_REDIS_SCHEMES = ("redis", "rediss", "unix")
_SYMMETRIC = ("HS256", "HS384", "HS512")
_ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def seconds(value: str, bare_unit: str = "s") -> float:
    """A duration in seconds: a plain number (in `bare_unit`), or one with a unit: `500ms`, `30s`, `10m`, `72h`, `90d`.

    Raises `ValueError` for anything else.
    """
    match = _DURATION.fullmatch(value.strip())
    if not match:
        raise ValueError("expected a duration such as 500ms, 30s, 10m or 72h")
    duration = float(match[1]) * _UNITS[match[2] or bare_unit]
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
    """`name=URL` pairs, or names alone where nothing is checked, separated by commas."""
    if not isinstance(value, str):
        return value
    services: dict[str, str] = {}
    for part in _split(value):  # type: ignore[attr-defined]  # A str gives a tuple.
        name, _, url = part.partition("=")
        if not _SERVICE_NAME.fullmatch(name) or name in _RESERVED_SERVICE_NAMES:
            shown = name.partition("://")[0][:40]  # Where the `=` is missing this is a URL, perhaps with a password.
            raise ValueError(f"'{shown}' cannot be a service's name: use lower-case identifiers, as in api=http://…")
        if name in services:
            raise ValueError(f"the service '{name}' is named twice")
        if url and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname):
            raise ValueError(f"the URL of '{name}' is not an http:// or https:// URL")
        services[name] = url
    if not services:
        raise ValueError("name at least one service, as in api=http://…")
    return services


Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0)]
DurationOrZero = Annotated[float, BeforeValidator(_duration), Field(ge=0)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class Auth(StrEnum):
    """Whether requests need a credential."""

    REQUIRED = "required"
    NONE = "none"


class LogFormat(StrEnum):
    """How log lines look: for people, or one JSON object a line."""

    TEXT = "text"
    JSON = "json"


class Settings(BaseModel):
    """All settings of all commands; each command uses those that concern it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = "127.0.0.1"
    """The address to listen on. Loopback by default: listening to the world is a decision."""
    port: int = Field(8080, ge=0, le=65_535)
    """The TCP port to listen on; 0 takes a free one."""

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
    events_memory: int = Field(16 * 1024 * 1024, ge=0)
    """The most bytes of full events, beyond the latest, that a replica keeps in memory."""
    poll_path: Switch = True
    """Whether known request heads are answered ahead of the HTTP parser (`on`/`off`)."""
    cors_origins: Names = ()
    """The origins from which browsers may read the API, or `*` for all. None by default."""
    access_log: Switch = False
    """Whether each request is logged (`on`/`off`); it costs more than answering a poll does."""

    auth: Auth = Auth.REQUIRED
    """`none` lets everyone do everything, and then listens on loopback only unless forced."""
    auth_none_anywhere: Switch = False
    """Allows `AUTH=none` on addresses other than loopback."""
    jwt_secret: SecretStr | None = None
    """The shared secret of HS256 tokens, at least as many bytes as the hash (RFC 7518, section 3.2)."""
    jwt_public_key: SecretStr | None = None
    """The public key of RSA, ECDSA or Ed25519 tokens, as PEM."""
    jwt_algorithms: Names = ()
    """The signature algorithms accepted. Default: HS256 for a secret, else the one that fits the public key."""
    jwt_issuer: str | None = None
    """The only `iss` accepted, when set."""
    jwt_audience: str | None = None
    """The only `aud` accepted, when set."""
    jwt_role_claim: str = "role"
    """The claim that carries `read` or `write`; a token without it may read."""

    services: Annotated[Mapping[str, str], BeforeValidator(_services)] = Field(
        default_factory=lambda: {"api": "", "compiler": "", "runner": ""}
    )
    """The monitored services in order: `api=http://…/healthz,compiler=…`. The API needs the names only."""
    check_interval: Duration = 10.0
    """Seconds between the starts of two checks."""
    check_timeout: Duration = 5.0
    """The most seconds that one service's answer may take."""
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
    heartbeat_url: SecretStr | None = None
    """A URL that the leading monitor calls after each completed check, for a watcher outside that raises an alarm when the calls
    stop. A secret, since whoever knows it can keep that watcher quiet."""

    retention_events: int = Field(1_000, ge=1, le=100_000)
    """The most events retained, newest first."""
    retention_hours: Annotated[float, BeforeValidator(_retention_hours), Field(gt=0)] = 72.0
    """Hours for which an event is retained (or a duration with a unit); the latest stays however old it is."""

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
            f"at most {self.retention_events:,} events are retained and none older than {self.retention_hours:g} h, "
            "except the latest"
        )

    @property
    def algorithms(self) -> tuple[str, ...]:
        """`jwt_algorithms`, or HS256 where there is a secret; empty where the public key decides."""
        return self.jwt_algorithms or (("HS256",) if self.jwt_secret else ())

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """What no single field can tell. Every problem names its variables; all are told at once."""
        problems = [*self._redis_problems(), *self._jwt_problems(), *self._bound_problems(), *self._lease_problems()]
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
        if self.jwt_secret and self.jwt_public_key:
            problems.append(f"{PREFIX}JWT_SECRET and {PREFIX}JWT_PUBLIC_KEY: set one of them, not both")
        family = _SYMMETRIC if self.jwt_secret else _ASYMMETRIC
        wrong = [name for name in self.jwt_algorithms if name not in family]
        if wrong and (self.jwt_secret or self.jwt_public_key):
            problems.append(f"{PREFIX}JWT_ALGORITHMS: with this kind of key, expected some of {', '.join(family)}")
        elif wrong and any(name not in _SYMMETRIC for name in wrong):
            problems.append(f"{PREFIX}JWT_ALGORITHMS: expected some of {', '.join(_SYMMETRIC + _ASYMMETRIC)}")
        if self.jwt_secret and not wrong:
            needed = max(int(name[2:]) // 8 for name in self.algorithms)
            if len(self.jwt_secret.get_secret_value().encode()) < needed:
                problems.append(
                    f"{PREFIX}JWT_SECRET: expected at least {needed} bytes for {', '.join(self.algorithms)}"
                )
        return problems

    def _bound_problems(self) -> list[str]:
        problems = []
        if (
            self.auth is Auth.NONE
            and not self.auth_none_anywhere
            and self.host not in {"127.0.0.1", "::1", "localhost"}
        ):
            problems.append(
                f"{PREFIX}AUTH: none listens on loopback only; set {PREFIX}HOST=127.0.0.1 or {PREFIX}AUTH_NONE_ANYWHERE=yes"
            )
        if self.max_staleness <= self.heartbeat:
            problems.append(f"{PREFIX}MAX_STALENESS: expected more than {PREFIX}HEARTBEAT ({self.heartbeat:g} s)")
        if self.check_timeout > self.check_interval:
            problems.append(
                f"{PREFIX}CHECK_TIMEOUT: expected at most {PREFIX}CHECK_INTERVAL ({self.check_interval:g} s)"
            )
        return problems

    def _lease_problems(self) -> list[str]:
        problems = []
        if not self.lease_renew < self.lease_deadline < self.lease_ttl:
            problems.append(
                f"{PREFIX}LEASE_DEADLINE: expected more than {PREFIX}LEASE_RENEW ({self.lease_renew:g} s) "
                f"and less than {PREFIX}LEASE_TTL ({self.lease_ttl:g} s)"
            )
        if self.heartbeat_url and not _is_http(self.heartbeat_url.get_secret_value()):
            problems.append(f"{PREFIX}HEARTBEAT_URL: expected an http:// or https:// URL")
        return problems


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def is_secret(name: str) -> bool:
    """Whether the setting's value must not be shown."""
    annotation = Settings.model_fields[name].annotation
    return annotation is SecretStr or SecretStr in get_args(annotation)


def load(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """The settings of `environ`: `CLUSTER_EVENTS_<NAME>`, or for secrets `CLUSTER_EVENTS_<NAME>_FILE` naming a file.

    `overrides` come from the command line and win; those that are `None` are left out. An empty value counts as
    not set. Raises `SettingsError` with every problem, each with its variable; no value of a secret is repeated.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or not text:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in Settings.model_fields:
            values[name] = text
        elif name.removesuffix("_file") in Settings.model_fields and is_secret(name.removesuffix("_file")):
            _read_secret(variable, text, environ, values, problems)
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += _explain(error)
        wrong = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
        if wrong:  # What the other fields have wrong among themselves would go untold until these are right.
            try:
                Settings.model_validate({name: value for name, value in values.items() if name not in wrong})
            except ValidationError as rest:
                problems += _explain(rest)
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _read_secret(
    variable: str, path: str, environ: Mapping[str, str], values: dict[str, Any], problems: list[str]
) -> None:
    direct = variable.removesuffix("_FILE")
    if environ.get(direct):
        problems.append(f"{variable}: {direct} is set too; set one of them")
        return
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        problems.append(f"{variable}: cannot read the file it names: {reason}")
        return
    if not secret:  # It would count as not set, which for a secret that somebody provided is never meant.
        problems.append(f"{variable}: the file it names is empty")
        return
    values[direct.removeprefix(PREFIX).lower()] = secret


def _explain(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        message = problem["msg"].removeprefix("Value error, ")
        where = f"{PREFIX}{problem['loc'][0]}".upper() + ": " if problem["loc"] else ""
        lines += [where + line for line in message.splitlines()]
    return lines
