"""Server-sent events: nothing missed, nothing twice, nobody slowed down."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.api.live import event_frames
from service.api.live import event_stream as stream
from service.api.live.event_stream import newer_than
from service.api.poll_path.timeouts import Timeouts
from service.auth import Role
from service.events import Selector
from service.replica.event_filter import Selection, position
from service.store import Entry
from tests.support.api import Api
from tests.support.clocks import put_credentials_forward, put_forward, put_timeouts_forward
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.raw import connected, head
from tests.support.settings import READ, bearer, make_settings, make_token
from tests.support.streams import ACCEPT, LIST, Client, listening, record
from tests.support.waiting import PATIENCE_S, until


@pytest.mark.parametrize("selector", ["status", "all"])
async def test_events_come_as_they_are_recorded(api: Api, selector: str) -> None:
    """Each event comes once, in order, with its id and its data under the selector; what was before
    does not."""
    await record(api, 2)
    await api.settle()
    async with listening(api, f"?selector={selector}") as listener:
        ids = await record(api, 3)
        for event_id in ids:
            kind, got, data = await listener.next()
            assert (kind, got, data["id"]) == ("message", event_id, event_id)
            assert ("api_self_info" in data) == (selector == "all")
        assert 1_000 <= listener.retries[0] <= 5_000


async def test_a_stream_begun_before_the_first_event_gets_it(api: Api) -> None:
    """Nothing recorded yet is no reason to miss the first."""
    async with listening(api) as listener:
        ids = await record(api, 2)
        assert await listener.ids(2) == ids


async def test_last_event_id_replays_what_was_missed(api: Api) -> None:
    """A client that comes back, in whatever spelling of the id, gets what it does not have, then
    goes on."""
    ids = await record(api, 5)
    await api.settle()
    async with listening(api, last=ids[1].upper()) as listener:
        assert await listener.ids(3) == ids[2:]
        more = await record(api, 1)
        assert await listener.ids(1) == more


@pytest.mark.parametrize("last", ["01940000-0000-7000-8000-000000000000", "nonsense"])
async def test_a_lost_place_is_told(api: Api, last: str) -> None:
    """Where the last event is no longer retained, `reset` says so, and all that is retained
    follows."""
    ids = await record(api, 3)
    await api.settle()
    async with listening(api, last=last) as listener:
        assert (await listener.next())[0] == "reset"
        assert await listener.ids(3) == ids


async def test_a_store_that_lost_everything_resets(api: Api) -> None:
    """A watcher hears that what it has is no longer the history."""
    await record(api, 2)
    await api.settle()
    async with listening(api) as listener:
        await api.store._client.flushall()
        ids = await record(api, 1)
        assert (await listener.next())[0] == "reset"
        assert await listener.ids(1) == ids


async def test_the_same_frames_on_every_replica(make_api: Callable[..., Any]) -> None:
    """A watcher that moves to another process misses nothing and sees nothing twice."""
    one, other = await make_api(), await make_api()
    async with listening(one) as listener:
        ids = await record(one, 4)
        seen = await listener.ids(2)
    async with listening(other, last=seen[-1]) as listener:
        assert seen + await listener.ids(2) == ids


async def test_signs_of_life(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent stream carries comments."""
    async with listening(api) as listener:
        for _ in range(2):
            put_forward(monkeypatch, stream.KEEP_ALIVE_S)
            async with asyncio.timeout(PATIENCE_S):
                while not (line := await listener.answer.content.readline()).startswith(b":"):
                    assert line, "the stream has ended"


async def test_draining_ends_streams(api: Api) -> None:
    """A process that is to stop ends its streams with a time to come back."""
    async with listening(api) as one, listening(api) as other:
        await api.context.drain()
        for listener in (one, other):
            with pytest.raises(EOFError):
                await listener.next()
            assert 1_000 <= listener.retries[-1] <= 5_000


async def test_a_client_that_goes_is_forgotten(api: Api) -> None:
    """Nothing is kept of a watcher whose connection has ended."""
    async with listening(api):
        assert len(api.context.watchers) == 1
    await until(lambda: not len(api.context.watchers))


