"""An HTTP client of a running service, for the command line.

It uses only the standard library: the commands run in probes and scripts, where a short start-up
time is more important than the features of a client library.
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
"""Seconds for one request."""
BODY_LIMIT = 64 * 1024 * 1024
"""The most bytes of a body, or of one event of a stream; the service's pages have at most 4 MiB."""
LONGEST_WAIT_S = 60
"""The most seconds that the service allows for a long poll."""
SILENCE_S = 45.0
"""Seconds of silence after which a stream counts as lost: three comments are missing."""
BEFORE_ALL_EVENTS = "00000000-0000-0000-0000-000000000000"
"""The id of no event: a stream that resumes after it begins with all retained events."""
RETRY_S = 2.0
"""Seconds before the next attempt, unless the service sets another time."""
_RETRY_BOUNDS_S = (0.1, 60.0)
"""The shortest and the longest time before the next attempt that the service may set."""

_TEMPORARY = frozenset({404, 408, 429})
"""Client errors after which a retry may succeed: no event yet, timeout, too many requests."""


class ClientError(Exception):
    """There is no usable response; the message says why."""


class RefusedError(ClientError):
    """The service refused the request, and a retry would not change that."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The status, the header fields (names in lower case) and the JSON body of a response."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def stale(self) -> str | None:
        """Why the response may not be the current state, for people; `None` if it is current."""
        match self.headers.get("cluster-stale"):
            case None:
                return None
            case "store-unreachable":
                age = self.headers.get("age", "?")
                return f"the store is unreachable; the state was confirmed {age} s ago"
            case "monitor-silent":
                checked_at = self.headers.get("cluster-checked-at", "never")
                return f"the monitor is silent; last check: {checked_at}"
            case reason:
                return reason


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the service at `url`, with a credential. All methods raise `ClientError`."""

    url: str
    token: str | None

    def events(self, limit: int | None = None) -> Reply:
        """The retained events, newest first; with `limit`, at most so many."""
        return self._get("/v0/cluster/events" + (f"?limit={limit}" if limit else ""), _are_events)

    def event(self, event_id: str, selector: str) -> Reply:
        """One event."""
        return self._get(
            f"/v0/cluster/events/{quote(event_id, safe='')}?selector={selector}", _is_event
        )

    def verdict(self) -> Reply:
        """The verdict, whether healthy or not."""
        return self._get("/v0/cluster_healthz", _is_verdict, accept=(200, 503))

    def verdicts(self, until: float) -> Iterator[Reply | ClientError]:
        """Yield the verdict now and after each change, until the monotonic time `until`.

        While there is no usable response, the error is yielded and the request retried. Raises
        `RefusedError` if a retry would not help, such as for an invalid credential.
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
            # A draining service responds to a long poll at once: do not repeat it without a pause.
            elif time.monotonic() < until - left + wait / 2:
                time.sleep(RETRY_S)

    def watch(self, selector: str, note: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """Yield the latest event, then each event as it is recorded.

        After a lost connection the stream is resumed, so no event is missed. `note` gets messages
        for people, about the connection and about events that are no longer retained. Raises
        `ClientError` if the first request fails, and `RefusedError` if a retry would not help.
        """
        latest = self._get(f"/v0/cluster/events?limit=1&selector={selector}", _are_events).body
        yield from latest
        last, retry = (_header_safe(latest[0]["id"]) if latest else BEFORE_ALL_EVENTS), RETRY_S
        while True:
            try:
                for frame in self._stream(f"/v0/cluster/events?selector={selector}", last):
                    retry = frame.retry or retry
                    if frame.name == "reset":
                        if last == BEFORE_ALL_EVENTS:
                            continue
                        note(
                            "some events may be missing, since they are no longer retained; "
                            "all retained events follow"
                        )
                    elif frame.name == "message" and frame.data:
                        event = self._event_of(frame)
                        last = frame.id or last
                        yield event
                note("the stream has ended; reconnecting")
            except RefusedError:
                raise
            except ClientError as error:
                note(f"{error}; trying again")
            time.sleep(retry)

    def _stream(self, path: str, last_event_id: str) -> Iterator["Frame"]:
        """Yield the frames of an event stream, until it ends."""
        headers = {"Accept": "text/event-stream"} | (
            {"Last-Event-ID": last_event_id} if last_event_id else {}
        )
        with self._response(path, headers, SILENCE_S) as response:
            if response.status != HTTPStatus.OK:
                raise self._error(response.status, _json(_body(response)))
            frame, size = Frame(), 0
            while raw := response.readline(BODY_LIMIT + 1):
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
                    frame.add_field(name, value.removeprefix(" "))

    def _event_of(self, frame: "Frame") -> dict[str, Any]:
        """The event in a frame. Raises `RefusedError` if the data is not an event."""
        event: Any = _json(frame.data)
        if not _is_event(event):
            raise RefusedError(
                f"{self.url} sent something else than an event: is this cluster-events?"
            )
        return dict(event)

    def _get(
        self,
        path: str,
        is_valid: Callable[[Any], bool],
        accept: tuple[int, ...] = (200,),
        headers: Mapping[str, str] = MappingProxyType({}),
        timeout: float = TIMEOUT_S,
    ) -> Reply:
        """The response to a GET.

        Raises `ClientError` for a status that is not in `accept`, for an invalid body, and if there
        is no response.
        """
        fields = {"Accept": "application/json", **headers}
        with self._response(path, fields, timeout) as response:
            body = _json(_body(response))
        accepted = response.status in accept and is_valid(body)
        # Only a request with `If-None-Match` may get 304.
        if accepted or (headers and response.status == HTTPStatus.NOT_MODIFIED):
            received = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, received, body)
        raise self._error(response.status, body)

    def _error(self, status: int, body: Any) -> ClientError:
        """The exception for an error response, or for another response that cannot be used."""
        is_client_error = 400 <= status < 500  # noqa: PLR2004
        error_type = RefusedError if is_client_error and status not in _TEMPORARY else ClientError
        if not _is_error(body):
            return error_type(f"{self.url} answered {status}: is this cluster-events?")
        code = f"({status} {body['error_code']})"
        if status == HTTPStatus.UNAUTHORIZED and not self.token:
            return error_type(f"a token is required: set --token or CLUSTER_EVENTS_TOKEN {code}")
        return error_type(f"{body['message']} {code}")

    @contextmanager
    def _response(
        self, path: str, headers: Mapping[str, str], timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a GET; the body of the response can be read in the context.

        Errors of the network in it become `ClientError`.
        """
        fields = {"User-Agent": "cluster-events-cli", **headers}
        if self.token:
            fields["Authorization"] = f"Bearer {_checked_token(self.token)}"
        try:
            url = urlsplit(self.url)
            if url.scheme not in {"http", "https"} or not url.hostname:
                raise ClientError(f"'{self.url}' is not an http:// or https:// URL")
            connection_type = (
                http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
            )
            connection = connection_type(url.hostname, url.port, timeout=timeout)
            try:
                connection.request("GET", url.path.rstrip("/") + path, headers=fields)
                # With `Connection: close` the response owns the socket, and must be closed too.
                with connection.getresponse() as response:
                    yield response
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
        """The lines of its data."""
        return "\n".join(self.lines)

    def add_field(self, name: str, value: str) -> None:
        """Add the field of one line. Unknown fields are ignored."""
        if name == "event":
            self.name = value or "message"
        elif name == "id":
            self.id = _header_safe(value)
        elif name == "data":
            self.lines.append(value)
        elif name == "retry" and value.isascii() and value.isdigit():
            shortest, longest = _RETRY_BOUNDS_S
            self.retry = min(max(float(value) / 1_000, shortest), longest)


