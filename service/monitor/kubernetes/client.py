"""GET requests to the Kubernetes API, with a pod's service account.

The monitor needs five kinds of GET, so it uses a plain HTTP client instead of a client library.
"""

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from service.monitor.kubernetes.pods import Object
from service.outgoing import BoundedConnector, read_at_most
from service.settings import read_text
from service.text import stripped

BODY_LIMIT = 8 * 1024 * 1024
"""The most bytes of a response."""
_NO_SUCH_API = "could not find the requested resource"
"""What Kubernetes says if it does not know the API, in contrast to the object."""


class Unknown(Exception):
    """Kubernetes did not give a usable response; the message says why."""


class NotFound(Exception):
    """There is no such object."""


class Expired(Unknown):
    """A list cannot be continued: its first page is too old."""


class TooLarge(Unknown):
    """A response is longer than `BODY_LIMIT`."""


class KubernetesClient:
    """The API of a Kubernetes cluster."""

    def __init__(self, client: aiohttp.ClientSession, url: str, credentials: Path) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._credentials = credentials
        self._tls: ssl.SSLContext | None = None
        self._tls_file: tuple[int, int] | None = None
        """The inode and modification time (ns) of the file that `_tls` was made from."""

    def namespace(self) -> str:
        """The namespace of the service account. Raises `Unknown`."""
        return self._read("namespace")

    async def get(self, path: str, query: Mapping[str, str]) -> Object:
        """The JSON object at a path. Raises `NotFound` or `Unknown`, and nothing else."""
        try:
            return await self._get(path, query)
        except aiohttp.ClientError as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise Unknown(f"Kubernetes cannot be reached: {reason}") from error
        except (ValueError, OSError) as error:
            raise malformed(error) from error

    async def _get(self, path: str, query: Mapping[str, str]) -> Object:
        headers = {"Authorization": f"Bearer {self._read('token')}", "Accept": "application/json"}
        async with self._client.get(
            self._url + path,
            params=query,
            headers=headers,
            ssl=self._trust(),
            allow_redirects=False,
        ) as response:
            body = await read_at_most(response.content, BODY_LIMIT + 1)
        if len(body) > BODY_LIMIT:
            raise TooLarge(f"Kubernetes' response is longer than {BODY_LIMIT} bytes")
        if response.status == 200:  # noqa: PLR2004
            found = orjson.loads(body)
            if not isinstance(found, dict):
                raise ValueError
            return found
        refusal = _status_object(body)
        if response.status == 404 and _is_object_missing(refusal):  # noqa: PLR2004
            raise NotFound
        kind = Expired if response.status == 410 else Unknown  # noqa: PLR2004
        raise kind(_describe(response.status, response.reason or "", refusal))

    def _read(self, name: str) -> str:
        """A file of the service account, read at each use: Kubernetes replaces it at run time."""
        file = self._credentials / name
        try:
            return stripped(read_text(file))
        except OSError as error:
            raise Unknown(f"there is no service account: {file}: {error.strerror}") from error
        except ValueError as error:
            raise Unknown(f"{file} is {error}") from error

    def _trust(self) -> ssl.SSLContext | bool:
        """The TLS context for the cluster's own authority; renewed when its file is replaced."""
        file = self._credentials / "ca.crt"
        try:
            state = file.stat()
        except OSError:
            return True
        if self._tls is None or self._tls_file != (state.st_ino, state.st_mtime_ns):
            try:
                self._tls = ssl.create_default_context(cafile=file)
            except ssl.SSLError as error:
                raise Unknown(f"{file} contains no certificate") from error
            self._tls_file = state.st_ino, state.st_mtime_ns
        return self._tls


@asynccontextmanager
async def kubernetes_client(url: str | None, credentials: Path) -> AsyncIterator[KubernetesClient]:
    """The API at `url`, or by default of the cluster in which this process runs."""
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc"),
        os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
    )
    bracketed = f"[{host}]" if ":" in host else host
    async with aiohttp.ClientSession(
        connector=BoundedConnector(), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as client:
        yield KubernetesClient(client, url or f"https://{bracketed}:{port}", credentials)


def malformed(error: Exception) -> Unknown:
    """The error for a response that is not what Kubernetes sends."""
    return Unknown(f"Kubernetes sent a malformed response: {type(error).__name__}")


def _status_object(body: bytes) -> Mapping[str, Any]:
    """The object `Status` of an error response; empty if there is none, as in a 429."""
    try:
        found = orjson.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_object_missing(refusal: Mapping[str, Any]) -> bool:
    """Whether a 404 says that the object does not exist, and not that the API does not."""
    return refusal.get("reason") == "NotFound" and _NO_SUCH_API not in str(refusal.get("message"))


def _describe(status: int, reason: str, refusal: Mapping[str, Any]) -> str:
    """A description of an error response, with the message of Kubernetes if it has one."""
    message = refusal.get("message") or ""
    description = f"HTTP {status} {reason}".strip() + (f": {message}" if message else "")
    hints = {401: "the service account's token is not accepted", 403: "the Role does not allow it"}
    return f"{hints[status]} ({description})" if status in hints else description
