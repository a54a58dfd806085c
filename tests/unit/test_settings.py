"""Settings: what they mean, and that every mistake is told at once, without a secret."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from service.errors import SettingsError
from service.settings import PREFIX, Auth, Kind, LogFormat, Settings, is_secret, load, seconds
from service.settings.report import warnings

SECRET = "hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-"
PEM = "-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----"


def environ(**values: object) -> dict[str, str]:
    """Variables of the environment: `environ(port=5)` stands for CLUSTER_EVENTS_PORT=5."""
    return {PREFIX + name.upper(): str(value) for name, value in values.items()}


def problems(**values: object) -> tuple[str, ...]:
    """What is wrong with these settings."""
    with pytest.raises(SettingsError) as caught:
        load(environ(**values))
    return caught.value.problems


# -- where values come from ------------------------------------------------------------------------


def test_the_defaults_stand() -> None:
    """Without any variable there are the documented defaults."""
    settings = load({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert (settings.cluster_name, settings.service_names) == (
        "default",
        ("api", "compiler", "runner"),
    )
    assert (settings.heartbeat, settings.max_staleness, settings.stale_if_error) == (0.5, 2.0, 30.0)
    assert (settings.check_interval, settings.check_timeout, settings.stale_after_s) == (
        10.0,
        5.0,
        30.0,
    )
    assert (settings.retention_events, settings.retention_us) == (1_000, 72 * 3_600 * 1_000_000)
    assert (settings.auth, settings.monitoring, settings.log_format) == (
        Auth.REQUIRED,
        True,
        LogFormat.TEXT,
    )
    assert settings.algorithms == ()


def test_other_variables_are_ignored() -> None:
    """Variables of other programs, and unknown ones of ours, such as a client's URL and token, do
    no harm."""
    assert load(
        {
            "PATH": "/bin",
            "PORT": "1",
            f"{PREFIX}URL": "x",
            f"{PREFIX}TOKEN": "x",
            f"{PREFIX}NEW": "x",
        }
    ) == load({})
    assert load(environ(port_file="/nonexistent")) == load({}), "only secrets have files"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_value_is_not_set(name: str) -> None:
    """A variable that is empty counts as not set, as in a manifest whose value was left out."""
    assert load(environ(**{name: ""})) == load({})


SERVICE_LINKS = {
    "SERVICE_HOST": "10.0.0.1",
    "SERVICE_PORT": "80",
    "SERVICE_PORT_HTTP": "80",
    "PORT": "tcp://10.0.0.1:80",
    "PORT_80_TCP": "tcp://10.0.0.1:80",
    "PORT_80_TCP_PROTO": "tcp",
    "PORT_80_TCP_PORT": "80",
    "PORT_80_TCP_ADDR": "10.0.0.1",
    "PORT_53_UDP_ADDR": "10.0.0.1",
    "PORT_9_SCTP": "sctp://[fd00::1]:9",
}
"""What Kubernetes sets for a Service, after its name and `_`."""


@pytest.mark.parametrize(
    "service", ["", "MONITOR_", "METRICS_", "REDIS_", "API_", "SERVICES_", "A_PORT_", "JWT_SECRET_"]
)
@pytest.mark.parametrize("link", SERVICE_LINKS)
def test_service_links_are_no_settings(service: str, link: str) -> None:
    """What Kubernetes sets for a Service whose name begins with `cluster-events` is neither used
    nor warned of."""
    linked = {f"{PREFIX}{service}{link}": SERVICE_LINKS[link]}
    assert load(linked) == load({})
    assert warnings(linked) == []


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "8081"), ("MONITOR_PORT", "8081"), ("METRICS_PORT", "8081")]
)
def test_ports_beside_service_links_are_settings(name: str, value: str) -> None:
    """A port is a setting also where service links are set."""
    linked = {f"{PREFIX}{link}": text for link, text in SERVICE_LINKS.items()}
    assert getattr(load(linked | {PREFIX + name: value}), name.lower()) == 8081


@pytest.mark.parametrize("value", ["http://10.0.0.1:80", "10.0.0.1:80", "tcp:80", "tcp"])
def test_other_values_of_a_port_are_mistakes(value: str) -> None:
    """A port that is no port, and no address as Kubernetes sets it, is told."""
    (problem,) = problems(port=value)
    assert problem.startswith(f"{PREFIX}PORT: ")


def test_the_command_line_wins() -> None:
    """An option of a command goes before the environment; an option that was not given does not."""
    settings = load(environ(port=5, host="::1"), port=6, host=None)
    assert (settings.port, settings.host) == (6, "::1")


def test_settings_do_not_change() -> None:
    """Settings are frozen once they are read."""
    settings = load({})
    with pytest.raises(ValidationError):
        settings.port = 5


def test_every_setting_is_documented() -> None:
    """Each field is followed by its meaning."""
    source = Path("service/settings/model.py").read_text(encoding="utf-8")
    body = source[source.index("class Settings") : source.index("@property")]
    assert body.count('    """') - 1 == len(Settings.model_fields)


