"""The monitor's own port: its metrics true to its last check, its errors in the one error body."""

import pytest

from service.errors import ApiError, MethodNotAllowed, UnknownEndpoint
from service.monitor.leader import LeaseHolder
from service.monitor.listener import listening
from service.sockets import listen
from tests.support.world import MakeWorld


async def test_metrics_show_a_check_at_once(make_world: MakeWorld) -> None:
    """A check that was completed after a rendering shows at the next request, within the second."""
    world = await make_world("api")
    lease_holder = LeaseHolder(world.settings, world.store, world.metrics)
    async with listening("127.0.0.1", 0, world.monitor, lease_holder, world.metrics) as (
        host,
        port,
    ):
        for number in range(3):
            async with world.client.get(f"http://{host}:{port}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            counted = [line for line in lines if line.startswith("cluster_events_checks_total")]
            assert counted == (
                [f'cluster_events_checks_total{{result="healthy"}} {number}.0'] if number else []
            )
            await world.check()


@pytest.mark.parametrize(
    ("method", "path", "error", "allow"),
    [
        ("GET", "/", UnknownEndpoint("/"), None),
        ("GET", "/v0/cluster/events", UnknownEndpoint("/v0/cluster/events"), None),
        ("POST", "/metrics", MethodNotAllowed("POST", ["GET", "HEAD"]), "GET, HEAD"),
        ("DELETE", "/readyz", MethodNotAllowed("DELETE", ["GET", "HEAD"]), "GET, HEAD"),
    ],
    ids=lambda value: getattr(value, "error_code", None) or str(value),
)
async def test_errors_have_the_one_body(
    make_world: MakeWorld,
    method: str,
    path: str,
    error: ApiError,
    allow: str | None,
) -> None:
    """Unknown paths and methods are answered as by the API."""
    world = await make_world("api")
    lease_holder = LeaseHolder(world.settings, world.store, world.metrics)
    async with (
        listening("127.0.0.1", 0, world.monitor, lease_holder, world.metrics) as (host, port),
        world.client.request(method, f"http://{host}:{port}{path}") as answer,
    ):
        assert (answer.status, answer.content_type) == (error.status, "application/json")
        assert await answer.read() == error.body()
        assert answer.headers.get("Allow") == allow


async def test_port_in_use(make_world: MakeWorld) -> None:
    """A port that another process listens on is an error that names it."""
    world = await make_world("api")
    lease_holder = LeaseHolder(world.settings, world.store, world.metrics)
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
        ):
            async with listening("127.0.0.1", port, world.monitor, lease_holder, world.metrics):
                pass
