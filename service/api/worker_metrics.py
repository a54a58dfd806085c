"""The metrics of all workers of one service, collected by the worker that serves the request.

The parent process creates an *inbox* (a socket pair) for each worker, and every worker inherits all
of them, so no socket has a name in the file system. To request the metrics of a sibling, a worker
sends one end of a new socket pair to the sibling's inbox, and the sibling writes its metrics to it.

Every sample gets the label `worker`. Prometheus can compute the sums over the workers: a restarted
worker resets only its own series, as `rate` expects of a counter.
"""

import asyncio
import contextlib
import mmap
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from service.metrics import EXPOSITION_S, Exposition

TIMEOUT_S = 0.5
"""Seconds to wait for one worker's metrics. The result omits a worker that is being restarted."""
SHARE_S = EXPOSITION_S / 2
"""Seconds for which a worker caches its own metrics.

The merged text is cached for the other half, so that no sample is older than `EXPOSITION_S`.
"""


class WorkerMetrics:
    """The inboxes of all workers of one service.

    The parent process creates this object before it forks the workers, and each of them calls
    `serve`.
    """

    def __init__(self, count: int, timeout: float = TIMEOUT_S) -> None:
        self.timeout = timeout
        """Seconds to wait for one worker's metrics."""
        self._inboxes = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        """For each worker, the end that it reads, and the end to which the others write."""
        self._changes = memoryview(mmap.mmap(-1, 8 * count)).cast("Q")
        """How often the state of each worker has changed; in memory that all workers share."""

    def close(self) -> None:
        """Closes the inboxes in this process."""
        for ends in self._inboxes:
            for end in ends:
                end.close()

    @asynccontextmanager
    async def serve(
        self, index: int, render: Callable[[], Awaitable[bytes]], fingerprint: Callable[[], object]
    ) -> AsyncIterator[tuple[Exposition, Callable[[], None]]]:
        """Responds to the siblings of worker `index` inside the context.

        `render` and `fingerprint` are those of this worker's own `Exposition`. Yields the merged
        metrics, and a function to call when this worker's state has changed.
        """
        own = Exposition(render, fingerprint, SHARE_S)
        merged = Exposition(
            lambda: self._gather(index, own),
            lambda: (fingerprint(), self._changes.tobytes()),
            EXPOSITION_S - SHARE_S,
        )
        replies: set[asyncio.Task[None]] = set()

        def changed() -> None:
            self._changes[index] += 1

        def on_request() -> None:
            with contextlib.suppress(BlockingIOError):
                _, descriptors, _, _ = socket.recv_fds(inbox, 1, 1)
                for descriptor in descriptors:
                    task = asyncio.create_task(_reply(socket.socket(fileno=descriptor), own))
                    replies.add(task)
                    task.add_done_callback(replies.discard)

        inbox = self._inboxes[index][0]
        inbox.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(inbox, on_request)
        # The siblings may have cached a merged text without this worker, which was just restarted.
        changed()
        try:
            yield merged, changed
        finally:
            loop.remove_reader(inbox)

    async def _gather(self, index: int, own: Exposition) -> bytes:
        others = [other for other in range(len(self._inboxes)) if other != index]
        texts = await asyncio.gather(own.get(), *map(self._ask, others))
        return merge(
            {worker: text for worker, text in zip([index, *others], texts, strict=True) if text}
        )

    async def _ask(self, index: int) -> bytes:
        """The metrics of a sibling; empty if it does not respond."""
        ours, theirs = socket.socketpair()
        with ours, theirs, contextlib.suppress(OSError, TimeoutError):
            ours.setblocking(False)
            # `BlockingIOError`: the inbox is full, since the sibling has not read for some time.
            socket.send_fds(self._inboxes[index][1], [b"?"], [theirs.fileno()], socket.MSG_DONTWAIT)
            async with asyncio.timeout(self.timeout):
                return await _read(ours)
        return b""


async def _reply(sock: socket.socket, own: Exposition) -> None:
    with sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(sock, await own.get())
        # `close` alone would not end the text: the other worker keeps its copy of this end open
        # until it has read all, since macOS may drop a descriptor that is in transit and open
        # nowhere.
        sock.shutdown(socket.SHUT_WR)


async def _read(sock: socket.socket) -> bytes:
    loop, parts = asyncio.get_running_loop(), []
    while part := await loop.sock_recv(sock, 65_536):
        parts.append(part)
    return b"".join(parts)


def merge(texts: Mapping[int, bytes]) -> bytes:
    """Merges the texts of several workers, family by family.

    Each text is in the format of `generate_latest`. The merge works on lines, because the library's
    parser takes 4 ms for each text.
    """
    families: dict[str, list[str]] = {}
    lines: list[str] = []
    for worker, text in sorted(texts.items()):
        for line in text.decode().removesuffix("\n").split("\n"):
            if line.startswith("# HELP "):
                lines = families.setdefault(line, [line])
            elif not line.startswith("# TYPE "):
                lines.append(_labelled(line, worker))
            # The type follows the help; only that of the first worker is kept.
            elif len(lines) == 1:
                lines.append(line)
    return "".join(f"{line}\n" for lines in families.values() for line in lines).encode()


def _labelled(sample: str, worker: int) -> str:
    """The sample with the label `worker`."""
    labels, has_labels, value = sample.rpartition("} ")
    if has_labels:
        return f'{labels},worker="{worker}"}} {value}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
