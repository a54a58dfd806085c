"""Event streams: each recorded event is sent to all clients that watch (Server-sent events).

A watcher is a small object with a position in the history: the last event that was sent to it, or
that its selection left out. It has no queue, and a task only while it catches up. At a change, the
frames are made once and written to all watchers that are up to date. A slow watcher is skipped and
later resumes from its position; if that event is no longer retained, its client gets a `reset` and
all retained events. Per client, only the transport's buffer is kept.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from service.api.live.event_frames import COMMENT, RESET, ChangeFrames, frame, head, retry
from service.api.live.turns import in_turns
from service.errors import StoreUnavailable
from service.events import Selector
from service.replica import Change, Replica, Snapshot
from service.replica.event_filter import Selection, position
from service.store import Entry
from service.tasks import cancel_and_wait, spawn_guarded

KEEP_ALIVE_S = 15.0
"""Seconds between two comments (contract): proxies close connections that are silent for 60 s."""
BATCH = 64
"""Events that a resuming watcher gets in one turn of the event loop. Full events of a batch are
read from the store together."""
PER_TURN = 16
"""Watchers that are written to in one turn of the event loop. Each takes some 10 µs."""
RECHECK_S = 86_400.0
"""The maximum seconds of a timer for the end of a credential: asyncio's timers are limited."""
PAUSE_S = 0.5
"""Seconds before full events are read again when the store does not respond."""


class Client(Protocol):
    """The connection of a watcher."""

    @property
    def paused(self) -> bool:
        """Whether the write buffer is full."""

    def write(self, data: bytes) -> None:
        """Sends bytes, unless the connection is closing."""

    def close(self) -> None:
        """Closes the connection when everything is sent."""