# -- durations -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        ("1", 1.0),
        ("0.25", 0.25),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("10m", 600.0),
        ("72h", 259_200.0),
        ("1.5h", 5_400.0),
        ("90d", 7_776_000.0),
        (" 2s ", 2.0),
        ("36500d", 3_153_600_000.0),
    ],
)
def test_durations(text: str, expected: float) -> None:
    """A duration is a number of seconds, or a number with a unit."""
    assert seconds(text) == pytest.approx(expected)
    assert load(environ(stale_if_error=text)).stale_if_error == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "s",
        "1 s",
        "1w",
        "1S",
        "1h30m",
        "1e3",
        "inf",
        "nan",
        "1_000",
        ".5",
        "1.",
        "\N{ARABIC-INDIC DIGIT THREE}",
        "\N{FULLWIDTH DIGIT ONE}",
        "0x10",
        "1,5",
        "9" * 400,
        "36501d",
    ],
)
def test_texts_that_are_no_duration(text: str) -> None:
    """Anything else is refused, with the variable's name."""
    with pytest.raises(ValueError, match="expected"):
        seconds(text)
    (problem,) = problems(drain=text)
    assert problem.startswith(f"{PREFIX}DRAIN: expected")


@pytest.mark.parametrize(
    ("text", "other"),
    [("29ms", "0.029"), ("1.3ms", "0.0013"), ("0.7m", "42s"), ("1.1h", "66m"), ("0.1d", "2.4h")],
)
def test_the_same_duration_in_two_units(text: str, other: str) -> None:
    """The same duration in two units is the same number: settings are compared with each other."""
    assert seconds(text) == seconds(other)


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    """No text gives a duration that is negative or endless."""
    try:
        assert 0 <= seconds(text) < float("inf")
    except ValueError as error:
        assert "expected" in str(error)  # noqa: PT017  # Either outcome is right.


@pytest.mark.parametrize(
    ("text", "hours"),
    [("72", 72.0), ("1", 1.0), ("0.5", 0.5), ("30m", 0.5), ("1s", 1 / 3_600), ("90d", 2_160.0)],
)
def test_retention_is_in_hours(text: str, hours: float) -> None:
    """RETENTION_HOURS without a unit is in hours, as its name says."""
    settings = load(environ(retention_hours=text))
    assert settings.retention_us == round(hours * 3_600_000_000)


@pytest.mark.parametrize(
    "name", ["heartbeat", "redis_timeout", "check_timeout", "check_interval", "retention_hours"]
)
def test_durations_that_must_not_be_zero(name: str) -> None:
    """Intervals and time-outs are greater than zero."""
    assert any(
        problem.startswith(f"{PREFIX}{name.upper()}: ") for problem in problems(**{name: "0"})
    )


def test_stale_after_follows_the_checks() -> None:
    """By default the monitor counts as silent after three check intervals."""
    assert load(environ(check_interval="20s")).stale_after_s == 60
    assert load(environ(check_interval="20s", stale_after="7s")).stale_after_s == 7


@pytest.mark.parametrize(
    ("interval", "timeout"), [("300ms", 0.3), ("4s", 4.0), ("5s", 5.0), ("60s", 5.0)]
)
def test_check_timeout_follows_the_interval(interval: str, timeout: float) -> None:
    """By default a check has 5 s, or the interval where that is less."""
    assert load(environ(check_interval=interval)).check_timeout == timeout


