"""Several processes on one port: started together, restarted when one dies, ended together.

The kernel spreads the connections over them (`SO_REUSEPORT`). They are forked from a parent that has imported everything, so they
share its memory, and they do nothing for each other but tell their metrics.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
RESTART_PAUSE_S = 1.0
"""Between the deaths of a worker and its restart, if it lived for less: a worker that cannot start must not eat a core."""
PATIENCE_S = 5.0
"""Beyond the drain and the requests under way, before a worker is killed."""


class Supervisor:
    """Keeps `count` workers running. `work(index, lifeline, folder)` is one worker's whole life, in its own process.

    `lifeline` is a file descriptor that reaches its end when the parent is gone, `folder` one that only this user can open.
    """

    def __init__(self, count: int, work: Callable[[int, int, Path], None], stop_within: float) -> None:
        """`stop_within` is how many seconds a worker may take to end."""
        self._count = count
        self._work = work
        self._stop_within = stop_within
        self._workers: dict[int, tuple[int, float]] = {}
        self._stopping = False
        self._lifeline = os.pipe()

    def run(self) -> None:
        """Until a signal, and until all workers have ended."""
        with tempfile.TemporaryDirectory(prefix="cluster-events-") as folder:
            for number in STOPPING:
                signal.signal(number, self._stop)
            signal.signal(signal.SIGALRM, self._kill)
            for index in range(self._count):
                self._start(index, Path(folder))
            while self._workers:
                pid, status = os.wait()
                worker = self._workers.pop(pid, None)
                if self._stopping or worker is None:  # The first process of a container inherits orphans.
                    continue
                index, started = worker
                log.error("a worker ended", extra={"worker": index, "status": os.waitstatus_to_exitcode(status)})
                time.sleep(max(0.0, RESTART_PAUSE_S - (time.monotonic() - started)))
                self._start(index, Path(folder))

    def _start(self, index: int, folder: Path) -> None:
        """Forks a worker. Signals wait meanwhile, so that none falls between the fork and its entry in the books."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        pid = 0 if self._stopping else os.fork()
        if pid:
            self._workers[pid] = index, time.monotonic()
        elif not self._stopping:
            self._live(index, folder)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def _live(self, index: int, folder: Path) -> NoReturn:
        """The child's side of the fork."""
        code = 1
        try:
            for number in (*STOPPING, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
            os.close(self._lifeline[1])
            self._work(index, self._lifeline[0], folder)
            code = 0
        except Exception:
            log.exception("a worker failed", extra={"worker": index})
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, self._stop_within + PATIENCE_S)

    def _kill(self, _number: int, _frame: FrameType | None) -> None:
        for pid in self._workers:
            log.error("a worker did not end in time", extra={"pid": pid})
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
