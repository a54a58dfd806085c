"""A client of a running service, for the command line.

It uses the standard library: these commands run in probes and scripts, where the time to start
counts more than anything a client library offers.
"""

import http.client
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

TIMEOUT_S = 10.0
BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of a body, or of one event of a stream: the limit of a page in the service is 4 MiB."""
LONGEST_WAIT_S = 60
"""The maximum seconds for which the service holds a long poll."""
SILENCE_S = 45.0
"""Seconds without a byte after which a stream counts as lost: three missed comments."""
NOTHING_YET = "00000000-0000-0000-0000-000000000000"
"""The id of no event. A stream that resumes after it begins with all retained events."""
RETRY_S = 2.0
"""Seconds before the next try, where the service does not name them."""
_RETRY_BOUNDS_S = (0.1, 60.0)
"""The range in which the service may choose the seconds before the next try."""

_MENDED_BY_TIME = frozenset({404, 408, 429})
"""Statuses that may go away: no event yet, too slow, too many requests."""


class ClientError(Exception):
    """There is no usable response. The text gives the reason, for people."""


class RefusedError(ClientError):
    """The service responded with an error that will not go away."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: status, header fields (names in lower case), JSON body."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def stale(self) -> str | None:
        """Why the response may not be the current state; `None` if it is current."""
        match self.headers.get("cluster-stale"):
            case None:
                return None
            case "store-unreachable":
                age = self.headers.get("age", "?")
                return f"the store cannot be reached; last confirmed {age} s ago"
            case "monitor-silent":
                checked_at = self.headers.get("cluster-checked-at", "never")
                return f"the monitor is silent; last check: {checked_at}"
            case reason:
                return reason


