"""What is checked and how: the services file, thresholds, TCP and Redis, and checking once."""

import asyncio
import json
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.errors import SettingsError
from service.events import Event, Status
from service.monitor.check import check_service
from service.monitor.leader import SoleMonitor
from service.monitor.loop import Monitor
from service.monitor.probes.http import Result, session
from service.monitor.probes.tcp import probe_redis, probe_tcp
from service.monitor.recording import Streak
from service.monitor.services import Service, Workload, services
from tests.support.clocks import put_forward
from tests.support.environment import environment
from tests.support.folders import ROOT
from tests.support.services import certificate, http, says, service
from tests.support.settings import make_settings
from tests.support.waiting import PATIENCE_S, until
from tests.support.world import MakeWorld, Scripted

HEALTHY, UNHEALTHY, INITIAL = Status.HEALTHY, Status.UNHEALTHY, Status.INITIAL_UNHEALTHY


# -- the services file -----------------------------------------------------------------------------

FULL = """
[api]
url = "https://api:8443/healthz"
interval = "25s"
timeout = "2s"
headers = { Authorization = "Bearer hunter2", X-From = "monitor" }
expected = ["2xx", 401]
unhealthy_after = 3
healthy_after = 2
resources = "platform/statefulset/api"

[cache]
url = "redis://:hunter2@cache:6379"
resources = "deployment?app=cache"
"""


def file(folder: Path, text: str) -> str:
    """A services file."""
    path = folder / "services.toml"
    path.write_text(text)
    return str(path)


def test_file_says_how_each_service_is_checked(tmp_path: Path) -> None:
    """Every setting of a table reaches its service; without SERVICES the file says which services
    there are."""
    settings = make_settings(services_file=file(tmp_path, FULL))
    assert settings.service_names == ("api", "cache")
    found = services(settings)
    assert found["api"] == Service(
        name="api",
        url="https://api:8443/healthz",
        timeout=2.0,
        every=3,
        headers={"Authorization": "Bearer hunter2", "X-From": "monitor"},
        expected=("2xx", "401"),
        unhealthy_after=3,
        healthy_after=2,
        workload=Workload("statefulset", "api", namespace="platform"),
    )
    assert found["cache"] == Service(
        "cache",
        "redis://:hunter2@cache:6379",
        5.0,
        workload=Workload("deployment", selector="app=cache"),
    )
    assert [found["api"].expects(status) for status in (204, 401, 403, 500)] == [
        True,
        True,
        False,
        False,
    ]
    assert "hunter2" not in repr(found)


def test_services_keep_the_order_of_the_variable(tmp_path: Path) -> None:
    """With SERVICES set, it says which services there are and in which order; the file adds to
    it."""
    settings = make_settings(services="cache,api=http://a/", services_file=file(tmp_path, FULL))
    found = services(settings)
    assert list(found) == ["cache", "api"]
    assert found["api"].url == "https://api:8443/healthz"


def test_resources_by_variable() -> None:
    """RESOURCES names the workloads where there is no file."""
    settings = make_settings(
        services="api=http://a/,b=tcp://b:1", resources="api=deployment/api-server"
    )
    assert services(settings)["api"].workload == Workload("deployment", "api-server")
    assert services(settings)["b"].workload is None


