"""`watch` and `wait`, as processes against a real service."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.settings import READ

TOKEN = READ["Authorization"].removeprefix("Bearer ")


async def command(url: str, *arguments: str, token: str = TOKEN) -> Process:
    """A client command as a process."""
    environ = {
        **os.environ,
        "CLUSTER_EVENTS_URL": url,
        "CLUSTER_EVENTS_TOKEN": token,
        "PYTHONUNBUFFERED": "1",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        *arguments,
        env=environ,
        stdout=PIPE,
        stderr=PIPE,
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    """Whoever runs the tests in the background has them ignore it, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def line(process: Process) -> str:
    """The next line of a process."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 10)).decode().rstrip("\n")


async def ended(process: Process) -> tuple[int | None, str, str]:
    """Exit code, output, messages."""
    out, err = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, out.decode(), err.decode()


async def test_watch_prints_events_as_they_come(api: Api) -> None:
    """The latest first, then a line per event; Ctrl-C ends it without a traceback."""
    await api.context.replica.append(ALL_GOOD)
    process = await command(api.url, "watch")
    first = await line(process)
    assert "healthy" in first
    assert "compiler Healthy" in first
    await api.context.replica.append(ONE_BAD)
    second = await line(process)
    assert "unhealthy" in second
    assert "compiler Unhealthy" in second
    assert "\x1b" not in first + second
    process.send_signal(signal.SIGINT)
    code, _, messages = await ended(process)
    assert (code, messages.strip()) == (130, "")


@pytest.mark.slow
async def test_watch_comes_back_and_misses_nothing(make_api: Callable[..., Any]) -> None:
    """A stream that ends is gone on with where it ended."""
    api: Api = await make_api()
    ids = [(await api.context.replica.append(ALL_GOOD)).event.id]
    process = await command(api.url, "watch", "--json", "--selector", "all")
    assert json.loads(await line(process))["id"] == ids[0]
    for round_ in range(2):
        ids.append((await api.context.replica.append(ONE_BAD)).event.id)
        found = json.loads(await line(process))
        assert (found["id"], found["compiler_self_info"]) == (ids[-1], "broken")
        if round_ == 0:
            async with asyncio.timeout(5):
                while not len(api.context.watchers):
                    await asyncio.sleep(0.01)
            api.context.watchers.end_all()
            ids.append((await api.context.replica.append(ALL_GOOD)).event.id)
            assert json.loads(await line(process))["id"] == ids[-1]
    process.terminate()
    await process.wait()


@pytest.mark.parametrize("token", ["bad", ""])
async def test_watch_needs_a_credential(api: Api, token: str) -> None:
    """A refusal is told at once, with exit code 1: trying again would not help."""
    code, out, messages = await ended(await command(api.url, "watch", token=token))
    assert (code, out) == (1, "")
    assert "401" in messages
    assert "Traceback" not in messages


async def test_wait_ends_when_the_cluster_is_healthy(api: Api) -> None:
    """It waits while the cluster is unhealthy and ends, with 0, at the change."""
    await api.context.replica.append(ONE_BAD)
    process = await command(api.url, "wait", "--timeout", "20s", "--json")
    async with asyncio.timeout(10):
        while not len(api.context.long_polls):
            await asyncio.sleep(0.01)
    await api.context.replica.append(ALL_GOOD)
    code, out, messages = await ended(process)
    assert (code, json.loads(out)["all_healthy"], messages) == (0, True, "")


async def test_wait_until_unhealthy(api: Api) -> None:
    """What is so already is not waited for."""
    await api.context.replica.append(ONE_BAD)
    code, out, _ = await ended(await command(api.url, "wait", "--until", "unhealthy"))
    assert code == 0
    assert "unhealthy" in out


@pytest.mark.slow
async def test_wait_in_vain(api: Api) -> None:
    """When the time is up it says what is, and exits with 2."""
    await api.context.replica.append(ONE_BAD)
    code, out, messages = await ended(await command(api.url, "wait", "--timeout", "1s"))
    assert code == 2
    assert "The cluster is unhealthy." in out
    assert "not healthy within 1s" in messages


@pytest.mark.slow
async def test_wait_for_a_service_that_is_not_there(unused_tcp_port: int) -> None:
    """An unreachable service is tried until the time is up; then the state is not known: 1."""
    code, out, messages = await ended(
        await command(f"http://127.0.0.1:{unused_tcp_port}", "wait", "--timeout", "500ms")
    )
    assert (code, out) == (1, "")
    assert "cannot reach" in messages


async def test_a_wrong_time_is_a_wrong_command_line(api: Api) -> None:
    """64, before anything is asked."""
    code, _, messages = await ended(await command(api.url, "wait", "--timeout", "soon"))
    assert code == 64
    assert "duration" in messages
