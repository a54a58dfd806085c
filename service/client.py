"""A client of a running service, for the command line.

It uses the standard library: these commands run in probes and scripts, where the time to start counts more than anything
a client library offers.
"""

import http.client
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

TIMEOUT_S = 10.0


LONGEST_WAIT_S = 60
"""Seconds for which the service holds a waiting read at the most."""
SILENCE_S = 45.0
"""Seconds of silence after which a stream counts as lost: three signs of life were missed."""
NOTHING_YET = "00000000-0000-0000-0000-000000000000"
"""The id of no event: a stream that goes on after it begins with all that is retained."""
RETRY_S = 2.0
"""Seconds before another try, where the service says nothing else."""

_MENDED_BY_TIME = frozenset({404, 408, 429})
"""Refusals that need not last: nothing recorded yet, too slow, too many."""


class ClientError(Exception):
    """No usable answer; the text says why, for people."""


class RefusedError(ClientError):
    """The service answers, and would answer the same again."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer's status, header fields (names in lower case) and JSON body."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def stale(self) -> str | None:
        """Why the answer may not be the current state, in words; `None` if it is."""
        match self.headers.get("cluster-stale"):
            case None:
                return None
            case "store-unreachable":
                return f"the store cannot be reached; known to be true {self.headers.get('age', '?')} s ago"
            case "monitor-silent":
                return f"the monitor is silent; last check: {self.headers.get('cluster-checked-at', 'never')}"
            case reason:
                return reason


@dataclass(frozen=True, slots=True)
class Client:
    """Where the service is, and the credential for it."""

    url: str
    token: str | None

    def events(self, limit: int | None = None) -> Reply:
        """The retained events, newest first, or the newest `limit`. Raises `ClientError`, as all of these do."""
        return self._get("/v0/cluster/events" + (f"?limit={limit}" if limit else ""), _are_events)

    def event(self, event_id: str, selector: str) -> Reply:
        """One event."""
        return self._get(f"/v0/cluster/events/{quote(event_id, safe='')}?selector={selector}", _is_event)

    def verdict(self) -> Reply:
        """Whether the cluster is healthy, whatever the answer is."""
        return self._get("/v0/cluster_healthz", _is_verdict, accept=(200, 503))

    def verdicts(self, until: float) -> Iterator[Reply | ClientError]:
        """The verdict now and whenever it changes, before the monotonic time `until`; or why there is none just now.

        Ends at that time. Raises `ClientError` for what time does not mend, such as a refused credential.
        """
        etag: str | None = None
        while (left := until - time.monotonic()) > 0:
            wait = min(LONGEST_WAIT_S, math.ceil(left))
            headers = {"If-None-Match": etag, "Prefer": f"wait={wait}"} if etag else {}
            try:
                reply = self._get("/v0/cluster_healthz", _is_verdict, (200, 503), headers, wait + TIMEOUT_S)
            except RefusedError:
                raise
            except ClientError as error:
                yield error
                time.sleep(min(RETRY_S, max(0.0, until - time.monotonic())))
                continue
            if reply.status != HTTPStatus.NOT_MODIFIED:
                etag = reply.headers.get("etag")
                yield reply
            elif time.monotonic() < until - left + wait / 2:  # A service that is about to stop lets nobody wait.
                time.sleep(RETRY_S)

    def watch(self, selector: str, note: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """The latest event, then every event as it is recorded: nothing is missed over lost connections.

        `note` is told, for people, what happens to the connection, and where the history was cut. Raises `ClientError`
        if there is no beginning, or for what time does not mend.
        """
        latest = self._get(f"/v0/cluster/events?limit=1&selector={selector}", _are_events).body
        yield from latest
        last, retry = (latest[0]["id"] if latest else NOTHING_YET), RETRY_S
        while True:
            try:
                for frame in self._stream(f"/v0/cluster/events?selector={selector}", last):
                    retry = frame.retry or retry
                    if frame.name == "reset":
                        if last == NOTHING_YET:
                            continue
                        note("the history was cut: some events may be missing; all that are retained follow")
                    elif frame.data:
                        last = frame.id or last
                        yield json.loads(frame.data)
                note("the stream has ended, coming back to it")
            except RefusedError:
                raise
            except ClientError as error:
                note(f"{error}; trying again")
            time.sleep(retry)

    def _stream(self, path: str, last_event_id: str) -> Iterator["Frame"]:
        """The frames of a stream, until it ends."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
        with self._opened(path, headers, SILENCE_S) as answer:
            if answer.status != HTTPStatus.OK:
                raise self._refusal(answer.status, _json(answer.read()))
            frame = Frame()
            for raw in answer:
                field, _, value = raw.decode("utf-8", "replace").rstrip("\r\n").partition(":")
                if not field and not value and raw.strip() == b"":
                    yield frame
                    frame = Frame()
                else:
                    frame.take(field, value.removeprefix(" "))

    def _get(
        self,
        path: str,
        fits: Callable[[Any], bool],
        accept: tuple[int, ...] = (200,),
        headers: Mapping[str, str] = MappingProxyType({}),
        timeout: float = TIMEOUT_S,
    ) -> Reply:
        """The answer to a GET. Raises `ClientError` for another status, for a body that does not fit, for no answer."""
        with self._opened(path, {"Accept": "application/json", **headers}, timeout) as answer:
            body = _json(answer.read())
        fields = {name.lower(): value for name, value in answer.getheaders()}
        if (answer.status in accept and fits(body)) or (headers and answer.status == HTTPStatus.NOT_MODIFIED):
            return Reply(answer.status, fields, body)
        raise self._refusal(answer.status, body)

    def _refusal(self, status: int, body: Any) -> ClientError:
        """Why an answer cannot be used."""
        kind = RefusedError if 400 <= status < 500 and status not in _MENDED_BY_TIME else ClientError  # noqa: PLR2004
        if not _is_error(body):
            return kind(f"{self.url} answered {status}: is this cluster-events?")
        code = f"({status} {body['error_code']})"
        if status == HTTPStatus.UNAUTHORIZED and not self.token:
            return kind(f"a token is needed: give --token or CLUSTER_EVENTS_TOKEN {code}")
        return kind(f"{body['message']} {code}")

    @contextmanager
    def _opened(self, path: str, headers: Mapping[str, str], timeout: float) -> Iterator[http.client.HTTPResponse]:
        """An answer whose body can be read. What the network does meanwhile is a `ClientError`."""
        fields = {"User-Agent": "cluster-events-cli", **headers}
        if self.token:
            fields["Authorization"] = f"Bearer {_checked(self.token)}"
        try:
            url = urlsplit(self.url)
            if url.scheme not in {"http", "https"} or not url.hostname:
                raise ClientError(f"'{self.url}' is not an http:// or https:// URL")
            kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
            connection = kind(url.hostname, url.port, timeout=timeout)
            try:
                connection.request("GET", url.path.rstrip("/") + path, headers=fields)
                yield connection.getresponse()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise ClientError(f"cannot reach {self.url}: {' '.join(reason.split())}") from error


@dataclass(slots=True)
class Frame:
    """One server-sent event, as far as it has come (HTML standard, section 9.2.6). `retry` is in seconds."""

    name: str = "message"
    id: str | None = None
    data: str = ""
    retry: float | None = None

    def take(self, field: str, value: str) -> None:
        """Takes in one line; fields that it does not know are ignored."""
        if field == "event":
            self.name = value
        elif field == "id":
            self.id = value
        elif field == "data":
            self.data += f"\n{value}" if self.data else value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value) / 1_000


def _checked(token: str) -> str:
    """A token that can stand in a header field. The library's own error would repeat it."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ClientError("the token has characters that no token has")
    return token


def _json(body: bytes) -> Any:
    """The body's value; `None` if it is none."""
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None


def _is_error(body: Any) -> bool:
    return isinstance(body, dict) and {"message", "error_code"} <= body.keys()


def _is_event(body: Any) -> bool:
    return isinstance(body, dict) and {"id", "recorded_at", "all_healthy"} <= body.keys()


def _are_events(body: Any) -> bool:
    return isinstance(body, list) and all(_is_event(row) for row in body)


def _is_verdict(body: Any) -> bool:
    return isinstance(body, dict) and "all_healthy" in body
