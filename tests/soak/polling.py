"""Polling while things change: no answer is older than what was acknowledged before it was asked
for, and none is torn.

Run: python -m tests.soak.polling --seconds 30. Changes are recorded through the process that is
polled; clients compare every answer with a model of what was recorded: its moment at once, its
bytes in the end.
"""

import asyncio
import hashlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import click

from tests.load import wire
from tests.load.measure import percentile, wrk
from tests.load.wire import Reply
from tests.soak.line import Line
from tests.soak.line import field as header
from tests.soak.rig import LATEST, LIST, READER, SERVICES, VERDICT, Replica, Valkey, folder, running
from tests.soak.writer import Recorded, record, status_of

CHANGES_PER_S = 20
RETENTION = 100
SAME_HEAD = 4
"""How often the same event is asked for: a head is remembered at its second sight."""
_ID = slice(7, 43)
"""Where an event's id is in its bytes, and one byte later in those of a list."""


@dataclass
class Model:
    """What was recorded, in order, and every distinct answer that was seen."""

    recorded: Recorded = field(default_factory=Recorded)
    ids: list[str] = field(default_factory=list)
    """Of the events that are acknowledged, oldest first: one writer writes one after the other."""
    bodies: dict[str, set[bytes]] = field(default_factory=dict)
    lists: dict[str, set[bytes]] = field(default_factory=dict)
    """By the id of the newest event: digests, since lists are long."""
    older: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)

    def place(self, event_id: str) -> int:
        """Where an event is in the history. The one that is under way comes next."""
        return self.ids.index(event_id) if event_id in self.recorded.full else len(self.ids)

    def not_older(self, kind: str, event_id: str, floor: int) -> None:
        """Notes an answer that shows less than what was acknowledged when it was asked for."""
        if (place := self.place(event_id)) < floor:
            self.older.append(f"{kind} showed event {place}, {floor} had been acknowledged")