@pytest.mark.parametrize(
    ("text", "percent"),
    [("10", 10), ("10%", 10), ("2.5 %", 2.5), ("0.1", 10), (".25", 25), ("0", 0), ("100 %", 100)],
)
def test_percentages(text: str, percent: float) -> None:
    """A percentage has a sign or none; a fraction without one is a share."""
    assert load(environ(resources_tolerated=text)).resources_tolerated == percent


YAML_BLOCK = """
api=http://api:8080/healthz
  compiler=tcp://compiler:9000,\r
runner=https://runner/?next=http://other/&b=1

"""


def test_services_are_separated_by_commas_or_line_breaks() -> None:
    """A block of YAML has a service in each line; commas and empty lines do no harm."""
    block = load(environ(services=YAML_BLOCK, resources="api=deployment/a\ncompiler=daemonset/c\n"))
    assert block.services == {
        "api": "http://api:8080/healthz",
        "compiler": "tcp://compiler:9000",
        "runner": "https://runner/?next=http://other/&b=1",
    }
    assert block.resources == {"api": "deployment/a", "compiler": "daemonset/c"}
    assert load(environ(services=" api = http://a , runner ")).services == {
        "api": "http://a",
        "runner": "",
    }


# -- mistakes --------------------------------------------------------------------------------------

MISTAKES: list[tuple[str, str, str]] = [
    ("port", "x", "PORT: "),
    ("port", "70000", "PORT: "),
    ("port", "-1", "PORT: "),
    ("redis_url", "http://x", "REDIS_URL: expected redis://"),
    ("redis_url", "redis://", "REDIS_URL: expected redis://"),
    ("redis_url", "redis://h:port", "REDIS_URL: not a URL"),
    ("redis_url", "redis://[::1", "REDIS_URL: not a URL"),
    ("redis_url", "unix://", "REDIS_URL: expected redis://"),
    ("redis_url", "localhost:6379", "REDIS_URL: expected redis://"),
    ("cluster_name", "a b", "CLUSTER_NAME: expected"),
    ("cluster_name", "a}b", "CLUSTER_NAME: expected"),
    ("cluster_name", "x" * 65, "CLUSTER_NAME: expected"),
    ("cluster_name", "ü", "CLUSTER_NAME: expected"),
    ("write_replicas", "-1", "WRITE_REPLICAS: "),
    ("heartbeat", "often", "HEARTBEAT: expected a duration"),
    ("max_staleness", "0.5", "MAX_STALENESS: expected more than CLUSTER_EVENTS_HEARTBEAT (0.5 s)"),
    ("check_timeout", "11", "CHECK_TIMEOUT: expected at most CLUSTER_EVENTS_CHECK_INTERVAL (10 s)"),
    ("events_memory", "-5", "EVENTS_MEMORY: "),
    ("poll_path", "perhaps", "POLL_PATH: "),
    ("auth", "maybe", "AUTH: "),
    ("retention_events", "0", "RETENTION_EVENTS: "),
    ("retention_events", "1.5", "RETENTION_EVENTS: "),
    ("retention_hours", "-1", "RETENTION_HOURS: expected a duration"),
    ("monitoring", "2", "MONITORING: "),
    ("log_format", "xml", "LOG_FORMAT: "),
    ("services", "Api", "SERVICES: 'Api' cannot be a service's name"),
    ("services", "1st", "SERVICES: '1st' cannot be"),
    ("services", "a-b", "SERVICES: 'a-b' cannot be"),
    ("services", "=http://x", "SERVICES: '' cannot be"),
    ("services", "a" * 64, "SERVICES: "),
    ("services", "ä", "SERVICES: "),
    ("services", "api,api", "SERVICES: the service 'api' is named twice"),
    ("services", "api=ftp://x", "SERVICES: the URL of 'api' is not an http:// or https:// URL"),
    ("services", "api=http://", "SERVICES: the URL of 'api' is not"),
    ("services", "api=nonsense", "SERVICES: the URL of 'api' is not"),
    ("resources_tolerated", "101", "RESOURCES_TOLERATED: "),
    ("resources_tolerated", "-1 %", "RESOURCES_TOLERATED: "),
    ("resources_tolerated", "nan", "RESOURCES_TOLERATED: "),
    ("resources_tolerated", "some", "RESOURCES_TOLERATED: "),
    ("services", ",", "SERVICES: name at least one service"),
    ("services", "api=http://a runner=http://b", "SERVICES: the URL of 'api' contains white space"),
    ("services", "api=http://a/x y", "SERVICES: the URL of 'api' contains white space"),
    ("services", "api=http://a\u00a0b", "SERVICES: the URL of 'api' contains white space"),
    ("services", "api=http://a\tb", "SERVICES: the URL of 'api' contains white space"),
    ("services", "api=http://a;runner=http://b", "SERVICES: the URL of 'api' contains white"),
    ("services", "api=http://a/runner=tcp://b:1", "SERVICES: the URL of 'api' contains white"),
    ("services", "api=http://a\napi=http://b", "SERVICES: the service 'api' is named twice"),
    ("resources", "api=deployment/a b=deployment/b", "RESOURCES: the value of 'api' contains"),
    ("services", "all_healthy", "SERVICES: 'all_healthy' cannot be"),
    ("services", "stale", "SERVICES: 'stale' cannot be"),
    ("services", "stale_after_seconds", "SERVICES: 'stale_after_seconds' cannot be"),
    ("jwt_algorithms", "none", "JWT_ALGORITHMS: expected some of HS256"),
    ("jwt_algorithms", "hs256", "JWT_ALGORITHMS: expected some of HS256"),
    ("jwt_secret", "short", "JWT_SECRET: expected at least 32 bytes for HS256"),
]


