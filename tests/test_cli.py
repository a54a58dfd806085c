"""The commands, as processes: what they print where, and their exit codes."""

import asyncio
import contextlib
import json
import os
import pty
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openapi_spec_validator import validate

from service.cli.main import main
from service.events import Observation, Status
from tests.support.api import Api
from tests.support.commands import (
    FAILED,
    HEALTHY,
    TOKEN,
    UNHEALTHY,
    WRONG_COMMAND_LINE,
    WRONG_SETTINGS,
    Ran,
    record,
    run,
    said,
    tells_one_line,
)
from tests.support.environment import environment
from tests.support.folders import ROOT
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.settings import JWT_SECRET, bearer

MakeApi = Callable[..., Awaitable[Api]]


@pytest.fixture
def invoke(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs a command in this process, which takes no time: for what ends before there is anything
    to run."""

    def call(*arguments: str, **settings: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["cluster-events", *arguments])
        monkeypatch.setattr(os, "environ", environment(**settings))
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, *capsys.readouterr())

    return call


async def ask(api: Api, *arguments: str) -> Ran:
    """Runs a command that asks this API."""
    return await run(*arguments, url=api.url, token=TOKEN)


# -- events ----------------------------------------------------------------------------------------


async def test_events_lists_newest_first(api: Api) -> None:
    """`events` prints a line per event, newest first; `--limit` keeps the newest."""
    newest, oldest = await record(api, ALL_GOOD, ONE_BAD)
    ran, limited = await asyncio.gather(ask(api, "events"), ask(api, "events", "--limit", "1"))
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[0] == ["recorded", "at", "all", "healthy", "api", "compiler", "runner", "id"]
    assert [line[1:] for line in ran.lines[1:]] == [
        ["no", "Healthy", "Unhealthy", "Healthy", newest],
        ["yes", "Healthy", "Healthy", "Healthy", oldest],
    ]
    assert limited.out.splitlines() == ran.out.splitlines()[:2]


@pytest.mark.slow
async def test_json_is_what_the_service_says(api: Api) -> None:
    """With `--json`, each command prints the service's JSON and nothing else."""
    newest, _ = await record(api, ALL_GOOD, ONE_BAD)
    commands = {
        "/v0/cluster/events": ("events",),
        "/v0/cluster/events/latest?selector=status": ("event", "latest", "--selector", "status"),
        f"/v0/cluster/events/{newest}?selector=all": ("event", newest),
        "/v0/cluster_healthz": ("health",),
    }
    for path, command in commands.items():
        ran = await ask(api, *command, "--json")
        assert ran.err == ""
        assert json.loads(ran.out) == (await api.get(path)).json


async def test_no_events_yet(api: Api) -> None:
    """Before the first event, `events` says so, and prints an empty list as JSON."""
    table, as_json = await asyncio.gather(ask(api, "events"), ask(api, "events", "--json"))
    assert (table.code, table.out) == (0, "No event has been recorded yet.\n")
    assert (as_json.code, as_json.out) == (0, "[]\n")
    assert table.err.endswith("the monitor is silent; last check: never\n")


async def test_event_shows_every_field(api: Api) -> None:
    """`event latest` prints the event with its infos, field by field; `--selector status` leaves
    the infos out."""
    (event_id,) = await record(api, ONE_BAD)
    ran, short = await asyncio.gather(
        ask(api, "event", "latest"), ask(api, "event", event_id, "--selector", "status")
    )
    assert ran.code == short.code == 0
    assert ["id", event_id] in ran.lines
    assert ["all_healthy", "no"] in ran.lines
    assert ["compiler_status", "Unhealthy"] in ran.lines
    assert ["compiler_resources_info", "none", "of", "two"] in ran.lines
    assert "info" not in short.out
    assert ["compiler_status", "Unhealthy"] in short.lines


async def test_infos_are_not_markup(api: Api) -> None:
    """What a service said is printed as it stands, not taken for the table's own markup."""
    said = "[red]not[/red] [bold]markup[/] :boom: [link=http://x]y"
    await record(api, {name: Observation(Status.HEALTHY, said) for name in ALL_GOOD})
    ran = await ask(api, "event", "latest")
    assert ran.code == 0
    assert ran.out.count(said) == 3


@pytest.mark.parametrize(
    ("event_id", "said"),
    [
        ("01a20cd2-5ec5-7ba9-8b54-2bfacd52cf3e", "(404 UnknownClusterMonitorEvent)"),
        ("nonsense", "(400 InvalidUuidParam)"),
        ("../../metrics", "(400 InvalidUuidParam)"),
        ("latest", "(404 NoClusterMonitorEventsAvailable)"),
    ],
)
async def test_event_that_is_not_there(api: Api, event_id: str, said: str) -> None:
    """What the service refuses is told in its words, with its code, and exits with 1."""
    ran = await ask(api, "event", event_id)
    assert ran.code == FAILED
    assert tells_one_line(ran).endswith(said)


# -- health ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observed", "code", "line"),
    [
        (ALL_GOOD, HEALTHY, "The cluster is healthy."),
        (ONE_BAD, UNHEALTHY, "The cluster is unhealthy."),
    ],
)
async def test_health_tells_the_verdict(api: Api, observed: Any, code: int, line: str) -> None:
    """`health` exits with 0 if the cluster is healthy and 2 if not, and prints a line per
    service."""
    await record(api, observed)
    ran = await ask(api, "health")
    assert ran.code == code
    first, head, *rows = ran.out.splitlines()
    assert first == line
    assert head.split() == ["service", "healthy", "unchanged", "since", "checked", "at", "message"]
    healthy = {row.split()[0]: row.split()[1] for row in rows}
    assert healthy == {name: "yes" if seen.healthy else "no" for name, seen in observed.items()}
    assert rows[1].split()[-1] == observed["compiler"].self_info


