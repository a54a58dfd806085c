"""What is said of settings: where each comes from, no secret, and a warning for each name that is
none."""

from pathlib import Path

import orjson
import pytest

from service.settings import PREFIX, Kind, Settings, is_secret, load, reread
from service.settings.report import MASK, Effective, effective, masked, warnings

SECRET = "hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-"


def environ(**values: object) -> dict[str, str]:
    """Variables of the environment: `environ(port=5)` stands for CLUSTER_EVENTS_PORT=5."""
    return {PREFIX + name.upper(): str(value) for name, value in values.items()}


def shown(name: str, settings: Settings) -> Effective:
    """What is shown of one setting."""
    (found,) = [one for one in effective(settings) if one.variable == f"{PREFIX}{name}".upper()]
    return found


# -- warnings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("RETENTON_HOURS", "RETENTION_HOURS"),
        ("RETENTION_HOUR", "RETENTION_HOURS"),
        ("PRT", "PORT"),
        ("JWT_SECRT", "JWT_SECRET"),
        ("JWT_SECRT_FILE", "JWT_SECRET_FILE"),
        ("JWT_ISUER", "JWT_ISSUER"),
        ("TOKN", "TOKEN"),
        ("URLS", "URL"),
        ("SERVICE_FILE", "SERVICES_FILE"),
        ("LOGFORMAT", "LOG_FORMAT"),
    ],
)
def test_misspelt_setting_is_reported_with_the_nearest(name: str, nearest: str) -> None:
    """A variable of ours that is no setting is reported, with the name that was probably meant."""
    assert warnings({PREFIX + name: "x"}) == [
        f"{PREFIX}{name} is not used: there is no such setting; the nearest is {PREFIX}{nearest}"
    ]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_settings_are_not_warned_of(name: str) -> None:
    """No setting, and no file of a secret, is taken for a mistake; a file of anything else is
    one."""
    assert warnings(environ(**{name: "x"})) == []
    if f"{name}_file" not in Settings.model_fields:
        variable = f"{PREFIX}{name.upper()}"
        of_file = [
            f"{variable}_FILE is not used: only secrets are read from files; set {variable} itself"
        ]
        assert warnings(environ(**{f"{name}_file": "/x"})) == ([] if is_secret(name) else of_file)


def test_what_is_not_warned_of() -> None:
    """Other programs' variables, those of the client commands and empty ones are not reported."""
    others = {
        "PATH": "/bin",
        "CLUSTER_EVENT_PORT": "1",
        f"{PREFIX}NONSENSE": "",
        f"{PREFIX}BLANK": " \n",
    }
    assert warnings(others | environ(url="http://x", token="x")) == []


def test_misspelt_file_in_the_folder_of_secrets(tmp_path: Path) -> None:
    """A file that is nearly named like a secret is reported; other files are not."""
    for name in ("jwt-secret", "jwt-secrets", "redis_ulr", "ca.crt", "password", "..data"):
        (tmp_path / name).write_text(SECRET)
    found = warnings(environ(secrets_dir=tmp_path))
    assert [line.split()[1] for line in found] == ["jwt-secrets", "redis_ulr"]
    assert [line.split()[-1] for line in found] == ["jwt_secret", "redis_url"]
    assert SECRET not in str(found)


# -- what is in effect -----------------------------------------------------------------------------


def test_every_setting_is_shown_once() -> None:
    """There is a row for each setting, in the order of its documentation, and JSON can say it."""
    rows = effective(load({}))
    assert [row.variable for row in rows] == [
        f"{PREFIX}{name}".upper() for name in Settings.model_fields
    ]
    assert {row.origin.kind for row in rows} == {Kind.DEFAULT}
    assert orjson.dumps([row.value for row in rows])