@pytest.mark.parametrize(
    ("name", "value", "told"), MISTAKES, ids=[f"{row[0]}={row[1]:.12}" for row in MISTAKES]
)
def test_a_mistake_names_its_variable(name: str, value: str, told: str) -> None:
    """A wrong value is one problem, which begins with its variable and says what would be right."""
    (problem,) = problems(**{name: value})
    assert problem.startswith(PREFIX + told)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Wrong values, values that do not fit together and unreadable files are told together."""
    told = problems(
        port="x",
        heartbeat="often",
        log_format="xml",
        services="Api",
        redis_url="http://x",
        cluster_name="a b",
        check_timeout="11",
        jwt_secret_file=tmp_path / "missing",
        auth="none",
        host="0.0.0.0",
    )
    variables = {problem.partition(":")[0].removeprefix(PREFIX) for problem in told}
    assert variables == {
        "PORT",
        "HEARTBEAT",
        "LOG_FORMAT",
        "SERVICES",
        "REDIS_URL",
        "CLUSTER_NAME",
        "CHECK_TIMEOUT",
        "JWT_SECRET_FILE",
        "AUTH",
    }
    assert len(told) == len(variables)


def test_several_things_that_do_not_fit_are_told_at_once() -> None:
    """Each rule between settings that is broken is told."""
    told = problems(max_staleness="0.1", check_timeout="11", jwt_secret=SECRET, jwt_public_key=PEM)
    assert len(told) == 3
    assert any(
        f"{PREFIX}JWT_SECRET" in problem and f"{PREFIX}JWT_PUBLIC_KEY" in problem
        for problem in told
    )


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({"metrics_port": "8080"}, "METRICS_PORT"),
        ({"metrics_port": "9000", "port": "9000"}, "METRICS_PORT"),
        ({"monitor_port": "9000", "port": "9000"}, "MONITOR_PORT"),
        ({"monitor_port": "9000", "metrics_port": "9000"}, "MONITOR_PORT"),
    ],
)
def test_a_port_is_listened_on_once(values: dict[str, str], variable: str) -> None:
    """Two listeners cannot share a port."""
    (problem,) = problems(**values)
    assert problem.startswith(f"{PREFIX}{variable}: expected another port than {PREFIX}")


@pytest.mark.parametrize(
    "values",
    [
        {"metrics_port": "0", "port": "0", "monitor_port": "0"},
        {"monitor_port": "8080"},
        {"monitor_port": "9000", "port": "9000", "monitor_host": "127.0.0.2"},
        {"metrics_port": "9000", "monitor_port": "9001"},
    ],
)
def test_ports_that_are_not_in_each_others_way(values: dict[str, str]) -> None:
    """Free ports, other addresses and a monitor beside an API of the default port, which another
    machine runs, are right."""
    settings = load(environ(**values))
    assert {name: str(getattr(settings, name)) for name in values} == values


@pytest.mark.parametrize(
    "hosts",
    [
        "a",
        "example.com",
        "Example.COM.",
        "a_b.c-d",
        "10.0.0.1",
        "fd00::1",
        "[fd00::1]",
        "x.example, y.example",
        "1.2",
    ],
)
def test_allowed_hosts(hosts: str) -> None:
    """Host names and IP addresses are taken."""
    assert load(environ(allowed_hosts=hosts)).allowed_hosts


@pytest.mark.parametrize(
    "hosts",
    [
        "*",
        "*.example.com",
        "http://a",
        "a:80",
        "[::1]:80",
        "a/b",
        "a b",
        "-a",
        "a-",
        "a..b",
        ".a",
        "ü.de",
        "[a]",
        "x" * 64,
    ],
)
def test_what_is_no_host(hosts: str) -> None:
    """Patterns, URLs and ports are refused: they would never match, or match too much."""
    (problem,) = problems(allowed_hosts=f"a.example,{hosts}")
    assert problem.startswith(
        f"{PREFIX}ALLOWED_HOSTS: '{hosts[:40]}' is not a host name or an IP address"
    )


@pytest.mark.parametrize("leeway", ["61", "-1", "2m"])
def test_leeway_is_bounded(leeway: str) -> None:
    """Clocks differ by seconds: at most a minute is allowed for."""
    (problem,) = problems(jwt_leeway=leeway)
    assert problem.startswith(f"{PREFIX}JWT_LEEWAY: ")


# -- byte order marks, white space, encodings ------------------------------------------------------

MARK = "\ufeff"


@pytest.mark.parametrize(
    "around", ["\n", "\r\n", " ", "\t", MARK, f"{MARK} ", "\u00a0", "\u2028", "\u3000"]
)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jwt_audience", "agents"),
        ("jwt_role_claim", "may"),
        ("jwt_issuer", "https://issuer"),
        ("cluster_name", "one"),
        ("host", "::1"),
        ("port", "80"),
        ("auth", "none"),
        ("monitoring", "off"),
        ("heartbeat", "1s"),
        ("services", "api=http://a/"),
        ("resources", "api=deployment/api"),
        ("secrets_dir", "/"),
        ("jwt_secret", SECRET),
        ("redis_url", f"redis://:{SECRET}@h"),
    ],
)
def test_what_is_around_a_value_does_not_count(name: str, value: str, around: str) -> None:
    """White space and byte order marks around a variable's value are no part of it."""
    needed = {"jwt_audience": "agents"} if name == "jwt_issuer" else {}
    assert load(environ(**{**needed, name: around + value + around})) == load(
        environ(**{**needed, name: value})
    )


