"""Random histories on several replicas, each answer compared with what it may be.

Run: python -m tests.soak.histories --minutes 10 --seed 1 --seed 2 --seed 3

One driver does everything, one step after the other, by a plan that follows from a seed: it records
through any replica, uses ids again that retention took, makes and revokes API keys, cuts replicas
off one by one, lets a replica write what it cannot read back, takes the store back to an earlier
state, and writes events as another version would. So at each moment it knows exactly what the store
has, and what each replica knows of it. After each step it asks the replicas, and every answer must
be one of these:

- a replica that reaches the store says what the store has, as current;
- a replica that does not says what it knows, marked as stale, or 503; it denies nothing (no 404,
  no 401).
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import click
import orjson
from redis.asyncio import Redis

from service.api.app import make_context
from service.api.server import serving
from service.auth import Role, mint
from service.errors import ApiError, StoreUnavailable
from service.events import Event, Observation, Selector, Status, rfc3339_seconds, uuid7
from service.replica import Replica
from service.sockets import listen
from service.store import Store, connect, open_store
from tests.soak.rig import LATEST, LIST, SERVICES, VERDICT, Valkey, folder, running
from tests.support.api import Api, Got
from tests.support.proxy import Mode, Proxy
from tests.support.settings import READ, WRITE, bearer, make_settings
from tests.support.stores import UnreadableStore
from tests.support.waiting import until

RETENTIONS = (1, 2, 4)
"""Events, one of these for each seed: so few that most of what is recorded is trimmed soon."""
FORMER = "former"
"""A service that is no longer configured."""
HEARTBEAT_S, MAX_STALENESS_S = 0.05, 0.2
SETTINGS = {
    "heartbeat": f"{HEARTBEAT_S}s",
    "max_staleness": f"{MAX_STALENESS_S}s",
    "stale_if_error": "1h",
    "stale_after": "100d",
    "redis_timeout": "2s",
}
SAVED = 3
"""Earlier states of the store that it may be taken back to."""


@dataclass(frozen=True)
class Recorded:
    """An event in the store. One that is not `readable` is in the timeline, and counts as
    trimmed."""

    id: str
    recorded_at: int
    status: bytes
    full: bytes
    readable: bool = True


@dataclass(frozen=True)
class State:
    """All that the store has, or that a replica knows of it. `changes` are numbers, each used
    once."""

    retention: int = 1
    events: tuple[Recorded, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    changes: tuple[int, ...] = ()
    checked_at: int = 0

    @property
    def readable(self) -> list[Recorded]:
        """The events that can be read, newest first."""
        return [event for event in reversed(self.events) if event.readable]

    @property
    def flawed(self) -> bool:
        """Whether the newest event cannot be read."""
        return bool(self.events) and not self.events[-1].readable

    def event(self, event_id: str) -> Recorded | None:
        """The event of that id, if it can be read."""
        return next((event for event in self.readable if event.id == event_id), None)

    def after(self, event: Recorded, change: int) -> "State":
        """The state after one more event."""
        events = (*self.events, event)[-self.retention :]
        checked_at = max(self.checked_at, event.recorded_at)
        return replace(self, events=events, changes=(*self.changes, change), checked_at=checked_at)


@dataclass
class Clock:
    """The clock by which a replica's snapshot ages: it stands still until the replica is cut off,
    however slow the machine is."""

    now: float = 1_000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@dataclass
class Node:
    """One replica. `fresh` is whether what it says must be current (`None`: may be)."""

    name: str
    api: Api
    proxy: Proxy
    clock: Clock
    known: State = field(default_factory=State)
    reaches: bool = True
    readable: bool = True
    fresh: bool | None = True
    counted: float = 0.0
    """The losses that it had found when it last knew what the store has."""
    vague: bool = False
    """Whether it knows an own event, and not what lies before it: its lists are marked, and no more
    is asked of them."""

    @property
    def replica(self) -> Replica:
        """Its snapshot's keeper."""
        return self.api.context.replica

    @property
    def losses(self) -> float:
        """How often it has found that the store lost data."""
        registry = self.replica.metrics.registry
        return registry.get_sample_value("cluster_events_history_divergence_total") or 0.0


