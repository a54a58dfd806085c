"""The client commands, whatever the server sends and wherever their output goes: clean text,
documented exit codes."""

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from unittest.mock import patch

import click
import pytest

from service.cli import http_client
from service.cli.http_client import BODY_LIMIT, Frame
from service.cli.main import cli, main
from tests.support import needs
from tests.support.api import Api
from tests.support.commands import FAILED, HEALTHY, UNHEALTHY, WRONG_COMMAND_LINE, Ran, run, said
from tests.support.environment import environment
from tests.support.folders import ROOT
from tests.support.observations import ALL_GOOD
from tests.support.preloaded import run_service
from tests.support.processes import started
from tests.support.settings import READ

TOKEN = READ["Authorization"].removeprefix("Bearer ")
ACTS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]"
)
"""What acts on a terminal."""
HOSTILE = "\x1b]0;pwned\x07\x1b[2J\x9b31m\x7f\r\u202eexe.txt\u2066\u200f\u061c\u2028"
BEYOND = "zażółć “…” 健康 🙂"
"""No encoding but those of Unicode has all of it."""

ASKED = {
    "events": ("events",),
    "event": ("event", "latest"),
    "health": ("health",),
    "watch": ("watch",),
    "wait": ("wait", "--timeout", "60s"),
}
"""The commands that ask a running service."""
PATHS = {
    "events": "/v0/cluster/events",
    "event": "/v0/cluster/events/latest",
    "watch": "/v0/cluster/events?limit=1",
}


def event(text: str = "") -> dict[str, Any]:
    """An event with that text in everything that is one."""
    return {
        "id": f"01a20cd2{text}",
        "recorded_at": f"2026-11-24T09:04:33.397811Z{text}",
        "all_healthy": True,
        f"api{text}_status": f"Healthy{text}",
        f"api{text}_self_info": f"fine{text}",
        f"api{text}_of_later_versions": [text, None],
    }


def verdict(text: str = "", *, healthy: bool = True) -> dict[str, Any]:
    """A verdict with that text in everything that is one."""
    service = {
        "healthy": healthy,
        "message": f"fine{text}",
        "unchanged_since": text,
        "checked_at": None,
    }
    return {
        "all_healthy": healthy,
        "stale": False,
        "stale_after_seconds": 30,
        f"api{text}": service,
    }


def answers(text: str = "") -> dict[str, bytes]:
    """The bodies of a service, by path."""
    values = {
        "/v0/cluster_healthz": verdict(text),
        PATHS["event"]: event(text),
        PATHS["events"]: [event(text)],
    }
    return {path: json.dumps(value).encode() for path, value in values.items()}


