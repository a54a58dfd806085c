"""The commands as processes."""

from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any

from service.auth import Role
from tests.support.api import Api
from tests.support.environment import environment
from tests.support.preloaded import run_service
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
    """Runs a command to its end, in a process of its own that was forked from one that has imported
    everything."""
    with TemporaryFile() as out, TemporaryFile() as err:
        code = await run_service(
            arguments, environment(**settings), stdout=out.fileno(), stderr=err.fileno()
        )
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return Ran(code, *texts)


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
