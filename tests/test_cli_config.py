"""What the commands say of settings: warnings for those that are none, and what is in effect."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.commands import HEALTHY, TOKEN, UNHEALTHY, WRONG_SETTINGS, record, run
from tests.support.observations import ALL_GOOD
from tests.support.settings import JWT_SECRET

MISSPELT = (
    "CLUSTER_EVENTS_RETENTON_HOURS is not used: there is no such setting; the nearest is "
    "CLUSTER_EVENTS_RETENTION_HOURS"
)
LINKS = {
    "port": "tcp://10.0.0.1:80",
    "service_host": "10.0.0.1",
    "service_port": "80",
    "service_port_http": "80",
    "port_80_tcp": "tcp://10.0.0.1:80",
    "port_80_tcp_proto": "tcp",
    "port_80_tcp_port": "80",
    "port_80_tcp_addr": "10.0.0.1",
    "monitor_port": "tcp://10.0.0.2:81",
    "monitor_service_host": "10.0.0.2",
    "metrics_port": "udp://10.0.0.3:82",
    "url_port": "tcp://10.0.0.4:83",
    "token_service_host": "10.0.0.5",
}
"""What Kubernetes sets for Services whose names begin with `cluster-events`."""


# -- config check ----------------------------------------------------------------------------------


async def test_misspelt_setting_is_reported() -> None:
    """`config check` reports a misspelt setting with the nearest one, and still exits with 0."""
    ran = await run("config", "check", retenton_hours="5")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == f"Warning: {MISSPELT}."
    assert ran.out.splitlines()[1].startswith("The settings are valid.")


async def test_misspelt_setting_is_reported_beside_mistakes() -> None:
    """A misspelt setting may be the reason for a missing one: both are reported."""
    ran = await run("config", "check", retenton_hours="5", port="x")
    assert (ran.code, ran.out) == (WRONG_SETTINGS, "")
    assert ran.err.splitlines()[1] == f"cluster-events: {MISSPELT}"


@pytest.mark.parametrize(
    "command", [("openapi",), ("token",), ("config", "show"), ("monitor", "--once")]
)
async def test_misspelt_setting_is_logged_by_every_command(command: tuple[str, ...]) -> None:
    """Every command that uses settings logs at its start which variables are none."""
    ran = await run(
        *command, retenton_hours="5", jwt_secret=JWT_SECRET, services="api=tcp://127.0.0.1:1"
    )
    assert ran.code in {0, UNHEALTHY}
    assert [line for line in ran.err.splitlines() if line.endswith(MISSPELT)]


RESOURCES = {"services": "api=tcp://127.0.0.1:1", "resources": "api=deployment/api"}


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        (
            RESOURCES,
            "the workloads of api are not monitored: CLUSTER_EVENTS_MONITOR_RESOURCES is not on",
        ),
        (
            RESOURCES | {"resources": "", "monitor_resources": "on"},
            (
                "CLUSTER_EVENTS_MONITOR_RESOURCES is on, but no service has a workload: "
                "set CLUSTER_EVENTS_RESOURCES"
            ),
        ),
        (RESOURCES | {"monitor_resources": "on"}, ""),
        ({"services": "api=tcp://127.0.0.1:1"}, ""),
    ],
)
async def test_resources_without_their_switch(settings: dict[str, str], warning: str) -> None:
    """Workloads that are not monitored, and a switch without workloads, are warned of."""
    ran = await run("config", "check", **settings)
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line.startswith("Warning")] == (
        [f"Warning: {warning}."] if warning else []
    )


async def test_check_looks_at_the_keys(tmp_path: Path) -> None:
    """An unfit key and an unfit services file are reported together."""
    file = tmp_path / "services.toml"
    file.write_text("[api]\nurl = 'http://a/'\nca_file = '/nonexistent'\n")
    ran = await run(
        "config", "check", jwt_public_key="-----BEGIN nonsense", services_file=str(file)
    )
    assert (ran.code, ran.out) == (WRONG_SETTINGS, "")
    assert [line.split(": ")[1] for line in ran.err.splitlines()] == [
        "CLUSTER_EVENTS_JWT_PUBLIC_KEY",
        "CLUSTER_EVENTS_SERVICES_FILE",
    ]


# -- service links ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [("config", "check"), ("openapi",), ("token",), ("config", "show")]
)
async def test_service_links_do_no_harm(command: tuple[str, ...]) -> None:
    """What Kubernetes sets for Services named like this one changes nothing and is not reported."""
    linked = await run(*command, jwt_secret=JWT_SECRET, **LINKS)
    plain = await run(*command, jwt_secret=JWT_SECRET)
    assert (linked.code, linked.err) == (plain.code, plain.err) == (0, "")
    assert command == ("token",) or linked.out == plain.out


async def test_clients_do_not_see_service_links(api: Api) -> None:
    """The client commands ask the service at `CLUSTER_EVENTS_URL`, whatever Kubernetes set."""
    await record(api, ALL_GOOD)
    ran = await run("health", url=api.url, token=TOKEN, **LINKS)
    assert (ran.code, ran.err) == (HEALTHY, "")


@pytest.mark.parametrize("around", ["\n", " ", "\ufeff", "\ufeff \r\n"])
async def test_clients_strip_their_variables(api: Api, around: str) -> None:
    """What is around a URL and a token, in variables and in options, does not count."""
    await record(api, ALL_GOOD)
    url, token = around + api.url + around, around + TOKEN + around
    for ran in await asyncio.gather(
        run("health", url=url, token=token), run("health", "--url", url, "--token", token)
    ):
        assert (ran.code, ran.err) == (HEALTHY, "")


# -- config show -----------------------------------------------------------------------------------


async def test_show_has_values_and_origins(tmp_path: Path) -> None:
    """`config show` has a line per setting, for people, and the same as JSON, for programs; no
    secret in either."""
    secret, services = tmp_path / "secret", tmp_path / "services.toml"
    secret.write_text("hunter2" * 10)
    services.write_text(
        "[api]\nurl = 'http://me:hunter2@a/?key=hunter2'\n[web]\nurl = 'http://w/'\n"
    )
    given = {
        "jwt_secret_file": str(secret),
        "services_file": str(services),
        "check_interval": "20s",
        "jwt_max_lifetime": "30d",
        "redis_url": "redis://:hunter2@store/1",
    }
    table = await run("config", "show", "--port", "9", **given)
    as_json = await run("config", "show", "--port", "9", "--json", **given)
    assert (table.code, table.err) == (as_json.code, as_json.err) == (0, "")
    assert "hunter2" not in table.out + as_json.out
    lines = {line[0]: line[1:] for line in table.lines}
    assert lines["CLUSTER_EVENTS_JWT_SECRET"] == ["file", str(secret), "********"]
    assert lines["CLUSTER_EVENTS_PORT"] == ["command", "line", "9"]
    assert lines["CLUSTER_EVENTS_STALE_AFTER"] == ["default", "60"]
    assert lines["CLUSTER_EVENTS_MONITORING"] == ["default", "on"]
    assert lines["CLUSTER_EVENTS_METRICS_PORT"] == ["default", "-"]
    rows = json.loads(as_json.out)
    assert rows.keys() == lines.keys() - {"setting"}
    assert rows["CLUSTER_EVENTS_REDIS_URL"] == {
        "value": "redis://********@store/1",
        "from": "environment variable",
        "file": None,
    }
    assert rows["CLUSTER_EVENTS_SERVICES"] == {
        "value": {"api": "http://********@a/?********", "web": "http://w/"},
        "from": "services file",
        "file": str(services),
    }
    assert rows["CLUSTER_EVENTS_CHECK_INTERVAL"]["value"] == 20
    assert lines["CLUSTER_EVENTS_RETENTION_BYTES"] == ["default", str(64 * 1024 * 1024)]
    assert lines["CLUSTER_EVENTS_JWT_MAX_LIFETIME"] == ["environment", "variable", "2592000"]


async def test_show_of_wrong_settings() -> None:
    """Wrong settings are reported instead of shown."""
    ran = await run("config", "show", port="x")
    assert (ran.code, ran.out) == (WRONG_SETTINGS, "")
