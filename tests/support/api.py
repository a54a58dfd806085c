"""An API process in the process of the test, and what it responds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from yarl import URL

from service.api.context import ApiContext
from service.api.poll_path.poll_server import PollServer
from service.store import Store
from tests.support.settings import READ


@dataclass(frozen=True)
class Got:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's value."""
        return orjson.loads(self.body)


@dataclass
class Api:
    """One API process, in this process: real sockets, a real store."""

    context: ApiContext
    poll_server: PollServer
    host: str
    port: int
    client: aiohttp.ClientSession
    store: Store
    """A second store client, as another writer has it."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    async def settle(self) -> None:
        """Returns when this process knows everything that was recorded before the call."""
        await self.context.replica.refresh_after_now()

    async def get(self, path: str, headers: dict[str, str] | None = None, **kwargs: Any) -> Got:
        """The answer to a GET with a token for reading."""
        return await self.request("GET", path, READ | (headers or {}), **kwargs)

    async def request(self, method: str, path: str, headers: dict[str, str], **kwargs: Any) -> Got:
        """An answer. The path is sent as it stands here."""
        url = URL(self.url + path, encoded=True)
        async with self.client.request(
            method, url, headers=headers, allow_redirects=False, **kwargs
        ) as answer:
            return Got(answer.status, answer.headers, await answer.read())