Behaviour = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(behaviour: Behaviour) -> AsyncIterator[str]:
    """A server that gets the head of each request, does as it likes, and closes; gives its URL. It
    ends with all of that."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await behaviour(await reader.readuntil(b"\r\n\r\n"), writer)
            await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(connected(reader, writer)))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        await asyncio.gather(*tasks)


def sends(answer: bytes) -> Behaviour:
    """Answers every request with these bytes."""

    async def behave(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return behave


@asynccontextmanager
async def pretending(
    bodies: Mapping[str, bytes], status: str = "200 OK", fields: bytes = b"", stream: bytes = b""
) -> AsyncIterator[str]:
    """A server that answers each path with its body, as whatever it is; gives its URL. A stream
    ends after its bytes."""

    async def behave(head: bytes, writer: asyncio.StreamWriter) -> None:
        if b"text/event-stream" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + stream)
        else:
            body = bodies.get(head.split()[1].decode().partition("?")[0], b"")
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode()
                + fields
                + b"\r\n"
                + body
            )

    async with server(behave) as url:
        yield url


def frame(found: Any) -> bytes:
    """An event of a stream."""
    return f"id: 1\ndata: {json.dumps(found)}\n\n".encode()


REFUSED_STREAM = b"data: []\n\n"
"""What ends `watch`: a stream that is none of ours."""


class Clock:
    """The clock of a command: a day passes after each look at it, and pauses take no time."""

    def __init__(self) -> None:
        self._days = -1

    def monotonic(self) -> float:
        """The real time at first, then a day later each time."""
        self._days += 1
        return time.monotonic() + self._days * 86_400

    def sleep(self, _: float) -> None:
        """Returns at once."""


async def here(*arguments: str, encoding: str = "utf-8", **settings: str) -> Ran:
    """A command in this process, on a thread, with output of that encoding; it starts at once, and
    what it waits for is over after its first try.

    For those that ask a service: others configure the logging of the whole process.
    """
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding, errors)
        for errors in ("strict", "backslashreplace")
    )

    def call() -> int:
        with (
            patch.multiple(sys, argv=["cluster-events", *arguments], stdout=out, stderr=err),
            patch.object(os, "environ", environment(**settings)),
            patch.object(http_client, "time", Clock()),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        assert isinstance(ended.value.code, int | None)
        return ended.value.code or 0

    code = await asyncio.to_thread(call)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))
    return Ran(code, *texts)


def one_line(ran: Ran) -> str:
    """What is said on stderr: one line."""
    assert ran.err.count("\n") == 1, ran.err
    assert not ACTS.search(ran.err)
    return ran.err.strip()


# -- what the server says --------------------------------------------------------------------------


@pytest.mark.parametrize("json_option", [(), ("--json",)], ids=["table", "json"])
@pytest.mark.parametrize("command", ASKED)
async def test_nothing_that_a_server_sends_acts_on_the_terminal(
    command: str, json_option: tuple[str, ...]
) -> None:
    """Ids, times, names, statuses, infos, header fields: control and bidirectional characters are
    not printed."""
    fields = b"Cluster-Stale: \x1b]0;pwned\x07\x9b2J\r\n"
    stream = frame(event(HOSTILE)) + REFUSED_STREAM
    async with pretending(answers(HOSTILE), fields=fields, stream=stream) as url:
        ran = await here(*ASKED[command], *json_option, url=url)
    assert ran.code == (FAILED if command == "watch" else HEALTHY)
    assert "pwned" in ran.out
    assert not ACTS.search(ran.out + ran.err)
    if json_option:
        path = PATHS.get(command, "/v0/cluster_healthz").partition("?")[0]
        expected = json.loads(answers(HOSTILE)[path])
        lines = [json.loads(line) for line in ran.out.splitlines()]
        assert lines == (expected * 2 if command == "watch" else [expected])


@pytest.mark.parametrize("command", ASKED)
async def test_no_error_of_a_server_acts_on_the_terminal(command: str) -> None:
    """Its message and its code are cleaned, and are one line."""
    error = json.dumps(
        {"message": f"no\n{HOSTILE}", "error_code": f"Odd{HOSTILE}", "details": {}}
    ).encode()
    async with pretending(dict.fromkeys(answers(), error), status="403 Forbidden") as url:
        ran = await here(*ASKED[command], url=url)
    assert (ran.code, ran.out) == (FAILED, "")
    assert "pwned" in one_line(ran)


@pytest.mark.parametrize(
    "head", [b"\x1b]0;pwned\x07\x9b2J", b"HTTP/1.1 2\x1b[2J0 OK", b"HTTP/1.1 500 \x1b]0;pwned\x07"]
)
async def test_no_odd_head_acts_on_the_terminal(head: bytes) -> None:
    """What the library quotes of an answer that is no HTTP is cleaned too."""
    async with server(sends(head + b"\r\n\r\n")) as url:
        ran = await here("health", url=url)
    assert (ran.code, ran.out) == (FAILED, "")
    one_line(ran)


async def test_key_names_are_cleaned(api: Api, valkey: str) -> None:
    """A store written by something else cannot act on the terminal through the names of its
    keys."""
    record = (
        b'{"name":"\\u001b[2Jx","id":"a\\u009bb","role":"read\\u202e","sha256":"00","created_at":1}'
    )
    await api.store._client.hset(api.store.keys.api_keys, "\x1b[2Jx", record)
    lines = [("list",), ("list", "--json"), ("show", "\x1b[2Jx"), ("show", "\x1b[2Jy")]
    table, as_json, shown, missing = [
        await run("keys", *words, redis_url=valkey) for words in lines
    ]
    assert [ran.code for ran in (table, as_json, shown, missing)] == [0, 0, 0, FAILED]
    assert json.loads(as_json.out)[0]["name"] == "\x1b[2Jx"
    assert not any(ACTS.search(ran.out + ran.err) for ran in (table, as_json, shown, missing))


NOT_OURS = {
    "a list": b"[]",
    "a list of lists": b"[[]]",
    "null": b"null",
    "a text": b'"Healthy"',
    "a number": b"1",
    "an empty object": b"{}",
    "not UTF-8": b'{"all_healthy": "\xff\xfe"}',
    "half an object": b'{"all_healthy": true',
    "nested deeply": b"[" * 200_000,
    "a long number": b"9" * 100_000,
    "a verdict of text": b'{"all_healthy": "yes"}',
    "a verdict without its services' health": b'{"all_healthy": true, "api": {}}',
    "an event of numbers": b'{"id": 1, "recorded_at": 2, "all_healthy": 1}',
    "an event of nulls": b'{"id": null, "recorded_at": null, "all_healthy": null}',
    "an event in a list of others": b'[{"id": "a", "recorded_at": "b", "all_healthy": true}, {}]',
    "an error of numbers": b'{"message": 1, "error_code": []}',
}


@pytest.mark.parametrize(
    ("command", "body", "status"),
    [
        pytest.param(command, body, status, id=f"{status} {command} {what}")
        for status in ("200 OK", "503 Service Unavailable")
        for command in ASKED
        for what, body in NOT_OURS.items()
        # A service without events answers these with an empty list.
        if not (status == "200 OK" and command in {"events", "watch"} and body == b"[]")
    ],
)
async def test_other_shapes_are_one_line(command: str, body: bytes, status: str) -> None:
    """JSON of another shape, or none, is told as such, whatever the command and the status."""
    async with pretending(dict.fromkeys(answers(), body), status) as url:
        ran = await here(*ASKED[command], url=url)
    assert (ran.code, ran.out) == (FAILED, "")
    assert "is this cluster-events?" in one_line(ran)


@pytest.mark.parametrize("data", [b"{", b"[]", b"null", b'{"id": 1}', b"\xff", b"[" * 200_000])
async def test_malformed_stream_ends_the_watch(data: bytes) -> None:
    """A stream of something else is one line and exit code 1; the events before it were printed."""
    async with pretending(answers(), stream=frame(event()) + b"data: " + data + b"\n\n") as url:
        ran = await here("watch", url=url)
    assert (ran.code, ran.out.count("\n")) == (FAILED, 2)
    assert (
        one_line(ran) == f"Error: {url} sent something else than an event: is this cluster-events?"
    )


async def test_other_fields_of_a_stream_are_passed_over() -> None:
    """Comments, events of other names, odd ids and odd times to retry are no reason to stop."""
    odd = (
        b": comment\n\nevent: freshness\ndata: {\n\nid: \x1b\xff\nretry: x\nretry: \xd9\xa1\n\nretry: "  # noqa: E501
        + b"9" * 5_000
        + b"\n\nevent:\n"
    )
    async with pretending(answers(), stream=odd + frame(event()) + REFUSED_STREAM) as url:
        ran = await here("watch", url=url)
    assert (ran.code, ran.out.count("\n")) == (FAILED, 2)
    one_line(ran)


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0.1), ("500", 0.5), ("9" * 5_000, 60.0), ("-1", None), ("²", None)]
)
def test_time_to_retry_is_bounded(value: str, seconds: float | None) -> None:
    """A service cannot make its clients hammer it, or sleep for ever."""
    found = Frame()
    found.add_field("retry", value)
    assert found.retry == seconds


async def test_a_line_without_end_ends_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """One event of a stream has a limit, in one line or in many."""
    monkeypatch.setattr("service.cli.http_client.BODY_LIMIT", 10_000)
    for stream in (b"data: " + b"x" * 10_001, b"data: x\n" * 2_000):
        async with pretending(answers(), stream=stream) as url:
            ran = await here("watch", url=url)
        assert ran.code == FAILED
        assert one_line(ran).endswith("sent more than 10,000 bytes as one event")


@pytest.mark.parametrize("command", ASKED)
@pytest.mark.parametrize("length", [f"Content-Length: {10**15}", "Connection: close"])
async def test_a_body_without_end_is_not_read(
    monkeypatch: pytest.MonkeyPatch, command: str, length: str
) -> None:
    """A body beyond any of ours is neither allocated nor read to its end."""
    monkeypatch.setattr("service.cli.http_client.BODY_LIMIT", 1_000_000)
    assert BODY_LIMIT > 1_000_000

    async def endless(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
        while not writer.is_closing():
            writer.write(b" " * 65_536)
            await writer.drain()

    async with server(endless) as url:
        ran = await here(*ASKED[command], url=url)
    assert (ran.code, ran.out) == (FAILED, "")
    assert "longer than 1,000,000 bytes" in one_line(ran)


CUT_OFF = {
    "nothing": b"",
    "status line": b"HTTP/1.1 200",
    "field": b"HTTP/1.1 200 OK\r\nContent-Le",
    "body": said("200 OK", "[{}]")[:-2],
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200,
}


@pytest.mark.parametrize("command", ASKED)
@pytest.mark.parametrize("answer", CUT_OFF.values(), ids=CUT_OFF)
async def test_a_server_that_closes_early(command: str, answer: bytes) -> None:
    """A connection that ends in the head or in the body is no answer; `wait` tries until its time
    is up."""
    async with server(sends(answer)) as url:
        ran = await here(*ASKED[command], url=url)
    assert (ran.code, ran.out) == (FAILED, "")
    assert "Error: " in one_line(ran)


# -- encodings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp1252", "gbk", "utf-8"])
@pytest.mark.parametrize("json_option", [(), ("--json",)], ids=["table", "json"])
@pytest.mark.parametrize("command", ASKED)
async def test_characters_that_the_encoding_lacks_are_replaced(
    command: str, json_option: tuple[str, ...], encoding: str
) -> None:
    """What is printed is in the terminal's encoding, and the exit code is that of the state."""
    async with pretending(answers(BEYOND), stream=frame(event(BEYOND)) + REFUSED_STREAM) as url:
        ran = await here(*ASKED[command], *json_option, encoding=encoding, url=url)
    assert ran.code == (FAILED if command == "watch" else HEALTHY)
    if json_option:
        assert "健康" in json.dumps(json.loads(ran.out.splitlines()[0]), ensure_ascii=False)
    else:
        expected = BEYOND.encode(encoding, "replace").decode(encoding)
        assert expected.split()[0] in ran.out


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "gbk"])
async def test_unhealthy_and_unknown_keep_their_exit_codes(encoding: str) -> None:
    """2 where the cluster is unhealthy, 1 where that is not known."""
    unhealthy = json.dumps(verdict(BEYOND, healthy=False)).encode()
    stale = json.dumps(verdict(BEYOND) | {"stale": True}).encode()
    for body, code in ((unhealthy, UNHEALTHY), (stale, FAILED)):
        async with pretending({"/v0/cluster_healthz": body}, "503 Service Unavailable") as url:
            for command in (ASKED["health"], ASKED["wait"]):
                assert (await here(*command, encoding=encoding, url=url)).code == code