async def test_a_slow_client_is_bounded_and_slows_nobody(make_api: Callable[..., Any]) -> None:
    """Who does not read holds no more than a connection's buffer; when it reads on, it gets
    everything or a `reset`."""
    api: Api = await make_api(retention_events=50)
    big = {
        name: type(seen)(seen.status, "x" * 8_000, "y" * 8_000) for name, seen in ALL_GOOD.items()
    }
    slow, writer = await asyncio.open_connection(api.host, api.port, limit=2_048)
    fields = "".join(f"{name}: {value}\r\n" for name, value in ACCEPT.items())
    writer.write(f"GET {LIST}?selector=all HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
    await slow.readline()
    (connection,) = api.poll_server.connections
    async with listening(api, "?selector=all") as quick:
        ids = []
        for _ in range(300):
            ids.append((await api.store.append(big)).event.id)
            assert (await quick.next())[1] == ids[-1]
        assert connection.paused
        assert connection.transport.get_write_buffer_size() < 500_000
    received = b""
    async with asyncio.timeout(PATIENCE_S):
        while f"id: {ids[-1]}".encode() not in received:
            received += await slow.read(1_000_000)
    writer.close()
    got = [line[4:].decode() for line in received.splitlines() if line.startswith(b"id: ")]
    assert received.count(b"event: reset") == 1
    after = [
        line[4:].decode()
        for line in received[received.index(b"event: reset") :].splitlines()
        if line[:4] == b"id: "
    ]
    assert after == ids[-50:]
    before = got[: len(got) - len(after)]
    assert before == ids[: len(before)]


PREFER_JSON = [
    "*/*",
    "application/json",
    "text/html",
    "text/event-stream;q=0",
    "text/event-stream;q=0;v=1",
    "application/json;q=1, text/event-stream;q=0.1",
    "text/event-stream, application/json",
    'text/html;x=", text/event-stream"',
]


@pytest.mark.parametrize("accept", PREFER_JSON)
async def test_the_list_is_given_to_others(api: Api, accept: str) -> None:
    """Only a client that prefers a stream gets one; the poll path agrees."""
    await api.context.replica.append(ALL_GOOD)
    for _ in range(4):
        got = await api.get(LIST, {"Accept": accept})
        assert (got.headers["Content-Type"], len(got.json)) == ("application/json", 1)
    assert len(api.poll_server.memo.entries) == 1


@pytest.mark.parametrize(
    "lines",
    [["text/event-stream"], ["application/json;q=0.5", "TEXT/*"], ["*/*;q=0.1, text/event-stream"]],
)
async def test_a_client_that_prefers_a_stream_gets_one(api: Api, lines: list[str]) -> None:
    """By weight and specificity, over all `Accept` lines, as often as it asks."""
    for _ in range(3):
        async with await connected(api.port) as line:
            fields = [
                f"Authorization: {READ['Authorization']}",
                *(f"Accept: {value}" for value in lines),
            ]
            line.send(head("GET", LIST, *fields))
            assert b"\r\nContent-Type: text/event-stream\r\n" in await line.reader.readuntil(
                b"\r\n\r\n"
            )


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize(
    ("query", "more", "status"),
    [
        ("", {}, 200),
        ("", {"If-None-Match": "*"}, 304),
        ("?limit=1", {}, 200),
        ("?limit=1", {"If-None-Match": "*"}, 304),
        ("?selector=all", {"If-None-Match": "*"}, 304),
        ("?limit=0", {}, 400),
        ("?before=01940000-0000-7000-8000-000000000000", {}, 404),
        ("", {"Authorization": "Bearer x"}, 401),
        ("", {"Accept-Encoding": "gzip;q=0, identity;q=0"}, 406),
    ],
)
async def test_every_response_that_could_be_another_says_so(
    api: Api, accept: str, query: str, more: dict[str, str], status: int
) -> None:
    """What is kept of a response under this URL, errors and 304s included, is kept for its `Accept`
    only."""
    await api.context.replica.append(ALL_GOOD)
    for method in ("GET", "HEAD"):
        for _ in range(3):
            async with api.client.request(
                method, api.url + LIST + query, headers=READ | {"Accept": accept} | more
            ) as got:
                if (
                    method == "GET"
                    and accept == "text/event-stream"
                    and (query, status) != ("", 401)
                ):
                    assert got.status == (400 if "limit" in query or "before" in query else 200)
                else:
                    assert got.status == status
                assert "Accept" in [
                    name.strip() for line in got.headers.getall("Vary") for name in line.split(",")
                ]


async def test_the_list_says_so_without_store_and_without_monitoring(
    make_api: Callable[..., Any],
) -> None:
    """Also where nothing can be said of the events, and where there is a page of another origin
    that asks."""
    off: Api = await make_api(monitoring="off")
    got = await off.get(LIST)
    assert (got.status, got.headers["Vary"]) == (501, "Accept")
    away: Api = await make_api(
        redis_url="redis://127.0.0.1:1", cors_origins="https://status.example"
    )
    got = await away.get(LIST, {"Origin": "https://status.example"})
    assert (got.status, got.headers.getall("Vary")) == (503, ["Accept", "Origin"])  # type: ignore[attr-defined]


# -- what a stream has -----------------------------------------------------------------------------

BAD_ONLY = "?service=compiler&status=Unhealthy"


@pytest.mark.parametrize(
    "query", [BAD_ONLY, "?status=Unhealthy,Unhealthy", BAD_ONLY + "&selector=all"]
)
async def test_only_selected_events_come(api: Api, query: str) -> None:
    """A stream honours the filters of the list: what has been selected so far, what is missed, and
    what comes."""
    ids = await record(api, 6)
    await api.settle()
    async with listening(api, query, last=ids[0]) as listener:
        for event_id in (ids[1], ids[3], ids[5]):
            kind, got, data = await listener.next()
            assert (kind, got, data["compiler_status"]) == ("message", event_id, "Unhealthy")
            assert ("api_self_info" in data) == ("selector=all" in query)
        more = await record(api, 4)
        assert await listener.ids(2) == more[1::2]


async def test_a_lost_place_of_a_filtered_stream_is_told(api: Api) -> None:
    """After a `reset` everything follows that is retained and selected."""
    ids = await record(api, 5)
    await api.settle()
    async with listening(api, BAD_ONLY, last="nonsense") as listener:
        assert (await listener.next())[0] == "reset"
        assert await listener.ids(2) == ids[1::2]


async def test_a_watcher_goes_past_what_is_not_selected(make_api: Callable[..., Any]) -> None:
    """However many events a stream does not want, its place stays in the history: none is a reason
    for a `reset`."""
    api: Api = await make_api(retention_events=3)
    first = await record(api, 1)
    await api.settle()
    async with listening(api, BAD_ONLY) as new, listening(api, BAD_ONLY, last=first[0]) as resumed:
        for _ in range(8):
            await api.store.append(ALL_GOOD)
            await api.settle()
        bad = (await api.store.append(ONE_BAD)).event.id
        assert [(await one.next())[:2] for one in (new, resumed)] == [("message", bad)] * 2


async def test_a_client_that_catches_up_lets_others_in(api: Api) -> None:
    """Events that are not selected make it wait for nothing, and still it takes a turn of the loop
    for each few."""
    ids = await record(api, 4 * stream.BATCH)
    await api.settle()
    client = Client()
    api.context.watchers.add(
        client, Selection(patterns=(b"nothing",)), ids[0], seconds_left=lambda: 60.0
    )
    (watcher,) = api.context.watchers._all
    turns = 0
    while watcher.last_sent_id != ids[-1]:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 4
    assert client.frames == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=5", "limit"),
        ("limit=0", "limit"),
        ("before=01940000-0000-7000-8000-000000000000", "before"),
        ("before=x", "before"),
        ("since=2026-01-01T00:00:00Z", "since"),
        ("since=", "since"),
        ("until=2026-01-01T00:00:00Z&since=2026-01-01T00:00:00Z", "since"),
        ("until=yesterday", "until"),
        ("selector=none", "selector"),
        ("selector=all&selector=all", "selector"),
        ("service=api", "service"),
        ("service=No-Service&status=Healthy", "service"),
        ("status=", "status"),
        ("status=healthy", "status"),
        ("status=Healthy&status=Healthy", "status"),
    ],
)
async def test_parameters_that_a_stream_does_not_take_are_named(
    api: Api, query: str, param: str
) -> None:
    """What only a page has, and what no list takes either, is 400: nothing is ignored in
    silence."""
    got = await api.get(f"{LIST}?{query}", {"Accept": "text/event-stream"})
    assert (got.status, got.json["error_code"], got.json["details"]["param"]) == (
        400,
        "InvalidQueryParam",
        param,
    )


