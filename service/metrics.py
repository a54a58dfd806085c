"""Metrics in the text format of Prometheus.

The values of labels are bounded: route templates, roles and reasons, never ids or credentials.
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

_NAMESPACE = "cluster_events"
DURATION_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds: from a prepared response to a request that waited for the store."""


class RouteStats:
    """The counters of one route.

    They are plain numbers, which only one thread writes: a request costs an addition, not a lock.
    """

    __slots__ = ("buckets", "counts", "seconds")

    def __init__(self) -> None:
        self.counts: dict[tuple[str, int], int] = {}
        self.buckets = [0] * (len(DURATION_BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, method: str, status: int, requests: int = 1) -> None:
        """Count requests."""
        key = (method, status)
        self.counts[key] = self.counts.get(key, 0) + requests

    def took(self, seconds: float) -> None:
        """Record the duration of a request."""
        self.buckets[bisect_left(DURATION_BOUNDS, seconds)] += 1
        self.seconds += seconds


class RequestStats(Collector):
    """The requests of all routes; the metrics are made at each scrape."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteStats] = {}

    def route(self, path: str) -> RouteStats:
        """The counters of a route, by its template."""
        return self._routes.setdefault(path, RouteStats())

    def collect(self) -> Iterator[Metric]:
        """The metrics `http_requests_total` and `http_request_duration_seconds`."""
        requests = CounterMetricFamily(
            f"{_NAMESPACE}_http_requests",
            "Requests that were answered.",
            labels=["route", "method", "code"],
        )
        durations = HistogramMetricFamily(
            f"{_NAMESPACE}_http_request_duration_seconds",
            "Time from the head of a request to its response, without the poll path.",
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
    """All metrics of one process.

    They have a registry of their own, so that two services in one process do not share metrics.
    """

    def __init__(self) -> None:
        # Otherwise each counter has a second series with its creation time.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._add_requests()
        self._add_replica()
        self._add_writes()
        self._add_monitor()
        self._add_notifications()
        self._gauge("build_info", "Always 1; the label is the version.", "version").labels(
            __version__
        ).set(1)

    def _add_requests(self) -> None:
        self.requests = RequestStats()
        self.registry.register(self.requests)
        self.connections = self._gauge("http_connections", "Open client connections.")
        self.auth_failures = self._counter(
            "auth_failures_total", "Requests refused with 401, 403 or 429.", "code"
        )

    def _add_replica(self) -> None:
        self.refreshes = self._counter(
            "snapshot_refresh_total", "Reads of the store by the replica.", "result"
        )
        self.divergences = self._counter(
            "history_divergence_total", "Detected losses of data in the store."
        )
        self.unreadable = self._counter(
            "unreadable_events_total", "Stored entries that are not valid events; they are skipped."
        )
        self.lost_notices = self._counter(
            "lost_notices_total", "Changes that the heartbeat found before a notification arrived."
        )
        self.snapshot_age = self._gauge(
            "snapshot_age_seconds", "Seconds since the snapshot was last confirmed."
        )
        self.checked_age = self._gauge(
            "check_age_seconds", "Seconds since the monitor last completed a check."
        )
        self.resources_known = self._gauge(
            "resources_known",
            "1 if the state of the service's Kubernetes resources is known, else 0.",
            "service",
        )
        self.events = self._gauge("events", "Retained events.")
        self.healthy = self._gauge(
            "service_healthy", "1 if the service is healthy in the latest event, else 0.", "service"
        )

    def _add_writes(self) -> None:
        self.recorded = self._counter(
            "events_recorded_total", "Events recorded by this process.", "reason"
        )
        self.trimmed = self._counter(
            "events_trimmed_total", "Events trimmed by this process.", "reason"
        )
        self.unreplicated = self._counter(
            "unreplicated_writes_total", "Events that too few Redis replicas confirmed in time."
        )

    def _add_monitor(self) -> None:
        self.checks = self._counter("checks_total", "Checks completed by this monitor.", "result")
        self.check_seconds = Histogram(
            "check_seconds",
            "Duration of the check of one service.",
            ["service"],
            namespace=_NAMESPACE,
            registry=self.registry,
        )
        self.missed_checks = self._counter(
            "missed_checks_total",
            "Checks that did not start because the previous one was still running.",
        )
        self.leading = self._gauge("monitor_leading", "1 if this monitor leads, 0 on standby.")
        self.epoch = self._gauge(
            "monitor_epoch", "The epoch of the leading monitor, as this monitor knows it."
        )
        self.fenced = self._counter(
            "monitor_fenced_total", "Writes refused because another monitor had become the leader."
        )
        self.store_failures = self._counter(
            "monitor_store_failures_total",
            "Failed store operations of this monitor, for the lease or to record a check.",
            "operation",
        )

    def _add_notifications(self) -> None:
        self.heartbeats = self._counter(
            "heartbeats_total", "Requests to the heartbeat URL.", "result"
        )
        self.webhooks = self._counter(
            "webhook_messages_total",
            "Attempts to deliver a webhook message, and messages that were given up.",
            "result",
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=_NAMESPACE, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace=_NAMESPACE, registry=self.registry)


EXPOSITION_S = 1.0
"""Seconds for which rendered metrics are reused: rendering takes a millisecond, and any client may
request it, since it needs no credential."""


class Exposition:
    """A cache of the rendered metrics, for `lifetime` seconds or until `fingerprint` changes.

    Concurrent requests share one rendering. A request after a change gets a text that was rendered
    after the change.
    """

    def __init__(
        self,
        render: Callable[[], Awaitable[bytes]],
        fingerprint: Callable[[], object],
        lifetime: float = EXPOSITION_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fingerprint` returns a value that differs from the last one if the state has changed."""
        self._render = render
        self._fingerprint = fingerprint
        self._lifetime = lifetime
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._text = b""
        self._rendered_from: object = None
        self._until = -1.0

    async def get(self) -> bytes:
        """The rendered metrics. Raises what `render` raises."""
        # The time before the lock is compared: so requests that queued up during a slow rendering
        # use its result, even if its lifetime is over by now.
        arrived = self._monotonic()
        async with self._lock:
            # Both are read before the rendering, because the state may change during it.
            fingerprint, now = self._fingerprint(), self._monotonic()
            if arrived >= self._until or fingerprint != self._rendered_from:
                self._text = await self._render()
                self._rendered_from, self._until = fingerprint, now + self._lifetime
            return self._text
