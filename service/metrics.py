"""Metrics in Prometheus' text format.

Labels are bounded: route templates, roles, reasons, never ids or credentials.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from service import __version__

DURATION_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds: from a ready answer to a request that waited for the store."""


class RouteStats:
    """The requests of one route. Plain numbers, written by one thread: a request costs an addition,
    not a lock."""

    __slots__ = ("buckets", "counts", "seconds")

    def __init__(self) -> None:
        self.counts: dict[tuple[str, int], int] = {}
        self.buckets = [0] * (len(DURATION_BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, method: str, status: int, requests: int = 1) -> None:
        """Counts requests."""
        key = (method, status)
        self.counts[key] = self.counts.get(key, 0) + requests

    def took(self, seconds: float) -> None:
        """Notes the time that a request took."""
        self.buckets[bisect_left(DURATION_BOUNDS, seconds)] += 1
        self.seconds += seconds


class RequestStats(Collector):
    """The requests of every route, as metrics when somebody looks."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteStats] = {}

    def route(self, path: str) -> RouteStats:
        """The numbers of a route, by its template."""
        return self._routes.setdefault(path, RouteStats())

    def collect(self) -> Iterator[Metric]:
        """`http_requests_total` and `http_request_duration_seconds`."""
        requests = CounterMetricFamily(
            "cluster_events_http_requests", "Requests answered.", labels=["route", "method", "code"]
        )
        durations = HistogramMetricFamily(
            "cluster_events_http_request_duration_seconds",
            "Time from a request's head to its reply, for requests that took the ordinary way.",
            labels=["route"],
        )
        for path, stats in self._routes.items():
            for (method, status), count in stats.counts.items():
                requests.add_metric([path, method, str(status)], count)
            bounds = [*map(floatToGoString, DURATION_BOUNDS), "+Inf"]
            durations.add_metric(
                [path], list(zip(bounds, accumulate(stats.buckets), strict=True)), stats.seconds
            )
        yield requests
        yield durations


class Metrics:
    """Every metric of one process, on a registry of its own, so that two services in one process do
    not mix."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # A second series for each counter that nobody asks for.
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="cluster_events", registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, namespace="cluster_events", registry=registry)

        self.requests = RequestStats()
        registry.register(self.requests)
        self.connections = gauge("http_connections", "Open client connections.")
        self.auth_failures = counter(
            "auth_failures_total", "Requests refused with 401, 403 or 429.", "code"
        )
        self.refreshes = counter(
            "snapshot_refresh_total", "Readings of the store, by what they found.", "result"
        )
        self.divergences = counter(
            "history_divergence_total", "Times that the store was found to have lost data."
        )
        self.unreadable = counter(
            "unreadable_events_total", "Events in the store that are not events, and were left out."
        )
        self.lost_notices = counter(
            "lost_notices_total", "Changes that the heartbeat found before a notice came."
        )
        self.snapshot_age = gauge(
            "snapshot_age_seconds", "Seconds since the snapshot was last known to be true."
        )
        self.checked_age = gauge(
            "check_age_seconds", "Seconds since the monitor last completed a check."
        )
        self.events = gauge("events", "Events retained.")
        self.healthy = gauge(
            "service_healthy", "1 if the latest event says healthy, else 0.", "service"
        )
        self.recorded = counter(
            "events_recorded_total", "Events recorded by this process.", "reason"
        )
        self.trimmed = counter("events_trimmed_total", "Events trimmed by this process.", "reason")
        self.unreplicated = counter(
            "unreplicated_writes_total", "Events that too few Redis replicas confirmed in time."
        )
        self.checks = counter("checks_total", "Checks completed by this monitor.", "result")
        self.check_seconds = Histogram(
            "check_seconds",
            "Time that one service's check took.",
            ["service"],
            namespace="cluster_events",
            registry=registry,
        )
        self.leading = gauge("monitor_leading", "1 if this monitor leads, 0 if it stands by.")
        self.epoch = gauge(
            "monitor_epoch", "The epoch of the leading monitor, as this one knows it."
        )
        self.fenced = counter(
            "monitor_fenced_total", "Writes refused since another monitor had taken the lead."
        )
        self.store_failures = counter(
            "monitor_store_failures_total",
            "Requests of this monitor that the store refused or did not answer: for the lease, or to record a check.",
            "operation",
        )
        self.heartbeats = counter("heartbeats_total", "Calls to the watcher outside.", "result")
        self.webhooks = counter(
            "webhook_messages_total",
            "Attempts to deliver a change, and changes given up.",
            "result",
        )
        self.missed_checks = counter(
            "missed_checks_total", "Checks that did not start since the one before overran."
        )
        gauge("build_info", "Always 1; the label is the version.", "version").labels(
            __version__
        ).set(1)


EXPOSITION_S = 1.0
"""Seconds for which rendered metrics are sent again: rendering takes a millisecond, and needs no
credential."""


class Exposition:
    """Metrics in Prometheus' text format, kept for `lifetime` seconds or until `fingerprint`
    changes.

    Requests at the same time share one rendering. A request that comes after a change gets a text
    that was rendered after it.
    """

    def __init__(
        self,
        render: Callable[[], Awaitable[bytes]],
        fingerprint: Callable[[], object],
        lifetime: float = EXPOSITION_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fingerprint` returns a value that is not equal to the last one when the state has
        changed."""
        self._render = render
        self._fingerprint = fingerprint
        self._lifetime = lifetime
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._text = b""
        self._rendered_from: object = None
        self._until = -1.0

    async def get(self) -> bytes:
        """The text. Raises what `render` raises."""
        # Else requests that queue up during a slow rendering would each render it anew.
        arrived = self._monotonic()
        async with self._lock:
            # Both are read before the rendering, since the state may change during it.
            fingerprint, now = self._fingerprint(), self._monotonic()
            if arrived >= self._until or fingerprint != self._rendered_from:
                self._text = await self._render()
                self._rendered_from, self._until = fingerprint, now + self._lifetime
            return self._text