PROBLEMS = {
    "no TOML": ("[api", "services.toml is not TOML: "),
    "no table": ("api = 1", "SERVICES_FILE: 'api' is not a table"),
    "bad name": ("[Api]\nurl = 'http://a/'", "SERVICES: 'Api' cannot be a service's name"),
    "no url": ("[api]", "SERVICES: no URL to check for api"),
    "unknown setting": (
        "[api]\nurl = 'http://a/'\ntimeuot = 1",
        "SERVICES_FILE: [api]: timeuot: Extra inputs",
    ),
    "bad duration": (
        "[api]\nurl = 'http://a/'\ntimeout = 'soon'",
        "SERVICES_FILE: [api]: timeout: expected a duration",
    ),
    "long timeout": (
        "[api]\nurl = 'http://a/'\ntimeout = '11s'",
        "SERVICES_FILE: [api]: timeout: expected at most",
    ),
    "short interval": (
        "[api]\nurl = 'http://a/'\ninterval = '1s'",
        "[api]: interval: expected at least",
    ),
    "bad status": (
        "[api]\nurl = 'http://a/'\nexpected = ['6xx']",
        "[api]: expected: expected HTTP statuses",
    ),
    "no threshold": ("[api]\nurl = 'http://a/'\nunhealthy_after = 0", "[api]: unhealthy_after: "),
    "no such file": (
        "[api]\nurl = 'http://a/'\nca_file = '/nonexistent'",
        "[api]: ca_file: cannot be read",
    ),
    "no certificate": (
        "[api]\nurl = 'http://a/'\nclient_cert = '/dev/null'",
        "[api]: client_cert: not what is expected",
    ),
    "key alone": (
        "[api]\nurl = 'http://a/'\nclient_key = '/dev/null'",
        "[api]: client_key: there is no client_cert",
    ),
    "bad resources": (
        "[api]\nurl = 'http://a/'\nresources = 'pod/a'",
        "[api]: resources: expected deployment/NAME",
    ),
    "bad scheme": (
        "[api]\nurl = 'ftp://hunter2@a/'",
        "SERVICES: the URL of 'api' is not an http://",
    ),
    "tcp without port": ("[api]\nurl = 'tcp://a'", "SERVICES: the URL of 'api' is not an http://"),
}


