"""Compressed answers: made once a change, with tags of their own, and never where they are not
wanted."""

import gzip

import pytest

from service.api.http import content_coding as coding
from tests.support.api import Api
from tests.support.observations import ALL_GOOD, ONE_BAD

LIST = "/v0/cluster/events"
PLAIN = {"Accept-Encoding": "identity"}
GZIP = {"Accept-Encoding": "gzip"}


async def record(api: Api, count: int) -> None:
    """Events enough for a list that is worth compressing."""
    for _ in range(count):
        await api.store.append(ONE_BAD)
    await api.settle()


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the bodies that were compressed."""
    sizes: list[int] = []
    original = coding.CODINGS["gzip"]

    def counted(body: bytes) -> bytes:
        sizes.append(len(body))
        return original(body)

    monkeypatch.setitem(coding.CODINGS, "gzip", counted)
    return sizes


async def test_a_long_list_is_compressed_once_a_change(api: Api, compressions: list[int]) -> None:
    """Every client gets the same compressed bytes, which say the same as the plain ones."""
    await record(api, 200)
    plain = await api.get(LIST, PLAIN)
    for _ in range(5):
        got = await api.get(LIST, GZIP)
        assert got.headers["Content-Encoding"] == "gzip"
        assert got.body == plain.body  # The client has inflated it.
        assert int(got.headers["Content-Length"]) < 0.13 * len(plain.body)
    assert len(compressions) == 1
    await record(api, 1)
    await api.get(LIST, GZIP)
    assert len(compressions) == 2


async def test_codings_have_tags_of_their_own(api: Api) -> None:
    """The tag of one coding does not match another's, and each is 304 for its own."""
    await record(api, 50)
    plain, packed = await api.get(LIST, PLAIN), await api.get(LIST, GZIP)
    assert plain.headers["ETag"] != packed.headers["ETag"]
    assert (
        plain.headers["Vary"] == packed.headers["Vary"] == "Accept, Accept-Encoding, Authorization"
    )
    assert (await api.get(LIST, GZIP | {"If-None-Match": packed.headers["ETag"]})).status == 304
    assert (await api.get(LIST, GZIP | {"If-None-Match": plain.headers["ETag"]})).status == 200


async def test_a_short_answer_is_sent_as_it_is(api: Api) -> None:
    """What fits a packet is not compressed, unless the client insists."""
    await record(api, 1)
    path = f"{LIST}/latest"
    plain, got = await api.get(path, PLAIN), await api.get(path, GZIP)
    assert "Content-Encoding" not in got.headers
    assert got.headers["ETag"] == plain.headers["ETag"]
    insisting = await api.get(path, {"Accept-Encoding": "gzip, identity;q=0"})
    assert insisting.headers["Content-Encoding"] == "gzip"
    assert insisting.body == plain.body


async def test_a_client_that_takes_nothing_is_told_so(api: Api) -> None:
    """406, with the codings that there are."""
    await record(api, 1)
    got = await api.get(f"{LIST}/latest", {"Accept-Encoding": "br, identity;q=0"})
    assert (got.status, got.json["error_code"]) == (406, "NotAcceptable")
    assert "gzip" in got.json["details"]["codings"]


async def test_a_full_event_is_compressed_too(api: Api) -> None:
    """`selector=all` by id, read from the store: long infos shrink."""
    long = {
        name: type(seen)(seen.status, "x" * 4_000, "y" * 4_000) for name, seen in ALL_GOOD.items()
    }
    event = (await api.store.append(long)).event
    await record(api, 1)
    await api.settle()
    got = await api.get(f"{LIST}/{event.id}?selector=all", GZIP)
    assert got.headers["Content-Encoding"] == "gzip"
    assert got.json["api_self_info"] == "x" * 4_000
    assert gzip.compress(got.body) != got.body