@dataclass
class Run:
    """One random history."""

    seed: int
    nodes: list[Node]
    client: "Redis"
    store: Store
    truth: State
    plan: random.Random = field(init=False)
    saved: list[tuple[dict[bytes, bytes], State]] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    """Ids of all events that were ever recorded."""
    revoked: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    steps: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    change: int = 0
    doing: str = ""

    def __post_init__(self) -> None:
        self.plan = random.Random(self.seed)

    # -- the driver --------------------------------------------------------------------------------

    async def step(self) -> None:
        """One step of the plan, and the questions after it."""
        name = self.plan.choices(list(STEPS), [weight for _, weight in STEPS.values()])[0]
        self.doing = name
        self.steps[name] += 1
        try:
            await STEPS[name][0](self)
        except ApiError as error:  # A write of the driver's own that must succeed.
            self.problems.append(f"seed {self.seed}, {name!r} failed: {error}")
        for node in self.nodes:
            await self.settle(node)
            await self.ask(node)

    async def get(self, node: Node, path: str, headers: dict[str, str] = READ) -> Got:
        """An answer. A replica that was cut off may meet one more connection that was reset then:
        it is asked again."""
        answer = await node.api.request("GET", path, headers)
        if answer.status == 503 and node.reaches and node.readable and "error_code" in answer.json:
            answer = await node.api.request("GET", path, headers)
        return answer

    def wrong(self, node: Node, what: str, answer: Got | None = None) -> None:
        """Notes an answer that may not be."""
        said = (
            f": {answer.status} {dict(answer.headers).get('Cluster-Stale')} {answer.body[:300]!r}"
            if answer
            else ""
        )
        self.problems.append(f"seed {self.seed}, after {self.doing!r}, {node.name} {what}{said}")

    async def settle(self, node: Node) -> None:
        """Lets a replica that can read the store know what it has now."""
        if not node.reaches or not node.readable:
            return
        before, counted = node.known, node.counted
        await until(lambda: refreshed(node))
        node.counted = node.losses
        node.known, node.fresh, node.vague = self.truth, not self.truth.flawed, False
        found = node.counted > counted
        if found and before.changes == self.truth.changes[: len(before.changes)]:
            self.wrong(node, "found a loss where there was none")
        if not found and lost(before, self.truth):
            self.wrong(node, "did not find that the store had lost what it knew")

    # -- steps -------------------------------------------------------------------------------------

    def writer(self) -> Node | None:
        """A replica that reaches the store."""
        able = [node for node in self.nodes if node.reaches]
        return self.plan.choice(able) if able else None

    async def record(self) -> None:
        """A new event through any replica, or an id that retention took, or one that is there."""
        node = self.writer()
        if node is None:
            return
        trimmed = [
            event_id
            for event_id in self.used
            if all(event.id != event_id for event in self.truth.events)
        ]
        kind = self.plan.choice(["new", "again", "again", "same", "other"])
        services = self.services()
        if kind == "again" and trimmed:
            await self.post(node, services, self.plan.choice(trimmed[-3:]), 201)
        elif kind in {"same", "other"} and self.truth.readable:
            await self.repeat(node, self.plan.choice(self.truth.readable), same=kind == "same")
        else:
            await self.post(node, services, uuid7(self.plan.randrange(2**40)), 201)

    def services(self) -> dict[str, Observation]:
        """What a check might have seen."""
        statuses = [self.plan.choice(list(Status)) for _ in SERVICES]
        return {
            name: Observation(status, f"info {self.change} of {name}", "")
            for name, status in zip(SERVICES, statuses, strict=True)
        }

    async def post(
        self, node: Node, services: dict[str, Observation], event_id: str, expected: int
    ) -> None:
        """Records an event through a replica, and what it makes of the truth."""
        body: dict[str, Any] = {"id": event_id}
        for name, seen in services.items():
            body |= {f"{name}_status": seen.status, f"{name}_self_info": seen.self_info}
        answer = await self.send(node, body)
        if answer.status != expected:
            self.wrong(node, f"should have answered {expected} to a POST", answer)
        if answer.status == 201:
            event = Event.from_bytes(answer.body)
            self.add(
                Recorded(event_id, event.recorded_at, event.to_bytes(Selector.STATUS), answer.body),
                node,
            )

    async def send(self, node: Node, body: dict[str, Any]) -> Got:
        """The answer to a POST; as in `get`, it is sent again where a connection had been reset."""
        answer = await node.api.request("POST", LIST, WRITE, json=body)
        return (
            await node.api.request("POST", LIST, WRITE, json=body)
            if answer.status == 503
            else answer
        )

    def add(self, event: Recorded, by: Node | None) -> None:
        """Notes an event that was recorded; the replica that recorded it knows of it."""
        self.change += 1
        self.used.append(event.id)
        before, self.truth = self.truth, self.truth.after(event, self.change)
        if by is not None and not by.readable:
            whole = all(
                one.readable for one in before.events
            )  # Else it cannot tell what retention took.
            follows = by.known == before and by.fresh is not False and whole
            by.known = self.truth if follows else by.known.after(event, self.change)
            by.fresh, by.vague = (None, False) if follows else (False, True)

    async def repeat(self, node: Node, event: Recorded, *, same: bool) -> None:
        """An event that is there, again: the same is answered with it, other content is refused."""
        known = json.loads(event.full)
        body = {
            name: value
            for name, value in known.items()
            if name not in {"recorded_at", "all_healthy"}
        }
        body = {
            name: value
            for name, value in body.items()
            if name.partition("_")[0] in {*SERVICES, "id"}
        }
        strange = any(body[f"{name}_status"] not in set(Status) for name in SERVICES)
        if strange:
            return  # A status of another version cannot be POSTed.
        if not same:
            body[f"{SERVICES[0]}_self_info"] += " and more"
        answer = await self.send(node, body)
        if answer.status != (200 if same else 409) or (same and answer.body != event.full):
            self.wrong(node, "answered wrongly to an event that was there", answer)

    async def foreign(self) -> None:
        """An event as another version writes it: with a status or fields that are not known here,
        or unreadable."""
        event, rows = await self.store._build(self.services(), None)
        status, full, readable = self.form(event)
        arguments: dict[str, Any] = {
            "epoch": None,
            "owner": "",
            "stamp": f"{self.plan.getrandbits(64):x}",
        }
        outcome, *_ = await self.store._send(
            event, status, full, seen_latest=rows.latest, checked_at=rows.now, **arguments
        )
        assert outcome == b"APPENDED", outcome
        self.add(Recorded(event.id, event.recorded_at, status, full, readable), None)

    def form(self, event: Event) -> tuple[bytes, bytes, bool]:
        """The bytes of an event in another version's form, and whether they can be read here."""
        status, full = event.to_bytes(Selector.STATUS), event.to_bytes(Selector.ALL)
        kind = self.plan.choice(["status", "field", "service", "junk", "no full body"])
        if kind == "junk":
            return b"not JSON", full, False
        if kind == "no full body":
            return status, b"", False
        forms: dict[str, dict[str, Any]] = {
            "status": {f"{SERVICES[0]}_status": "Transitioning"},
            "field": {"schema": 2, "total_status": 5},
            "service": {f"{FORMER}_status": "Unhealthy"},
        }
        extra = forms[kind]
        return (
            orjson.dumps(orjson.loads(status) | extra),
            orjson.dumps(orjson.loads(full) | extra),
            True,
        )

    async def cut_or_mend(self) -> None:
        """Cuts a replica off from the store, or lets it reach it again."""
        await self.toggle(self.plan.choice(self.nodes))

    async def toggle(self, node: Node) -> None:
        """Cuts off a replica that reaches the store, and mends one that does not."""
        if node.reaches:
            await self.settle(node)
            await node.proxy.set(Mode.REFUSE)
            node.reaches, node.fresh = False, False
            node.clock.now += 2 * MAX_STALENESS_S
            await until(lambda: node.replica.current() is None)
        else:
            await node.proxy.set(Mode.PASS)
            await until(lambda: reads(node))
            node.reaches = True
            await self.settle(node)

    async def own_unread(self) -> None:
        """A replica that cannot read records, perhaps after another; and perhaps the store loses
        that."""
        node = self.writer()
        if node is None or not node.readable:
            return
        await self.settle(node)
        await self.save()
        before = self.truth
        store: Any = node.replica._store
        store.readable = node.readable = False
        node.fresh = None if node.fresh else False
        if (
            flight := node.replica._reads.in_progress()
        ) is not None:  # A reading that began before must not see what comes.
            await asyncio.wait([flight])
        if self.plan.random() < 0.5:
            await self.store_event()
        await self.post(node, self.services(), uuid7(self.plan.randrange(2**40)), 201)
        for one in self.nodes:
            await (self.ask(one) if one is node else self.settle(one))
        if self.plan.random() < 0.5:
            await self.go_back_to(
                next(saved for saved in reversed(self.saved) if saved[1] == before)
            )
        store.readable = node.readable = True

    async def store_event(self) -> None:
        """An event of a writer that is none of the replicas."""
        appended = await self.store.append(self.services())
        event = appended.event
        self.add(Recorded(event.id, event.recorded_at, appended.status, appended.full), None)

    async def key(self) -> None:
        """Makes an API key, or revokes one."""
        self.change += 1
        keys = dict(self.truth.keys)
        if keys and self.plan.random() < 0.5:
            name = self.plan.choice(sorted(keys))
            self.revoked[name] = keys.pop(name)
            await self.store.delete_api_key(name)
        else:
            name = f"key-{self.change}"
            token, stored = mint(name, Role.READ, await self.store.now())
            keys[name] = token
            await self.store.create_api_key(stored)
        self.truth = replace(
            self.truth, keys=tuple(keys.items()), changes=(*self.truth.changes, self.change)
        )

    async def failed_deletion(self) -> None:
        """A deletion of a key that Redis refuses half-way changes nothing."""
        if not self.truth.keys:
            return
        used = self.store.keys.api_keys_used
        kept = await self.client.dump(used)
        await self.client.set(used, "not a hash")
        try:
            await self.store.delete_api_key(self.truth.keys[0][0])
        except StoreUnavailable:
            pass
        else:
            self.problems.append(f"seed {self.seed}: a deletion that cannot be whole succeeded")
        await self.client.delete(used)
        if kept:
            await self.client.restore(used, 0, kept)

    async def held_up_check(self) -> None:
        """A check is noted long after it was made, and none had been for longer."""
        now = await self.store.now()
        await self.client.hset(self.store.keys.meta, "checked_at", now - 600_000_000)
        await self.store.record_check(checked_at=now - 300_000_000)
        self.truth = replace(self.truth, checked_at=now - 300_000_000)

    async def save(self) -> None:
        """Remembers the state of the store."""
        keys = [key async for key in self.client.scan_iter()]
        self.saved.append(({key: await self.client.dump(key) or b"" for key in keys}, self.truth))
        del self.saved[:-SAVED]

    async def go_back(self) -> None:
        """The store is that of a while ago, as after a failover."""
        if self.saved:
            await self.go_back_to(self.plan.choice(self.saved))

    async def failover(self) -> None:
        """The store loses its last change and gets another one, while a replica that knew it is cut
        off."""
        await self.save()
        await self.plan.choice([self.record, self.key])()
        for node in self.nodes:
            await self.settle(node)
        node = self.plan.choice(self.nodes)
        await self.toggle(node)
        await self.go_back_to(self.saved[-1])
        await self.plan.choice([self.record, self.key])()
        await self.toggle(node)

    async def go_back_to(self, saved: tuple[dict[bytes, bytes], State]) -> None:
        """Takes the store back."""
        dumps, state = saved
        async with self.client.pipeline(transaction=True) as pipe:
            pipe.flushdb()
            for key, dump in dumps.items():
                pipe.restore(key, 0, dump)
            await pipe.execute()
        self.truth = state
        self.saved = [one for one in self.saved if len(one[1].changes) <= len(state.changes)]

    async def stream(self) -> None:
        """Lists, then watches from the newest event: everything that is recorded after it comes,
        once, in order."""
        node = self.writer()
        if node is None or not node.readable:
            return
        await self.settle(node)
        listed = await node.api.get(LIST)
        if not listed.json or node.fresh is not True:
            return
        headers = READ | {"Accept": "text/event-stream", "Last-Event-ID": listed.json[0]["id"]}
        async with node.api.client.get(node.api.url + LIST, headers=headers) as answer:
            expected, at_once, missed = [], 0, False
            for _ in range(self.plan.randint(1, 3)):
                await self.store_event()
                expected.append(self.truth.events[-1].id)
                at_once += 1
                missed |= (
                    at_once > self.truth.retention
                )  # Retention may take an event before the replica hears of it.
                if self.plan.random() < 0.7:
                    await self.settle(node)
                    at_once = 0
            got = await frames(answer, expected[-1])
        if got != expected and not (
            missed and "reset" in got and is_part([*filter("reset".__ne__, got)], expected)
        ):
            self.wrong(
                node, f"streamed {got} after {listed.json[0]['id']}, recorded were {expected}"
            )
        await self.settle(node)

    # -- questions ---------------------------------------------------------------------------------

    async def ask(self, node: Node) -> None:
        """Some of all questions, in random order."""
        questions: list[Callable[[Node], Awaitable[None]]] = [
            self.ask_latest,
            self.ask_list,
            self.ask_page,
            self.ask_event,
            self.ask_event,
            self.ask_verdict,
            self.ask_key,
            self.ask_former,
        ]
        for question in self.plan.sample(questions, 5):
            self.asked += 1
            await question(node)

    def judged(
        self, node: Node, what: str, answer: Got, expected: bytes | None, missing: str | None = None
    ) -> None:
        """Holds an answer against the bytes that it should have, or the error where there are
        none."""
        stale = answer.headers.get("Cluster-Stale") == "store-unreachable"
        if (
            answer.status == 503
            and node.fresh is not True
            and answer.json.get("error_code") == "StoreUnavailable"
        ):
            if expected is not None and node.reaches and node.readable and not self.truth.flawed:
                self.wrong(node, f"{what}: does not know what it should", answer)
            return
        if answer.status == 200 and stale is bool(node.fresh) and node.fresh is not None:
            self.wrong(node, f"{what}: marked wrongly", answer)
        if (
            node.vague
            and answer.status == 200
            and (expected is None or answer.body.startswith(b"["))
        ):
            return  # Another event may have pushed out what it still has.
        if expected is not None and (answer.status, answer.body) != (200, expected):
            self.wrong(node, f"{what}: should be {expected!r}", answer)
        if expected is None and (
            answer.status == 200 or answer.json.get("error_code") != missing or node.fresh is False
        ):
            self.wrong(node, f"{what}: should be {missing}, or not known", answer)

    async def ask_latest(self, node: Node) -> None:
        """The latest event."""
        selector = self.plan.choice(list(Selector))
        answer = await self.get(node, f"{LATEST}?selector={selector}")
        newest = next(iter(node.known.readable), None)
        expected = bytes_of(newest, selector) if newest is not None else None
        self.judged(node, f"latest {selector}", answer, expected, "NoClusterMonitorEventsAvailable")
        checked_at = answer.headers.get("Cluster-Checked-At")
        if answer.status == 200 and node.fresh and checked_at not in around(self.truth.checked_at):
            self.wrong(
                node,
                f"says {checked_at}, the check was at {rfc3339_seconds(self.truth.checked_at)}",
                answer,
            )

    async def ask_list(self, node: Node) -> None:
        """The whole list."""
        query, selector = self.plan.choice(
            [("", Selector.STATUS), *((f"?selector={one}", one) for one in Selector)],
        )
        answer = await self.get(node, LIST + query)
        expected = (
            b"[" + b",".join(bytes_of(event, selector) for event in node.known.readable) + b"]"
        )
        self.judged(node, f"list {selector}", answer, expected)

    async def ask_page(self, node: Node) -> None:
        """What is older than some event."""
        before = self.plan.choice(self.used) if self.used else uuid7(1)
        answer = await self.get(node, f"{LIST}?limit=10&before={before}")
        known = node.known.event(before)
        older = node.known.readable
        expected = None
        if known is not None:
            older = older[older.index(known) + 1 :]
            expected = b"[" + b",".join(event.status for event in older) + b"]"
        self.judged(node, f"page before {before}", answer, expected, "UnknownClusterMonitorEvent")

    async def ask_event(self, node: Node) -> None:
        """Some event that was ever recorded, by anybody."""
        recent = self.used[-2 * self.truth.retention :]
        event_id = self.plan.choice(recent or [uuid7(1)])
        selector = self.plan.choice(list(Selector))
        answer = await self.get(node, f"{LIST}/{event_id}?selector={selector}")
        event = node.known.event(event_id)
        expected = bytes_of(event, selector) if event is not None else None
        self.judged(node, f"{event_id} {selector}", answer, expected, "UnknownClusterMonitorEvent")

    async def ask_verdict(self, node: Node) -> None:
        """The verdict: never healthy on what is stale or not known."""
        answer = await self.get(node, VERDICT)
        newest = next(iter(node.known.readable), None)
        if newest is None or answer.json.get("error_code"):
            expected = (
                newest.status if newest is not None else None
            )  # No error but 503 of a replica that does not know.
            self.judged(node, "verdict", answer, expected, "NoClusterMonitorEventsAvailable")
            return
        seen = json.loads(newest.status)
        healthy = all(seen[f"{name}_status"] == "Healthy" for name in SERVICES)
        stale = answer.json["stale"]
        fine = answer.status == (200 if healthy and not stale else 503)
        if not fine or (node.fresh is not None and stale is node.fresh):
            self.wrong(node, f"verdict on {newest.status!r}, fresh: {node.fresh}", answer)
        for name in SERVICES:
            if answer.json[name]["healthy"] != (seen[f"{name}_status"] == "Healthy"):
                self.wrong(node, f"verdict of {name} on {newest.status!r}", answer)

    async def ask_key(self, node: Node) -> None:
        """A request with an API key that is good, revoked, or not known yet."""
        tokens = list(dict(self.truth.keys).values()) + list(self.revoked.values())[-3:]
        if not tokens:
            return
        token = self.plan.choice(tokens)
        answer = await self.get(node, f"{LIST}?limit=1", bearer(token))
        known = token in dict(node.known.keys).values()
        allowed = (
            {200, 503}
            if known
            else {503, 401}
            if node.fresh is None
            else {401}
            if node.fresh
            else {503}
        )
        if known and node.fresh:
            allowed = {200}
        if answer.status not in allowed:
            self.wrong(
                node,
                f"answered a key that is {'known' if known else 'not known'}, fresh: {node.fresh}",
                answer,
            )

    async def ask_former(self, node: Node) -> None:
        """Events in which a service that is no longer configured was unhealthy."""
        answer = await self.get(node, f"{LIST}?service={FORMER}&status=Unhealthy")
        found = [
            event for event in node.known.readable if f'"{FORMER}_status"'.encode() in event.status
        ]
        self.judged(
            node, "former", answer, b"[" + b",".join(event.status for event in found) + b"]"
        )