def commands(group: click.Group, parents: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command."""
    yield parents
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*parents, name))
        else:
            yield (*parents, name)


@pytest.mark.parametrize("words", list(commands(cli)), ids=" ".join)
async def test_help_is_ascii(words: tuple[str, ...]) -> None:
    """Help can be read on every terminal."""
    ran = await here(*words, "--help", encoding="ascii")
    assert (ran.code, ran.err) == (0, "")
    assert "Usage:" in ran.out
    assert "?" not in ran.out


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of locales whose encodings are not UTF-8. Skips where they cannot be compiled."""
    folder, compiler = tmp_path_factory.mktemp("locales"), needs.program("localedef")
    needs.file("/usr/share/i18n/charmaps/ISO-8859-1.gz", of="locales")
    for name, language, charmap in (("de", "de_DE", "ISO-8859-1"), ("zh", "zh_CN", "GBK")):
        subprocess.run(
            [compiler, "-i", language, "-f", charmap, folder / name],
            check=False,
            capture_output=True,
            timeout=60,
        )
        assert (folder / name).is_dir()
    return folder


async def process(*arguments: str, env: Mapping[str, str]) -> Ran:
    """A command as a process that Python starts."""
    async with started(
        *(sys.executable, "-m", "service", *arguments),
        cwd=ROOT,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    ) as command:
        out, err = await command.communicate()
    assert command.returncode is not None
    return Ran(command.returncode, out.decode("latin-1"), err.decode("latin-1"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "encoding"),
    [
        ({"LC_ALL": "de"}, "iso-8859-1"),
        ({"LC_ALL": "zh"}, "gbk"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
        ({"PYTHONIOENCODING": "cp1252"}, "cp1252"),
        ({"PYTHONIOENCODING": "ascii:strict"}, "ascii"),
    ],
    ids=["ISO-8859-1", "GBK", "C", "cp1252", "ASCII"],
)
async def test_real_locales(
    request: pytest.FixtureRequest, variables: dict[str, str], encoding: str
) -> None:
    """Processes in a real locale print its characters, `?` for others, and nothing else."""
    if variables.get("LC_ALL", "C") != "C":
        variables = variables | {"LOCPATH": str(request.getfixturevalue("locales"))}
    async with pretending(answers(BEYOND)) as url:
        env = environment(url=url) | variables
        for command in (*(ASKED[name] for name in ("health", "event", "wait")), ("--help",)):
            ran = await process(*command, env=env)
            assert (ran.code, ran.err) == (HEALTHY, "")
            if command != ("--help",):
                assert BEYOND.encode(encoding, "replace").decode("latin-1").split()[0] in ran.out


# -- output that is lost ---------------------------------------------------------------------------

PRINTS = {
    **ASKED,
    "--help": ("--help",),
    "--version": ("--version",),
    "health --json": ("health", "--json"),
    "openapi": ("openapi",),
}


async def writing_to(stdout: int, *arguments: str, env: Mapping[str, str]) -> tuple[int, str]:
    """The exit code of a command whose output goes there, and what it says on stderr."""
    with TemporaryFile() as err:
        code = await run_service(arguments, env, stdout=stdout, stderr=err.fileno())
        err.seek(0)
        return code, err.read().decode()


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", PRINTS.values(), ids=PRINTS)
async def test_full_disk(command: tuple[str, ...], unbuffered: str) -> None:
    """Output that cannot be written is one line on stderr, and exit code 1."""
    needs.linux("/dev/full")
    async with pretending(answers()) as url:
        env = environment(url=url) | {"PYTHONUNBUFFERED": unbuffered}
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            ran = await writing_to(full, *command, env=env)
        finally:
            os.close(full)
    assert ran == (FAILED, "Error: cannot write: No space left on device\n")


@pytest.mark.parametrize("command", PRINTS.values(), ids=PRINTS)
async def test_closed_pipe(command: tuple[str, ...]) -> None:
    """A reader that has gone before anything was printed gets no traceback, and neither has stderr
    one."""
    async with pretending(answers()) as url:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            ran = await writing_to(writing, *command, env=environment(url=url))
        finally:
            os.close(writing)
    assert ran == (FAILED, "")


LOST_ERRORS: dict[str, tuple[tuple[str, ...], int]] = {
    "a note": (("events",), HEALTHY),
    "an error": (("event", "latest", "--url", "http://127.0.0.1:1"), FAILED),
    "a wrong command line": (("nonsense",), WRONG_COMMAND_LINE),
    "no command": ((), WRONG_COMMAND_LINE),
    "wrong settings": (("token",), 2),
}


@pytest.mark.parametrize(("command", "code"), LOST_ERRORS.values(), ids=LOST_ERRORS)
@pytest.mark.parametrize("lost", ["full", "closed pipe", "closed"])
async def test_messages_that_are_lost_change_no_exit_code(
    command: tuple[str, ...], code: int, lost: str
) -> None:
    """Where stderr cannot be written, the exit code says what it says otherwise."""
    if lost == "full":
        needs.linux("/dev/full")
    async with pretending(answers(), fields=b"Cluster-Stale: monitor-silent\r\n") as url:
        words = " ".join([sys.executable, "-m", "service", *command])
        redirected = {
            "full": f"{words} 2>/dev/full",
            "closed": f"{words} 2>&-",
            "closed pipe": f"{words} 2> >(exec true); exit $?",
        }
        async with started(
            *("bash", "-c", redirected[lost]),
            cwd=ROOT,
            env=environment(url=url, port="x") if command == ("token",) else environment(url=url),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        ) as shell:
            _, err = await shell.communicate()
    assert (shell.returncode, err) == (code, b"")


async def test_stdout_that_is_closed() -> None:
    """Without a stdout nothing is printed, and the exit code is that of the state."""
    async with pretending(answers()) as url:
        for command in ("health", "health --json", "event latest"):
            async with started(
                *("bash", "-c", f"{sys.executable} -m service {command} >&-"),
                cwd=ROOT,
                env=environment(url=url),
                stderr=asyncio.subprocess.PIPE,
            ) as shell:
                _, err = await shell.communicate()
            assert (shell.returncode, err) == (HEALTHY, b"")


async def test_reader_that_leaves_during_a_watch(api: Api) -> None:
    """A pipe that closes between two events ends the watch at the next one, without a traceback."""
    await api.context.replica.append(ALL_GOOD)
    async with started(
        *("bash", "-c", f"{sys.executable} -m service watch; echo $? >&2"),
        cwd=ROOT,
        env=environment(url=api.url, token=TOKEN),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    ) as shell:
        assert shell.stdout is not None
        assert shell.stderr is not None
        await shell.stdout.readline()
        shell._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        ended = asyncio.create_task(shell.stderr.read())
        while not ended.done():
            await api.context.replica.append(ALL_GOOD)
            await asyncio.wait([ended], timeout=0.05)
        assert await ended == b"1\n"


def test_every_client_command_is_held_to_all_this() -> None:
    """A new command that asks a service belongs into the tables above."""
    asking = {
        name
        for name, command in cli.commands.items()
        if {"url", "token"} <= {p.name for p in command.params}
    }
    assert asking == set(ASKED)