def test_where_each_setting_comes_from(tmp_path: Path) -> None:
    """A variable, a file of its own, a file of the folder, the services file and an option are
    distinguished."""
    own, folder, services = tmp_path / "own", tmp_path / "folder", tmp_path / "services.toml"
    own.write_text(SECRET)
    folder.mkdir()
    (folder / "redis-url").write_text("redis://h")
    services.write_text("[web]\nurl = 'http://w/'\n")
    settings = load(
        environ(
            jwt_secret_file=own,
            secrets_dir=folder,
            services_file=services,
            heartbeat="1s",
            host="::1",
        ),
        host="::",
    )
    origins = {
        row.variable.removeprefix(PREFIX): (row.origin.kind, row.origin.file)
        for row in effective(settings)
    }
    assert origins["JWT_SECRET"] == (Kind.FILE, own)
    assert origins["REDIS_URL"] == (Kind.SECRETS_DIR, folder / "redis-url")
    assert origins["SERVICES"] == (Kind.SERVICES_FILE, services)
    assert origins["HEARTBEAT"] == (Kind.ENVIRONMENT, None)
    assert origins["HOST"] == (Kind.COMMAND_LINE, None)
    assert origins["PORT"] == (Kind.DEFAULT, None)


def test_origins_outlive_a_rotation(tmp_path: Path) -> None:
    """Settings that were read again still know where they come from, and what was not set is still
    not set."""
    own = tmp_path / "own"
    own.write_text(SECRET)
    settings = load(environ(jwt_secret_file=own, monitor_port="8080"))
    assert reread(settings) == settings


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if is_secret(name)])
def test_no_secret_is_shown(name: str) -> None:
    """Of a secret nothing is shown but whether there is one; of the store's URL the place."""
    values = {
        "redis_url": f"redis://user:{SECRET}@store:6379/0?password={SECRET}",
        "webhook_url": f"https://hook/{SECRET}",
        "heartbeat_url": f"https://watcher/{SECRET}",
        "webhook_secret": "whsec_" + "aHVudGVyMg" * 4,
    }
    more = {"webhook_secret": "webhook_url", "webhook_url": "webhook_secret"}
    set_ = {one: values.get(one, SECRET) for one in (name, more.get(name)) if one}
    settings = load(environ(**set_))
    assert "hunter2" not in str(effective(settings))
    assert "aHVudGVyMg" not in str(effective(settings))
    found = shown(name, settings)
    assert found.value == (f"redis://{MASK}@store:6379/0?{MASK}" if name == "redis_url" else MASK)
    assert name == "redis_url" or shown(name, load({})).value is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a/healthz", "http://a/healthz"),
        ("http://u:p@a/", f"http://{MASK}@a/"),
        ("redis://:p/a?s#s@w@h:1/2", f"redis://{MASK}@h:1/2"),
        ("https://a/x?token=1&b=2#c", f"https://a/x?{MASK}"),
        ("https://a/x#c", f"https://a/x?{MASK}"),
        ("unix://u:p@/run/s", f"unix://{MASK}@/run/s"),
        ("no URL @ all?", "no URL @ all?"),
    ],
)
def test_urls_are_masked(text: str, expected: str) -> None:
    """Users, passwords, queries and fragments of URLs may be secret, also where the password is not
    encoded."""
    assert masked(text) == expected


def test_urls_of_services_are_masked() -> None:
    """A password or token in the URL of a service is not shown."""
    settings = load(environ(services=f"api=http://me:{SECRET}@a/?key={SECRET},b"))
    assert shown("services", settings).value == {"api": f"http://{MASK}@a/?{MASK}", "b": ""}


@pytest.mark.parametrize(
    ("values", "name", "value"),
    [
        ({"check_interval": "20s"}, "stale_after", 60.0),
        ({"check_interval": "20s", "stale_after": "7s"}, "stale_after", 7.0),
        ({"check_interval": "2s"}, "check_timeout", 2.0),
        ({"jwt_secret": SECRET}, "jwt_algorithms", ["HS256"]),
        (
            {"jwt_issuer": "https://i", "jwt_audience": "a"},
            "jwt_algorithms",
            ["RS256", "PS256", "ES256", "EdDSA", "Ed25519"],
        ),
    ],
)
def test_defaults_that_follow_from_others_are_shown(
    values: dict[str, str], name: str, value: object
) -> None:
    """What is shown is what is in effect, not what was left open."""
    assert shown(name, load(environ(**values))).value == value
