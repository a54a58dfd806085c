"""A monitor on a real store, and the services that it checks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from service.events import Event, Status
from service.metrics import Metrics
from service.monitor.kubernetes.checker import WorkloadChecker
from service.monitor.loop import Monitor
from service.settings import Settings
from service.store import Store


@dataclass
class Scripted:
    """A service that is healthy until it is told otherwise, and counts who asks."""

    healthy: bool = True
    hangs: bool = False
    asked: int = 0
    at_once: int = 0
    most_at_once: int = 0
    port: int = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serves on a free port of loopback."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if self.hangs:
                await reader.read()  # Until the monitor hangs up.
            status = b"200 OK" if self.healthy else b"503 Service Unavailable"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\nsaid")
            await writer.drain()
        self.at_once -= 1


@dataclass
class World:
    """Services, a monitor of them, its store; `now` is the monitor's clock in tests that check by
    hand."""

    services: dict[str, Scripted]
    settings: Settings
    store: Store
    client: aiohttp.ClientSession
    now: float = 1_000.0
    rounds: int = 0
    """The checks of `running` after which it waits for the next one."""
    metrics: Metrics = field(default_factory=Metrics)
    workloads: WorkloadChecker | None = None
    changes: list[Event] = field(default_factory=list)
    """The events of changes, as the webhook gets them."""
    monitor: Monitor = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A monitor that knows nothing yet, as after a restart."""
        self.monitor = Monitor(
            self.settings,
            self.store,
            self.metrics,
            lambda: self.now,
            workloads=self.workloads,
            on_event=self._on_event,
        )

    def _on_event(self, event: Event, before: Mapping[str, Status | str]) -> None:
        if any(before.get(name) is not seen.status for name, seen in event.services.items()):
            self.changes.append(event)

    async def check(self, times: int = 1) -> None:
        """Checks, `check_interval` apart by the monitor's clock."""
        for _ in range(times):
            await self.monitor.check(self.client)
            self.now += self.settings.check_interval

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The monitor's own loop, by the clock of the event loop: `put_forward` lets time pass."""
        world = self

        class Observed(Monitor):
            """A monitor that counts its checks when it has done with them."""

            def _next_after(self, due: float) -> float:
                following = super()._next_after(due)
                world.rounds += 1
                return following

        loop = asyncio.get_running_loop()

        def now() -> float:
            return loop.time()  # Looked up anew: it may have been put forward.

        monitor = Observed(self.settings, self.store, self.metrics, now)
        task = asyncio.create_task(monitor.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def events(self) -> list[Event]:
        """What is recorded, oldest first."""
        entries = (await self.store.read()).entries or ()
        return [Event.from_bytes(entry.status) for entry in reversed(entries)]

    async def statuses(self, name: str = "api") -> list[Status | str]:
        """A service's recorded statuses, oldest first."""
        return [event.services[name].status for event in await self.events()]

    async def checked_at(self) -> int | None:
        """When the store says that a check was completed."""
        return (await self.store.read()).checked_at

    def seen(self, *names: str) -> set[float]:
        """How often the checks of these services came to their end."""
        return {self.counted("check_seconds_count", service=name) for name in names}

    def counted(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(f"cluster_events_{name}", labels) or 0


MakeWorld = Callable[..., Any]
