"""All settings: their meaning, unit and default, and the reason for the default.

The text below each field is its description in `deploy/SETTINGS.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self, get_args

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
    KEY_SET_ALGORITHMS,
    Auth,
    Duration,
    DurationOrZero,
    LogFormat,
    Names,
    Switch,
    Unknown,
    parse_duration,
    parse_pairs,
    parse_percent,
    parse_retention_hours,
    parse_services,
)
from service.settings.validation import combination_problems
from service.text import stripped

_CHECK_TIMEOUT_S = 5.0
"""The default: a service that does not respond within it is too slow for its clients too."""


class Kind(StrEnum):
    """The kinds of sources of a setting."""

    ENVIRONMENT = "environment variable"
    FILE = "file"
    SECRETS_DIR = "SECRETS_DIR"
    SERVICES_FILE = "services file"
    COMMAND_LINE = "command line"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a setting; `file` is set if that is a file."""

    kind: Kind
    file: Path | None = None


_FROM_DEFAULT = Origin(Kind.DEFAULT)
_SECRET_FILES = frozenset({Kind.FILE, Kind.SECRETS_DIR})


class Settings(BaseModel):
    """All settings of all commands; each command uses the settings that it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    _origins: Mapping[str, Origin] = PrivateAttr(default_factory=dict)

    host: str = "127.0.0.1"
    """The address to listen on. Loopback by default: other hosts get access only if you allow
    it."""
    port: int = Field(8080, ge=0, le=65_535)
    """The TCP port to listen on; 0 selects a free port."""
    metrics_port: int | None = Field(None, ge=0, le=65_535)
    """A separate TCP port for the API's `/metrics`, on the same host; 0 selects a free port. By
    default `/metrics` is on the API's port, where every client can read it. The monitor's metrics
    are always on `MONITOR_PORT`."""

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """The URL of the store: `redis://`, `rediss://` or `unix://`. It is a secret, because it can
    contain a password."""
    cluster_name: str = "default"
    """The name of the monitored cluster. It is the hash tag of all keys in Redis."""
    write_replicas: int = Field(0, ge=0, le=10)
    """The number of Redis replicas that must confirm an event before it counts as safely recorded
    (`WAIT`); with 0 none is asked."""
    redis_timeout: Duration = 0.5
    """The timeout of one request to the store, in seconds. It is short, because an early 503 is
    better for a polling client than a long wait."""

    heartbeat: Duration = 0.5
    """Seconds between two checks of the store's version by a replica. It limits the staleness of
    the replica when notifications are lost."""
    max_staleness: Duration = 2.0
    """Seconds after the last successful heartbeat for which the snapshot counts as current. By
    default four heartbeats."""
    stale_if_error: DurationOrZero = 30.0
    """Seconds for which the last known state is served, marked as stale, while the store is
    unreachable; with 0 it is never served."""
    stale_after: Duration | None = None
    """Seconds without a completed check after which the verdict is 503. Default: three check
    intervals."""
    drain: DurationOrZero = 5.0
    """Seconds between SIGTERM and the end of service. In this time load balancers see that
    `/readyz` fails."""
    idle_timeout: Duration = 75.0
    """Seconds after which an idle keep-alive connection is closed. It must be longer than the idle
    timeout of the load balancer in front (nginx 60 s; Traefik 90 s, Azure 120 s, Google 600 s), or
    the load balancer sends requests on connections that were just closed."""
    reply_timeout: Duration = 60.0
    """The most seconds that a client may take to receive a whole response."""
    reply_memory: int = Field(32 * 1024 * 1024, ge=1024 * 1024)
    """The most bytes of responses that are not shared between clients (pages of the list) and have
    not been sent yet. Above it, such a request gets 503 `ServerBusy`."""
    events_memory: int = Field(16 * 1024 * 1024, ge=0)
    """The most bytes of full events, besides the latest one, that a replica keeps in memory."""
    poll_path: Switch = True
    """Whether repeated requests are answered from the poll path's cache, without HTTP parsing."""
    cors_origins: Names = ()
    """The origins from which browsers may read the API (`https://status.example`), or `*` for all.
    None by default. An origin in a form that browsers do not send, for example with a path, is
    invalid; the message shows the correct form."""
    access_log: Switch = False
    """Whether each request is logged. A log line costs more than a response to a poll."""

    auth: Auth = Auth.REQUIRED
    """Whether requests need a credential. With `none` every client may read and write everything,
    and `HOST` must be a loopback address unless `AUTH_NONE_ANYWHERE` is set."""
    auth_none_anywhere: Switch = False
    """Allows `AUTH=none` on addresses other than loopback."""
    allowed_hosts: Names = ()
    """With `AUTH=none`: the accepted values of `Host`, without ports, in addition to loopback names
    and the local address of the connection. Other requests get 421. This is a protection against
    DNS rebinding, where the name of a malicious web page resolves to this service."""
    jwt_secret: SecretStr | None = None
    """The shared secret of HS256 tokens, at least as long as the hash (RFC 7518, section 3.2). It
    may have several lines, for a rotation: each line is a secret, all are accepted, and the first
    one signs."""
    jwt_public_key: SecretStr | None = None
    """The public key of RSA, ECDSA or Ed25519 tokens as PEM, or several keys."""
    jwt_jwks_url: Names = ()
    """The URLs at which the issuers publish their keys (JWKS): one `https://` URL for each issuer
    in `JWT_ISSUER`, in the same order. By default, if neither a secret nor a public key is set, the
    URL is read from each issuer's `/.well-known/openid-configuration`."""
    jwt_jwks_refresh: Duration = 300.0
    """Seconds between two fetches of the published keys. A token with an unknown key causes an
    earlier fetch."""
    jwt_algorithms: Names = ()
    """The accepted signature algorithms. Default: HS256 for a secret, the preferred algorithm of
    each key for public keys, and RS256, PS256, ES256 and EdDSA for published keys. `Ed25519` is
    another name of `EdDSA` (RFC 9864): each of them allows both."""
    jwt_issuer: Names = ()
    """The accepted values of `iss`; by default any. Required with published keys."""
    jwt_audience: str | None = None
    """The accepted value of `aud`; by default any. Required with published keys, because an issuer
    also signs tokens for other services."""
    jwt_max_lifetime: Duration = 86_400.0
    """The most seconds from a token's `iat` to its `exp`. A token cannot be revoked, so it must
    expire."""
    jwt_leeway: Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=60)] = 5.0
    """Seconds by which the clocks of the issuer and the service may differ. A token is accepted
    this long before its `nbf` and after its `exp`."""
    jwt_role_claim: str = "role"
    """The claim with the role, `read` or `write`. A token without the claim may read."""
    secrets_dir: Path | None = None
    """A folder with files that are named like secrets (`jwt_secret` or `jwt-secret`). A file is
    used if its secret is not set in another way."""
    secrets_refresh: Duration = 5.0
    """Seconds between two reads of the files of JWT secrets and public keys. A new secret is used
    without a restart."""
    auth_failures_per_minute: int = Field(300, ge=0)
    """The invalid credentials that one client address may send in a minute; further ones get 429. 0
    means no limit. The limit is no protection against guesses, since credentials cannot be guessed.
    It keeps many agents with an expired token behind one address from filling the log."""
    trusted_proxies: Names = ()
    """The networks (`10.0.0.0/8`) of proxies whose `X-Forwarded-For` is trusted. None by default,
    because any client can send this field."""

    services: Annotated[Mapping[str, str], BeforeValidator(parse_services)] = Field(
        default_factory=lambda: {"api": "", "compiler": "", "runner": ""}
    )
    """The monitored services in order: `api=http://…/healthz,compiler=…`, separated by commas or
    line breaks. The API needs only the names."""
    services_file: Path | None = None
    """A TOML file with a table for each service, for options such as headers and certificates. If
    `SERVICES` is not set, the services are the tables of the file, in its order."""
    check_interval: Duration = 10.0
    """Seconds between the starts of two checks."""
    check_timeout: Duration = Field(
        default_factory=lambda known: min(_CHECK_TIMEOUT_S, known.get("check_interval", 10.0))
    )
    """The timeout of the check of one service, in seconds. Default: 5, or `CHECK_INTERVAL` if that
    is less."""
    record_interval: Duration = 600.0
    """Seconds between two events while all services stay healthy."""

    lease_ttl: Duration = 5.0
    """Seconds after which the lease of a dead leader expires. A standby then takes over and checks
    within 6 s, before any verdict is stale. The lease survives four lost renewals."""
    lease_renew: Duration = 1.0
    """Seconds between two renewals by the leader, plus or minus 20 %. A standby tries twice as
    often to get the lease, so that an orderly hand-over takes less than a second."""
    lease_deadline: Duration = 4.0
    """Seconds after which a leader without a successful renewal stops leading, counted from the
    sending of the last successful one. It must be less than `LEASE_TTL`, so that the leader stops
    before the lease expires in the store, also if the two clocks run at different speeds."""
    monitor_host: str = "127.0.0.1"
    """The address on which the monitor listens. Loopback by default, as for the API."""
    monitor_port: int | None = Field(None, ge=0, le=65_535)
    """The TCP port of the monitor's `/healthz`, `/readyz` and `/metrics`; 0 selects a free port. By
    default the monitor does not listen."""
    monitor_resources: Switch = False
    """Whether the monitor reads the Kubernetes workloads of the services. With `off`, each event
    says so in its resources infos."""
    resources: Annotated[Mapping[str, str], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict
    )
    """The Kubernetes workloads of the services:
    `api=deployment/api-server,compiler=statefulset/compiler,agent=daemonset/agent` (or
    `NAMESPACE/deployment/NAME`, or `deployment?LABEL=VALUE`)."""
    resources_unknown: Unknown = Unknown.IGNORE
    """How a workload counts if its state is not known, after `RESOURCES_KEEP`. With `ignore`, only
    the check of the service decides; with `unhealthy`, the service is unhealthy."""
    resources_keep: DurationOrZero = 300.0
    """Seconds for which a finding about a workload is kept while nothing new can be read. It is
    marked with its time. After that the state of the workload is not known."""
    resources_progress: Duration = 600.0
    """Seconds without any progress of a roll-out or a scale-up after which a workload is
    unhealthy."""
    resources_tolerated: Annotated[float, BeforeValidator(parse_percent), Field(ge=0, le=100)] = (
        10.0
    )
    """The percentage of the wanted replicas that may be missing because pods fail: `10`, `10 %`,
    or the share `0.1`."""
    kubernetes_url: str | None = None
    """The URL of the Kubernetes API server. Default: the cluster in which the monitor runs."""
    kubernetes_credentials: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """The folder with `token`, `ca.crt` and `namespace`. The default is where Kubernetes mounts
    them. Rotated files are read again."""
    webhook_url: SecretStr | None = None
    """A URL that gets a signed POST for each recorded change (Standard Webhooks). It is a secret,
    because such URLs often contain a token."""
    webhook_secret: SecretStr | None = None
    """The key that signs webhook messages: `whsec_` and the base64 of 24 to 64 random bytes."""
    heartbeat_url: SecretStr | None = None
    """A URL that the leader requests after each completed check. An external service (a dead man's
    switch) raises an alarm when the requests stop. It is a secret, because anyone who knows it can
    suppress the alarm."""

    retention_events: int = Field(1_000, ge=1, le=100_000)
    """The most retained events; the oldest are trimmed first."""
    retention_hours: Annotated[float, BeforeValidator(parse_retention_hours), Field(gt=0)] = 72.0
    """Hours for which an event is retained. The latest event always stays."""
    retention_bytes: int = Field(64 * 1024 * 1024, ge=64 * 1024)
    """The most bytes of retained events, as stored. The latest event always stays. The limit keeps
    one writer of large events from filling the store."""

    monitoring: Switch = True
    """Whether the deployment has a monitor. With `off`, event routes and the verdict respond with
    501."""
    log_format: LogFormat = LogFormat.TEXT
    """The format of log lines: `text` for people, `json` for programs."""

    @property
    def service_names(self) -> tuple[str, ...]:
        """The names of the services, in the configured order."""
        return tuple(self.services)

    @property
    def stale_after_s(self) -> float:
        """`stale_after` or its default, in seconds."""
        return self.stale_after if self.stale_after is not None else 3 * self.check_interval

    @property
    def retention_us(self) -> int:
        """`retention_hours` in microseconds."""
        return round(self.retention_hours * 3_600_000_000)

    @property
    def retention(self) -> str:
        """The retention as text, for the response about an unknown event."""
        return (
            f"at most {self.retention_events:,} events are retained, "
            f"of {self.retention_bytes / 1024**2:g} MiB together, "
            f"and none older than {self.retention_hours:g} h, except the latest"
        )

    @property
    def algorithms(self) -> tuple[str, ...]:
        """`jwt_algorithms`, or HS256 with a secret; empty if the public key decides."""
        return self.jwt_algorithms or (("HS256",) if self.jwt_secret else ())

    @property
    def jwt_secrets(self) -> tuple[str, ...]:
        """The shared secrets; the first one signs."""
        text = self.jwt_secret.get_secret_value() if self.jwt_secret else ""
        return tuple(line for line in map(stripped, text.splitlines()) if line)

    @property
    def key_sets(self) -> Mapping[str, str | None]:
        """The URL of the key set by issuer, or `None` if it is discovered from the issuer.

        Empty without published keys.
        """
        if self.jwt_secret or self.jwt_public_key:
            return {}
        return dict(
            zip(self.jwt_issuer, self.jwt_jwks_url or [None] * len(self.jwt_issuer), strict=True)
        )

    @property
    def key_set_algorithms(self) -> tuple[str, ...]:
        """The accepted algorithms for published keys."""
        return self.jwt_algorithms or KEY_SET_ALGORITHMS

    def origin(self, name: str) -> Origin:
        """The source of a setting, by its field name."""
        return self._origins.get(name, _FROM_DEFAULT)

    @property
    def jwt_secret_files(self) -> Mapping[str, Path]:
        """The files of JWT secrets and public keys, by field name."""
        origins = {name: self.origin(name) for name in ("jwt_secret", "jwt_public_key")}
        return {
            name: origin.file
            for name, origin in origins.items()
            if origin.kind in _SECRET_FILES and origin.file is not None
        }

    @model_validator(mode="after")
    def _validate_combinations(self) -> Self:
        """Check what no field can check alone. All problems are reported together."""
        if problems := combination_problems(self):
            raise ValueError("\n".join(problems))
        return self


def is_secret(name: str) -> bool:
    """Whether the value of a setting is a secret, which must not be shown."""
    annotation = Settings.model_fields[name].annotation
    return annotation is SecretStr or SecretStr in get_args(annotation)