@dataclass
class Poller:
    """One connection that asks one kind of question again and again."""

    model: Model
    line: Line
    kind: str

    async def ask(self, request: bytes) -> tuple[Reply, int]:
        """A reply, and the place of the last event that was acknowledged before the request was
        sent."""
        floor, began = len(self.model.ids) - 1, time.perf_counter()
        reply = await self.line.ask(request)
        self.model.took.append(time.perf_counter() - began)
        self.model.requests[self.kind] += 1
        return reply, floor

    def keep(self, body: bytes) -> None:
        """Keeps a body for the comparison in the end."""
        self.model.bodies.setdefault(self.kind, set()).add(body)

    def wrong(self, reply: Reply) -> None:
        """Notes an answer that should not be."""
        self.model.torn.append(f"{self.kind}: {reply.status} {reply.body[:200]!r}")

    async def latest(self, path: str) -> None:
        """The latest event."""
        reply, floor = await self.ask(wire.get(path, READER))
        if reply.status == 200:
            self.keep(reply.body)
            self.model.not_older(self.kind, reply.body[_ID].decode(), floor)
        else:
            self.wrong(reply)

    async def changed(self) -> None:
        """The latest event unless it is known: a 304 says that what the client has is the latest
        still."""
        reply, _ = await self.ask(wire.get(LATEST, READER))
        event_id, etag = reply.body[_ID].decode(), header(reply, "ETag")
        while reply.status in {200, 304}:
            reply, floor = await self.ask(wire.get(LATEST, READER, f"If-None-Match: {etag}"))
            if reply.status == 200:
                self.keep(reply.body)
                event_id, etag = reply.body[_ID].decode(), header(reply, "ETag")
            self.model.not_older(self.kind, event_id, floor)
        self.wrong(reply)

    async def listed(self) -> None:
        """The whole list."""
        reply, floor = await self.ask(wire.get(LIST, READER))
        event_id = reply.body[1:][_ID].decode()
        if reply.status != 200:
            self.wrong(reply)
            return
        self.model.not_older(self.kind, event_id, floor)
        self.model.lists.setdefault(event_id, set()).add(hashlib.sha256(reply.body).digest())

    async def by_id(self, selector: str) -> None:
        """An event somewhere in the history, just recorded, in the middle, or just cut off."""
        ids = self.model.ids
        place = max(
            0,
            len(ids)
            - 1
            - random.choice([0, 1, RETENTION // 2, RETENTION - 1, RETENTION, RETENTION + 1]),
        )
        for _ in range(SAME_HEAD):
            reply, floor = await self.ask(
                wire.get(f"{LIST}/{ids[place]}?selector={selector}", READER)
            )
            if reply.status == 200:
                self.keep(reply.body)
                if reply.body[_ID].decode() != ids[place]:
                    self.wrong(reply)
                if place <= floor - RETENTION:
                    self.model.older.append(
                        f"{self.kind} showed event {place}, which {floor} had pushed out"
                    )
            elif reply.status != 404 or place > self.model.recorded.sent - 1 - RETENTION:
                self.wrong(reply)

    async def verdict(self) -> None:
        """The verdict, whose messages say of which event they are."""
        reply, floor = await self.ask(wire.get(VERDICT, READER))
        if reply.status not in {200, 503}:
            self.wrong(reply)
            return
        self.keep(b"%d " % reply.status + reply.body)
        number = int(json.loads(reply.body)["api"]["message"].split()[1])
        if number < floor:
            self.model.older.append(
                f"{self.kind} told of event {number}, {floor} had been acknowledged"
            )


KINDS: dict[str, Callable[[Poller], Coroutine[Any, Any, None]]] = {
    "latest": lambda poller: poller.latest(LATEST),
    "latest, all": lambda poller: poller.latest(f"{LATEST}?selector=all"),
    "latest, 304": lambda poller: poller.changed(),
    "list": lambda poller: poller.listed(),
    "by id": lambda poller: poller.by_id("status"),
    "by id, all": lambda poller: poller.by_id("all"),
    "verdict": lambda poller: poller.verdict(),
}


@dataclass
class Outcome:
    """What a run found."""

    model: Model
    refused: int

    @property
    def problems(self) -> list[str]:
        """Everything that is not as promised."""
        found = [*self.model.older, *self.model.torn, *wrong_bodies(self.model)]
        return found + (
            [f"{self.refused} requests of the load were refused"] if self.refused else []
        )

    @property
    def figures(self) -> dict[str, str]:
        """For people."""
        model, took = self.model, [seconds * 1_000 for seconds in self.model.took]
        distinct = sum(map(len, (*model.bodies.values(), *model.lists.values())))
        return {
            "changes": f"{len(model.ids):,}",
            "answers compared": f"{sum(model.requests.values()):,}",
            "distinct bodies compared": f"{distinct:,}",
            "older than acknowledged": str(len(model.older)),
            "torn or mixed": str(len(model.torn) + len(list(wrong_bodies(model)))),
            "p50, p99 under load": f"{percentile(took, 50):.2f} ms, {percentile(took, 99):.2f} ms",
        }


def wrong_bodies(model: Model) -> list[str]:
    """The answers that are not what the model knows."""
    full = [model.recorded.full[event_id] for event_id in model.ids]
    status = [status_of(body) for body in full]
    known = {
        "latest": status,
        "latest, 304": status,
        "by id": status,
        "latest, all": full,
        "by id, all": full,
    }
    wrong = [
        f"{kind}: {body[:200]!r}"
        for kind, bodies in known.items()
        for body in model.bodies.get(kind, set()) - set(bodies)
    ]
    for event_id, digests in model.lists.items():
        place = model.place(event_id)
        expected = (
            b"[" + b",".join(reversed(status[max(0, place + 1 - RETENTION) : place + 1])) + b"]"
        )
        if digests != {hashlib.sha256(expected).digest()}:
            wrong.append(f"list: {len(digests)} bodies with event {place} on top")
    events = [json.loads(body) for body in full]
    for body in model.bodies.get("verdict", set()):
        code, _, text = body.partition(b" ")
        if (int(code), _without_checked_at(json.loads(text))) != _verdict(
            events, json.loads(text)["api"]["message"]
        ):
            wrong.append(f"verdict: {body!r}")
    return wrong


def _without_checked_at(verdict: dict[str, Any]) -> dict[str, Any]:
    """The verdict but for when the check was: the same moment for all services, which only the
    store knows."""
    moments = {verdict[service].pop("checked_at") for service in SERVICES}
    assert len(moments) == 1, moments
    return verdict


def _verdict(events: list[dict[str, Any]], message: str) -> tuple[int, dict[str, Any]]:
    """What the verdict should be, but for when the check was, of the event whose message this
    is."""
    place = int(message.split()[1])
    retained = events[max(0, place + 1 - RETENTION) : place + 1][::-1]
    latest = retained[0]
    verdict: dict[str, Any] = {
        "all_healthy": latest["all_healthy"],
        "stale": False,
        "stale_after_seconds": 86_400,
    }
    for service in SERVICES:
        healthy = latest[f"{service}_status"] == "Healthy"
        since = latest["recorded_at"]
        for event in retained:
            if (event[f"{service}_status"] == "Healthy") != healthy:
                break
            since = event["recorded_at"]
        verdict[service] = {
            "healthy": healthy,
            "message": latest[f"{service}_self_info"],
            "unchanged_since": since,
        }
    return (200 if latest["all_healthy"] else 503), verdict


async def run(
    seconds: float, *, poll_path: bool = True, connections: int = 2, load: bool = False
) -> Outcome:
    """Polls and records for so many seconds. `load` adds as many polls as wrk can send."""
    model = Model()
    with folder() as path:
        store = Valkey(path)
        replica = Replica(
            store, path, retention_events=str(RETENTION), poll_path="on" if poll_path else "off"
        )
        with running(store, replica):
            await _change(model, replica.port)
            until = time.monotonic() + seconds
            refused = (
                asyncio.to_thread(_load, replica.port, int(seconds))
                if load
                else asyncio.sleep(0, 0)
            )
            pollers = [
                _poll(model, replica.port, kind, until)
                for kind in KINDS
                for _ in range(connections)
            ]
            ended = await asyncio.gather(refused, _changes(model, replica.port, until), *pollers)
            return Outcome(model, int(ended[0] or 0))


def _load(port: int, seconds: int) -> int:
    arguments = ["--connections", "32", "--header", READER, f"http://127.0.0.1:{port}{LATEST}"]
    return wrk(arguments, seconds, 0).refused


async def _change(model: Model, port: int) -> None:
    model.ids.append(await record([port], len(model.ids), model.recorded))


async def _changes(model: Model, port: int, until: float) -> None:
    while time.monotonic() < until:
        due = time.monotonic() + random.uniform(0.5, 1.5) / CHANGES_PER_S
        await _change(model, port)
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _poll(model: Model, port: int, kind: str, until: float) -> None:
    line = await Line.open(port)
    poller = Poller(model, line, kind)
    try:
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            while True:
                await KINDS[kind](poller)
    except TimeoutError:
        pass
    finally:
        line.close()


@click.command()
@click.option(
    "--seconds",
    default=30,
    show_default=True,
    help="For how long to poll, with the poll path and without.",
)
def main(seconds: int) -> None:
    """Polls while 20 changes a second are recorded, and compares every answer with a model."""
    failed = False
    for poll_path in (True, False):
        outcome = asyncio.run(
            run(seconds, poll_path=poll_path, load=shutil.which("wrk") is not None)
        )
        click.echo(f"poll path {'on' if poll_path else 'off'}")
        for name, value in outcome.figures.items():
            click.echo(f"  {name:<38} {value}")
        for problem in outcome.problems[:10]:
            click.echo(f"  {problem}", err=True)
        failed = failed or bool(outcome.problems)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