async def test_what_a_stream_does_not_know_is_ignored(api: Api) -> None:
    """As on the list, a parameter of somebody else's is no reason to refuse."""
    async with listening(api, "?whatever=1&selector=status") as listener:
        ids = await record(api, 1)
        assert await listener.ids(1) == ids


async def test_frames_are_made_once_for_all_who_want_the_same(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ways there are to select, an event becomes a frame once for each selector, whose
    bytes are shared."""
    made: list[str] = []
    plain = event_frames.frame

    def counted(event_id: str, body: bytes) -> bytes:
        made.append(event_id)
        return plain(event_id, body)

    monkeypatch.setattr(event_frames, "frame", counted)
    await api.context.replica.append(ALL_GOOD)
    clients = [Client() for _ in range(60)]
    for number, client in enumerate(clients):
        patterns = (f'"service_{number}_status":"Healthy"'.encode(), b'"api_status":"Healthy"')
        selector = Selector.ALL if number % 2 else Selector.STATUS
        api.context.watchers.add(client, Selection(selector, patterns), None)
    event_id = (await api.context.replica.append(ONE_BAD)).event.id
    while not all(client.frames for client in clients):
        await asyncio.sleep(0)
    assert made == [event_id] * 2
    assert len({id(frame) for client in clients for frame in client.frames}) == 2


# -- the end of a credential -----------------------------------------------------------------------


async def test_a_stream_ends_when_its_credential_expires(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No change and no keep-alive comment is needed for it: the comment comes a day later here."""
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 86_400)
    api: Api = await make_api(jwt_leeway="0s")
    headers = bearer(make_token(Role.READ, 40)) | {"Accept": "text/event-stream"}
    async with api.client.get(api.url + LIST, headers=headers) as answer:
        assert answer.status == 200
        put_credentials_forward(monkeypatch, api.context, 41)
        assert b"data:" not in await answer.content.read()
    assert len(api.context.watchers) == 0


