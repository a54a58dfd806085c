"""The event routes, as agents use them."""

from collections.abc import Callable
from typing import Any

from tests.conftest import ALL_GOOD, ONE_BAD, Api


async def test_latest_is_the_newest_event(api: Api) -> None:
    """`latest` gives the newest event, in the contract's field order, without infos."""
    await api.store.append(ALL_GOOD)
    newest = (await api.store.append(ONE_BAD)).event
    await api.settle()
    answer = await api.get("/v0/cluster/events/latest")
    assert answer.status == 200
    fields = answer.json
    assert list(fields) == ["id", "recorded_at", "all_healthy", "api_status", "compiler_status", "runner_status"]
    assert fields["id"] == newest.id
    assert fields["all_healthy"] is False
    assert fields["compiler_status"] == "Unhealthy"


async def test_a_service_that_no_event_knows_is_not_healthy(make_api: Callable[..., Any]) -> None:
    """A verdict is about the configured services: one that the latest event says nothing of makes it 503."""
    api: Api = await make_api(services="api,compiler,runner,fourth")
    await api.store.append(ALL_GOOD)
    await api.settle()
    got = await api.get("/v0/cluster_healthz")
    assert (got.status, got.json["all_healthy"], got.json["fourth"]["healthy"]) == (503, False, False)
    assert got.json["api"]["healthy"] is True
