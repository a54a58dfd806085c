"""Every setting: its meaning, unit, default, and the reason for the default (contract, section
10)."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from service.settings.types import (
    PREFIX,
    Auth,
    Duration,
    DurationOrZero,
    LogFormat,
    Names,
    Switch,
    Unknown,
    cors_origin_problem,
    is_host_name,
    is_http_url,
    is_loopback,
    is_safe_url,
    parse_duration,
    parse_pairs,
    parse_retention_hours,
    parse_services,
    webhook_key,
)
from service.text import stripped

_CLUSTER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_REDIS_SCHEMES = ("redis", "rediss", "unix")
_SYMMETRIC = ("HS256", "HS384", "HS512")
_ASYMMETRIC = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
_KEY_SET = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
"""What issuers sign with in earnest; fewer is safer."""
_CHECK_TIMEOUT_S = 5.0
"""By default: a service that has not answered by then does not answer its clients in time
either."""
_MOST_SECRETS = 4
"""Two while one takes over from the other; more is a mistake in the file."""


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
    """A TCP port of its own for the API's `/metrics`, on the same host; 0 takes a free one. By
    default `/metrics` is on the API's port, where every client can read it. The monitor's metrics
    are on `MONITOR_PORT` in any case."""

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Where the store is: `redis://`, `rediss://` or `unix://`. A secret, since it may carry a
    password."""
    cluster_name: str = "default"
    """The cluster whose events these are: the hash tag of all keys."""
    write_replicas: int = Field(0, ge=0, le=10)
    """How many Redis replicas must have an event before its recording counts as safe (`WAIT`); 0
    asks for none."""
    redis_timeout: Duration = 0.5
    """The most seconds that one request to the store may take: a poller would rather hear 503 than
    wait."""

    heartbeat: Duration = 0.5
    """Seconds between two looks of a replica at the store's version: what bounds staleness when
    notices are lost."""
    max_staleness: Duration = 2.0
    """Seconds since the last good heartbeat for which the snapshot counts as current: four
    heartbeats."""
    stale_if_error: DurationOrZero = 30.0
    """Seconds for which an unreachable store's last state is still served, marked as such; 0 never
    does."""
    stale_after: Duration | None = None
    """Seconds without a completed check after which the verdict is 503. Default: three check
    intervals."""
    drain: DurationOrZero = 5.0
    """Seconds between SIGTERM and the end of service: time for load balancers to notice
    `/readyz`."""
    idle_timeout: Duration = 75.0
    """Seconds after which an idle keep-alive connection is closed. It must be longer than the load
    balancer in front keeps its idle connections (nginx 60 s; Traefik 90 s, Azure 120 s, Google 600
    s), or requests meet a connection that was just closed."""
    reply_timeout: Duration = 60.0
    """The most seconds that a client may take to receive one whole response."""
    reply_memory: int = Field(32 * 1024 * 1024, ge=1024 * 1024)
    """The most bytes of responses that only one client gets (pages of the list) and that wait to be
    sent. Beyond it, such a request is answered 503 `ServerBusy`."""
    events_memory: int = Field(16 * 1024 * 1024, ge=0)
    """The most bytes of full events, beyond the latest, that a replica keeps in memory."""
    poll_path: Switch = True
    """Whether known request heads are answered ahead of the HTTP parser (`on`/`off`)."""
    cors_origins: Names = ()
    """The origins from which browsers may read the API (`https://status.example`), or `*` for all.
    None by default. One that no browser would send, such as one with a path, is refused with its
    right spelling."""
    access_log: Switch = False
    """Whether each request is logged (`on`/`off`); it costs more than answering a poll does."""

    auth: Auth = Auth.REQUIRED
    """`none` lets everyone do everything, and then listens on loopback only unless forced."""
    auth_none_anywhere: Switch = False
    """Allows `AUTH=none` on addresses other than loopback."""
    allowed_hosts: Names = ()
    """With `AUTH=none`: names besides loopback ones and the address of the connection that a
    request's `Host` may have, without ports; any other is answered 421. That keeps out web pages
    whose own name resolves to this service (DNS rebinding)."""
    jwt_secret: SecretStr | None = None
    """The shared secret of HS256 tokens, at least as many bytes as the hash (RFC 7518, section
    3.2). Of several, one a line, all are accepted and the first one signs: so one can take over
    from another."""
    jwt_public_key: SecretStr | None = None
    """The public key of RSA, ECDSA or Ed25519 tokens, as PEM, or several of them."""
    jwt_jwks_url: Names = ()
    """Where the issuers publish their keys: one `https://` URL for each of `JWT_ISSUER`, in the
    same order. Default, where neither a secret nor a public key is set: what each issuer says at
    `/.well-known/openid-configuration`."""
    jwt_jwks_refresh: Duration = 300.0
    """Seconds between two looks at the published keys; a token with a key that is not known is a
    reason to look sooner."""
    jwt_algorithms: Names = ()
    """The signature algorithms accepted. Default: HS256 for a secret, else the one that fits the
    public key, or with published keys RS256, PS256, ES256 and EdDSA. `Ed25519` is another name of
    `EdDSA` (RFC 9864): either allows both."""
    jwt_issuer: Names = ()
    """The only `iss` accepted, when set; several are separated by commas. Required with published
    keys."""
    jwt_audience: str | None = None
    """The only `aud` accepted, when set. Required with published keys: an issuer signs for other
    services too."""
    jwt_max_lifetime: Duration = 86_400.0
    """The most seconds from a token's `iat` to its `exp`: nobody can revoke a token, so it must end
    by itself."""
    jwt_leeway: Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=60)] = 5.0
    """Seconds by which the clocks of issuer and service may differ: a token is accepted that long
    before its `nbf` and after its `exp`. At most 60."""
    jwt_role_claim: str = "role"
    """The claim that carries `read` or `write`; a token without it may read."""
    secrets_dir: Path | None = None
    """A folder of files named like the secrets here (`jwt_secret` or `jwt-secret`), for those that
    are not set otherwise."""
    secrets_refresh: Duration = 5.0
    """Seconds between two looks at the files of JWT secrets and public keys: a new one takes effect
    without a restart."""
    auth_failures_per_minute: int = Field(300, ge=0)
    """Bad credentials that one client address may send in a minute before it is answered 429; 0
    sets no limit. No number of guesses finds a credential: this keeps a fleet with a stale token,
    all behind one address, from filling the log."""
    trusted_proxies: Names = ()
    """The networks (`10.0.0.0/8`) of proxies whose `X-Forwarded-For` is believed. None by default:
    anyone can send that field."""

    services: Annotated[Mapping[str, str], BeforeValidator(parse_services)] = Field(
        default_factory=lambda: {"api": "", "compiler": "", "runner": ""}
    )
    """The monitored services in order: `api=http://…/healthz,compiler=…`. The API needs the names
    only."""
    services_file: Path | None = None
    """A TOML file with a table for each service: what no variable should hold, such as headers and
    certificates. Where `SERVICES` is not set, the file also says which services there are, in its
    order."""
    check_interval: Duration = 10.0
    """Seconds between the starts of two checks."""
    check_timeout: Duration = Field(
        default_factory=lambda known: min(_CHECK_TIMEOUT_S, known.get("check_interval", 10.0))
    )
    """The most seconds that one service's answer may take. Default: 5, or `CHECK_INTERVAL` where
    that is less."""
    record_interval: Duration = 600.0
    """Seconds between two events while all stays healthy."""

    lease_ttl: Duration = 5.0
    """Seconds after which the lease of a leading monitor that died is free: a standby checks within
    6 s, and nobody's verdict is stale by then. It outlasts four lost renewals."""
    lease_renew: Duration = 1.0
    """Seconds between two renewals by the leader, give or take a fifth; those who stand by ask
    twice as often, so that an orderly hand-over takes less than a second."""
    lease_deadline: Duration = 4.0
    """Seconds after the sending of the last good renewal when a leader stops on its own: before
    `lease_ttl` is over by the store's clock, whatever the two clocks' speeds."""
    monitor_host: str = "127.0.0.1"
    """The address on which the monitor tells how it is. Loopback by default, as for the API."""
    monitor_port: int | None = Field(None, ge=0, le=65_535)
    """The TCP port of the monitor's `/healthz`, `/readyz` and `/metrics`. None by default: it
    listens on nothing."""
    monitor_resources: Switch = False
    """Whether the Kubernetes objects behind the services are looked at (`on`/`off`); `off` says so
    in each event."""
    resources: Annotated[Mapping[str, str], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict
    )
    """The objects behind the services: `api=deployment/api-server,compiler=statefulset/compiler`
    (or `NAMESPACE/deployment/NAME`, or `deployment?LABEL=VALUE`)."""
    resources_unknown: Unknown = Unknown.IGNORE
    """What it means when Kubernetes cannot be asked: `ignore` leaves the verdict to the service's
    own check."""
    kubernetes_url: str | None = None
    """The API server. Default: that of the cluster in which the monitor runs."""
    kubernetes_credentials: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """The folder with `token`, `ca.crt` and `namespace`: where Kubernetes puts them. Read again as
    they are rotated."""
    webhook_url: SecretStr | None = None
    """A URL that gets a signed POST for each recorded change (Standard Webhooks). A secret, as such
    URLs often carry a token."""
    webhook_secret: SecretStr | None = None
    """What signs it: `whsec_` and the base64 of 24 to 64 random bytes."""
    heartbeat_url: SecretStr | None = None
    """A URL that the leading monitor calls after each completed check, for a watcher outside that
    raises an alarm when the calls stop. A secret, since whoever knows it can keep that watcher
    quiet."""

    retention_events: int = Field(1_000, ge=1, le=100_000)
    """The most events retained, newest first."""
    retention_hours: Annotated[float, BeforeValidator(parse_retention_hours), Field(gt=0)] = 72.0
    """Hours for which an event is retained (or a duration with a unit); the latest stays however
    old it is."""
    retention_bytes: int = Field(64 * 1024 * 1024, ge=64 * 1024)
    """The most bytes of retained events, as stored; the latest stays whatever its size. It keeps
    one writer of large events from filling the store."""

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
        """`jwt_algorithms`, or HS256 where there is a secret; empty where the public key
        decides."""
        return self.jwt_algorithms or (("HS256",) if self.jwt_secret else ())

    @property
    def jwt_secrets(self) -> tuple[str, ...]:
        """The shared secrets, the one that signs first."""
        text = self.jwt_secret.get_secret_value() if self.jwt_secret else ""
        return tuple(line for line in map(stripped, text.splitlines()) if line)

    @property
    def key_sets(self) -> Mapping[str, str | None]:
        """Where each issuer publishes its keys, or `None` where it is to be asked; empty without
        published keys."""
        if self.jwt_secret or self.jwt_public_key:
            return {}
        return dict(
            zip(self.jwt_issuer, self.jwt_jwks_url or [None] * len(self.jwt_issuer), strict=True)
        )

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
        return {
            name: one.file
            for name, one in origins.items()
            if one.kind in _SECRET_FILES and one.file is not None
        }

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """What no single field can tell. Every problem names its variables; all are told at
        once."""
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
            if url.scheme not in _REDIS_SCHEMES or not (
                url.path if url.scheme == "unix" else url.hostname
            ):
                problems.append(
                    f"{PREFIX}REDIS_URL: expected redis://host:port/db, rediss://… or unix:///path"
                )
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
            problems.append(
                f"{PREFIX}JWT_ALGORITHMS: with this kind of key, expected some of {', '.join(family)}"
            )
        elif wrong and any(name not in _SYMMETRIC for name in wrong):
            problems.append(
                f"{PREFIX}JWT_ALGORITHMS: expected some of {', '.join(_SYMMETRIC + _ASYMMETRIC)}"
            )
        if self.jwt_secret and not wrong:
            needed = max(int(name[2:]) // 8 for name in self.algorithms)
            if min((len(secret.encode()) for secret in self.jwt_secrets), default=0) < needed:
                problems.append(
                    f"{PREFIX}JWT_SECRET: expected at least {needed} bytes for {', '.join(self.algorithms)}"
                )
            if len(self.jwt_secrets) > _MOST_SECRETS:
                problems.append(
                    f"{PREFIX}JWT_SECRET: expected at most {_MOST_SECRETS} secrets, one a line"
                )
        return problems

    def _key_set_problems(self) -> list[str]:
        problems = []
        if not self.jwt_issuer:
            problems.append(
                f"{PREFIX}JWT_ISSUER: with published keys, name the only issuer (or issuers) to be accepted"
            )
        elif self.jwt_jwks_url and len(self.jwt_jwks_url) != len(self.jwt_issuer):
            problems.append(
                f"{PREFIX}JWT_JWKS_URL: expected one URL for each of {PREFIX}JWT_ISSUER"
            )
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
            problems.append(
                f"{PREFIX}JWT_AUDIENCE: with published keys, name the only audience to be accepted"
            )
        return problems

    def _bound_problems(self) -> list[str]:
        problems = []
        if self.auth is Auth.NONE and not self.auth_none_anywhere and not is_loopback(self.host):
            problems.append(
                f"{PREFIX}AUTH: none listens on loopback only; set {PREFIX}HOST=127.0.0.1 or {PREFIX}AUTH_NONE_ANYWHERE=yes"
            )
        problems += filter(None, map(cors_origin_problem, self.cors_origins))
        for network in self.trusted_proxies:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                problems.append(
                    f"{PREFIX}TRUSTED_PROXIES: expected networks such as 10.0.0.0/8, separated by commas"
                )
                break
        if wrong := [host for host in self.allowed_hosts if not is_host_name(host)]:
            problems.append(
                f"{PREFIX}ALLOWED_HOSTS: '{wrong[0][:40]}' is not a host name or an IP address: expected those, without "
                "scheme and port, separated by commas"
            )
        if self.max_staleness <= self.heartbeat:
            problems.append(
                f"{PREFIX}MAX_STALENESS: expected more than {PREFIX}HEARTBEAT ({self.heartbeat:g} s)"
            )
        if self.check_timeout > self.check_interval:
            problems.append(
                f"{PREFIX}CHECK_TIMEOUT: expected at most {PREFIX}CHECK_INTERVAL ({self.check_interval:g} s)"
            )
        return problems

    def _port_problems(self) -> list[str]:
        """No two listeners share a port. The default `PORT` does not count for a monitor, which
        usually runs apart."""
        problems = []
        if self.metrics_port and self.metrics_port == self.port:
            problems.append(
                f"{PREFIX}METRICS_PORT: expected another port than {PREFIX}PORT ({self.port})"
            )
        taken = {
            "METRICS_PORT": self.metrics_port,
            "PORT": self.port if "port" in self.model_fields_set else None,
        }
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
            if url and not is_http_url(url.get_secret_value()):
                problems.append(f"{PREFIX}{name}: expected an http:// or https:// URL")
        if self.kubernetes_url and not is_http_url(self.kubernetes_url):
            problems.append(f"{PREFIX}KUBERNETES_URL: expected an http:// or https:// URL")
        if bool(self.webhook_url) != bool(self.webhook_secret):
            problems.append(f"{PREFIX}WEBHOOK_SECRET: set it and {PREFIX}WEBHOOK_URL, or neither")
        elif self.webhook_secret and webhook_key(self.webhook_secret) is None:
            problems.append(
                f"{PREFIX}WEBHOOK_SECRET: expected whsec_ and the base64 of 24 to 64 bytes"
            )
        return problems


def is_secret(name: str) -> bool:
    """Whether the setting's value must not be shown."""
    annotation = Settings.model_fields[name].annotation
    return annotation is SecretStr or SecretStr in get_args(annotation)
