"""The keys that an issuer publishes (JWKS, RFC 7517), fetched in the background and kept while the
issuer is away.

Tokens are verified with the keys at hand: no request waits for the issuer, except one whose token
names a key that is not known, for which the issuer is asked at once, but not more often than every
`COOL_DOWN_S`. What is fetched is hostile until parsed: https, no redirects, few bytes, few keys,
little time.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import orjson

from service.auth.verification_keys import VerificationKeys, from_jwks
from service.outgoing import BoundedConnector
from service.settings import is_safe_url
from service.tasks import cancel_and_wait, spawn_guarded
from service.text import decoded

log = logging.getLogger(__name__)

COOL_DOWN_S = 30.0
"""Seconds between two fetches for keys that are not known: tokens with made-up key ids must not
reach the issuer through us."""
KEEP_S = 86_400.0
"""Seconds for which the last good keys are used while none can be fetched: a night without the
issuer."""
TIMEOUT_S = 2.0
LIMIT_BYTES = 256 * 1024
RETRY_S = (1.0, 30.0)
"""Seconds until the next attempt after a first failure, doubled by each further one up to the
second number."""
DISCOVERY = "/.well-known/openid-configuration"


class JwksError(Exception):
    """The issuer's keys could not be had, for the reason given."""


class JwksClient:
    """The keys of one issuer.

    `url` is where they are, or `None` if the issuer is to be asked (OpenID Connect Discovery 1.0,
    section 4). `changed` is called when the keys at hand are others than before. `refresh` is in
    seconds.
    """

    def __init__(
        self,
        issuer: str,
        url: str | None,
        algorithms: Sequence[str],
        changed: Callable[[], None],
        *,
        refresh: float = 300.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.verification_keys: VerificationKeys | None = None
        self._issuer = issuer
        self._configured_url = self._url = url
        self._algorithms = algorithms
        self._changed = changed
        self._refresh = refresh
        self._monotonic = monotonic
        self._session: aiohttp.ClientSession | None = None
        self._flight: asyncio.Task[bool] | None = None
        self._asked_at = self._good_at = float("-inf")
        self._failing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the keys fresh inside it. It is entered at once: the first fetch goes on
        meanwhile."""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            connector=BoundedConnector(limit=2, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        ) as session:
            self._session = session
            task = spawn_guarded(self._keep_fresh(), "signing-keys")
            try:
                yield
            finally:
                await cancel_and_wait(task)
                if self._flight is not None:
                    self._flight.cancel()
                    await asyncio.wait([self._flight])
                self._session = None

    async def refresh_for_unknown_kid(self) -> None:
        """Asks the issuer for its keys, unless that was done for a caller just now. Callers at the
        same time share one fetch."""
        flight = self._flight
        if flight is None or flight.done():
            now = self._monotonic()
            if (
                self.verification_keys is None or now - self._asked_at < COOL_DOWN_S
            ):  # Without keys, the schedule is trying anyway.
                return
            self._asked_at = now
            flight = self._fly()
        await asyncio.wait([flight])

    def _fly(self) -> "asyncio.Task[bool]":
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._fetch(), name="signing-keys-fetch")
        return self._flight

    async def _keep_fresh(self) -> None:
        failures = 0
        while True:
            flight = self._fly()
            await asyncio.wait([flight])
            good = not flight.cancelled() and flight.result()
            failures = 0 if good else failures + 1
            pause = (
                self._refresh
                if good
                else min(RETRY_S[0] * 2 ** min(failures - 1, 10), RETRY_S[1], self._refresh)
            )
            pause *= random.uniform(0.9, 1.1)  # noqa: S311  # Spreading, not secrecy.
            if self.verification_keys is not None:
                pause = min(pause, max(0.0, self._good_at + KEEP_S - self._monotonic()))
            await asyncio.sleep(pause)
            if self._monotonic() >= self._good_at + KEEP_S:
                self._become(None)

    async def _fetch(self) -> bool:
        """Fetches the keys once; whether that went well. A failure is logged when it begins and
        when it ends."""
        try:
            verification_keys = await self._fetch_verification_keys()
        except Exception as error:  # Whatever the issuer answers, it ends nothing but this attempt.
            self._url = self._configured_url  # Keys may have moved: the issuer is asked again.
            if not self._failing:
                log.warning(
                    "the keys of an issuer cannot be had",
                    extra={"issuer": self._issuer, "reason": _reason(error)},
                )
            self._failing = True
            return False
        if self._failing:
            log.info("the keys of an issuer can be had again", extra={"issuer": self._issuer})
        self._failing = False
        self._good_at = self._monotonic()
        self._become(verification_keys)
        return True

    def _become(self, verification_keys: VerificationKeys | None) -> None:
        if verification_keys != self.verification_keys:
            keys = [key.kid for key in verification_keys] if verification_keys is not None else []
            log.info(
                "the keys of an issuer have changed",
                extra={"issuer": self._issuer, "key_ids": keys},
            )
            self.verification_keys = verification_keys
            self._changed()

    async def _fetch_verification_keys(self) -> VerificationKeys:
        if self._url is None:
            self._url = await self._discover()
        return from_jwks(await self._get(self._url), self._algorithms)

    async def _discover(self) -> str:
        document = orjson.loads(decoded(await self._get(self._issuer.rstrip("/") + DISCOVERY)))
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise JwksError("its configuration is another issuer's")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or not is_safe_url(url):
            raise JwksError("its configuration names no https:// URL for its keys")
        return url

    async def _get(self, url: str) -> bytes:
        """The document. Some servers compress although they were asked not to; the limit is on what
        that becomes."""
        assert self._session is not None  # noqa: S101  # Fetches live inside `running`.
        async with self._session.get(url, allow_redirects=False) as answer:
            if answer.status != HTTPStatus.OK:
                raise JwksError(f"HTTP {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > LIMIT_BYTES:
                    raise JwksError(f"more than {LIMIT_BYTES:,} bytes")
        return bytes(body)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, orjson.JSONDecodeError):
        return "it is not JSON"
    return (
        str(error)
        if isinstance(error, JwksError) or type(error) is ValueError
        else f"{type(error).__name__}: {error}"
    )
