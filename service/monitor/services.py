"""The services to check: those of the settings, with the options of the services file.

A services file, in TOML. The monitor reloads it when it changes, and at SIGHUP:

    [api]
    url = "https://api-server:8443/healthz"     # or tcp://host:port, redis://…, rediss://…
    interval = "30s"                            # default: CHECK_INTERVAL; rounded up to a multiple
    timeout = "2s"                              # default: CHECK_TIMEOUT
    headers = { Authorization = "Bearer …" }
    ca_file = "/run/secrets/ca.crt"             # instead of the system's certificate authorities
    client_cert = "/run/secrets/tls.crt"        # with client_key, unless the file contains the key
    expected = ["2xx", 401]                     # default: 2xx
    unhealthy_after = 3                         # failures in a row; default: 1
    healthy_after = 2                           # successes in a row; default: 1
    resources = "deployment/api-server"         # as in RESOURCES
"""

import math
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from service.errors import SettingsError
from service.settings import PREFIX, Settings, can_be_checked, read_toml
from service.settings.types import Duration
from service.text import other_encoding

_EXPECTED = re.compile(r"[1-5](?:xx|[0-9][0-9])", re.ASCII)
_RESOURCES = re.compile(
    r"(?:(?P<namespace>[a-z0-9-]{1,63})/)?(?P<kind>deployment|statefulset|daemonset)"
    r"(?:/(?P<name>[a-z0-9.-]{1,253})|\?(?P<selector>[\w./-]+=[\w.-]*(?:,[\w./-]+=[\w.-]*)*))",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Workload:
    """The Kubernetes workload of a service, found by `name` or by the labels in `selector`.

    `kind` is `deployment`, `statefulset` or `daemonset`. An empty `namespace` is that of the
    monitor's pod.
    """

    kind: str
    name: str = ""
    selector: str = ""
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """One service and its check. Times in seconds; `headers` and `url` may contain secrets."""

    name: str
    url: str = field(repr=False)
    timeout: float
    every: int = 1
    """The service is part of every n-th check of the monitor."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | None = None
    expected: Sequence[str] = ("2xx",)
    unhealthy_after: int = 1
    healthy_after: int = 1
    workload: Workload | None = None

    def expects(self, status: int) -> bool:
        """Whether this HTTP status means that the service is healthy."""
        return any(one in {str(status), f"{status // 100}xx"} for one in self.expected)


def _statuses(value: object) -> object:
    """HTTP statuses and classes of them, as strings. Raises `ValueError`."""
    many = value if isinstance(value, list | tuple) else [value]
    wrong = [one for one in many if isinstance(one, bool) or not _EXPECTED.fullmatch(str(one))]
    if wrong or not many:
        raise ValueError('expected HTTP statuses such as 200 or "2xx"')
    return tuple(str(one) for one in many)


class _Table(BaseModel):
    """The table of one service in the services file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str | None = None
    interval: Duration | None = None
    timeout: Duration | None = None
    headers: Mapping[str, SecretStr] = Field(default_factory=dict)
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    expected: Annotated[tuple[str, ...], BeforeValidator(_statuses)] = ("2xx",)
    unhealthy_after: Annotated[int, Field(ge=1, le=100)] = 1
    healthy_after: Annotated[int, Field(ge=1, le=100)] = 1
    resources: str | None = None


def services(settings: Settings) -> Mapping[str, Service]:
    """The services in configured order. Raises `SettingsError` with all problems."""
    problems: list[str] = []
    tables = _tables(settings, problems)
    found = {}
    missing = [name for name, url in settings.services.items() if not url and not tables[name].url]
    if missing:
        problems.append(
            f"{PREFIX}SERVICES: no URL to check for {', '.join(missing)}: expected {missing[0]}=http://…"
        )
    for name, url in settings.services.items():
        try:
            found[name] = _service(name, url, tables[name], settings)
        except ValueError as error:
            problems += [f"{_where(name, settings)}{line}" for line in str(error).splitlines()]
    unknown = ", ".join(sorted(set(settings.resources) - set(settings.services)))
    if unknown:
        problems.append(f"{PREFIX}RESOURCES: no such service: {unknown}")
    if problems:
        raise SettingsError(problems)
    return found


def _where(name: str, settings: Settings) -> str:
    return (
        f"{PREFIX}SERVICES_FILE: [{name}]: "
        if settings.services_file
        else f"{PREFIX}RESOURCES: {name}: "
    )


def _tables(settings: Settings, problems: list[str]) -> Mapping[str, _Table]:
    """The tables of the services file; a service without a table gets an empty one."""
    tables = dict.fromkeys(settings.services, _Table())
    if settings.services_file is None:
        return tables
    try:
        raw = read_toml(settings.services_file)
    except ValueError as error:
        problems.append(f"{PREFIX}SERVICES_FILE: {error}")
        return tables
    for name, table in raw.items():
        if name not in tables:
            problems.append(f"{PREFIX}SERVICES_FILE: [{name}]: no such service in {PREFIX}SERVICES")
            continue
        try:
            tables[name] = _Table.model_validate(table)
        except ValidationError as error:
            problems += [f"{PREFIX}SERVICES_FILE: [{name}]: {line}" for line in _messages(error)]
    return tables


def _messages(error: ValidationError) -> list[str]:
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return [
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in found
    ]


def _service(name: str, url: str, table: _Table, settings: Settings) -> Service:
    """The service of a table. Raises `ValueError` with one line for each problem."""
    problems: list[str] = []
    url = table.url or url
    if url and not can_be_checked(url):
        problems.append("url: expected http://, https://, tcp://host:port, redis:// or rediss://")
    interval = table.interval or settings.check_interval
    timeout = table.timeout or min(settings.check_timeout, interval)
    if interval < settings.check_interval:
        problems.append(
            f"interval: expected at least {PREFIX}CHECK_INTERVAL ({settings.check_interval:g} s)"
        )
    if timeout > settings.check_interval:
        problems.append(
            f"timeout: expected at most {PREFIX}CHECK_INTERVAL ({settings.check_interval:g} s)"
        )
    tls = _tls(table, problems)
    workload = _workload(table.resources or settings.resources.get(name), problems)
    if problems:
        raise ValueError("\n".join(problems))
    return Service(
        name=name,
        url=url,
        timeout=timeout,
        # Rounded, since 3 / 0.3 is not exactly 10 in floating point.
        every=math.ceil(round(interval / settings.check_interval, 6)),
        headers={field: value.get_secret_value() for field, value in table.headers.items()},
        tls=tls,
        expected=table.expected,
        unhealthy_after=table.unhealthy_after,
        healthy_after=table.healthy_after,
        workload=workload,
    )


def _tls(table: _Table, problems: list[str]) -> ssl.SSLContext | None:
    """The TLS context for the service's own authorities and certificate; `None` without both."""
    if not (table.ca_file or table.client_cert):
        if table.client_key:
            problems.append("client_key: there is no client_cert that it belongs to")
        return None
    context, name = ssl.create_default_context(), "ca_file"
    try:
        if table.ca_file:
            context = ssl.create_default_context(cafile=table.ca_file)
        name = "client_cert"
        if table.client_cert:
            context.load_cert_chain(table.client_cert, table.client_key, password=_no_password)
    except ssl.SSLError:
        files = [table.ca_file] if name == "ca_file" else [table.client_cert, table.client_key]
        # A file may disappear after OpenSSL has read it.
        try:
            problem = _pem_problem(file for file in files if file is not None)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        problems.append(f"{name}: {problem}")
    except OSError as error:
        problems.append(f"{name}: cannot be read: {error.strerror}")
    return context


def _pem_problem(files: Iterable[Path]) -> str:
    """Why OpenSSL cannot read these files. It skips UTF-8 byte order marks itself."""
    for file in files:
        if (encoding := other_encoding(file.read_bytes())) is not None:
            return f"the file {file} is {encoding}: save it as UTF-8"
    return "not what is expected, in PEM format and without a password"


def _no_password() -> str:
    """An empty password, since OpenSSL would ask for one on the terminal."""
    return ""


def _workload(text: str | None, problems: list[str]) -> Workload | None:
    if text is None:
        return None
    match = _RESOURCES.fullmatch(text)
    if match is None:
        problems.append(
            "resources: expected deployment/NAME, statefulset/NAME, daemonset/NAME, "
            "NAMESPACE/… or deployment?LABEL=VALUE"
        )
        return None
    parts: Mapping[str, Any] = match.groupdict(default="")
    return Workload(**parts)


def resource_warnings(settings: Settings) -> Sequence[str]:
    """A line if workloads are named and not monitored, or the other way round.

    Raises `SettingsError` as `services` does.
    """
    named = [name for name, service in services(settings).items() if service.workload]
    switch = f"{PREFIX}MONITOR_RESOURCES"
    if named and not settings.monitor_resources:
        return [f"the workloads of {', '.join(named)} are not monitored: {switch} is not on"]
    if settings.monitor_resources and not named:
        return [f"{switch} is on, but no service has a workload: set {PREFIX}RESOURCES"]
    return []


def scheme(url: str) -> str:
    """The scheme of a URL, which decides the kind of probe."""
    return urlsplit(url).scheme
