"""Kubernetes' API, asked for the objects behind a service: a Deployment or StatefulSet, its pods,
their warning events.

Four kinds of GET on a plain HTTP client, so no client library. When Kubernetes cannot be asked,
that is said, and nothing is made up.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from service.events import clean_info
from service.monitor.kubernetes.workloads import (
    SHOWN_PODS,
    Object,
    WorkloadHealth,
    assess,
    name_of,
    pod_problem,
    seen_at,
    selector_of,
)
from service.monitor.services import Workload
from service.outgoing import BoundedConnector
from service.settings import read_text
from service.text import stripped

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes of one answer: a pod is 5 to 20 kB, and `PODS` of them are asked for."""
PODS = 250
"""Pods of one workload that are looked at."""
SHOWN_EVENTS = 3


class _CannotKnow(Exception):
    """Kubernetes did not give a usable answer; the message says why."""


class _Gone(Exception):
    """There is no such object."""


class Kubernetes:
    """A cluster's API, as a pod's service account sees it."""

    def __init__(self, client: aiohttp.ClientSession, url: str, credentials: Path) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._credentials = credentials
        self._tls: ssl.SSLContext | None = None
        self._tls_of: tuple[int, int] | None = None

    async def look(self, workload: Workload, deadline: float) -> WorkloadHealth:
        """Looks at one service's workload within `deadline` seconds. Never raises for what
        Kubernetes does."""
        named = (
            f"{workload.kind}/{workload.name}"
            if workload.name
            else f"{workload.kind} with {workload.selector}"
        )
        try:
            async with asyncio.timeout(deadline):
                return await self._look(workload)
        except TimeoutError:
            wrong = f"Kubernetes did not answer within {deadline:g} s"
        except _Gone as error:
            return WorkloadHealth(
                False, clean_info(f"{named} does not exist in namespace {error}.")
            )
        except _CannotKnow as error:
            wrong = str(error)
        except aiohttp.ClientError as error:
            wrong = f"Kubernetes cannot be reached: {getattr(error, 'strerror', None) or type(error).__name__}"
        except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            wrong = f"Kubernetes' answer makes no sense: {type(error).__name__}"
        return WorkloadHealth(
            None, clean_info(f"The resources ({named}) cannot be known: {wrong}.")
        )

    async def _look(self, workload: Workload) -> WorkloadHealth:
        namespace = workload.namespace or self._read("namespace")
        path = f"/apis/apps/v1/namespaces/{quote(namespace)}/{workload.kind}s"
        if workload.name:
            found = [await self._get(f"{path}/{quote(workload.name)}", {}, namespace)]
        else:
            found = (await self._get(path, {"labelSelector": workload.selector}, namespace))[
                "items"
            ]
        if not found:
            raise _Gone(namespace)
        looks = [await self._look_at(one, workload.kind, namespace) for one in found]
        looks.sort(key=lambda look: bool(look.healthy))  # What is wrong comes first.
        return WorkloadHealth(
            all(look.healthy for look in looks), clean_info("\n".join(look.info for look in looks))
        )

    async def _look_at(self, workload: Object, kind: str, namespace: str) -> WorkloadHealth:
        selector = selector_of(workload["spec"]["selector"])
        pods = await self._get(
            f"/api/v1/namespaces/{quote(namespace)}/pods",
            {"labelSelector": selector, "limit": str(PODS)},
            namespace,
        )
        troubled = [pod for pod in pods["items"] if pod_problem(pod)]
        warnings = await asyncio.gather(
            *(self._warnings(pod, namespace) for pod in troubled[:SHOWN_PODS])
        )
        return assess(
            workload,
            kind,
            pods["items"],
            dict(zip((name_of(pod) for pod in troubled), warnings, strict=False)),
        )

    async def _warnings(self, pod: Object, namespace: str) -> Sequence[Object]:
        """The newest warnings about a pod; none where they cannot be read, since all else is worth
        telling without them."""
        selector = f"involvedObject.name={name_of(pod)},type=Warning"
        try:
            found = await self._get(
                f"/api/v1/namespaces/{quote(namespace)}/events",
                {"fieldSelector": selector},
                namespace,
            )
        except (_CannotKnow, _Gone):
            return ()
        return sorted(found["items"], key=seen_at, reverse=True)[:SHOWN_EVENTS]

    async def _get(self, path: str, query: Mapping[str, str], namespace: str) -> Any:
        headers = {"Authorization": f"Bearer {self._read('token')}", "Accept": "application/json"}
        async with self._client.get(
            self._url + path,
            params=query,
            headers=headers,
            ssl=self._trust(),
            allow_redirects=False,
        ) as answer:
            body = await _read(answer)
        if answer.status == 404:  # noqa: PLR2004
            raise _Gone(namespace)
        if answer.status != 200:  # noqa: PLR2004
            raise _CannotKnow(_refusal(answer.status, answer.reason or "", body))
        return orjson.loads(body)

    def _read(self, name: str) -> str:
        """A file of the service account: read at each use, since Kubernetes replaces them while the
        pod runs."""
        file = self._credentials / name
        try:
            return stripped(read_text(file))
        except OSError as error:
            raise _CannotKnow(f"there is no service account: {file}: {error.strerror}") from error
        except ValueError as error:
            raise _CannotKnow(f"{file} is {error}") from error

    def _trust(self) -> ssl.SSLContext | bool:
        """The cluster's own authority; read again when the file is replaced."""
        file = self._credentials / "ca.crt"
        try:
            state = file.stat()
        except OSError:
            return True
        if self._tls is None or self._tls_of != (state.st_ino, state.st_mtime_ns):
            try:
                self._tls = ssl.create_default_context(cafile=file)
            except ssl.SSLError as error:
                raise _CannotKnow(f"{file} holds no certificate") from error
            self._tls_of = state.st_ino, state.st_mtime_ns
        return self._tls


@asynccontextmanager
async def kubernetes(url: str | None, credentials: Path) -> AsyncIterator[Kubernetes]:
    """The API of the cluster in which this process runs, or of the one at `url`."""
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc"),
        os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
    )
    bracketed = f"[{host}]" if ":" in host else host
    async with aiohttp.ClientSession(
        connector=BoundedConnector(), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as client:
        yield Kubernetes(client, url or f"https://{bracketed}:{port}", credentials)


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise _CannotKnow(f"Kubernetes' answer is longer than {BODY_LIMIT} bytes")
    return bytes(body)


def _refusal(status: int, reason: str, body: bytes) -> str:
    """An answer other than 200, with Kubernetes' own words where it has any."""
    try:
        message = str(orjson.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = ""
    said = f"HTTP {status} {reason}".strip() + (f": {message}" if message else "")
    hints = {401: "the service account's token is not accepted", 403: "the Role does not allow it"}
    return f"{hints[status]} ({said})" if status in hints else said
