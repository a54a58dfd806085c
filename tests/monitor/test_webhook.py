"""The webhook: each recorded change arrives once it can, in order, signed as Standard Webhooks
says, and delays no check."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from pydantic import SecretStr

from service.errors import SettingsError
from service.events import Event, Observation, Selector, Status, uuid7
from service.metrics import Metrics
from service.monitor.loop import Monitor
from service.monitor.notify import webhook
from service.monitor.notify.webhook import WAITING, delivering, signature
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.settings import make_settings
from tests.support.waiting import PATIENCE_S, until
from tests.support.world import MakeWorld

KEY = bytes(range(32))
SECRET = SecretStr("whsec_" + base64.b64encode(KEY).decode())
GOOD = dict.fromkeys(ALL_GOOD, Status.HEALTHY)
SOON = (0.01, 0.01)


def event(services: Mapping[str, Observation], number: int = 0) -> Event:
    """An event of 2026."""
    at = 1_795_000_000_000_000 + number
    return Event(uuid7(at), at, services)


@dataclass
class Receiver:
    """What a webhook's receiver got, and how it answers: with these statuses in turn, then with
    204."""

    statuses: list[int] = field(default_factory=list)
    got: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    hangs: bool = False
    retry_after: str = ""
    metrics: Metrics = field(default_factory=Metrics)
    url: SecretStr | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """On a free port of loopback."""
        app = web.Application()
        app.router.add_post("/hook/secret", self._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = SecretStr(f"http://127.0.0.1:{runner.addresses[0][1]}/hook/secret")
        try:
            yield
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        while self.hangs:
            await asyncio.sleep(0.01)
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        status = self.statuses.pop(0) if self.statuses else 204
        return web.Response(status=status, headers=headers)

    def counted(self, result: str) -> float:
        """A metric's value."""
        name = "cluster_events_webhook_messages_total"
        return self.metrics.registry.get_sample_value(name, {"result": result}) or 0


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that takes everything."""
    made = Receiver()
    async with made.listening():
        yield made


def test_signature_of_the_standard() -> None:
    """The example of the Standard Webhooks specification gives the signature that it names."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_change_is_sent_and_signed(receiver: Receiver) -> None:
    """The message has the event as the API has it, what changed, and a signature that the receiver
    can verify."""
    changed = event(ONE_BAD)
    async with delivering(receiver.url, SECRET, receiver.metrics) as tell:
        tell(changed, GOOD)
        await until(lambda: receiver.counted("delivered") == 1)
    headers, body = receiver.got[0]
    told = json.loads(body)
    assert told == {
        "type": "cluster_monitor_event.changed",
        "timestamp": told["data"]["event"]["recorded_at"],
        "data": {
            "changes": [{"service": "compiler", "from": "Healthy", "to": "Unhealthy"}],
            "event": json.loads(changed.to_bytes(Selector.ALL)),
        },
    }
    assert headers["webhook-id"] == changed.id
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 5
    content = f"{changed.id}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["Content-Type"] == "application/json"


async def test_what_changes_nothing_is_not_sent(receiver: Receiver) -> None:
    """An event that only repeats what is known stays unsent; the first one of all is a change of
    every service."""
    async with delivering(receiver.url, SECRET, receiver.metrics) as tell:
        tell(event(ALL_GOOD), GOOD)
        tell(event(ALL_GOOD, 1), {})
        await until(lambda: receiver.counted("delivered") == 1)
    (_, body) = receiver.got[0]
    assert [one["from"] for one in json.loads(body)["data"]["changes"]] == [None, None, None]
    assert len(receiver.got) == 1


async def test_failed_delivery_is_repeated_under_the_same_id(receiver: Receiver) -> None:
    """A receiver that fails gets the same message again until it takes it; later changes wait, and
    arrive in order."""
    receiver.statuses = [503, 500]
    first, second = event(ONE_BAD), event(ALL_GOOD, 1)
    async with delivering(receiver.url, SECRET, receiver.metrics, SOON) as tell:
        tell(first, GOOD)
        tell(second, {})
        await until(lambda: receiver.counted("delivered") == 2)
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [
        first.id,
        first.id,
        first.id,
        second.id,
    ]
    assert len({body for _, body in receiver.got}) == 2
    assert receiver.counted("failed") == 2


