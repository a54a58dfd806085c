"""The bytes of ten responses are those that were recorded from commit 9c799de, before the modules
were moved and renamed.

A change of these bytes is a change of the contract. Where one is meant, write the new bytes into
`tests/api/recorded`: the failing test shows them.
"""

from collections.abc import Callable
from typing import Any

import pytest

from service.auth import Role
from tests.support.api import Api
from tests.support.exchanges import RECORDED, REPEATED, REQUESTS, SETTINGS, exchange, masked, plant
from tests.support.settings import make_token


@pytest.fixture
async def make_planted(make_api: Callable[..., Any]) -> Callable[[str], Any]:
    """Starts an API process on a store with the events, with the poll path `on` or `off`."""

    async def make(poll_path: str) -> Api:
        api: Api = await make_api(poll_path=poll_path, **SETTINGS)
        await plant(api.store._client, api.store.keys)
        await api.settle()
        return api

    return make


async def test_the_ordinary_path_gives_the_recorded_bytes(
    make_planted: Callable[[str], Any],
) -> None:
    """Without the poll path, each response is the recorded one."""
    api = await make_planted("off")
    token = make_token(Role.READ)
    for name, request in REQUESTS.items():
        recorded = (RECORDED / f"{name}.http").read_bytes()
        assert masked(await exchange(api.port, request, token)) == recorded, name


async def test_the_poll_path_gives_the_recorded_bytes(make_planted: Callable[[str], Any]) -> None:
    """With the poll path, each response is the recorded one, also at the third sight of a request:
    then the poll path has it from its cache, where a response can be cached."""
    api = await make_planted("on")
    token = make_token(Role.READ)
    for name, request in REQUESTS.items():
        recorded = (RECORDED / f"{name}.http").read_bytes()
        for _ in range(3):
            assert masked(await exchange(api.port, request, token)) == recorded, name
        cached = request.replace(b"TOKEN", token.encode()) in api.poll_server.memo.entries
        assert cached == (name in REPEATED), name


def test_every_exchange_is_recorded() -> None:
    """There is one recorded response for each request."""
    assert {path.stem for path in RECORDED.glob("*.http")} == set(REQUESTS)


def test_masks_hide_no_more_than_they_say() -> None:
    """A response with another status, field or body differs after masking too."""
    response = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 2\r\n\r\n{}"
    assert masked(response).endswith(b"\r\nDate: (date)\r\nContent-Length: 2\r\n\r\n{}")
    for old, new in [(b"200", b"201"), (b"Date", b"date"), (b"{}", b"[]")]:
        assert masked(response.replace(old, new)) != masked(response)