@pytest.mark.parametrize("observed", [ALL_GOOD, ONE_BAD], ids=["healthy", "unhealthy"])
async def test_stale_verdict_is_not_known(make_api: MakeApi, observed: Any) -> None:
    """A verdict of which nobody knows whether it still holds is neither healthy nor unhealthy: exit
    code 1."""
    api = await make_api(stale_after="1ms")
    await record(api, observed)
    await asyncio.sleep(0.01)
    ran, as_json = await asyncio.gather(ask(api, "health"), ask(api, "health", "--json"))
    assert ran.code == as_json.code == FAILED
    assert (
        ran.out.splitlines()[0]
        == "The state of the cluster is not known: the last known state is stale."
    )
    assert json.loads(as_json.out)["stale"] is True


async def test_stale_event_is_marked(make_api: MakeApi) -> None:
    """Events that may not be the current state are printed, with a warning on stderr."""
    api = await make_api(stale_after="1ms")
    await record(api, ALL_GOOD)
    await asyncio.sleep(0.01)
    for ran in await asyncio.gather(ask(api, "events", "--json"), ask(api, "event", "latest")):
        assert ran.code == 0
        assert ran.err.startswith(
            "cluster-events: this may not be the current state: the monitor is silent; last "
            "check: 2"
        )
        assert ran.out


async def test_health_without_events_or_store(make_api: MakeApi) -> None:
    """Before the first event, and where the service cannot read its store, the health is not
    known."""
    unborn, cut_off = await make_api(), await make_api(redis_url="unix:///nonexistent/s")
    ran = await ask(unborn, "health")
    assert ran.code == FAILED
    assert tells_one_line(ran).endswith("(404 NoClusterMonitorEventsAvailable)")
    ran = await ask(cut_off, "health")
    assert ran.code == FAILED
    assert tells_one_line(ran).endswith("(503 StoreUnavailable)")


# -- services that cannot be asked -----------------------------------------------------------------


