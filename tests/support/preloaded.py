"""Runs `python -m service` in processes that are forked from one that has imported everything.

To start Python and to import the service takes 0.3 s, with coverage 0.5 s; a fork takes some ms.
A forked process is real: it has its own file descriptors, environment and end. What Python decides
when it starts is that of the forked-from process: the encoding of its streams, whether they are
terminals, and which modules are imported. Tests of that start a process of their own.
"""

import asyncio
import atexit
import gc
import io
import json
import logging
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import NoReturn

from tests.support.folders import ROOT

_NUMBER = struct.Struct("!i")
_MODULES = ("service.run", "service.workers", "service.dev", "service.cli.tables")
_NOT_FLUSHED = 120
"""Python's exit code where its streams cannot be flushed at its end."""
_LONGEST = 2**20
"""Bytes of a request: arguments and an environment."""


# -- the side of the tests -------------------------------------------------------------------------


class _Server:
    """The process that is forked from. It ends when its standard input does, with this process."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="ce-", dir="/tmp")
        self.path = f"{self.folder.name}/s"
        self.stdin = os.open(os.devnull, os.O_RDONLY)
        """What forked processes read."""
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen(128)
        with listening:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.preloaded", str(listening.fileno())],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[listening.fileno()],
                start_new_session=True,
            )
        atexit.register(self.stop)

    def stop(self) -> None:
        """Ends it."""
        self.process.communicate()
        os.close(self.stdin)
        self.folder.cleanup()


_servers: list[_Server] = []


async def run_service(
    arguments: Sequence[str], env: Mapping[str, str], *, stdout: int, stderr: int
) -> int:
    """The exit code of `python -m service` with these arguments, or -N after the signal N."""
    if not _servers:
        _servers.append(_Server())
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_servers[0].path)
        request = json.dumps({"arguments": arguments, "env": dict(env)}).encode()
        socket.send_fds(
            connection, [_NUMBER.pack(len(request))], [_servers[0].stdin, stdout, stderr]
        )
        connection.sendall(request)
        connection.setblocking(False)

        async def number() -> int:
            data = await loop.sock_recv(connection, _NUMBER.size)
            assert data, "the process that is forked from has failed"
            found: int = _NUMBER.unpack(data)[0]
            return found

        pid, code = await number(), None
        try:
            code = await number()
        finally:
            if code is None:
                os.kill(pid, signal.SIGKILL)
        return code


# -- the side of the process that is forked from ---------------------------------------------------


def _serve(listening: socket.socket) -> None:
    """Forks for each connection. Returns in a forked process that is to run the service."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nothing is left of those that wait below.
    while True:
        ready, _, _ = select.select([listening.fileno(), 0], [], [])
        if 0 in ready:
            sys.exit()
        connection, _ = listening.accept()
        if os.fork() == 0:
            break
        connection.close()
    listening.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, fds, _, _ = socket.recv_fds(connection, _NUMBER.size, 3)
    request = b""
    while len(request) < _NUMBER.unpack(length)[0]:
        request += connection.recv(_LONGEST)
    pid = os.fork()
    if pid:
        for fd in (0, 1, 2, *fds):
            os.close(fd)
        _report(connection, pid)
    connection.close()
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    asked = json.loads(request)
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv[1:] = asked["arguments"]
    if asked["env"].get("PYTHONUNBUFFERED"):  # As Python does when it starts.
        sys.stdout = io.TextIOWrapper(
            io.FileIO(1, "w", closefd=False),
            sys.stdout.encoding,
            sys.stdout.errors,
            write_through=True,
        )


def _report(connection: socket.socket, pid: int) -> NoReturn:
    """Tells the id of a process, and how it ends."""
    connection.sendall(_NUMBER.pack(pid))
    _, status = os.waitpid(pid, 0)
    connection.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))
    connection.close()
    # Not `os._exit`, in place of which coverage would write what this process has run.
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _end(code: object) -> NoReturn:
    """Ends as Python does after `SystemExit`, without freeing all modules, which takes 0.2 s."""
    if isinstance(code, str):
        print(code, file=sys.stderr)  # noqa: T201  # As Python does.
    status = code if isinstance(code, int) else int(code is not None)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = _NOT_FLUSHED
    os._exit(status)


if __name__ == "__main__":
    for module in _MODULES:
        __import__(module)
    gc.freeze()  # Else a collection in a forked process copies all pages.
    _serve(socket.socket(fileno=int(sys.argv.pop(1))))
    try:
        runpy.run_module("service", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        _end(ended.code)
