"""The processes of this machine, as the tests see them: from `/proc`, or from `ps` where there is none (macOS)."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A row of the table of processes."""

    parent: int
    state: str
    command: str


def children(pid: int) -> list[int]:
    """The processes that a process started and that have not ended."""
    return [child for child, process in table().items() if process.parent == pid and process.state != "Z"]


def descendants(pid: int) -> dict[int, str]:
    """The processes that a process started, and those that they started: process id and command line."""
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
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
            continue
        found[int(folder.name)] = Process(int(parent), state, command)
    return found


def from_ps() -> dict[int, Process]:
    """The table as `ps` prints it, without a limit to the width of its lines."""
    command = ["ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "state=", "-o", "args="]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
    rows = [line.split(None, 3) for line in printed.splitlines()]
    return {int(pid): Process(int(parent), state[0], "".join(command)) for pid, parent, state, *command in rows}
