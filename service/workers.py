"""Several processes of one service: started together, restarted when one dies, ended together.

They are forked from a parent that has imported everything, so they share its memory. The parent
watches them, and keeps the sockets of all of them open: while a worker is being restarted, its
connections wait instead of being refused.
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
"""A worker that has served for so long has started well; one that ends sooner has failed to
start."""
PAUSE_S = 0.5
"""Before the third start of a worker that keeps ending. It doubles with each further start; the
second start is at once."""
LONGEST_PAUSE_S = 4.0
"""Connections wait for the worker meanwhile, so it is no longer than a client's usual patience."""
MOST_FAILED_STARTS = 5
"""In a row: 0.5 + 1 + 2 s of pauses. A cause that outlasts them needs an operator."""


@dataclass(slots=True)
class _Worker:
    """One worker through all its restarts. Times are monotonic seconds; `pid` is 0 between them."""

    index: int
    pid: int = 0
    started: float = 0.0
    failed_starts: int = 0
    due: float = 0.0


class Supervisor:
    """Keeps `count` workers running.

    `work(index, lifeline, ready)` is one worker's whole life, in its own process. `lifeline` is a
    file descriptor that reaches its end when the parent is gone. The worker calls `ready` when it
    serves.
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
        """`stop_within` is how many seconds a worker may take to end before it is killed.
        `stopping` is called in the parent when no worker will be started any more. `pause` and
        `steady` are `PAUSE_S` and `STEADY_S`."""
        self._workers = [_Worker(index) for index in range(count)]
        self._work = work
        self._stop_within = stop_within
        self._stopping = stopping
        self._pause = pause
        self._steady_after = steady
        # Shared with the workers: when each of them became ready, by the clock that all share, or
        # 0.
        self._ready_at = memoryview(mmap.mmap(-1, 8 * count)).cast("d")
        self._lifeline = os.pipe()
        self._wake = os.pipe()
        self._signalled = False
        self._gave_up = False

    def run(self) -> bool:
        """Runs until a signal, and until all workers have ended.

        Returns false if it gave up because the workers kept ending.
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
        """Has signals and the deaths of workers end a `_wait`."""
        for end in self._wake:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in STOPPING:
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True

    def _wait(self, until: float | None) -> None:
        """Until a signal, but not beyond a moment."""
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
        """Forks a worker. Signals wait meanwhile: the parent's handlers would swallow the
        child's."""
        self._ready_at[worker.index] = 0.0
        worker.started = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            worker.pid = os.fork()
            if not worker.pid:
                self._live(worker.index)
        except OSError as error:  # Too many processes, or too little memory.
            self._failed(worker, f"cannot fork: {error.strerror}")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def _live(self, index: int) -> NoReturn:
        """The child's side of the fork."""
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

    # -- deaths ------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Notes the workers that have ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                # It may be no worker: the first process of a container inherits orphans.
                for worker in self._workers:
                    if worker.pid == ended[0]:
                        worker.pid = 0
                        self._failed(worker, _reason(os.waitstatus_to_exitcode(ended[1])))

    def _failed(self, worker: _Worker, reason: str) -> None:
        """Plans the restart of a worker that has ended, or gives up if it keeps ending soon after
        its start and no other worker is steady."""
        if self._ending:
            return
        now = time.monotonic()
        worker.failed_starts = 0 if self._steady(worker, now) else worker.failed_starts + 1
        found = {
            "worker": worker.index,
            "reason": reason,
            "lived_s": round(now - worker.started, 1),
        }
        others_steady = any(one.pid and self._steady(one, now) for one in self._workers)
        if worker.failed_starts >= MOST_FAILED_STARTS and not others_steady:
            self._gave_up = True
            log.critical(
                "giving up: the workers keep ending", extra=found | {"starts": worker.failed_starts}
            )
            return
        pause = 0.0
        if worker.failed_starts > 1:
            pause = min(self._pause * 2 ** (worker.failed_starts - 2), LONGEST_PAUSE_S)
        worker.due = now + pause
        log.error("a worker ended", extra=found | {"restart_in_s": pause})

    def _ready(self, index: int) -> None:
        """Called in the worker."""
        self._ready_at[index] = time.monotonic()

    def _steady(self, worker: _Worker, now: float) -> bool:
        ready_at = self._ready_at[worker.index]
        return bool(ready_at) and now - ready_at >= self._steady_after

    # -- the end -----------------------------------------------------------------------------------

    @property
    def _ending(self) -> bool:
        return self._signalled or self._gave_up

    def _end_all(self) -> None:
        """Has the workers end, and kills those that take too long."""
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
                # It has not been waited for, so the process id is still its own.
                os.kill(worker.pid, number)


def _reason(code: int) -> str:
    """Why a process ended, from its exit code."""
    return f"exit code {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