def test_what_is_inside_a_value_counts() -> None:
    """White space inside a value is part of it; secrets on several lines are several secrets."""
    settings = load(
        environ(
            jwt_audience=" two words\n", jwt_secret=f"{MARK}{SECRET}\r\n{MARK}{SECRET} and more\n"
        )
    )
    assert settings.jwt_audience == "two words"
    assert settings.jwt_secrets == (SECRET, f"{SECRET} and more")


def test_the_command_line_is_stripped_too() -> None:
    """An option's white space is no part of it either."""
    assert load({}, host=" ::1\n").host == "::1"


@pytest.mark.parametrize("name", ["jwt_audience", "port", "services_file"])
def test_white_space_alone_is_not_set(name: str) -> None:
    """A variable of white space counts as empty."""
    assert load(environ(**{name: f" {MARK}\n"})) == load({})


@pytest.mark.parametrize("name", ["jwt_secret", "redis_url"])
def test_white_space_alone_is_no_secret(name: str) -> None:
    """A secret of white space was meant to be one: it is a problem, as an empty file is."""
    assert problems(**{name: " \n"}) == (f"{PREFIX}{name.upper()}: it is only white space",)


def test_bytes_that_are_no_text_are_told() -> None:
    """A variable whose bytes are not UTF-8 is a problem that names it."""
    assert problems(jwt_secret="\udcff" * 40, jwt_audience="caf\udce9") == (
        f"{PREFIX}JWT_SECRET: not UTF-8 text",
        f"{PREFIX}JWT_AUDIENCE: not UTF-8 text",
    )