@pytest.mark.parametrize("command", [("events",), ("event", "latest"), ("health",)])
async def test_service_that_does_not_listen(unused_tcp_port: int, command: tuple[str, ...]) -> None:
    """A service that cannot be reached is one line on stderr, and exit code 1: the health is not
    known."""
    url = f"http://127.0.0.1:{unused_tcp_port}"
    ran = await run(*command, "--url", url, "--token", TOKEN)
    assert ran.code == FAILED
    assert tells_one_line(ran) == f"Error: cannot reach {url}: Connection refused"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://127.0.0.1", "Error: 'ftp://127.0.0.1' is not an http:// or https:// URL"),
        ("127.0.0.1:8080", "Error: '127.0.0.1:8080' is not an http:// or https:// URL"),
        ("http://[", "Error: cannot reach http://[: Invalid IPv6 URL"),
        (
            "http://127.0.0.1:99999",
            "Error: cannot reach http://127.0.0.1:99999: Port out of range 0-65535",
        ),
    ],
)
def test_impossible_url(invoke: Callable[..., Ran], url: str, said: str) -> None:
    """A URL that cannot be asked is one line on stderr."""
    ran = invoke("health", "--url", url)
    assert (ran.code, tells_one_line(ran)) == (FAILED, said)


@asynccontextmanager
async def stranger(answer: bytes) -> AsyncIterator[str]:
    """A server that says the same to everybody; gives its URL."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "command", "expected"),
    [
        (said("200 OK", "<html>"), "events", "answered 200: is this cluster-events?"),
        (said("200 OK", ""), "health", "answered 200: is this cluster-events?"),
        (said("200 OK", '{"status": "ok"}'), "health", "answered 200: is this cluster-events?"),
        (said("200 OK", '{"status": "ok"}'), "events", "answered 200: is this cluster-events?"),
        (said("200 OK", '[{"id": 1}]'), "events", "answered 200: is this cluster-events?"),
        (said("404 Not Found", "no such page"), "health", "answered 404: is this cluster-events?"),
        (said("302 Found", ""), "health", "answered 302: is this cluster-events?"),
        (said("503 Unavailable", "<html>"), "health", "answered 503: is this cluster-events?"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "health", ": SSH-2.0-OpenSSH_9.2"),
        (b"", "health", ": Remote end closed connection without response"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[",
            "events",
            ": IncompleteRead(1 bytes read, 8 more expected)",
        ),
    ],
)
async def test_other_server(answer: bytes, command: str, expected: str) -> None:
    """A server that is not this service is told as such, never taken for an answer."""
    async with stranger(answer) as url:
        ran = await run(command, "--url", url)
    assert ran.code == FAILED
    assert tells_one_line(ran).endswith(expected)
    assert url in ran.err


async def test_url_with_a_path_prefix(api: Api) -> None:
    """A service behind a path prefix is asked below it, whether the URL ends in a slash or not."""
    asked = []
    verdict = '{"all_healthy": true, "stale": false, "stale_after_seconds": 30}'

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            asked.append((await reader.readuntil(b"\r\n")).decode().split()[1])
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said("200 OK", verdict))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/platform/health"
        for prefix in (url, url + "/"):
            assert (await run("health", "--url", prefix)).code == 0
    assert asked == ["/platform/health/v0/cluster_healthz"] * 2


# -- credentials -----------------------------------------------------------------------------------


@pytest.mark.slow
async def test_missing_and_wrong_token(api: Api) -> None:
    """Without a token the command says how to give one; a wrong one is told as the service tells
    it, and not repeated."""
    ran = await run("events", "--url", api.url)
    assert ran.code == FAILED
    assert tells_one_line(ran) == (
        "Error: a token is required: set --token or CLUSTER_EVENTS_TOKEN (401 AuthenticationFailed)"
    )
    for token in ("wr0ng", "wr0ng\ntoken", "wr0ng-tök€n"):
        ran = await run("events", url=api.url, token=token)
        assert ran.code == FAILED
        assert "wr0ng" not in tells_one_line(ran)


@pytest.mark.slow
async def test_api_keys_from_their_making_to_their_end(api: Api, valkey: str) -> None:
    """A key made in the store opens the API with its role, is listed without its secret, and is
    refused once deleted."""
    await record(api, ALL_GOOD)
    made = await run("keys", "create", "agents", "--expires", "90d", redis_url=valkey)
    assert made.code == 0
    key = made.out.strip()
    assert key.startswith("apikey:")
    assert key not in made.err
    await api.settle()
    assert (await run("events", url=api.url, token=key)).code == 0
    assert (await api.request("POST", "/v0/cluster/events", bearer(key), data=b"{}")).status == 403

    again, writer = await asyncio.gather(
        run("keys", "create", "agents", redis_url=valkey),
        run("keys", "create", "writer", "--role", "write", "--json", redis_url=valkey),
    )
    assert again.code == FAILED
    assert "agents" in tells_one_line(again)
    assert {name: json.loads(writer.out)[name] for name in ("name", "role")} == {
        "name": "writer",
        "role": "write",
    }

    table, as_json = await asyncio.gather(
        run("keys", "list", redis_url=valkey), run("keys", "list", "--json", redis_url=valkey)
    )
    assert [line[:2] for line in table.lines[1:]] == [["agents", "read"], ["writer", "write"]]
    assert table.lines[2][-1] == "never"
    listed = json.loads(as_json.out)
    assert [row["name"] for row in listed] == ["agents", "writer"]
    assert key.partition(":")[2] not in json.dumps(listed) + table.out

    assert (await run("keys", "delete", "agents", redis_url=valkey)).code == 0
    await api.settle()
    refused = await run("events", url=api.url, token=key)
    assert tells_one_line(refused).endswith("(401 AuthenticationFailed)")
    gone = await run("keys", "delete", "agents", redis_url=valkey)
    assert gone.code == FAILED
    assert "agents" in tells_one_line(gone)


async def test_no_keys_yet(valkey: str) -> None:
    """Without keys, the list says so."""
    assert await run("keys", "list", redis_url=valkey) == Ran(0, "There are no API keys.\n", "")


async def test_keys_without_a_store() -> None:
    """A store that cannot be reached is one line, without its address or password."""
    ran = await run("keys", "list", redis_url="redis://user:hunter2@127.0.0.1:1/0")
    assert (ran.code, tells_one_line(ran)) == (
        FAILED,
        "Error: The store is unavailable: it refuses connections.",
    )


@pytest.mark.slow
@pytest.mark.parametrize(("role", "status"), [("read", 403), ("write", 400)])
async def test_token_opens_the_api(api: Api, role: str, status: int) -> None:
    """A token signed with the configured secret opens the API with its role."""
    await record(api, ALL_GOOD)
    ran = await run("token", "--role", role, "--expires", "10m", jwt_secret=JWT_SECRET)
    assert (ran.code, ran.err) == (0, "")
    token = ran.out.strip()
    assert (await api.request("GET", "/v0/cluster/events", bearer(token))).status == 200
    assert (
        await api.request("POST", "/v0/cluster/events", bearer(token), data=b"{}")
    ).status == status


# -- command lines and settings --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("--nonsense",),
        ("events", "--limit", "0"),
        ("events", "--limit", "many"),
        ("events", "extra"),
        ("event",),
        ("event", "latest", "--selector", "everything"),
        ("keys",),
        ("keys", "create"),
        ("keys", "create", "a name with spaces"),
        ("keys", "create", "."),
        ("keys", "create", ".."),
        ("keys", "create", "x", "--expires", "soon"),
        ("keys", "create", "x", "--expires", "0"),
        ("keys", "create", "x", "--role", "root"),
        ("token", "--expires", "0s"),
        ("serve", "--port", "70000"),
        ("dev", "--port", "-1"),
    ],
)
def test_wrong_command_line(invoke: Callable[..., Ran], arguments: tuple[str, ...]) -> None:
    """A wrong command line exits with 64, which no other outcome has, and explains itself on
    stderr."""
    ran = invoke(*arguments, jwt_secret=JWT_SECRET)
    assert ran.code == WRONG_COMMAND_LINE
    assert ran.out == ""
    assert "Usage:" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(("--help",), "Commands:"), (("events", "-h"), "--limit"), (("--version",), "0.")],
)
def test_help_and_version(
    invoke: Callable[..., Ran], arguments: tuple[str, ...], expected: str
) -> None:
    """Help and version go to stdout, and are no error."""
    ran = invoke(*arguments)
    assert (ran.code, ran.err) == (0, "")
    assert expected in ran.out


@pytest.mark.slow
async def test_wrong_command_line_and_settings_of_a_process() -> None:
    """The exit codes of wrong command lines and wrong settings are those that the process has."""
    command_line, settings = await asyncio.gather(run("nonsense"), run("serve", port="99999"))
    assert command_line.code == WRONG_COMMAND_LINE
    assert settings.code == WRONG_SETTINGS
    assert tells_one_line(settings).startswith("cluster-events: CLUSTER_EVENTS_PORT: ")


@pytest.mark.parametrize(
    "command", [("serve",), ("monitor",), ("dev",), ("token",), ("openapi",), ("keys", "list")]
)
def test_wrong_settings_are_told_all_at_once(
    invoke: Callable[..., Ran], command: tuple[str, ...]
) -> None:
    """Every wrong setting is named on a line of its own, no secret is shown, and the exit code is
    2."""
    ran = invoke(
        *command,
        port="99999",
        heartbeat="soon",
        services="API=x",
        jwt_secret="t0psecret",
        redis_url="http://user:hunter2@nowhere",
    )
    assert (ran.code, ran.out) == (WRONG_SETTINGS, "")
    lines = ran.err.splitlines()
    named = {line.removeprefix("cluster-events: ").partition(":")[0] for line in lines}
    assert named == {
        f"CLUSTER_EVENTS_{name}"
        for name in ("PORT", "HEARTBEAT", "SERVICES", "JWT_SECRET", "REDIS_URL")
    }
    assert not any(secret in ran.err for secret in ("t0psecret", "hunter2", "Traceback"))


@pytest.mark.slow
async def test_monitor_without_urls() -> None:
    """A monitor that has nothing to check exits with 2 and says what to set."""
    ran = await run("monitor")
    assert ran.code == WRONG_SETTINGS
    assert tells_one_line(ran) == (
        "cluster-events: CLUSTER_EVENTS_SERVICES: no URL to check for api, compiler, runner: "
        "expected api=http://…"
    )


async def test_openapi_describes_the_configured_services() -> None:
    """`openapi` prints a valid description, with the fields of the configured services."""
    ran = await run("openapi", services="web,worker")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert "worker_status" in ran.out
    assert "compiler_status" not in ran.out


# -- output ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("no_color", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_colours_on_a_terminal(api: Api, no_color: dict[str, str], coloured: bool) -> None:
    """On a terminal the statuses are coloured, unless `NO_COLOR` is set."""
    await record(api, ONE_BAD)
    terminal, theirs = pty.openpty()
    others = {name: value for name, value in environment().items() if name != "NO_COLOR"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "health", "--url", api.url, "--token", TOKEN),
        cwd=ROOT,
        env=others | no_color | {"TERM": "xterm-256color", "COLUMNS": "200"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(theirs)
    assert await process.wait() == UNHEALTHY
    written = os.read(terminal, 65_536).decode()
    os.close(terminal)
    assert "The cluster is unhealthy." in written
    assert ("\x1b[31m" in written) is coloured


@pytest.mark.slow
async def test_reader_that_leaves(api: Api) -> None:
    """A reader that goes away in the middle, as `head` does, gets no traceback."""
    await record(api, *[ALL_GOOD] * 400)
    for options in ("", "--json"):
        pipe = f"{sys.executable} -m service events {options} | {{ read -r -n 10 some; exec 0<&-; sleep 0.5; }}"  # noqa: E501
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", pipe),
            cwd=ROOT,
            env=environment(url=api.url, token=TOKEN),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
        assert err == b""


async def test_serve_on_a_taken_port(api: Api, valkey: str) -> None:
    """A port that is taken is one line that names it, and exit code 1."""
    ran = await run("serve", "--port", str(api.port), redis_url=valkey, jwt_secret=JWT_SECRET)
    assert ran.code == FAILED
    assert (
        tells_one_line(ran)
        == f"Error: cannot listen on 127.0.0.1:{api.port}: Address already in use"
    )
