"""Reads a workload from the Kubernetes API: the Deployment or StatefulSet, pods and events.

It needs four kinds of GET, so it uses a plain HTTP client instead of a client library. If
Kubernetes does not give a usable response, the state is reported as unknown; nothing is guessed.
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
from service.outgoing import BoundedConnector, read_at_most
from service.settings import read_text
from service.text import stripped

BODY_LIMIT = 8 * 1024 * 1024
"""The most bytes of a response: a pod has 5 to 20 kB, and `PODS` of them are requested."""
PODS = 250
"""The most pods of one workload that are read."""
SHOWN_EVENTS = 3
"""The most warning events of a pod that are shown."""


class _Unknown(Exception):
    """Kubernetes did not give a usable response; the message says why."""


class _NotFound(Exception):
    """There is no such object; the message is the namespace."""


class Kubernetes:
    """The API of a Kubernetes cluster, accessed with a pod's service account."""

    def __init__(self, client: aiohttp.ClientSession, url: str, credentials: Path) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._credentials = credentials
        self._tls: ssl.SSLContext | None = None
        self._tls_file: tuple[int, int] | None = None
        """The inode and modification time (ns) of the file that `_tls` was made from."""

    async def check(self, workload: Workload, deadline: float) -> WorkloadHealth:
        """Check the workload of one service within `deadline` seconds.

        Never raises for what Kubernetes does.
        """
        named = (
            f"{workload.kind}/{workload.name}"
            if workload.name
            else f"{workload.kind} with {workload.selector}"
        )
        try:
            async with asyncio.timeout(deadline):
                return await self._check(workload)
        except TimeoutError:
            problem = f"Kubernetes did not answer within {deadline:g} s"
        except _NotFound as error:
            return WorkloadHealth(
                False, clean_info(f"{named} does not exist in namespace {error}.")
            )
        except _Unknown as error:
            problem = str(error)
        except aiohttp.ClientError as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            problem = f"Kubernetes cannot be reached: {reason}"
        except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            problem = f"Kubernetes sent a malformed response: {type(error).__name__}"
        return WorkloadHealth(
            None, clean_info(f"The state of the resources ({named}) is not known: {problem}.")
        )

    async def _check(self, workload: Workload) -> WorkloadHealth:
        namespace = workload.namespace or self._read("namespace")
        path = f"/apis/apps/v1/namespaces/{quote(namespace)}/{workload.kind}s"
        if workload.name:
            found = [await self._get(f"{path}/{quote(workload.name)}", {}, namespace)]
        else:
            found = (await self._get(path, {"labelSelector": workload.selector}, namespace))[
                "items"
            ]
        if not found:
            raise _NotFound(namespace)
        results = [await self._assess(one, workload.kind, namespace) for one in found]
        # Unhealthy workloads come first in the info.
        results.sort(key=lambda result: bool(result.healthy))
        return WorkloadHealth(
            all(result.healthy for result in results),
            clean_info("\n".join(result.info for result in results)),
        )

    async def _assess(self, workload: Object, kind: str, namespace: str) -> WorkloadHealth:
        selector = selector_of(workload["spec"]["selector"])
        pods = await self._get(
            f"/api/v1/namespaces/{quote(namespace)}/pods",
            {"labelSelector": selector, "limit": str(PODS)},
            namespace,
        )
        failing = [pod for pod in pods["items"] if pod_problem(pod)]
        warnings = await asyncio.gather(
            *(self._warnings(pod, namespace) for pod in failing[:SHOWN_PODS])
        )
        return assess(
            workload,
            kind,
            pods["items"],
            dict(zip((name_of(pod) for pod in failing), warnings, strict=False)),
        )

    async def _warnings(self, pod: Object, namespace: str) -> Sequence[Object]:
        """The newest warning events of a pod; they are optional, so none if they cannot be read."""
        selector = f"involvedObject.name={name_of(pod)},type=Warning"
        try:
            found = await self._get(
                f"/api/v1/namespaces/{quote(namespace)}/events",
                {"fieldSelector": selector},
                namespace,
            )
        except (_Unknown, _NotFound):
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
        ) as response:
            body = await read_at_most(response.content, BODY_LIMIT + 1)
        if len(body) > BODY_LIMIT:
            raise _Unknown(f"Kubernetes' response is longer than {BODY_LIMIT} bytes")
        if response.status == 404:  # noqa: PLR2004
            raise _NotFound(namespace)
        if response.status != 200:  # noqa: PLR2004
            raise _Unknown(_refusal(response.status, response.reason or "", body))
        return orjson.loads(body)

    def _read(self, name: str) -> str:
        """A file of the service account, read at each use: Kubernetes replaces it at run time."""
        file = self._credentials / name
        try:
            return stripped(read_text(file))
        except OSError as error:
            raise _Unknown(f"there is no service account: {file}: {error.strerror}") from error
        except ValueError as error:
            raise _Unknown(f"{file} is {error}") from error

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
                raise _Unknown(f"{file} contains no certificate") from error
            self._tls_file = state.st_ino, state.st_mtime_ns
        return self._tls


@asynccontextmanager
async def kubernetes(url: str | None, credentials: Path) -> AsyncIterator[Kubernetes]:
    """The API at `url`, or by default of the cluster in which this process runs."""
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc"),
        os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
    )
    bracketed = f"[{host}]" if ":" in host else host
    async with aiohttp.ClientSession(
        connector=BoundedConnector(), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as client:
        yield Kubernetes(client, url or f"https://{bracketed}:{port}", credentials)


def _refusal(status: int, reason: str, body: bytes) -> str:
    """A description of an error response, with the message of Kubernetes if it has one."""
    try:
        message = str(orjson.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = ""
    description = f"HTTP {status} {reason}".strip() + (f": {message}" if message else "")
    hints = {401: "the service account's token is not accepted", 403: "the Role does not allow it"}
    return f"{hints[status]} ({description})" if status in hints else description
