"""Server-sent events: each recorded event to everybody who watches.

A watcher is a small object with a place in the history (the last event that it got or did not
select), not a task with a queue. At a change the frames are made once and written to all watchers
that are up to date. A slow client is left where it is: when it can take more, it goes on from its
place, and if its place is no longer retained, it gets a `reset` and all that is. So no client waits
for another, and what is kept for a slow one is never more than its connection's buffer.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Protocol

from service.api.http.headers import CACHE_CONTROL, COMMON_HEADERS, CONTENT_TYPE, VARY
from service.errors import StoreUnavailable
from service.events import Selector
from service.replica.event_filter import Selection, position
from service.replica.replica import Replica
from service.replica.snapshot import Change, Snapshot
from service.store import Entry
from service.tasks import cancel_and_wait, spawn_guarded

KEEP_ALIVE_S = 15.0
"""Seconds between two signs of life: proxies end connections that are silent for a minute."""
RETRY_MS = (1_000, 5_000)
"""After how long clients come back from a stream that ended: spread, so that they do not all come
at once."""
BATCH = 64
"""Events that a client that catches up is given at one turn of the loop; full ones are asked for
together."""
PER_TURN = 16
"""Watchers that are written to at one turn of the loop, some 10 µs each: polls are answered in
between."""
RECHECK_S = 86_400.0
"""The most seconds until it is looked again whether a credential has expired: timers do not reach
into the next century."""
PAUSE_S = 0.5
"""Before full events are asked for again, where the store does not answer."""

RESET = b"event: reset\ndata: {}\n\n"
# Lines of their own, without the empty line that ends an event: some clients would make an event of
# nothing of it.
COMMENT = b":\n"


class Client(Protocol):
    """The connection of a watcher."""

    @property
    def paused(self) -> bool:
        """Whether it takes no more for now."""

    def write(self, data: bytes) -> None:
        """Sends bytes, unless the client has gone."""

    def close(self) -> None:
        """Ends the connection when everything is sent."""


def head(wall: float, more: bytes = b"") -> bytes:
    """The head of a stream, and when to come back after it. The stream ends with the connection.

    `more` are further header fields, each line begun by its line break.
    """
    fields = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
        (VARY, "Accept, Accept-Encoding, Authorization"),
        ("X-Accel-Buffering", "no"),  # nginx would hold back frames until its buffer is full.
        *COMMON_HEADERS,
        ("Date", formatdate(wall, usegmt=True)),
        ("Connection", "close"),
    ]
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join(lines).encode() + more + b"\r\n\r\n" + _retry()


def frame(event_id: str, body: bytes) -> bytes:
    """One event. JSON as it is made here has no line feeds, so its data is one line."""
    return b"id: %s\ndata: %s\n\n" % (event_id.encode(), body)


def _retry() -> bytes:
    return b"retry: %d\n" % random.randint(*RETRY_MS)  # noqa: S311  # Spreading, not secrecy.


class Watcher:
    """One stream."""

    __slots__ = (
        "_catching_up",
        "_client",
        "_replica",
        "last_sent_at",
        "last_sent_id",
        "seconds_left",
        "selection",
    )

    def __init__(
        self,
        replica: Replica,
        client: Client,
        selection: Selection,
        last_sent_id: str,
        seconds_left: Callable[[], float],
    ) -> None:
        """`last_sent_id` is the id of the last event that the client has or does not want, ''
        before the first.

        `seconds_left` says for how long the client may go on; 0 ends the stream.
        """
        self.seconds_left = seconds_left
        self.selection = selection
        self.last_sent_id = last_sent_id
        self.last_sent_at = 0
        """When that event was recorded (µs), 0 if only the client knows: its id may be used again
        once it is trimmed."""
        self._replica = replica
        self._client = client
        self._catching_up: asyncio.Task[None] | None = None

    def deliver(self, frames: bytes, last_sent_id: Entry) -> None:
        """Writes what follows its place, unless the client is behind: then `_catch_up` will write
        it.

        `frames` are those of the selected events up to the event `last_sent_id`.
        """
        if self._catching_up is None and not self._client.paused:
            if frames:
                self._client.write(frames)
            self._advance_to(last_sent_id)

    def _advance_to(self, last_sent_id: Entry) -> None:
        self.last_sent_id, self.last_sent_at = last_sent_id.id, last_sent_id.recorded_at

    def _is_retained(self, snapshot: Snapshot) -> bool:
        """Whether its place is retained, as the event that it was."""
        entry = snapshot.by_id.get(self.last_sent_id)
        return entry is not None and self.last_sent_at in {0, entry.recorded_at}

    def comment(self) -> None:
        """Writes the keep-alive comment."""
        if not self._client.paused:
            self._client.write(COMMENT)

    def resume(self) -> None:
        """Writes what the client does not have, as far as it takes it."""
        if self._catching_up is None and not self._client.paused:
            self._catching_up = asyncio.create_task(self._catch_up(), name="stream-catching-up")

    def stop(self) -> None:
        """Writes nothing more."""
        if self._catching_up is not None:
            self._catching_up.cancel()

    def close(self) -> None:
        """Ends the stream, with a time of its own to come back."""
        self.stop()
        self._client.write(_retry())
        self._client.close()

    async def _catch_up(self) -> None:
        try:
            while (
                self._takes_more()
                and (snapshot := self._replica.snapshot) is not None
                and not snapshot.provisional
            ):
                try:
                    if self.last_sent_id and not self._is_retained(snapshot):
                        await self._find_last_sent()
                        continue
                    missing = self._missing(snapshot)
                    if not missing:
                        return
                    wanted = [entry for entry in missing if self.selection.selects(entry)]
                    bodies = await self._bodies(snapshot, wanted)
                except StoreUnavailable:
                    await asyncio.sleep(PAUSE_S)
                    continue
                for entry in missing:
                    if not self._takes_more():
                        break
                    if (body := bodies.get(entry.id)) is not None:
                        self._client.write(frame(entry.id, body))
                    self._advance_to(entry)
                await asyncio.sleep(
                    0
                )  # Of events that are not selected there may be many, and none makes it wait.
        finally:
            self._catching_up = None

    def _missing(self, snapshot: Snapshot) -> Sequence[Entry]:
        """The next events after its place, oldest first."""
        entries = self._replica.retained(snapshot)
        newer = (
            position(entries, snapshot.by_id[self.last_sent_id])
            if self.last_sent_id
            else len(entries)
        )
        return entries[max(newer - BATCH, 0) : newer][::-1]

    async def _find_last_sent(self) -> None:
        """Says that the place is lost, unless the store has it: the client may come from a replica
        that was ahead of us."""
        snapshot = await self._replica.refresh_after_now()
        if not self._is_retained(snapshot):
            self._client.write(RESET)
            self.last_sent_id, self.last_sent_at = "", 0

    def _takes_more(self) -> bool:
        return not self._client.paused and self.seconds_left() > 0

    async def _bodies(
        self, snapshot: Snapshot, entries: Sequence[Entry]
    ) -> dict[str, bytes | None]:
        if self.selection.selector is Selector.STATUS:
            return {entry.id: entry.status for entry in entries}
        return await self._replica.fulls(snapshot, entries)


class ChangeFrames:
    """What one change brings, as frames. They are made when a watcher first needs them, and once
    for all who want the same events: clients that each select in a way of their own add a
    comparison each, not a copy.
    """

    def __init__(
        self, replica: Replica, snapshot: Snapshot, entries: Sequence[Entry] | None
    ) -> None:
        """`entries` are what is new, oldest first, or `None` if that is not known."""
        self._replica = replica
        self._snapshot = snapshot
        self._entries = entries
        self._selected: dict[Selection, bytes | None] = {}
        self._made: dict[tuple[Selector, tuple[Entry, ...]], bytes | None] = {}

    def frames(self, selection: Selection) -> bytes | None:
        """The frames of the selected events, or `None` if something may be missing, or must be read
        from the store."""
        if self._entries is None:
            return None
        if selection not in self._selected:
            key = selection.selector, tuple(filter(selection.selects, self._entries))
            if key not in self._made:
                self._made[key] = self._make(*key)
            self._selected[selection] = self._made[key]
        return self._selected[selection]

    def _make(self, selector: Selector, entries: Sequence[Entry]) -> bytes | None:
        frames = []
        for entry in entries:
            status = selector is Selector.STATUS
            body = entry.status if status else self._replica.full_in_memory(self._snapshot, entry)
            if body is None:
                return None
            frames.append(frame(entry.id, body))
        return b"".join(frames)


class Watchers:
    """Everybody who watches on this process."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._all: dict[Watcher, asyncio.TimerHandle | None] = {}
        """Each stream and the timer for the end of its credential, in the order in which the
        streams began.

        Every change is written to the streams in this order, so each stream gets two changes in
        their order."""
        self._keep_alive: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._all)

    def add(
        self,
        client: Client,
        selection: Selection,
        last_event_id: str | None,
        more: bytes = b"",
        *,
        seconds_left: Callable[[], float] = lambda: float("inf"),
    ) -> Watcher:
        """Begins a stream: with what was recorded after `last_event_id`, or from now on. `more`
        goes to its head.

        `seconds_left` says for how long the client may go on. It is called when that time is over,
        and at each change and each keep-alive comment.
        """
        last_sent_id = (
            last_event_id if last_event_id is not None else _latest_id(self._replica.snapshot)
        )
        watcher = Watcher(self._replica, client, selection, last_sent_id, seconds_left)
        self._all[watcher] = None
        client.write(head(self._replica.wall(), more))
        if self._closed:  # The process is about to stop: the client comes back to another.
            watcher.close()
            return watcher
        watcher.resume()
        self._until_expiry(watcher)
        if self._keep_alive is None:
            self._keep_alive = spawn_guarded(self._comment(), "stream-keep-alive")
        return watcher

    def discard(self, watcher: Watcher) -> None:
        """The client has gone."""
        watcher.stop()
        if (timer := self._all.pop(watcher, None)) is not None:
            timer.cancel()

    def changed(self, change: Change) -> None:
        """Writes what is new to all who have everything else; the others go on in their own
        time."""
        if change.before is change.after or change.after.provisional or not self._all:
            return
        before, latest = _latest_id(change.before), change.after.latest
        frames_of_change = ChangeFrames(
            self._replica,
            change.after,
            newer_than(change.after.entries, before) if change.continuous else None,
        )

        def tell(watcher: Watcher) -> None:
            new = frames_of_change.frames(watcher.selection)
            if new is not None and latest is not None and watcher.last_sent_id == before:
                watcher.deliver(new, latest)
            else:
                watcher.resume()

        self._for_all(tell)

    def end_invalid(self) -> None:
        """Ends the streams whose credentials are good no more."""
        self._for_all(lambda _: None)

    def end_all(self) -> None:
        """Ends the streams that there are; their clients come back."""
        for watcher in list(self._all):
            watcher.close()

    async def close(self) -> None:
        """Ends all streams, those that are yet to begin as well."""
        self._closed = True
        self.end_all()
        if self._keep_alive is not None:
            keep_alive, self._keep_alive = self._keep_alive, None
            await cancel_and_wait(keep_alive)

    def _for_all(self, work: Callable[[Watcher], None]) -> None:
        """Does something for everybody who is here now, a few at a turn; ends the streams whose
        credentials are over."""
        watchers, loop = list(self._all), asyncio.get_running_loop()

        def turn(start: int) -> None:
            for watcher in watchers[start : start + PER_TURN]:
                if watcher not in self._all:
                    continue
                if watcher.seconds_left():
                    work(watcher)
                else:
                    self._end(watcher)
            if start + PER_TURN < len(watchers):
                loop.call_soon(turn, start + PER_TURN)

        turn(0)

    def _until_expiry(self, watcher: Watcher) -> None:
        """Ends a stream whose credential is good no more, else looks again when it expires."""
        left = watcher.seconds_left()
        if not left:
            self._end(watcher)
        elif left < float("inf"):
            loop = asyncio.get_running_loop()
            self._all[watcher] = loop.call_later(min(left, RECHECK_S), self._until_expiry, watcher)

    def _end(self, watcher: Watcher) -> None:
        self.discard(watcher)
        watcher.close()

    async def _comment(self) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            self._for_all(Watcher.comment)


def newer_than(entries: Sequence[Entry], event_id: str) -> list[Entry]:
    """The events before (newer than) that of the id, oldest first; all if it is not among them.
    `entries` is newest first."""
    newer: list[Entry] = []
    for entry in entries:
        if entry.id == event_id:
            break
        newer.append(entry)
    newer.reverse()
    return newer


def _latest_id(snapshot: Snapshot | None) -> str:
    return snapshot.latest.id if snapshot is not None and snapshot.latest is not None else ""
