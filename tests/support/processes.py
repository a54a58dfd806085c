"""Processes: those of this machine (from `/proc`, or from `ps` on macOS), and the end of those that
a test starts."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A row of the table of processes."""

    parent: int
    state: str
    command: str


def children(pid: int) -> list[int]:
    """The processes that a process started and that have not ended."""
    return [
        child
        for child, process in table().items()
        if process.parent == pid and process.state != "Z"
    ]


def descendants(pid: int) -> dict[int, str]:
    """The processes that a process started, and those that they started: process id and command
    line."""
    processes, found, parents = table(), {}, [pid]
    for parent in parents:
        for child, process in processes.items():
            if process.parent == parent:
                found[child] = process.command
                parents.append(child)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    process = table().get(pid)
    return process is not None and process.state != "Z"


def table() -> dict[int, Process]:
    """All processes by id."""
    return from_proc() if (PROC / "self" / "stat").exists() else from_ps()


def from_proc() -> dict[int, Process]:
    """The table as Linux shows it."""
    found = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except (FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
            continue
        found[int(folder.name)] = Process(int(parent), state, command)
    return found


def from_ps() -> dict[int, Process]:
    """The table as `ps` prints it, without a limit to the width of its lines."""
    command = ["ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "state=", "-o", "args="]
    printed = subprocess.run(
        command, check=True, capture_output=True, text=True, errors="replace"
    ).stdout
    rows = [line.split(None, 3) for line in printed.splitlines()]
    return {
        int(pid): Process(int(parent), state[0], "".join(command))
        for pid, parent, state, *command in rows
    }


def end(process: "subprocess.Popen[str]", seconds: float = 20) -> None:
    """Ends a process by SIGTERM. Kills it and raises `TimeoutExpired` if it takes longer than
    `seconds`."""
    process.terminate()
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


@asynccontextmanager
async def started(*command: str, **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process in a session of its own. At the end, all processes of the session that still run
    are killed."""
    process = await asyncio.create_subprocess_exec(*command, start_new_session=True, **options)
    try:
        yield process
    finally:
        kill_session(process.pid)
        await process.wait()


def kill_session(leader: int) -> None:
    """Kills the process that began a session, and all processes that it started in it."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