async def test_undeliverable_change_is_dead(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """After the last attempt the change is counted and logged, without the URL, and the next one
    gets its turn."""
    receiver.statuses = [500, 429, 503]
    first, second = event(ONE_BAD), event(ALL_GOOD, 1)
    async with delivering(receiver.url, SECRET, receiver.metrics, SOON) as tell:
        tell(first, GOOD)
        tell(second, {})
        await until(lambda: receiver.counted("delivered") == 1)
    assert (receiver.counted("dead"), receiver.counted("failed")) == (1, 3)
    assert told(caplog) == [
        ("WARNING", "webhook message not delivered yet", first.id, "HTTP 500"),
        ("ERROR", "webhook delivery failed", first.id, "HTTP 503"),
    ]
    assert "secret" not in caplog.text


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str, str]]:
    """The lines of the log: level, message, event and reason."""
    return [
        (
            line.levelname,
            line.getMessage(),
            vars(line)["event"],
            vars(line).get("reason", f"{vars(line).get('attempts')} attempts"),
        )
        for line in caplog.records
    ]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 451])
async def test_message_that_is_refused_for_good_is_given_up(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """A receiver that will never accept a message gets it once, and at once the next one."""
    receiver.statuses = [status]
    first, second = event(ONE_BAD), event(ALL_GOOD, 1)
    async with delivering(receiver.url, SECRET, receiver.metrics, (3_600.0,)) as tell:
        tell(first, GOOD)
        tell(second, {})
        await until(lambda: receiver.counted("delivered") == 1)
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [first.id, second.id]
    assert (receiver.counted("dead"), receiver.counted("failed")) == (1, 1)
    assert told(caplog) == [("ERROR", "webhook delivery failed", first.id, f"HTTP {status}")]


@pytest.mark.parametrize("status", [302, 407, 408, 421, 425, 429, 500, 502, 503, 504])
async def test_failure_that_may_pass_is_retried(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """A failure that says nothing about the message is logged once, and its end as well."""
    receiver.statuses = [status, status]
    with caplog.at_level(logging.INFO, "service.monitor.notify.webhook"):
        async with delivering(receiver.url, SECRET, receiver.metrics, SOON) as tell:
            tell(first := event(ONE_BAD), GOOD)
            await until(lambda: receiver.counted("delivered") == 1)
    assert told(caplog) == [
        ("WARNING", "webhook message not delivered yet", first.id, f"HTTP {status}"),
        ("INFO", "webhook message delivered", first.id, "3 attempts"),
    ]


@pytest.mark.parametrize(
    ("value", "pause"),
    [("7", 7.0), ("0", 0.01), ("86400", 300.0), ("9" * 400, 0.01), ("-1", 0.01), ("soon", 0.01)],
)
async def test_receiver_may_ask_for_a_pause(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, value: str, pause: float
) -> None:
    """`Retry-After` makes a pause longer, within bounds, and never shorter."""
    receiver.statuses, receiver.retry_after = [429], value
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def paused(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("service.monitor.notify.webhook.asyncio.sleep", paused)
    async with delivering(receiver.url, SECRET, receiver.metrics, SOON) as tell:
        tell(event(ONE_BAD), GOOD)
        while not receiver.counted("delivered"):
            await sleep(0.001)
    assert pause in pauses
    assert max(pauses) == pause


async def test_redirect_is_not_followed(receiver: Receiver) -> None:
    """A redirect is a failure: what is signed goes to the configured URL, or nowhere."""
    receiver.statuses = [302]
    async with delivering(receiver.url, SECRET, receiver.metrics, SOON) as tell:
        tell(event(ONE_BAD), GOOD)
        await until(lambda: receiver.counted("delivered") == 1)
    assert receiver.counted("failed") == 1


async def test_what_waits_is_bounded(receiver: Receiver) -> None:
    """Behind a receiver that hangs, the oldest waiting changes are given up, not memory."""
    receiver.hangs = True
    async with delivering(receiver.url, SECRET, receiver.metrics) as tell:
        being_sent = event(ONE_BAD)
        tell(being_sent, GOOD)
        await until(lambda: len(receiver.got) == 1)
        for number in range(1, WAITING + 10):
            tell(event(ONE_BAD, number), GOOD)
        assert receiver.counted("dead") == 10
        receiver.hangs = False
        await until(lambda: receiver.counted("delivered") == WAITING)
    ids = [headers["webhook-id"] for headers, _ in receiver.got]
    assert ids[0] == being_sent.id
    assert len(set(ids)) == WAITING


async def test_end_gives_up_what_waits(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the monitor does not wait for the receiver; what was not delivered is counted and
    logged."""
    monkeypatch.setattr(webhook, "TIMEOUT_S", 3_600.0)  # Who waits for the receiver waits for long.
    receiver.hangs = True
    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(PATIENCE_S):
            async with delivering(receiver.url, SECRET, receiver.metrics) as tell:
                tell(event(ONE_BAD), GOOD)
                tell(event(ALL_GOOD, 1), {})
                await until(lambda: len(receiver.got) == 1)
    receiver.hangs = False
    assert receiver.counted("dead") == 2
    assert len(caplog.records) == 2


async def test_monitor_tells_changes_only(make_world: MakeWorld, receiver: Receiver) -> None:
    """A monitor sends what it records where a status changed, and goes on checking while the
    receiver hangs."""
    world = await make_world("api")
    receiver.hangs = True
    async with delivering(receiver.url, SECRET, receiver.metrics) as tell:
        monitor = Monitor(
            world.settings, world.store, world.metrics, lambda: world.now, on_event=tell
        )
        for healthy in (True, True, False, False, False, True):
            world.services["api"].healthy = healthy
            await monitor.check(world.client)
        receiver.hangs = False
        await until(lambda: receiver.counted("delivered") == 3)
    changes = [json.loads(body)["data"]["changes"][0] for _, body in receiver.got]
    assert [(one["from"], one["to"]) for one in changes] == [
        (None, "Healthy"),
        ("Healthy", "Unhealthy"),
        ("Unhealthy", "Healthy"),
    ]
    events = await world.events()
    assert len(events) > 3
    assert {headers["webhook-id"] for headers, _ in receiver.got} < {one.id for one in events}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"webhook_url": "http://hook/"},
            "WEBHOOK_SECRET: set it and CLUSTER_EVENTS_WEBHOOK_URL, or neither",
        ),
        ({"webhook_secret": SECRET.get_secret_value()}, "WEBHOOK_SECRET: set it and"),
        (
            {"webhook_url": "http://hook/", "webhook_secret": "hunter2"},
            "WEBHOOK_SECRET: expected whsec_",
        ),
        (
            {"webhook_url": "http://hook/", "webhook_secret": "whsec_aHVudGVyMg=="},
            "WEBHOOK_SECRET: expected whsec_",
        ),
        (
            {"webhook_url": "http://hook/", "webhook_secret": "whsec_hunter2!"},
            "WEBHOOK_SECRET: expected whsec_",
        ),
        (
            {"webhook_url": "hook/hunter2", "webhook_secret": SECRET.get_secret_value()},
            "WEBHOOK_URL: expected",
        ),
    ],
)
def test_wrong_settings_are_told_unseen(values: dict[str, str], problem: str) -> None:
    """A URL without a secret, or what is no secret, is a wrong setting, and is not repeated."""
    with pytest.raises(SettingsError) as error:
        make_settings(**values)
    assert problem in str(error.value)
    assert "hunter2" not in str(error.value)


async def test_no_url_no_message() -> None:
    """Without a URL nothing is sent."""
    async with delivering(None, None, Metrics()) as tell:
        tell(event(ONE_BAD), GOOD)