def _header_safe(event_id: str) -> str:
    """An event id for `Last-Event-ID`; empty if it cannot be sent in a header field."""
    return event_id if event_id.isascii() and event_id.isprintable() else ""


def _checked_token(token: str) -> str:
    """A token that can be sent in a header field.

    For another one, the exception of `http.client` would contain the token.
    """
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ClientError("the token has characters other than printable ASCII")
    return token


def _body(response: http.client.HTTPResponse) -> bytes:
    """The whole body. Raises `ClientError` if it is longer than `BODY_LIMIT`."""
    # The length is `None` for a chunked body, or one that ends with the connection.
    if response.length is None:
        body = response.read(BODY_LIMIT + 1)
    elif response.length <= BODY_LIMIT:
        # Without an argument, `read` raises an exception if the body is shorter than announced.
        body = response.read()
    else:
        body = None
    if body is None or len(body) > BODY_LIMIT:
        raise ClientError(
            f"the response is longer than {BODY_LIMIT:,} bytes: is this cluster-events?"
        )
    return body


def _json(text: bytes | str) -> Any:
    """The JSON value; `None` for text that is not JSON, or is nested too deeply."""
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
            isinstance(service.get("healthy"), bool)
            for service in body.values()
            if isinstance(service, dict)
        )
    )
