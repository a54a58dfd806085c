"""The metrics over HTTP: kept for a second, gathered from all workers, on a port of their own."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.api.handlers.metrics import metrics_fingerprint, render_metrics
from service.api.poll_path.timeouts import Timeouts
from service.api.server import serving_metrics
from service.api.worker_metrics import WorkerMetrics, merge
from service.metrics import Exposition, Metrics
from service.sockets import listen
from tests.support.api import Api
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.raw import connected, head
from tests.support.settings import WRITE

DEADLINES = Timeouts(head=0.3, idle=0.3, sweep=0.05)


def stop_the_clock(api: Api) -> None:
    """Stops the clock by which metrics are kept; the rest of the process has its time."""
    state = api.context
    state.exposition = Exposition(
        partial(render_metrics, state), partial(metrics_fingerprint, state), monotonic=lambda: 0.0
    )


async def page(api: Api) -> str:
    """The metrics."""
    got = await api.request("GET", "/metrics", {})
    assert got.status == 200
    return got.body.decode()


def value(text: str, name: str) -> float:
    """The only sample that begins so."""
    (found,) = re.findall(rf"^cluster_events_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found)


# -- kept for a second, but true -------------------------------------------------------------------


async def test_metrics_are_rendered_once_a_second(api: Api) -> None:
    """Requests in the same second get the same bytes, one after the other and at the same time."""
    await api.store.append(ALL_GOOD)
    await api.settle()
    stop_the_clock(api)
    first = await page(api)
    assert set(await asyncio.gather(*(page(api) for _ in range(20)))) == {first}


async def test_metrics_show_a_change_at_once(api: Api) -> None:
    """A change shows within the same second: an event of this process, and one of another."""
    await api.store.append(ALL_GOOD)
    await api.settle()
    stop_the_clock(api)
    assert value(await page(api), 'service_healthy{service="compiler"}') == 1
    body = {f"{name}_status": seen.status for name, seen in ONE_BAD.items()}
    assert (await api.request("POST", "/v0/cluster/events", WRITE, json=body)).status == 201
    text = await page(api)
    assert value(text, 'service_healthy{service="compiler"}') == 0
    assert value(text, "events") == 2
    await api.store.append(ALL_GOOD)
    await api.settle()
    assert value(await page(api), 'service_healthy{service="compiler"}') == 1


async def test_metrics_show_a_check_at_once(api: Api) -> None:
    """A completed check that records no event still moves the age of the last check."""
    await api.store.append(ALL_GOOD)
    await api.settle()
    stop_the_clock(api)
    before = value(await page(api), "check_age_seconds")
    await asyncio.sleep(0.01)
    assert value(await page(api), "check_age_seconds") == before
    await api.store.append(ALL_GOOD)
    await api.settle()
    assert value(await page(api), "check_age_seconds") != before


async def test_metrics_show_staleness_at_once(make_api: Callable[..., Any]) -> None:
    """When the clock alone makes the state stale, the next request shows its age."""
    # A heartbeat would read the store, and so measure the age anew.
    api: Api = await make_api(heartbeat="10m", max_staleness="20m")
    await api.store.append(ALL_GOOD)
    await api.settle()
    stop_the_clock(api)
    assert value(await page(api), "snapshot_age_seconds") < 60
    monotonic = api.context.replica.monotonic
    api.context.replica.monotonic = lambda: monotonic() + 3_600.0
    assert value(await page(api), "check_age_seconds") > 3_000


# -- several workers -------------------------------------------------------------------------------


def test_merged_metrics_are_those_of_every_worker() -> None:
    """The merged text has every sample of every worker, and no other, for Prometheus' parser."""
    texts = {}
    for worker in (0, 1, 10):
        metrics = Metrics()
        metrics.requests.route("/x").add("GET", 200, worker)
        metrics.requests.route('/odd "} {\\\n# HELP x').took(0.1 * worker)
        metrics.healthy.labels(f"only_{worker}").set(worker)
        texts[worker] = generate_latest(metrics.registry)
    merged = samples(merge(texts).decode())
    for worker, text in texts.items():
        assert {labels for labels in merged if f"worker={worker}" in labels[1]} == set(
            samples(text.decode(), worker)
        )
        for key, number in samples(text.decode(), worker).items():
            assert merged[key] == number
    assert len(merged) == sum(len(samples(text.decode())) for text in texts.values())
    assert merge(texts).decode().count("# TYPE cluster_events_events gauge\n") == 1


