"""The event routes, as agents use them."""

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