@dataclass(frozen=True, slots=True)
class Client:
    """The address of a service, and the credential for it."""

    url: str
    token: str | None

    def events(self, limit: int | None = None) -> Reply:
        """The retained events, newest first, or the newest `limit`.

        Raises `ClientError`, as all these methods do.
        """
        return self._get("/v0/cluster/events" + (f"?limit={limit}" if limit else ""), _are_events)

    def event(self, event_id: str, selector: str) -> Reply:
        """One event."""
        return self._get(
            f"/v0/cluster/events/{quote(event_id, safe='')}?selector={selector}", _is_event
        )

    def verdict(self) -> Reply:
        """The verdict, with either status."""
        return self._get("/v0/cluster_healthz", _is_verdict, accept=(200, 503))

    def verdicts(self, until: float) -> Iterator[Reply | ClientError]:
        """The verdict now and at each change, until the monotonic time `until`.

        Yields the error where there is none at the moment. Raises `ClientError` for an error that
        will not go away, such as a refused credential.
        """
        etag: str | None = None
        while (left := until - time.monotonic()) > 0:
            wait = min(LONGEST_WAIT_S, math.ceil(left))
            headers = {"If-None-Match": etag, "Prefer": f"wait={wait}"} if etag else {}
            try:
                reply = self._get(
                    "/v0/cluster_healthz", _is_verdict, (200, 503), headers, wait + TIMEOUT_S
                )
            except RefusedError:
                raise
            except ClientError as error:
                yield error
                time.sleep(min(RETRY_S, max(0.0, until - time.monotonic())))
                continue
            if reply.status != HTTPStatus.NOT_MODIFIED:
                etag = reply.headers.get("etag")
                yield reply
            elif (
                time.monotonic() < until - left + wait / 2
            ):  # A service that is about to stop lets nobody wait.
                time.sleep(RETRY_S)

    def watch(self, selector: str, note: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """The latest event, then each event as it is recorded, also after lost connections.

        `note` gets texts for people: about the connection, and where the history was cut. Raises
        `ClientError` if the first request fails, or for an error that will not go away.
        """
        latest = self._get(f"/v0/cluster/events?limit=1&selector={selector}", _are_events).body
        yield from latest
        last, retry = (_sendable(latest[0]["id"]) if latest else NOTHING_YET), RETRY_S
        while True:
            try:
                for frame in self._stream(f"/v0/cluster/events?selector={selector}", last):
                    retry = frame.retry or retry
                    if frame.name == "reset":
                        if last == NOTHING_YET:
                            continue
                        note(
                            "the history was cut: some events may be missing; all retained events "
                            "follow"
                        )
                    elif frame.name == "message" and frame.data:
                        found = self._event_of(frame)
                        last = frame.id or last
                        yield found
                note("the stream has ended, coming back to it")
            except RefusedError:
                raise
            except ClientError as error:
                note(f"{error}; trying again")
            time.sleep(retry)

    def _stream(self, path: str, last_event_id: str) -> Iterator["Frame"]:
        """The frames of a stream, until it ends."""
        headers = {"Accept": "text/event-stream"} | (
            {"Last-Event-ID": last_event_id} if last_event_id else {}
        )
        with self._opened(path, headers, SILENCE_S) as answer:
            if answer.status != HTTPStatus.OK:
                raise self._refusal(answer.status, _json(_body(answer)))
            frame, size = Frame(), 0
            while raw := answer.readline(BODY_LIMIT + 1):
                size += len(raw)
                if size > BODY_LIMIT:
                    raise RefusedError(
                        f"{self.url} sent more than {BODY_LIMIT:,} bytes as one event"
                    )
                name, _, value = raw.decode("utf-8", "replace").rstrip("\r\n").partition(":")
                if not name and not value and raw.strip() == b"":
                    yield frame
                    frame, size = Frame(), 0
                else:
                    frame.take(name, value.removeprefix(" "))

    def _event_of(self, frame: "Frame") -> dict[str, Any]:
        """The event that a frame carries. Raises `RefusedError` if it is none."""
        found: Any = _json(frame.data)
        if not _is_event(found):
            raise RefusedError(f"{self.url} sent no event in its stream: is this cluster-events?")
        return dict(found)

    def _get(
        self,
        path: str,
        fits: Callable[[Any], bool],
        accept: tuple[int, ...] = (200,),
        headers: Mapping[str, str] = MappingProxyType({}),
        timeout: float = TIMEOUT_S,
    ) -> Reply:
        """The response to a GET.

        Raises `ClientError` for another status, for a body that does not fit, and for no response.
        """
        with self._opened(path, {"Accept": "application/json", **headers}, timeout) as answer:
            body = _json(_body(answer))
        fields = {name.lower(): value for name, value in answer.getheaders()}
        if (answer.status in accept and fits(body)) or (
            headers and answer.status == HTTPStatus.NOT_MODIFIED
        ):
            return Reply(answer.status, fields, body)
        raise self._refusal(answer.status, body)

    def _refusal(self, status: int, body: Any) -> ClientError:
        """Why an answer cannot be used."""
        kind = (
            RefusedError if 400 <= status < 500 and status not in _MENDED_BY_TIME else ClientError  # noqa: PLR2004
        )
        if not _is_error(body):
            return kind(f"{self.url} answered {status}: is this cluster-events?")
        code = f"({status} {body['error_code']})"
        if status == HTTPStatus.UNAUTHORIZED and not self.token:
            return kind(f"a token is needed: give --token or CLUSTER_EVENTS_TOKEN {code}")
        return kind(f"{body['message']} {code}")

    @contextmanager
    def _opened(
        self, path: str, headers: Mapping[str, str], timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer whose body can be read. What the network does meanwhile is a `ClientError`."""
        fields = {"User-Agent": "cluster-events-cli", **headers}
        if self.token:
            fields["Authorization"] = f"Bearer {_checked(self.token)}"
        try:
            url = urlsplit(self.url)
            if url.scheme not in {"http", "https"} or not url.hostname:
                raise ClientError(f"'{self.url}' is not an http:// or https:// URL")
            kind = (
                http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
            )
            connection = kind(url.hostname, url.port, timeout=timeout)
            try:
                connection.request("GET", url.path.rstrip("/") + path, headers=fields)
                # The answer may own the socket, and then closing the connection leaves it open.
                with connection.getresponse() as answer:
                    yield answer
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = (
                (error.strerror if isinstance(error, OSError) else None)
                or str(error)
                or type(error).__name__
            )
            raise ClientError(f"cannot reach {self.url}: {' '.join(reason.split())}") from error


@dataclass(slots=True)
class Frame:
    """One server-sent event, as far as it was received (HTML standard, section 9.2.6).

    `retry` is in seconds.
    """

    name: str = "message"
    id: str | None = None
    retry: float | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def data(self) -> str:
        """Its data lines."""
        return "\n".join(self.lines)

    def take(self, name: str, value: str) -> None:
        """Takes in one line; fields that it does not know are ignored."""
        if name == "event":
            self.name = value or "message"
        elif name == "id":
            self.id = _sendable(value)
        elif name == "data":
            self.lines.append(value)
        elif name == "retry" and value.isascii() and value.isdigit():
            shortest, longest = _RETRY_BOUNDS_S
            self.retry = min(max(float(value) / 1_000, shortest), longest)


def _sendable(event_id: str) -> str:
    """An event's id, which is sent back in a header field; nothing if it cannot be."""
    return event_id if event_id.isascii() and event_id.isprintable() else ""


def _checked(token: str) -> str:
    """A token that can stand in a header field. The library's own error would repeat it."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ClientError("the token has characters that no token has")
    return token


def _body(answer: http.client.HTTPResponse) -> bytes:
    """The whole body. Raises `ClientError` if it is longer than `BODY_LIMIT`."""
    length = answer.length  # `None` where the end of the body is found by reading.
    body = (
        answer.read(BODY_LIMIT + 1)
        if length is None
        else answer.read()
        if length <= BODY_LIMIT
        else None
    )
    if body is None or len(body) > BODY_LIMIT:
        raise ClientError(
            f"the answer is longer than {BODY_LIMIT:,} bytes: is this cluster-events?"
        )
    return body


def _json(text: bytes | str) -> Any:
    """The value; `None` if it is none, or is nested so deeply that nothing of ours is."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _is_error(body: Any) -> bool:
    return isinstance(body, dict) and all(
        isinstance(body.get(field), str) for field in ("message", "error_code")
    )


def _is_event(body: Any) -> bool:
    return (
        isinstance(body, dict)
        and all(isinstance(body.get(field), str) for field in ("id", "recorded_at"))
        and isinstance(body.get("all_healthy"), bool)
    )


def _are_events(body: Any) -> bool:
    return isinstance(body, list) and all(_is_event(row) for row in body)


def _is_verdict(body: Any) -> bool:
    return (
        isinstance(body, dict)
        and isinstance(body.get("all_healthy"), bool)
        and all(
            isinstance(seen.get("healthy"), bool)
            for seen in body.values()
            if isinstance(seen, dict)
        )
    )