STEPS: dict[str, tuple[Callable[[Run], Awaitable[None]], int]] = {
    "record": (Run.record, 10),
    "foreign": (Run.foreign, 4),
    "key": (Run.key, 8),
    "cut or mend": (Run.cut_or_mend, 6),
    "own unread": (Run.own_unread, 4),
    "save": (Run.save, 4),
    "go back": (Run.go_back, 2),
    "failover": (Run.failover, 3),
    "stream": (Run.stream, 2),
    "held-up check": (Run.held_up_check, 1),
    "failed deletion": (Run.failed_deletion, 1),
}
"""And how often each comes, relative to the others."""


def lost(known: State, truth: State) -> bool:
    """Whether a replica that knew one state must find that the store, with another, has lost
    something."""
    if known.changes == truth.changes[: len(known.changes)]:
        return False
    if len(truth.changes) <= len(known.changes):
        return True
    oldest = min((event.recorded_at for event in truth.events), default=0)
    present = {(event.id, event.recorded_at) for event in truth.events}
    return any(
        event.readable
        and event.recorded_at > oldest
        and (event.id, event.recorded_at) not in present
        for event in known.events
    )


def is_part(some: Sequence[str], of: Sequence[str]) -> bool:
    """Whether some are among others, in their order."""
    others = iter(of)
    return all(one in others for one in some)


