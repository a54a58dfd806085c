"""The verdict of `cluster_healthz`: a pure renderer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from service.api.responses.contents import etag_of
from service.api.responses.model import Content
from service.events import Observation, Status, observations, rfc3339, rfc3339_seconds
from service.replica import CurrentOrStale
from service.store import Entry


@dataclass(slots=True)
class VerdictRenderer:
    """Renders the verdict about the configured services.

    `stale_after_s` is the time without a completed check after which the verdict is stale.
    """

    services: Sequence[str]
    stale_after_s: float
    _entries: Sequence[Entry] = ()
    _since: Mapping[str, int] | None = None

    def render(self, reading: CurrentOrStale, latest: Entry, known: Content | None) -> Content:
        """The verdict: 200 if all services are healthy and that is current, else 503.

        `latest` is the newest event. `known` is reused if it is up to date.
        """
        snapshot, silent = reading.snapshot, reading.replica.monitor_silent(reading.snapshot)
        current = reading.age is None
        source = snapshot.version, snapshot.entries, snapshot.checked_at, current, silent
        if known is not None and known.source == source:
            return known
        reason = _why_stale(reading, silent=silent)
        observed = observations(snapshot.latest_all or latest.status)
        since = self._unchanged_since(reading.entries)
        checked_at = rfc3339(snapshot.checked_at or latest.recorded_at)
        all_healthy = reason is None and all(_healthy(observed.get(name)) for name in self.services)
        verdict: dict[str, object] = {
            "all_healthy": all_healthy,
            "stale": reason is not None,
            "stale_after_seconds": max(1, round(self.stale_after_s)),
        }
        for name in self.services:
            observation = observed.get(name)
            verdict[name] = {
                "healthy": _healthy(observation),
                "message": _message(observation, reason),
                "unchanged_since": rfc3339(since.get(name, latest.recorded_at)),
                "checked_at": checked_at,
            }
        # A weak tag: verdicts that differ in the time of the check only are equivalent.
        tagged = orjson.dumps([latest.id, reason, since])
        status = 200 if all_healthy else 503
        return Content(source, orjson.dumps(verdict), f"W/{etag_of(tagged)}", status)

    def _unchanged_since(self, entries: Sequence[Entry]) -> Mapping[str, int]:
        """See `unchanged_since`, which may read all events: kept while the events are the same."""
        if self._since is None or self._entries is not entries:
            self._since = unchanged_since(entries, self.services)
            self._entries = entries
        return self._since


def _healthy(observation: Observation | None) -> bool:
    return observation is not None and observation.healthy


def _message(observation: Observation | None, reason: str | None) -> str:
    """The service's message. A stale one says so in front, for clients that read bodies only."""
    message = "The latest event does not mention this service."
    if observation is not None:
        message = observation.self_info
    return f"{reason} Last known: {message}" if reason else message


def _why_stale(reading: CurrentOrStale, *, silent: bool) -> str | None:
    if reading.age is not None:
        return "The store cannot be reached, so the current state is not known."
    if silent:
        checked_at = reading.snapshot.checked_at
        when = f"since {rfc3339_seconds(checked_at)}" if checked_at else "yet"
        return f"No check has been completed {when}: the monitor may be down."
    return None


def unchanged_since(entries: Sequence[Entry], services: Sequence[str]) -> dict[str, int]:
    """For each service, since when (µs) it is as healthy or unhealthy as in the newest event.

    That is the recorded_at of the oldest event in the unbroken run, from the newest one backwards.
    Statuses are found in the bytes of the `status` projection, which contains no text of a service
    that could look like a field.
    """
    since: dict[str, int] = {}
    for name in services:
        field = f'"{name}_status":"'.encode()
        healthy_field = field + Status.HEALTHY.encode()
        newest: bool | None = None
        for entry in entries:
            healthy = healthy_field in entry.status
            if field not in entry.status or (newest is not None and healthy != newest):
                break
            newest = healthy
            since[name] = entry.recorded_at
    return since