@pytest.mark.parametrize("place", ["FILE", "SECRETS_DIR"])
def test_byte_order_mark_of_a_file_is_no_part_of_the_secret(tmp_path: Path, place: str) -> None:
    """An editor's byte order mark in a secret's file does not become part of the secret."""
    file = tmp_path / "redis-url"
    file.write_text(f"redis://:{SECRET}@h\r\n", encoding="utf-8-sig")
    source = {"redis_url_file": file} if place == "FILE" else {"secrets_dir": tmp_path}
    assert load(environ(**source)).redis_url.get_secret_value() == f"redis://:{SECRET}@h"


def test_byte_order_mark_of_a_services_file(tmp_path: Path) -> None:
    """A services file may begin with a byte order mark and end its lines as Windows does."""
    file = tmp_path / "services.toml"
    file.write_text("[api]\r\nurl = 'http://a/'\r\n", encoding="utf-8-sig")
    settings = load(environ(services_file=f" {file}\n"))
    assert dict(settings.services) == {"api": "http://a/"}
    assert settings.origin("services").kind is Kind.SERVICES_FILE


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize(
    "place", ["JWT_SECRET_FILE", "REDIS_URL_FILE", "SECRETS_DIR (jwt_secret)", "SERVICES_FILE"]
)
def test_other_encodings_are_named(tmp_path: Path, place: str, encoding: str) -> None:
    """A file in UTF-16 or UTF-32 is a problem that names the variable, the file, the encoding and
    the remedy."""
    file = tmp_path / "jwt_secret"
    file.write_bytes(f"[{SECRET}]".encode(encoding))
    variable = place.partition(" ")[0]
    told = problems(**{variable.lower(): tmp_path if variable == "SECRETS_DIR" else file})
    assert told == (
        f"{PREFIX}{place}: the file {file} is {encoding[:6].upper()}: save it as UTF-8",
    )


# -- secrets ---------------------------------------------------------------------------------------

SECRETS = {"redis_url", "jwt_secret", "jwt_public_key"}


def test_the_secrets_are_known() -> None:
    """What carries a password or a key is a secret; what is shown to everyone is not."""
    secrets = {name for name in Settings.model_fields if is_secret(name)}
    assert secrets >= SECRETS
    assert not secrets & {
        "host",
        "port",
        "cluster_name",
        "services",
        "jwt_algorithms",
        "jwt_issuer",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("redis_url", f"redis://:{SECRET}@h"), ("jwt_secret", SECRET), ("jwt_public_key", PEM)],
)
def test_secrets_can_come_from_files(name: str, value: str, tmp_path: Path) -> None:
    """`NAME_FILE` names a file that holds the secret; white space around it does not count."""
    file = tmp_path / "secret"
    file.write_text(f"{value}\n", encoding="utf-8")
    settings = load(environ(**{f"{name}_file": file}))
    secret = getattr(settings, name)
    assert isinstance(secret, SecretStr)
    assert secret.get_secret_value() == value


ORIGINS: dict[str, str | None] = {
    "https://status.example/": "https://status.example",
    "https://status.example/page?x#y": "https://status.example",
    "status.example": "https://status.example",
    "status.example:8443": "https://status.example:8443",
    "localhost:3000": "http://localhost:3000",
    "[::1]:3000": "http://[::1]:3000",
    "HTTPS://status.example": "https://status.example",
    "https://Status.Example": "https://status.example",
    "https://status.example:443": "https://status.example",
    "http://status.example:80": "http://status.example",
    "https://status.example:08443": "https://status.example:8443",
    "http://[0:0::1]": "http://[::1]",
    "https://m\u00fcnchen.example": "https://xn--mnchen-3ya.example",
    "https://user:hunter2@status.example": "https://status.example",
    "https://*.status.example": None,
    "https://status.example:99999": None,
    "https://status.example:": None,
    "https://": None,
    "null": None,
    "https://a b": None,
    "https:/status.example": None,
}