def bytes_of(event: Recorded, selector: Selector) -> bytes:
    """An event under a selector."""
    return event.status if selector is Selector.STATUS else event.full


def around(us: int) -> set[str]:
    """The second of a time, and those next to it."""
    return {rfc3339_seconds(us + seconds * 1_000_000) for seconds in (-1, 0, 1)}


async def frames(answer: aiohttp.ClientResponse, last: str) -> list[str]:
    """The ids of a stream up to the last that is expected, and `reset` where it says so."""
    got: list[str] = []
    async with asyncio.timeout(10):
        async for line in answer.content:
            if line.startswith(b"event: reset"):
                got.append("reset")
            if line.startswith(b"id: "):
                got.append(line[4:-1].decode())
                if got[-1] == last:
                    break
    return got


async def refreshed(node: Node) -> bool:
    """Whether a replica could read the store anew. Its first attempt after an outage may meet a
    connection that was reset."""
    try:
        await node.replica.refresh_after_now()
    except StoreUnavailable:
        return False
    return True


async def reads(node: Node) -> bool:
    """Whether a replica reaches its store again."""
    try:
        await Store.read(node.replica._store)
    except StoreUnavailable:
        return False
    return True


@asynccontextmanager
async def rig(seed: int, url: str, count: int = 3) -> AsyncIterator[Run]:
    """Replicas of an empty store at a URL, each behind a proxy of its own."""
    client = connect(url, 2.0)
    await client.flushall()
    retention = RETENTIONS[seed % len(RETENTIONS)]
    settings = SETTINGS | {"retention_events": retention}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        store = open_store(make_settings(redis_url=url, **settings))
        stack.push_async_callback(store.aclose)
        nodes = []
        for number in range(count):
            proxy = await stack.enter_async_context(Proxy(url.removesuffix("/0")).running())
            state = make_context(make_settings(redis_url=proxy.url, **settings))
            state.replica._store.__class__ = UnreadableStore
            state.replica.monotonic = clock = Clock()
            sock = listen("127.0.0.1", 0)
            front = await stack.enter_async_context(serving(state, sock))
            host, port = sock.getsockname()[:2]
            api = Api(state, front, host, port, http, store)
            nodes.append(Node("ABCDE"[number], api, proxy, clock))
        yield Run(seed, nodes, client, store, State(retention))


