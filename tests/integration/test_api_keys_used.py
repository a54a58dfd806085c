"""The days of last use of API keys, in every kind of store."""

from collections.abc import Callable
from dataclasses import replace

from service.auth import Role, mint
from service.store import Store


async def test_days_of_use_only_go_on(make_store: Callable[..., Store]) -> None:
    """A later day is kept, an earlier one is not, and neither changes the version or tells the
    replicas."""
    store = make_store()
    keys = [mint(name, Role.READ, 0)[1] for name in ("a", "b", "idle")]
    for key in keys:
        await store.create_api_key(key)
    version = (await store.read()).version
    await store.note_api_keys_used({keys[0]: 20_000, keys[1]: 20_001})
    await store.note_api_keys_used({keys[0]: 20_002, keys[1]: 19_999})
    assert await store.api_keys_used() == {keys[0].id: 20_002, keys[1].id: 20_001}
    assert (await store.read()).version == version


async def test_days_of_use_are_of_one_key(make_store: Callable[..., Store]) -> None:
    """A use that is told after its key was deleted is not kept; a new key of the name has its own
    days."""
    store = make_store()
    old = mint("a", Role.READ, 0)[1]
    await store.create_api_key(old)
    await store.note_api_keys_used({old: 20_000})
    await store.delete_api_key("a")
    await store.note_api_keys_used({old: 20_001})
    assert await store.api_keys_used() == {}
    new = mint("a", Role.READ, 0)[1]
    await store.create_api_key(new)
    await store.note_api_keys_used({new: 19_000})
    assert await store.api_keys_used() == {new.id: 19_000}
    await store.note_api_keys_used({replace(new, role="write"): 19_001})
    assert await store.api_keys_used() == {new.id: 19_001}