@pytest.mark.parametrize(("wrong", "right"), ORIGINS.items())
def test_an_origin_that_no_browser_sends_is_refused(wrong: str, right: str | None) -> None:
    """An origin that would never match stops the start; the message has its right spelling, and
    never a password."""
    (problem,) = problems(cors_origins=f"https://first.example,{wrong}")
    assert problem.startswith("CLUSTER_EVENTS_CORS_ORIGINS: expected ")
    assert (f"expected {right}," in problem) is (right is not None)
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "origin",
    sorted({right for right in ORIGINS.values() if right} | {"*", "chrome-extension://abcdef"}),
)
def test_an_origin_as_browsers_send_it_is_taken(origin: str) -> None:
    """Each right spelling is right, as is any other scheme, and `*`."""
    assert load(environ(cors_origins=origin)).cors_origins == (origin,)


def test_an_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    """A missing file, a folder, a file that is not text, and an empty one are problems that name
    the variable."""
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    (tmp_path / "empty").write_text(" \n", encoding="utf-8")
    expected = {
        "missing": "cannot read the file it names: No such file or directory",
        ".": "cannot read the file it names: Is a directory",
        "binary": f"the file {tmp_path}/binary is not UTF-8 text",
        "empty": f"the file {tmp_path}/empty is empty",
    }
    for name, told in expected.items():
        assert problems(jwt_secret_file=tmp_path / name) == (f"{PREFIX}JWT_SECRET_FILE: {told}",)


def test_a_secret_has_one_source(tmp_path: Path) -> None:
    """A secret that is set and also in a file is a problem, not a guess."""
    file = tmp_path / "secret"
    file.write_text(SECRET, encoding="utf-8")
    (problem,) = problems(jwt_secret=SECRET, jwt_secret_file=file)
    assert problem == f"{PREFIX}JWT_SECRET_FILE: {PREFIX}JWT_SECRET is set too; set one of them"


@pytest.mark.parametrize(
    "values",
    [
        {"jwt_secret": "hunter2"},
        {"jwt_secret": SECRET, "jwt_public_key": PEM, "port": "x"},
        {"jwt_secret": "hunter2", "jwt_algorithms": "HS512"},
        {"jwt_secret": SECRET, "jwt_algorithms": "RS256"},
        {"redis_url": "http://:hunter2@h"},
        {"redis_url": "redis://:hunter2@h:port"},
        {"redis_url": "redis://:hunter2@[::1"},
        {"redis_url": "hunter2"},
        {"services": "api:http://me:hunter2@host/"},
        {"services": "api=ftp://me:hunter2@host/"},
    ],
    ids=str,
)
def test_no_problem_repeats_a_secret(values: dict[str, Any]) -> None:
    """What is wrong with a secret is told without it."""
    for problem in problems(**values):
        assert "hunter2" not in problem


def test_no_repr_shows_a_secret() -> None:
    """Neither `repr` nor `str` of the settings shows a secret, so no log can."""
    settings = load(environ(jwt_secret=SECRET, redis_url="redis://:hunter2@h"))
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "hunter2" not in shown
    assert settings.redis_url.get_secret_value() == "redis://:hunter2@h"


# -- what belongs together -------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_no_authentication_on_loopback(host: str) -> None:
    """AUTH=none may listen on loopback."""
    assert load(environ(auth="none", host=host)).auth is Auth.NONE


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org"]
)
def test_no_authentication_elsewhere_needs_force(host: str) -> None:
    """AUTH=none on any other address is refused, unless it is forced."""
    (problem,) = problems(auth="none", host=host)
    assert problem.startswith(f"{PREFIX}AUTH: none listens on loopback only")
    assert load(environ(auth="none", host=host, auth_none_anywhere="yes")).auth is Auth.NONE