def samples(text: str, worker: int | None = None) -> dict[tuple[str, frozenset[str]], float]:
    """Samples by name and labels, with one label more."""
    more = [] if worker is None else [f"worker={worker}"]
    return {
        (
            sample.name,
            frozenset([*(f"{name}={label}" for name, label in sample.labels.items()), *more]),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Worker:
    """One of several workers, all of them in this process."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.context = 0
        self.rendered = 0
        self.exposition: Any = None
        self.changed: Any = None

    async def render(self) -> bytes:
        """One sample, and one long enough for several reads."""
        self.rendered += 1
        return f'# HELP s S.\n# TYPE s gauge\ns{{pad="{"x" * 300_000}"}} {self.context}\n'.encode()

    async def seen(self) -> dict[str, str]:
        """What a client gets from this worker: the state of each."""
        text = (await self.exposition.get()).decode()
        return dict(re.findall(r'worker="(\d)"\} (\d)', text))


@asynccontextmanager
async def workers(count: int, joined: int) -> AsyncIterator[list[Worker]]:
    """The first workers of so many."""
    async with AsyncExitStack() as stack:
        worker_metrics = stack.enter_context(closing(WorkerMetrics(count, timeout=30.0)))
        made = [Worker(index) for index in range(joined)]
        for worker in made:
            fingerprint = partial(getattr, worker, "context")
            joining = worker_metrics.serve(worker.index, worker.render, fingerprint)
            worker.exposition, worker.changed = await stack.enter_async_context(joining)
        yield made


async def test_every_worker_gives_the_metrics_of_all() -> None:
    """Each worker gives the metrics of all, and requests at the same time share one gathering."""
    async with workers(3, 3) as (zero, one, two):
        for worker in (zero, one, two):
            answers = await asyncio.gather(*(worker.seen() for _ in range(20)))
            assert all(answer == {"0": "0", "1": "0", "2": "0"} for answer in answers)
        assert max(worker.rendered for worker in (zero, one, two)) <= 3


async def test_a_change_of_a_sibling_shows_at_once() -> None:
    """A worker that was asked a moment ago asks again when a sibling's state has changed."""
    async with workers(2, 2) as (zero, one):
        assert await zero.seen() == {"0": "0", "1": "0"}
        one.context = 7
        one.changed()
        assert await zero.seen() == {"0": "0", "1": "7"}


async def test_a_sibling_that_does_not_answer_is_left_out() -> None:
    """A worker that does not run is left out, and is there again once it has joined."""
    zero, one = Worker(0), Worker(1)
    with closing(WorkerMetrics(2, timeout=0.02)) as worker_metrics:
        async with worker_metrics.serve(0, zero.render, lambda: zero.context) as (
            zero.exposition,
            zero.changed,
        ):
            for _ in range(20):  # More than its inbox takes.
                zero.changed()
                assert await zero.seen() == {"0": "0"}
            worker_metrics.timeout = 30.0
            async with worker_metrics.serve(1, one.render, lambda: one.context) as (
                one.exposition,
                one.changed,
            ):
                assert await zero.seen() == {"0": "0", "1": "0"}


# -- a port of their own ---------------------------------------------------------------------------


@pytest.fixture
async def metrics_port(make_api: Callable[..., Any]) -> AsyncIterator[tuple[Api, int]]:
    """An API process with `METRICS_PORT`, and that port."""
    api: Api = await make_api(metrics_port="0")
    sock = listen("127.0.0.1", 0)
    async with serving_metrics(api.context, sock, DEADLINES):
        yield api, sock.getsockname()[1]


async def test_the_api_has_no_metrics_where_they_have_a_port(metrics_port: tuple[Api, int]) -> None:
    """The API's port then answers `/metrics` as any unknown path, and does not describe it."""
    api, _ = metrics_port
    for method in ("GET", "HEAD", "POST"):
        got = await api.request(method, "/metrics", {})
        assert got.status == 404
        assert method == "HEAD" or got.json["error_code"] == "UnknownEndpoint"
    assert "/metrics" not in (await api.request("GET", "/openapi.json", {})).json["paths"]


@pytest.mark.parametrize(
    ("request_", "status", "error_code"),
    [
        (head("GET", "/metrics"), 200, ""),
        (head("GET", "/metrics?x=1"), 200, ""),
        (head("POST", "/metrics"), 405, "MethodNotAllowed"),
        (head("DELETE", "/metrics"), 405, "MethodNotAllowed"),
        (head("GET", "/"), 404, "UnknownEndpoint"),
        (head("GET", "/healthz"), 404, "UnknownEndpoint"),
        (head("GET", "/v0/cluster/events/latest"), 404, "UnknownEndpoint"),
        (head("OPTIONS", "*"), 405, "MethodNotAllowed"),
        (b"nonsense\r\n\r\n", 400, "BadMessage"),
        (head("GET", "/metrics", "Content-Length: 2000") + b"x" * 2_000, 413, "PayloadTooLarge"),
        (
            head("GET", "/metrics", *(f"X-{number}: {'x' * 8_000}" for number in range(5))),
            431,
            "HeadersTooLarge",
        ),
    ],
    ids=lambda value: value[:30].decode() if isinstance(value, bytes) else str(value),
)
async def test_the_port_of_the_metrics(
    metrics_port: tuple[Api, int], request_: bytes, status: int, error_code: str
) -> None:
    """It serves the metrics and nothing else, with the API's limits and its one error body."""
    async with await connected(metrics_port[1]) as line:
        line.send(request_)
        reply = await line.reply()
    assert reply.status == status
    if status == 200:
        assert reply.headers["Content-Type"].startswith("text/plain; version=")
        assert b"cluster_events_build_info{" in reply.body
    else:
        assert reply.error_code == error_code


async def test_head_on_the_port_of_the_metrics(metrics_port: tuple[Api, int]) -> None:
    """HEAD gets the header fields of GET and no body; other methods get `Allow`."""
    async with await connected(metrics_port[1]) as line:
        line.send(head("HEAD", "/metrics"))
        assert (await line.reply("HEAD")).status == 200
        line.send(head("PUT", "/metrics"))
        assert (await line.reply()).headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "sent", [b"", b"GET /metr", head("GET", "/metrics")], ids=["nothing", "part", "whole"]
)
async def test_deadlines_on_the_port_of_the_metrics(
    metrics_port: tuple[Api, int], sent: bytes
) -> None:
    """A connection that sends nothing, an unfinished head, or no further request is closed."""
    async with await connected(metrics_port[1]) as line:
        line.send(sent)
        if sent.endswith(b"\r\n\r\n"):
            assert (await line.reply()).status == 200
        assert b"cluster_events" not in await line.rest()


async def test_connections_of_both_ports_are_counted(make_api: Callable[..., Any]) -> None:
    """The gauge of open connections counts those of the API and of the metrics together."""
    patient = Timeouts(head=60, idle=60, sweep=0.02)
    api: Api = await make_api(timeouts=patient, metrics_port="0")
    gauge = partial(
        api.context.metrics.registry.get_sample_value, "cluster_events_http_connections"
    )

    async def counted(number: int) -> None:
        while gauge() != number:
            await asyncio.sleep(0.01)

    sock = listen("127.0.0.1", 0)
    async with serving_metrics(api.context, sock, patient):
        with socket.create_connection((api.host, api.port)):
            with socket.create_connection(sock.getsockname()):
                await counted(2)
            await counted(1)
        await counted(0)