async def run(
    seed: int, url: str, *, steps: int = 0, seconds: float = 0.0, most_problems: int = 1
) -> Run:
    """One history of so many steps, or for so many seconds, until there are problems."""
    async with rig(seed, url) as history:
        ends = time.monotonic() + seconds
        done = 0
        while len(history.problems) < most_problems and (done < steps or time.monotonic() < ends):
            await history.step()
            done += 1
    return history


@click.command()
@click.option("--minutes", default=1.0, show_default=True, help="How long each seed runs.")
@click.option(
    "--seed", "seeds", multiple=True, type=int, help="A history; the same again for the same seed."
)
def main(minutes: float, seeds: Sequence[int]) -> None:
    """Random histories against a model; exits with 1 if an answer was wrong."""
    wrong = 0
    for seed in seeds or [random.randrange(1_000_000)]:
        with folder() as path, running(store := Valkey(path)):
            history = asyncio.run(run(seed, store.url, seconds=60 * minutes, most_problems=5))
        steps = ", ".join(f"{name} {count}" for name, count in sorted(history.steps.items()))
        losses = sum(node.losses for node in history.nodes)
        click.echo(
            f"seed {seed}: {history.asked:,} answers, {len(history.problems)} wrong, "
            f"{losses:g} losses; {steps}"
        )
        for problem in history.problems:
            click.echo(f"  {problem}", err=True)
        wrong += len(history.problems)
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