@pytest.mark.parametrize(("text", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_is_wrong_in_the_file_is_told(tmp_path: Path, text: str, problem: str) -> None:
    """Each mistake is named with its table and setting, and no secret is repeated."""
    with pytest.raises(SettingsError) as error:
        services(make_settings(services_file=file(tmp_path, text)))
    (told,) = error.value.problems
    assert problem in told
    assert "hunter2" not in told


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Several tables' mistakes come together, strangers among them."""
    text = "[api]\ntimeout = 'soon'\n[other]\nurl = 'http://o/'\n"
    with pytest.raises(SettingsError) as error:
        services(
            make_settings(
                services="api=http://a/,b",
                services_file=file(tmp_path, text),
                resources="c=deployment/c",
            )
        )
    assert [problem.partition("CLUSTER_EVENTS_")[2][:30] for problem in error.value.problems] == [
        "SERVICES_FILE: [api]: timeout:",
        "SERVICES_FILE: [other]: no suc",
        "SERVICES: no URL to check for ",
        "RESOURCES: no such service: c",
    ]


@pytest.mark.parametrize("resources", ["api", "api=", "=x"])
def test_resources_need_a_name_and_a_value(resources: str) -> None:
    """A pair without one of its halves is a wrong setting."""
    with pytest.raises(SettingsError, match="CLUSTER_EVENTS_RESOURCES: "):
        make_settings(resources=resources)


# -- thresholds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "recorded", "healthy"),
    [
        ([True], HEALTHY, True),
        ([False], HEALTHY, True),
        ([False, False], HEALTHY, True),
        ([False, False, False], HEALTHY, False),
        ([False, False, True, False, False], HEALTHY, True),
        ([True], UNHEALTHY, False),
        ([True, True], UNHEALTHY, True),
        ([True, False, True], UNHEALTHY, False),
        ([False], UNHEALTHY, False),
        ([False], INITIAL, False),
        ([True], INITIAL, True),
        ([False], None, False),
        ([True], None, True),
    ],
)
def test_thresholds(checks: list[bool], recorded: Status | None, healthy: bool) -> None:
    """Three failures in a row make it unhealthy, two successes healthy again; what never was
    healthy needs one."""
    run = Streak(checks[0])
    for check in checks[1:]:
        run = run.with_check(check)
    assert run.counts_as_healthy(recorded, unhealthy_after=3, healthy_after=2) is healthy


@pytest.mark.parametrize("recorded", [None, *Status])
@pytest.mark.parametrize("check", [True, False])
def test_thresholds_of_one_change_nothing(recorded: Status | None, check: bool) -> None:
    """By default a service is what its last check found."""
    assert Streak(check).counts_as_healthy(recorded, 1, 1) is check


async def world_of(make_world: MakeWorld, tmp_path: Path, text: str, **values: Any) -> Any:
    """A world whose service `api` has a table of its own."""
    world = await make_world("api")
    port = world.services["api"].port
    path = file(tmp_path, f"[api]\nurl = 'http://127.0.0.1:{port}/'\n{text}")
    world.settings = make_settings(services_file=path, **values)
    world.start()
    return world


async def test_flapping_below_the_threshold_is_no_event(
    make_world: MakeWorld,
    tmp_path: Path,
) -> None:
    """A service that fails less often in a row than its threshold stays healthy, and one that does
    not, does not."""
    world = await world_of(make_world, tmp_path, "unhealthy_after = 3\nhealthy_after = 2")
    for healthy in (True, False, False, True, False, False, False, True, True):
        world.services["api"].healthy = healthy
        await world.check()
    assert await world.statuses() == [HEALTHY, UNHEALTHY, UNHEALTHY, HEALTHY]
    entries = (await world.store.read()).entries
    infos = [
        Event.from_bytes(await world.store.full(one) or b"").services["api"].self_info
        for one in entries
    ]
    assert infos[1].startswith(
        "Check 1 of 2 in a row passed, so it still counts as unhealthy: Reachable: HTTP 200 OK."
    )


async def test_interval_of_its_own(make_world: MakeWorld, tmp_path: Path) -> None:
    """A service with a longer interval is asked at every so many checks of the monitor, and stays
    what it was between."""
    world = await world_of(make_world, tmp_path, "interval = '30s'")
    await world.check(7)
    assert world.services["api"].asked == 3
    assert world.counted("checks_total", result="healthy") == 7


@pytest.mark.parametrize(
    ("interval", "check_interval", "rounds"),
    [
        ("3s", "300ms", 10),
        ("0.3", "0.1", 3),
        ("0.7s", "100ms", 7),
        ("6ms", "2ms", 3),
        ("1.1m", "600ms", 110),
        ("4.1ms", "0.1ms", 41),
        ("1m", "60s", 1),
        ("3.1s", "300ms", 11),
        ("3001ms", "300ms", 11),
        ("10s", "3s", 4),
    ],
)
def test_interval_in_rounds(
    tmp_path: Path, interval: str, check_interval: str, rounds: int
) -> None:
    """A multiple of the monitor's interval is that many rounds, whatever binary fractions make of
    it; others are rounded up."""
    text = f"[api]\nurl = 'http://a/'\ninterval = '{interval}'"
    settings = make_settings(services_file=file(tmp_path, text), check_interval=check_interval)
    assert services(settings)["api"].every == rounds


def test_interval_in_another_unit_is_not_shorter(tmp_path: Path) -> None:
    """The monitor's own interval, written in another unit, is neither too short for an interval nor
    too long for a time-out."""
    for text, same in (
        ("0.0013s", "1.3ms"),
        ("1.3ms", "0.0013s"),
        ("0.1d", "2.4h"),
        ("2.4h", "0.1d"),
    ):
        table = f"[api]\nurl = 'http://a/'\ninterval = '{text}'\ntimeout = '{text}'"
        settings = make_settings(
            services_file=file(tmp_path, table), check_interval=same, check_timeout=text
        )
        assert services(settings)["api"].every == 1


async def test_what_was_found_long_ago_is_not_recorded(
    make_world: MakeWorld,
    tmp_path: Path,
) -> None:
    """A monitor whose turn it is again looks at every service, also at one that is asked rarely."""
    world = await world_of(make_world, tmp_path, "interval = '10m'")
    turns, leader = asyncio.Queue[None](), SoleMonitor()
    relieved = asyncio.Event()
    leader.wait_until_checking, leader.wait_until_replaced = turns.get, relieved.wait  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(
        Monitor(world.settings, world.store, world.metrics, leader=leader).run()
    )
    try:
        turns.put_nowait(None)
        await until(lambda: world.services["api"].asked == 1)
        await until(lambda: world.counted("checks_total", result="healthy") == 1)
        relieved.set()
        world.services["api"].healthy = False
        await until(lambda: len(turns._getters) == 1)  # type: ignore[attr-defined]
        relieved.clear()
        turns.put_nowait(None)
        await until(lambda: world.counted("checks_total", result="unhealthy") == 1)
    finally:
        task.cancel()
    assert await world.statuses() == [HEALTHY, UNHEALTHY]


@pytest.mark.slow
async def test_headers_and_statuses_of_its_own(tmp_path: Path) -> None:
    """The headers of the table are sent, and the statuses that it names are healthy."""
    seen: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with service(behave) as port:
        text = (
            f"[api]\nurl = 'http://127.0.0.1:{port}/'\nheaders = {{ X-Key = 'k1' }}\nexpected = "
            f"[401]"
        )
        settings = make_settings(services_file=file(tmp_path, text))
        ran = await run("monitor", "--once", "--json", services_file=str(settings.services_file))
    assert ran[0] == 0
    assert json.loads(ran[1])["api"]["self_info"] == "Reachable: HTTP 401 Unauthorized."
    assert b"\r\nX-Key: k1\r\n" in seen[0]


async def test_reloaded_file_takes_effect(make_world: MakeWorld, tmp_path: Path) -> None:
    """After a reload the next check goes by the new file; a file with a mistake changes nothing."""
    world = await world_of(make_world, tmp_path, "")
    await world.check()
    other = Scripted()
    async with other.listening():
        file(tmp_path, "[api]\nurl = 'nonsense'")
        with pytest.raises(SettingsError):
            world.monitor.reload(world.settings)
        await world.check()
        file(tmp_path, f"[api]\nurl = 'http://127.0.0.1:{other.port}/'")
        world.monitor.reload(world.settings)
        await world.check()
    assert (world.services["api"].asked, other.asked) == (2, 1)


def authorities(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """A folder of its own for a certificate, its key, and the context of a server with them."""
    (folder / name).mkdir()
    return certificate(folder / name, "localhost")


async def test_authorities_and_certificate_of_its_own(tmp_path: Path) -> None:
    """A service behind a private authority that demands a client certificate is checked with both,
    and not without."""
    server, server_cert = authorities(tmp_path, "server")
    _, client_cert = authorities(tmp_path, "client")
    server.load_verify_locations(client_cert)
    server.verify_mode = ssl.CERT_REQUIRED
    server.maximum_version = (
        ssl.TLSVersion.TLSv1_2
    )  # Where the refusal comes in the handshake, not with the answer.
    ca = f"ca_file = '{server_cert}'\n"
    mine = f"client_cert = '{client_cert}'\nclient_key = '{client_cert.parent / 'key.pem'}'\n"
    infos = []
    async with service(says(http("200 OK")), server) as port, session() as client:
        for table in (ca + mine, ca, mine):
            settings = make_settings(
                services_file=file(tmp_path, f"[api]\nurl = 'https://localhost:{port}/'\n{table}")
            )
            infos.append((await check_service(client, services(settings)["api"])).info)
    assert infos[0] == "Reachable: HTTP 200 OK."
    assert infos[1].startswith(("TLS failed: ", "Cannot connect: the connection was closed"))
    assert infos[2].startswith(
        "TLS failed: the certificate is not accepted: self-signed certificate"
    )


async def test_byte_order_marks_of_certificates(tmp_path: Path) -> None:
    """Byte order marks before certificates and keys do not hide them; UTF-16 is named."""
    server, server_cert = authorities(tmp_path, "server")
    _, client_cert = authorities(tmp_path, "client")
    server.load_verify_locations(client_cert)
    server.verify_mode = ssl.CERT_REQUIRED
    files = {
        "ca_file": server_cert,
        "client_cert": client_cert,
        "client_key": client_cert.parent / "key.pem",
    }
    texts = {name: path.read_text() for name, path in files.items()}
    table = "".join(f"{name} = '{path}'\n" for name, path in files.items())
    async with service(says(http("200 OK")), server) as port, session() as client:
        settings = make_settings(
            services_file=file(tmp_path, f"[api]\nurl = 'https://localhost:{port}/'\n{table}")
        )
        for name, path in files.items():
            path.write_text(texts[name], encoding="utf-8-sig")
        assert (
            await check_service(client, services(settings)["api"])
        ).info == "Reachable: HTTP 200 OK."
    for name, path in files.items():
        path.write_text(texts[name], encoding="utf-16")
        with pytest.raises(SettingsError, match=f"{path} is UTF-16: save it as UTF-8"):
            services(settings)
        path.write_text(texts[name])


async def test_redis_behind_tls(tmp_path: Path) -> None:
    """A Redis behind a private authority is checked with it, and not accepted without."""
    server, cert = authorities(tmp_path, "server")
    async with service(says(b"+PONG\r\n"), server) as port:
        url = f"rediss://localhost:{port}"
        trusting = await probe_redis(url, 2.0, ssl.create_default_context(cafile=cert))
        others = await probe_redis(url, 2.0)
    assert trusting == Result(True, "Reachable: it answers PING.")
    assert (
        others.info
        == f"TLS failed: the certificate is not accepted: self-signed certificate ({url})."
    )


# -- TCP and Redis ---------------------------------------------------------------------------------


async def test_tcp_connect_is_enough() -> None:
    """What takes a connection is reachable, though it never says a word."""
    async with service(says(stays=True)) as port:
        assert await probe_tcp(f"tcp://127.0.0.1:{port}", 1.0) == Result(
            True, "Reachable: it accepts connections."
        )


async def test_tcp_refused() -> None:
    """Where nothing listens the info says so, and where."""
    result = await probe_tcp("tcp://127.0.0.1:1", 1.0)
    assert result == Result(False, "Connection refused: nothing listens there (tcp://127.0.0.1:1).")


async def test_tcp_unknown_host() -> None:
    """A name that no one knows is told apart from a dead host."""
    result = await probe_tcp("tcp://name.invalid:1", 2.0)
    assert result.info.startswith("The host name cannot be resolved: ")


async def test_redis_answers_ping(valkey_server: str) -> None:
    """A real Valkey that answers PING is healthy, and after AUTH too; a wrong password is not, and
    is not repeated."""
    with Redis.from_url(valkey_server) as client:
        client.execute_command("ACL", "SETUSER", "probe", "on", ">hunter2", "+ping")
        async with relayed(valkey_server) as port:
            good = await probe_redis(f"redis://127.0.0.1:{port}", 1.0)
            known = await probe_redis(f"redis://probe:hunter2@127.0.0.1:{port}", 1.0)
            wrong = await probe_redis(f"redis://probe:hunter3@127.0.0.1:{port}", 1.0)
        client.execute_command("ACL", "DELUSER", "probe")
    assert good == known == Result(True, "Reachable: it answers PING.")
    assert wrong == Result(
        False, f"Reachable, but it refuses the credentials (redis://127.0.0.1:{port})."
    )


def relayed(url: str) -> Any:
    """A TCP port that leads to a unix socket."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to, back = await asyncio.open_unix_connection(url.removeprefix("unix://"))
        try:
            while data := await reader.read(1_000):
                back.write(data)
                writer.write(await to.read(1_000))
        finally:
            back.close()

    return service(behave)


@pytest.mark.parametrize(
    ("reply", "info"),
    [
        (
            b"-LOADING Redis is loading the dataset in memory\r\n",
            "Reachable, but unhealthy: LOADING Redis is loading the dataset in memory",
        ),
        (
            b"-NOAUTH Authentication required.\r\n",
            "Reachable, but unhealthy: NOAUTH Authentication required",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n", "The server is not Redis: 'HTTP/1.1 400 Bad Request'"),
        (b"+PO", "The connection was reset while waiting for a reply"),
        (b"", "The connection was reset while waiting for a reply"),
    ],
)
async def test_redis_that_does_not_answer_ping(reply: bytes, info: str) -> None:
    """Whatever else answers is unhealthy, and the info says what it said."""
    async with service(says(reply)) as port:
        assert await probe_redis(f"redis://127.0.0.1:{port}", 1.0) == Result(
            False, f"{info} (redis://127.0.0.1:{port})."
        )


async def test_redis_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing costs no more than the deadline."""
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readline()
        asked.set()
        await reader.read()  # Until the monitor hangs up.

    async with service(silent) as port:
        url = f"redis://127.0.0.1:{port}"
        checking = asyncio.create_task(probe_redis(url, 3_600.0))
        async with asyncio.timeout(PATIENCE_S):
            await asked.wait()
        assert not checking.done()
        put_forward(monkeypatch, 3_600.0)
        assert await checking == Result(
            False, f"Timed out after 3600 s while waiting for a reply ({url})."
        )


async def test_redis_that_never_ends_its_line() -> None:
    """A server that says too much is not heard out, and the deadline is not waited for."""
    async with service(says(b"x" * 10_000, stays=True)) as port:
        async with asyncio.timeout(PATIENCE_S):
            result = await probe_redis(f"redis://127.0.0.1:{port}", 3_600.0)
    assert not result.healthy


# -- commands --------------------------------------------------------------------------------------


async def run(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """The exit code and the output of a command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        *arguments,
        cwd=ROOT,
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.slow
@pytest.mark.parametrize(("healthy", "code"), [(True, 0), (False, 2)])
async def test_once_prints_and_records_nothing(
    make_world: MakeWorld,
    valkey: str,
    healthy: bool,
    code: int,
) -> None:
    """`monitor --once` prints what it found, exits by it, and leaves the store alone."""
    world = await make_world("api", "runner")
    world.services["runner"].healthy = healthy
    urls = ",".join(f"{name}=http://127.0.0.1:{one.port}/" for name, one in world.services.items())
    got, out, _ = await run("monitor", "--once", services=urls, redis_url=valkey)
    assert got == code
    assert [
        line.split()[:2] for line in out.splitlines() if line.startswith(("api", "runner"))
    ] == [
        ["api", "yes"],
        ["runner", "yes" if healthy else "no"],
    ]
    with Redis.from_url(valkey) as client:
        assert client.keys("*") == []


@pytest.mark.slow
async def test_config_check(tmp_path: Path) -> None:
    """`config check` names the services, or all that is wrong, and exits with 0 or 2."""
    settings = {"services_file": file(tmp_path, FULL), "monitor_resources": "on"}
    assert await run("config", "check", **settings) == (
        0,
        "The settings are valid. Services: api, cache.\n",
        "",
    )
    code, out, err = await run(
        "config", "check", services_file=file(tmp_path, "[api]\nurl = 'http://a/'\ntimeout = 'x'")
    )
    assert (code, out) == (2, "")
    assert (
        err == "cluster-events: CLUSTER_EVENTS_SERVICES_FILE: [api]: timeout: expected a duration "
        "such as 500ms, 30s, 10m or 72h\n"
    )
    code, out, _ = await run("config", "check")
    assert (code, out) == (
        0,
        "The settings are valid. No service has a URL: that is enough for the API only.\n",
    )


async def test_redis_that_repeats_a_password() -> None:
    """An error that repeats what was sent does not show it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.write(b"+OK\r\n")
        await reader.read(1_000)
        writer.write(b"-ERR unknown command, with args beginning with: 'hunter2 monitor'\r\n")
        await writer.drain()

    async with service(echo) as port:
        result = await probe_redis(f"redis://monitor:hunter2@127.0.0.1:{port}", 5.0)
    assert result.info == (
        "Reachable, but unhealthy: ERR unknown command, with args beginning with: "
        f"'[hidden] [hidden]' (redis://127.0.0.1:{port})."
    )


@pytest.mark.slow
async def test_json_needs_once() -> None:
    """`--json` without `--once` is a wrong command line."""
    assert (await run("monitor", "--json"))[0] == 64


@contextmanager
def monitor(log: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`cluster-events monitor` as a process, which ends as it should."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "monitor"],
            cwd=ROOT,
            env=environment(**settings),
            stderr=output,
        )
    try:
        yield process, log
    finally:
        process.terminate()
        code = process.wait(5)
    assert code == 0


@pytest.mark.slow
async def test_hangup_reads_the_file_again(
    make_world: MakeWorld,
    valkey: str,
    tmp_path: Path,
) -> None:
    """SIGHUP makes a running monitor check by the changed file; one with a mistake is told and not
    used."""
    world = await make_world("old", "new")
    path = file(tmp_path, f"[api]\nurl = 'http://127.0.0.1:{world.services['old'].port}/'")
    settings = {
        "redis_url": valkey,
        "services_file": path,
        "check_interval": "200ms",
        "check_timeout": "200ms",
    }
    with monitor(tmp_path / "log", **settings) as (process, log):
        await until(lambda: world.services["old"].asked > 0)
        file(tmp_path, "[api")
        process.send_signal(signal.SIGHUP)
        await until(lambda: "ignored invalid services file" in log.read_text())
        file(tmp_path, f"[api]\nurl = 'http://127.0.0.1:{world.services['new'].port}/'")
        process.send_signal(signal.SIGHUP)
        await until(lambda: world.services["new"].asked > 0)


@pytest.mark.slow
async def test_port_in_use_is_told(make_world: MakeWorld, valkey: str) -> None:
    """A monitor whose port is taken does not start, says why, and exits with 1."""
    world = await make_world("api")
    port = world.services["api"].port
    settings = {
        "redis_url": valkey,
        "services": f"api=http://127.0.0.1:{port}/",
        "monitor_port": str(port),
    }
    code, _, err = await run("monitor", **settings)
    assert code == 1
    assert "Error: cannot start: " in err
    assert "Traceback" not in err


@pytest.mark.slow
async def test_process_tells_that_it_leads(
    make_world: MakeWorld,
    valkey: str,
    tmp_path: Path,
) -> None:
    """A running monitor answers on its own port: ready as the leader, with the metrics of its
    checks."""
    world = await make_world("api")
    url = f"api=http://127.0.0.1:{world.services['api'].port}/"
    with monitor(tmp_path / "log", redis_url=valkey, services=url, monitor_port="0") as (_, log):
        await until(lambda: world.services["api"].asked > 0)
        await until(lambda: "api is Healthy" in log.read_text())
        found = re.search(r"listening host='127.0.0.1' port=(\d+)", log.read_text())
        assert found is not None
        address = f"http://127.0.0.1:{found[1]}"
        async with world.client.get(f"{address}/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "leading"})
        async with world.client.get(f"{address}/metrics") as answer:
            lines = (await answer.text()).splitlines()
    assert "cluster_events_monitor_leading 1.0" in lines
    assert 'cluster_events_checks_total{result="healthy"} 1.0' in lines