async def test_a_stream_ends_when_its_signing_key_is_replaced(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that was signed with a former key opens nothing from then on, a stream that is open
    included: the next keep-alive comment would come a day later here."""
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 86_400)
    async with listening(api) as listener:
        api.context.authenticator._reload_secrets(make_settings(jwt_secret="another secret " * 8))
        async with asyncio.timeout(PATIENCE_S):
            assert b"data:" not in await listener.answer.content.read()


async def test_a_client_that_reads_on_after_its_credential_ended_gets_nothing(api: Api) -> None:
    """What a slow client had not taken is not given to it once it may not read."""
    await api.context.replica.append(ALL_GOOD)
    client, left = Client(paused=True), [60.0]
    watcher = api.context.watchers.add(client, Selection(), "", seconds_left=lambda: left[0])
    left[0] = 0.0
    client.paused = False
    watcher.resume()
    await api.context.replica.append(ONE_BAD)
    while not client.closed:
        await asyncio.sleep(0)
    assert client.frames == []


async def test_the_end_of_a_credential_is_looked_for_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential that is good for longer than a timer runs ends in its time."""
    monkeypatch.setattr(stream, "RECHECK_S", 0.01)
    left = iter([1e12, 1e12, 0.0])
    client = Client()
    api.context.watchers.add(client, Selection(), None, seconds_left=lambda: next(left))
    while not client.closed:
        await asyncio.sleep(0.001)
    assert len(api.context.watchers) == 0


async def test_a_stream_needs_a_credential_and_a_selector(api: Api) -> None:
    """A stream is refused as the list is."""
    assert (await api.request("GET", LIST, {"Accept": "text/event-stream"})).status == 401
    assert (await api.get(f"{LIST}?selector=none", {"Accept": "text/event-stream"})).status == 400


async def test_connections_that_stream_are_not_idle(
    make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The idle deadline is for connections that ask nothing: it ends one that is silent."""
    api: Api = await make_api(timeouts=Timeouts(head=300, idle=300, sweep=0.01))
    async with listening(api) as listener, await connected(api.port) as silent:
        await until(lambda: len(api.poll_server.connections) == 2)
        put_timeouts_forward(monkeypatch, api.poll_server, 301)
        assert await silent.rest() == b""
        ids = await record(api, 1)
        assert await listener.ids(1) == ids


def test_what_is_newer() -> None:
    """The events after a place, oldest first; all of them if the place is not there."""
    entries = [Entry(name, number, b"") for number, name in ((3, "c"), (2, "b"), (1, "a"))]
    assert [entry.id for entry in newer_than(entries, "a")] == ["b", "c"]
    assert [entry.id for entry in newer_than(entries, "c")] == []
    assert [entry.id for entry in newer_than(entries, "")] == ["a", "b", "c"]
    assert [position(entries, entry) for entry in entries] == [0, 1, 2]
    assert [position(entries, Entry("x", us, b"")) for us in (4, 2, 0)] == [0, 1, 3]


async def test_the_head_says_how_fresh_the_state_is(make_api: Callable[..., Any]) -> None:
    """A stream begins with when the monitor last checked, and with a warning if that is too long
    ago."""
    api: Api = await make_api(stale_after="300s")
    await record(api, 1)
    await api.settle()
    async with listening(api) as listener:
        assert "Cluster-Checked-At" in listener.answer.headers
        assert "Cluster-Stale" not in listener.answer.headers
    checked_at = await api.store.now() - 301_000_000
    await api.store._client.hset(api.store.keys.meta, "checked_at", checked_at)
    await api.settle()
    async with listening(api) as listener:
        assert listener.answer.headers["Cluster-Stale"] == "monitor-silent"


async def test_a_stream_that_comes_while_draining_is_sent_away(api: Api) -> None:
    """Whoever begins to watch a process that is to stop is told at once when to come back."""
    await api.context.drain()
    async with listening(api) as listener:
        with pytest.raises(EOFError):
            await listener.next()
        assert listener.retries
