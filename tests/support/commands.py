"""The commands as processes."""

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

from service.auth import Role
from tests.support.api import Api
from tests.support.environment import environment
from tests.support.folders import ROOT
from tests.support.settings import make_token

TOKEN = make_token(Role.READ, 3_600)
HEALTHY, FAILED, UNHEALTHY, WRONG_SETTINGS, WRONG_COMMAND_LINE = 0, 1, 2, 2, 64


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        """The words of each line of a table."""
        return [line.split() for line in self.out.splitlines()]


async def run(*arguments: str, **settings: str) -> Ran:
    """Runs a command to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", *arguments),
        cwd=ROOT,
        env=environment(**settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


async def record(api: Api, *observed: Any) -> list[str]:
    """Records events; gives their ids, newest first."""
    ids = [(await api.store.append(services)).event.id for services in observed]
    await api.settle()
    return ids[::-1]


def tells_one_line(ran: Ran) -> str:
    """What a failed command said: one line on stderr, nothing on stdout."""
    assert ran.out == ""
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" not in ran.err
    return ran.err.strip()


def said(status: str, body: str) -> bytes:
    """An answer with its length."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
