"""A client of a running service, for the command line.

It uses the standard library: these commands run in probes and scripts, where the time to start counts more than anything
a client library offers.
"""

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

TIMEOUT_S = 10.0


class ClientError(Exception):
    """No usable answer; the text says why, for people."""


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

    def _get(self, path: str, fits: Callable[[Any], bool], accept: tuple[int, ...] = (200,)) -> Reply:
        """The answer to a GET. Raises `ClientError` for another status, for a body that does not fit, for no answer."""
        reply = self._ask(path)
        if reply.status in accept and fits(reply.body):
            return reply
        if not _is_error(reply.body):
            raise ClientError(f"{self.url} answered {reply.status}: is this cluster-events?")
        code = f"({reply.status} {reply.body['error_code']})"
        if reply.status == HTTPStatus.UNAUTHORIZED and not self.token:
            raise ClientError(f"a token is needed: give --token or CLUSTER_EVENTS_TOKEN {code}")
        raise ClientError(f"{reply.body['message']} {code}")

    def _ask(self, path: str) -> Reply:
        headers = {"Accept": "application/json", "User-Agent": "cluster-events-cli"}
        if self.token:
            headers["Authorization"] = f"Bearer {_checked(self.token)}"
        try:
            url = urlsplit(self.url)
            if url.scheme not in {"http", "https"} or not url.hostname:
                raise ClientError(f"'{self.url}' is not an http:// or https:// URL")
            kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
            connection = kind(url.hostname, url.port, timeout=TIMEOUT_S)
            try:
                connection.request("GET", url.path.rstrip("/") + path, headers=headers)
                answer = connection.getresponse()
                body = answer.read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise ClientError(f"cannot reach {self.url}: {' '.join(reason.split())}") from error
        fields = {name.lower(): value for name, value in answer.getheaders()}
        try:
            return Reply(answer.status, fields, json.loads(body) if body else None)
        except ValueError:
            return Reply(answer.status, fields, None)


def _checked(token: str) -> str:
    """A token that can stand in a header field. The library's own error would repeat it."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ClientError("the token has characters that no token has")
    return token


def _is_error(body: Any) -> bool:
    return isinstance(body, dict) and {"message", "error_code"} <= body.keys()


def _is_event(body: Any) -> bool:
    return isinstance(body, dict) and {"id", "recorded_at", "all_healthy"} <= body.keys()


def _are_events(body: Any) -> bool:
    return isinstance(body, list) and all(_is_event(row) for row in body)


def _is_verdict(body: Any) -> bool:
    return isinstance(body, dict) and "all_healthy" in body