class Watcher:
    """One event stream."""

    __slots__ = (
        "_client",
        "_replica",
        "_resuming",
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
        """`last_sent_id` is the last event that the client got or does not select; '' for none.

        `seconds_left` returns for how long the client's credential is valid; 0 ends the stream.
        """
        self.seconds_left = seconds_left
        self.selection = selection
        self.last_sent_id = last_sent_id
        self.last_sent_at = 0
        """The recorded_at of that event (µs); 0 if only the client knows it. An id may be used
        again once its event is trimmed."""
        self._replica = replica
        self._client = client
        self._resuming: asyncio.Task[None] | None = None

    def send(self, frames: bytes, latest: Entry) -> None:
        """Writes the frames after the last event sent, unless the client is behind.

        `frames` are those of the selected events up to `latest`. A client that is behind gets them
        from its `resume`.
        """
        if self._resuming is None and not self._client.paused:
            if frames:
                self._client.write(frames)
            self._advance_to(latest)

    def comment(self) -> None:
        """Writes the keep-alive comment."""
        if not self._client.paused:
            self._client.write(COMMENT)

    def resume(self) -> None:
        """Writes the events that the client does not have, until its write buffer is full."""
        if self._resuming is None and not self._client.paused:
            self._resuming = asyncio.create_task(self._resume(), name="stream-resume")

    def stop(self) -> None:
        """Ends a running `resume`."""
        if self._resuming is not None:
            self._resuming.cancel()

    def close(self) -> None:
        """Ends the stream. The client gets a random time to reconnect."""
        self.stop()
        self._client.write(retry())
        self._client.close()

    async def _resume(self) -> None:
        try:
            while self._can_send():
                snapshot = self._replica.snapshot
                if snapshot is None or snapshot.provisional:
                    return
                try:
                    if self.last_sent_id and not self._is_retained(snapshot):
                        await self._reset_unless_stored()
                        continue
                    missing = self._missing(snapshot)
                    if not missing:
                        return
                    selected = [entry for entry in missing if self.selection.selects(entry)]
                    bodies = await self._bodies(snapshot, selected)
                except StoreUnavailable:
                    await asyncio.sleep(PAUSE_S)
                    continue
                for entry in missing:
                    if not self._can_send():
                        break
                    if (body := bodies.get(entry.id)) is not None:
                        self._client.write(frame(entry.id, body))
                    self._advance_to(entry)
                # Events that are not selected fill no buffer: without this, many of them would
                # block the event loop.
                await asyncio.sleep(0)
        finally:
            self._resuming = None

    def _can_send(self) -> bool:
        return not self._client.paused and self.seconds_left() > 0

    def _advance_to(self, entry: Entry) -> None:
        self.last_sent_id, self.last_sent_at = entry.id, entry.recorded_at

    def _is_retained(self, snapshot: Snapshot) -> bool:
        """Whether the last event sent is retained, as the event that it was."""
        entry = snapshot.by_id.get(self.last_sent_id)
        return entry is not None and self.last_sent_at in {0, entry.recorded_at}

    async def _reset_unless_stored(self) -> None:
        """Writes `reset`, unless the store has the last event sent.

        The client may have been connected to a replica that was ahead of this one.
        """
        snapshot = await self._replica.refresh_after_now()
        if not self._is_retained(snapshot):
            self._client.write(RESET)
            self.last_sent_id, self.last_sent_at = "", 0

    def _missing(self, snapshot: Snapshot) -> Sequence[Entry]:
        """The next events after the last one sent, oldest first."""
        entries = self._replica.retained(snapshot)
        newer = len(entries)
        if self.last_sent_id:
            newer = position(entries, snapshot.by_id[self.last_sent_id])
        return entries[max(newer - BATCH, 0) : newer][::-1]

    async def _bodies(
        self, snapshot: Snapshot, entries: Sequence[Entry]
    ) -> dict[str, bytes | None]:
        if self.selection.selector is Selector.STATUS:
            return {entry.id: entry.status for entry in entries}
        return await self._replica.fulls(snapshot, entries)


class Watchers:
    """The event streams of one process."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._all: dict[Watcher, asyncio.TimerHandle | None] = {}
        """Each stream, and the timer for the end of its credential, in the order of beginning.

        Every change is written in this order: each stream gets changes in the order in which they
        happened."""
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
        """Begins a stream with the events after `last_event_id`, or with new ones if it is `None`.

        `more` are further header fields. `seconds_left` returns for how long the credential is
        valid. It is called when that time is over, at each change and at each keep-alive comment.
        """
        last_sent_id = last_event_id
        if last_sent_id is None:
            last_sent_id = _latest_id(self._replica.snapshot)
        watcher = Watcher(self._replica, client, selection, last_sent_id, seconds_left)
        self._all[watcher] = None
        client.write(head(self._replica.wall(), more))
        if self._closed:  # The process is ending: the client reconnects to another one.
            watcher.close()
            return watcher
        watcher.resume()
        self._end_at_expiry(watcher)
        if self._keep_alive is None:
            self._keep_alive = spawn_guarded(self._comment(), "stream-keep-alive")
        return watcher

    def discard(self, watcher: Watcher) -> None:
        """Forgets a stream whose connection is closed."""
        watcher.stop()
        if (timer := self._all.pop(watcher, None)) is not None:
            timer.cancel()

    def changed(self, change: Change) -> None:
        """Writes new events to all watchers that are up to date; the others resume."""
        if change.before is change.after or change.after.provisional or not self._all:
            return
        before, latest = _latest_id(change.before), change.after.latest
        new = newer_than(change.after.entries, before) if change.continuous else None
        change_frames = ChangeFrames(self._replica, change.after, new)

        def notify(watcher: Watcher) -> None:
            frames = change_frames.frames(watcher.selection)
            if frames is not None and latest is not None and watcher.last_sent_id == before:
                watcher.send(frames, latest)
            else:
                watcher.resume()

        self._for_all(notify)

    def end_invalid(self) -> None:
        """Ends the streams whose credentials are no longer valid."""
        self._for_all(lambda _: None)

    def end_all(self) -> None:
        """Ends all current streams. Their clients reconnect."""
        for watcher in list(self._all):
            watcher.close()

    async def close(self) -> None:
        """Ends all streams, also those that begin later."""
        self._closed = True
        self.end_all()
        if self._keep_alive is not None:
            keep_alive, self._keep_alive = self._keep_alive, None
            await cancel_and_wait(keep_alive)

    def _for_all(self, work: Callable[[Watcher], None]) -> None:
        """Does something for every current stream, and ends those without a valid credential."""

        def check_and_work(watcher: Watcher) -> None:
            if watcher not in self._all:  # Its connection was closed in an earlier turn.
                return
            if watcher.seconds_left():
                work(watcher)
            else:
                self._end(watcher)

        in_turns(self._all, check_and_work, PER_TURN)

    def _end_at_expiry(self, watcher: Watcher) -> None:
        """Ends a stream when its credential expires."""
        left = watcher.seconds_left()
        if not left:
            self._end(watcher)
        elif left < float("inf"):
            loop = asyncio.get_running_loop()
            timer = loop.call_later(min(left, RECHECK_S), self._end_at_expiry, watcher)
            self._all[watcher] = timer

    def _end(self, watcher: Watcher) -> None:
        self.discard(watcher)
        watcher.close()

    async def _comment(self) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            self._for_all(Watcher.comment)


def newer_than(entries: Sequence[Entry], event_id: str) -> list[Entry]:
    """The events that are newer than the one with that id, oldest first.

    `entries` is newest first. All are returned if none has the id.
    """
    newer: list[Entry] = []
    for entry in entries:
        if entry.id == event_id:
            break
        newer.append(entry)
    newer.reverse()
    return newer


def _latest_id(snapshot: Snapshot | None) -> str:
    if snapshot is None or snapshot.latest is None:
        return ""
    return snapshot.latest.id
