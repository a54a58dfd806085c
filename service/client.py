"""A client of a running service, for the command line.

It uses the standard library: these commands run in probes and scripts, where the time to start counts more than anything
a client library offers.
"""

import http.client
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Client:
    """Where the service is, and the credential for it."""

    url: str
    token: str | None

    def get(self, path: str, accept: tuple[int, ...] = (200,)) -> Reply:
        """The answer to a GET. Raises `ClientError` for a status that is not in `accept`, and when there is no answer."""
        reply = self._get(path)
        if reply.status in accept and not _is_error(reply.body):
            return reply
        if _is_error(reply.body):
            raise ClientError(f"{reply.body['message']} ({reply.status} {reply.body['error_code']})")
        raise ClientError(f"{self.url} answered {reply.status}: is this cluster-events?")

    def event(self, event_id: str, selector: str) -> Reply:
        """One event."""
        return self.get(f"/v0/cluster/events/{quote(event_id, safe='')}?selector={selector}")

    def _get(self, path: str) -> Reply:
        url = urlsplit(self.url)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ClientError(f"'{self.url}' is not an http:// or https:// URL")
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        headers = {"Accept": "application/json", "User-Agent": "cluster-events-cli"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection = kind(url.hostname, url.port, timeout=TIMEOUT_S)
            try:
                connection.request("GET", url.path.rstrip("/") + path, headers=headers)
                answer = connection.getresponse()
                body = answer.read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise ClientError(f"cannot reach {self.url}: {reason or type(error).__name__}") from error
        fields = {name.lower(): value for name, value in answer.getheaders()}
        try:
            return Reply(answer.status, fields, json.loads(body) if body else None)
        except ValueError:
            return Reply(answer.status, fields, None)


def _is_error(body: Any) -> bool:
    return isinstance(body, dict) and {"message", "error_code"} <= body.keys()
