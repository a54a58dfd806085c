"""The metrics of all workers on one page: each worker tells its own on a unix socket, and whoever is asked gathers them.

Every sample gets the label `worker`. Sums over the workers are for whoever reads them: a worker that dies and begins anew resets
its own series only, which is what `rate` expects of a counter.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

_END = "\n"
TIMEOUT_S = 1.0
"""For one worker's answer; a worker that is being restarted is left out."""


class Siblings:
    """The `count` workers of one service; this is number `index`. Their sockets are in `folder`."""

    def __init__(self, folder: Path, index: int, count: int) -> None:
        self._folder = folder
        self._index = index
        self._count = count

    @asynccontextmanager
    async def telling(self, metrics: Callable[[], bytes]) -> AsyncIterator[None]:
        """Tells this worker's metrics, as they are when they are asked for, to its siblings while it is entered."""

        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(metrics())
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()

        path = self._path(self._index)
        path.unlink(missing_ok=True)  # Of the worker that had this number before.
        server = await asyncio.start_unix_server(tell, path)
        try:
            yield
        finally:
            server.close()

    async def gather(self, own: bytes) -> bytes:
        """The metrics of all workers in Prometheus' text format; `own` are this worker's."""
        texts = {self._index: own.decode()}
        others = [index for index in range(self._count) if index != self._index]
        told = await asyncio.gather(*map(self._ask, others))
        texts |= {index: text for index, text in zip(others, told, strict=True) if text}
        merged = CollectorRegistry()
        merged.register(_Told(texts))
        return generate_latest(merged)

    async def _ask(self, index: int) -> str:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._path(index))
                try:
                    text = (await reader.read()).decode()
                    return text if text.endswith(_END) else ""  # One that died while it told is left out.
                finally:
                    writer.close()
        return ""

    def _path(self, index: int) -> Path:
        return self._folder / f"worker-{index}"


class _Told(Collector):
    """What the workers told, family by family."""

    def __init__(self, texts: dict[int, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415  # For several workers only.

        families: dict[str, Metric] = {}
        for index, text in sorted(self._texts.items()):
            for family in text_string_to_metric_families(text):
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.add_sample(sample.name, {**sample.labels, "worker": str(index)}, sample.value)
        yield from families.values()

    def describe(self) -> list[Metric]:
        return []
