"""A supervisor of worker processes: it starts them, restarts them and ends them.

Workers are forked from a parent that has imported everything, so they share its memory. The parent
keeps the listening sockets of all workers open: while a worker is restarted, its connections wait
instead of being refused.
"""

import contextlib
import logging
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STEADY_S = 2.0
"""Seconds of serving after which a start counts as successful."""
PAUSE_S = 0.5
"""Seconds before the third start of a worker that keeps ending; doubled for each further start. The
second start is immediate."""
MAX_PAUSE_S = 4.0
"""Connections wait for the worker during the pause, so it is shorter than usual client timeouts."""
MAX_FAILED_STARTS = 5
"""Failed starts in a row, with pauses of 0.5 + 1 + 2 s, after which an operator is needed."""


@dataclass(slots=True)
class _Worker:
    """One worker through all its restarts; `pid` is 0 while it is not running.

    Times are monotonic seconds.
    """

    index: int
    pid: int = 0
    started: float = 0.0
    failed_starts: int = 0
    due: float = 0.0


class Supervisor:
    """Keeps `count` workers running.

    `work(index, lifeline, ready)` runs one worker, in its own process, until it ends. `lifeline` is
    a file descriptor that reaches end-of-file when the parent has ended. The worker calls `ready`
    when it serves.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[int, int, Callable[[], None]], None],
        *,
        stop_within: float,
        stopping: Callable[[], None] = lambda: None,
        pause: float = PAUSE_S,
        steady: float = STEADY_S,
    ) -> None:
        """`stop_within` is the number of seconds after which an ending worker is killed.

        `stopping` is called in the parent when no further worker will be started. `pause` and
        `steady` are `PAUSE_S` and `STEADY_S`.
        """
        self._workers = [_Worker(index) for index in range(count)]
        self._work = work
        self._stop_within = stop_within
        self._stopping = stopping
        self._pause = pause
        self._steady_after = steady
        # Shared memory: the monotonic time at which each worker became ready, or 0.
        self._ready_at = memoryview(mmap.mmap(-1, 8 * count)).cast("d")
        self._lifeline = os.pipe()
        self._wake = os.pipe()
        self._signalled = False
        self._gave_up = False

    def run(self) -> bool:
        """Runs until a signal, and until all workers have ended.

        Returns false if it gave up, since the workers kept ending.
        """
        self._watch_signals()
        while not self._ending:
            self._start_due()
            self._wait(
                min((worker.due for worker in self._workers if not worker.pid), default=None)
            )
            self._reap()
        self._end_all()
        return not self._gave_up

    # -- signals and time --------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        """Makes signals, and the ends of workers, end a `_wait`."""
        for end in self._wake:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in STOPPING:
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True

    def _wait(self, until: float | None) -> None:
        """Waits for a signal, at most until a monotonic time."""
        select.select(
            [self._wake[0]], [], [], None if until is None else max(0.0, until - time.monotonic())
        )
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake[0], 4_096)

    # -- starting ----------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if not worker.pid and worker.due <= now:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        """Forks a worker.

        Signals are blocked until the child has its own handlers: the parent's would swallow them.
        """
        self._ready_at[worker.index] = 0.0
        worker.started = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            worker.pid = os.fork()
            if not worker.pid:
                self._run_child(worker.index)
        except OSError as error:  # Too many processes, or too little memory.
            self._failed(worker, f"cannot fork: {error.strerror}")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def _run_child(self, index: int) -> NoReturn:
        """Runs the worker in the forked process."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (*STOPPING, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
            for descriptor in (self._lifeline[1], *self._wake):
                os.close(descriptor)
            self._work(index, self._lifeline[0], partial(self._ready, index))
            code = 0
        except Exception:
            log.exception("a worker failed", extra={"worker": index})
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    # -- ends --------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Collects the workers that have ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                # It may be another process: the first one of a container inherits orphans.
                for worker in self._workers:
                    if worker.pid == ended[0]:
                        worker.pid = 0
                        self._failed(worker, _reason(os.waitstatus_to_exitcode(ended[1])))

    def _failed(self, worker: _Worker, reason: str) -> None:
        """Plans the restart of a worker that has ended.

        Gives up if the worker keeps ending soon after its start, and no other worker is steady.
        """
        if self._ending:
            return
        now = time.monotonic()
        worker.failed_starts = 0 if self._steady(worker, now) else worker.failed_starts + 1
        details = {
            "worker": worker.index,
            "reason": reason,
            "lived_s": round(now - worker.started, 1),
        }
        others_steady = any(other.pid and self._steady(other, now) for other in self._workers)
        if worker.failed_starts >= MAX_FAILED_STARTS and not others_steady:
            self._gave_up = True
            log.critical(
                "giving up: the workers keep ending",
                extra=details | {"starts": worker.failed_starts},
            )
            return
        pause = 0.0
        if worker.failed_starts > 1:
            pause = min(self._pause * 2 ** (worker.failed_starts - 2), MAX_PAUSE_S)
        worker.due = now + pause
        log.error("a worker ended", extra=details | {"restart_in_s": pause})

    def _ready(self, index: int) -> None:
        """Called in the worker when it serves."""
        self._ready_at[index] = time.monotonic()

    def _steady(self, worker: _Worker, now: float) -> bool:
        ready_at = self._ready_at[worker.index]
        return bool(ready_at) and now - ready_at >= self._steady_after

    # -- the end -----------------------------------------------------------------------------------

    @property
    def _ending(self) -> bool:
        return self._signalled or self._gave_up

    def _end_all(self) -> None:
        """Ends the workers, and kills those that take too long."""
        self._stopping()
        self._signal_all(signal.SIGTERM)
        deadline: float | None = time.monotonic() + self._stop_within
        while any(worker.pid for worker in self._workers):
            self._wait(deadline)
            self._reap()
            if deadline is not None and time.monotonic() >= deadline:
                self._signal_all(signal.SIGKILL)
                deadline = None

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid:
                if number is signal.SIGKILL:
                    log.error(
                        "a worker did not end in time",
                        extra={"worker": worker.index, "pid": worker.pid},
                    )
                # The process was not waited for, so its id cannot belong to another one.
                os.kill(worker.pid, number)


def _reason(code: int) -> str:
    """The reason for a process' end, from its exit code."""
    return f"exit code {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