@pytest.mark.parametrize(
    ("algorithm", "length"), [("HS256", 32), ("HS384", 48), ("HS512", 64), ("HS256,HS512", 64)]
)
def test_a_secret_is_as_long_as_its_hash(algorithm: str, length: int) -> None:
    """A JWT secret has at least as many bytes as the largest hash that it is used with."""
    values: dict[str, object] = {"jwt_algorithms": algorithm}
    assert len(problems(jwt_secret="x" * (length - 1), **values)) == 1
    assert load(environ(jwt_secret="x" * length, **values)).jwt_secret
    assert load(environ(jwt_secret="ü" * (length // 2), **values)).jwt_secret, (
        "bytes count, not characters"
    )


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        ({"jwt_secret": SECRET}, "RS256"),
        ({"jwt_secret": SECRET}, "HS256,ES256"),
        ({"jwt_secret": SECRET}, "none"),
        ({"jwt_public_key": PEM}, "HS256"),
        ({"jwt_public_key": PEM}, "RS256,HS256"),
        ({"jwt_public_key": PEM}, "none"),
    ],
)
def test_algorithms_fit_the_key(key: dict[str, Any], algorithms: str) -> None:
    """A shared secret and a public key never share algorithms: that is how tokens are forged."""
    (problem,) = problems(jwt_algorithms=algorithms, **key)
    assert problem.startswith(f"{PREFIX}JWT_ALGORITHMS: with this kind of key, expected some of ")


@pytest.mark.parametrize("algorithms", ["ES384", "HS256,RS512"])
def test_without_a_key_any_known_algorithm_is_valid(algorithms: str) -> None:
    """It is not known yet which algorithms fit."""
    expected = tuple(algorithms.split(","))
    assert load(environ(jwt_algorithms=algorithms)).jwt_algorithms == expected


@pytest.mark.parametrize(
    ("values", "algorithms"),
    [
        ({}, ()),
        ({"jwt_secret": SECRET}, ("HS256",)),
        ({"jwt_secret": SECRET, "jwt_algorithms": "HS256, HS512"}, ("HS256", "HS512")),
        ({"jwt_public_key": PEM}, ()),
        ({"jwt_public_key": PEM, "jwt_algorithms": "ES256,EdDSA"}, ("ES256", "EdDSA")),
    ],
)
def test_the_algorithms(values: dict[str, Any], algorithms: tuple[str, ...]) -> None:
    """Without JWT_ALGORITHMS a secret means HS256, and a public key decides itself."""
    assert load(environ(**values)).algorithms == algorithms


@pytest.mark.parametrize(
    ("text", "services"),
    [
        ("api", {"api": ""}),
        ("api=http://h/healthz", {"api": "http://h/healthz"}),
        (" b = x ".replace(" = x", "=https://h"), {"b": "https://h"}),
        ("z,a=http://h:1?x=1&y=2, m_1", {"z": "", "a": "http://h:1?x=1&y=2", "m_1": ""}),
        ("api,", {"api": ""}),
        ("a" * 63, {"a" * 63: ""}),
    ],
)
def test_services(text: str, services: dict[str, str]) -> None:
    """Services are names with URLs, or names alone, in their order."""
    settings = load(environ(services=text))
    assert dict(settings.services) == services
    assert settings.service_names == tuple(services)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", True),
        ("off", False),
        ("ON", True),
        ("yes", True),
        ("no", False),
        ("true", True),
        ("0", False),
        ("1", True),
    ],
)
def test_switches(text: str, value: bool) -> None:
    """A switch is on or off; the other usual words are understood."""
    settings = load(environ(monitoring=text, poll_path=text, access_log=text))
    assert (settings.monitoring, settings.poll_path, settings.access_log) == (value, value, value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h:6379/0",
        "rediss://user:pass@h:1/2",
        "redis://[::1]:6379",
        "unix:///run/redis.sock",
        "unix://u:p@/s",
    ],
)
def test_redis_urls(url: str) -> None:
    """Plain, encrypted and local connections are taken."""
    assert load(environ(redis_url=url)).redis_url.get_secret_value() == url


def test_the_retention_in_words() -> None:
    """The retention is told with its two numbers and its exception."""
    assert load({}).retention == (
        "at most 1,000 events are retained, of 64 MiB together, and none older than 72 h, "
        "except the latest"
    )
    assert "of 0.5 MiB together" in load(environ(retention_bytes=512 * 1024)).retention
    assert "at most 5 events" in load(environ(retention_events=5)).retention
    assert "0.5 h" in load(environ(retention_hours="30m")).retention
