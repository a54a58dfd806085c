"""Fetches an issuer's public keys (JWKS, RFC 7517) and keeps the last good ones.

The keys are fetched in the background. No request waits for the issuer, with one exception: a token
with an unknown key id makes the client fetch the keys at once, but at most once every
`COOL_DOWN_S`. The response is untrusted input: https only, no redirects, and limits on its size, on
the number of keys and on the time.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import orjson

from service.auth.verification_keys import VerificationKeys, from_jwks
from service.outgoing import BoundedConnector, proxy_for, read_at_most
from service.settings import is_safe_url
from service.tasks import OutageLog, SingleFlight, cancel_and_wait, jittered, spawn_guarded
from service.text import decoded

log = logging.getLogger(__name__)

COOL_DOWN_S = 30.0
"""Seconds between two fetches for unknown key ids: a client must not be able to flood the issuer
through us with tokens that have invented key ids."""
KEEP_S = 86_400.0
"""Seconds for which the last good keys are used while fetching fails: a night-long outage."""
TIMEOUT_S = 2.0
"""Seconds for one request to the issuer."""
LIMIT_BYTES = 256 * 1024
"""The most bytes of a response."""
RETRY_S = (1.0, 30.0)
"""Seconds until the next attempt: after the first failure, and at most; each failure doubles it."""
DISCOVERY = "/.well-known/openid-configuration"
"""Appended to the issuer (OpenID Connect Discovery 1.0, section 4)."""


class JwksError(Exception):
    """The keys could not be fetched; the message says why."""


class JwksClient:
    """The keys of one issuer.

    `url` is the URL of the key set; with `None` it is discovered from the issuer (OpenID Connect
    Discovery 1.0, section 4). `changed` is called when the keys differ from those before. `refresh`
    is the number of seconds between two fetches.
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
        self._fetches: SingleFlight[bool] = SingleFlight("signing-keys-fetch")
        self._fetched_for_unknown_kid_at = self._succeeded_at = float("-inf")
        self._outage = OutageLog(log, "cannot fetch JWKS", "JWKS can be fetched again")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the keys fresh. The body is entered at once, before the first fetch has ended."""
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
                if (fetch := self._fetches.in_progress()) is not None:
                    await cancel_and_wait(fetch)
                self._session = None

    async def refresh_for_unknown_kid(self) -> None:
        """Fetch the keys, unless that was done for an unknown key id in the last `COOL_DOWN_S`.

        Callers at the same time share one fetch.
        """
        fetch = self._fetches.in_progress()
        if fetch is None:
            now = self._monotonic()
            cooling_down = now - self._fetched_for_unknown_kid_at < COOL_DOWN_S
            # Without any keys, the background task is already retrying.
            if self.verification_keys is None or cooling_down:
                return
            self._fetched_for_unknown_kid_at = now
            fetch = self._fetches.start(self._fetch)
        await asyncio.wait([fetch])

    async def _keep_fresh(self) -> None:
        failures = 0
        while True:
            fetch = self._fetches.start(self._fetch)
            await asyncio.wait([fetch])
            succeeded = not fetch.cancelled() and fetch.result()
            failures = 0 if succeeded else failures + 1
            pause = jittered(
                self._refresh
                if succeeded
                # The exponent is limited so that the power stays a small number.
                else min(RETRY_S[0] * 2 ** min(failures - 1, 10), RETRY_S[1], self._refresh)
            )
            # The keys are dropped on time, also during an outage.
            if self.verification_keys is not None:
                pause = min(pause, max(0.0, self._succeeded_at + KEEP_S - self._monotonic()))
            await asyncio.sleep(pause)
            if self._monotonic() >= self._succeeded_at + KEEP_S:
                self._replace_keys(None)

    async def _fetch(self) -> bool:
        """Fetch the keys once; whether that succeeded."""
        try:
            verification_keys = await self._fetch_verification_keys()
        except Exception as error:  # Whatever the issuer sends, only this attempt fails.
            # The key set may have moved: discover its URL again.
            self._url = self._configured_url
            self._outage.failed(issuer=self._issuer, reason=_reason(error))
            return False
        self._outage.succeeded(issuer=self._issuer)
        self._succeeded_at = self._monotonic()
        self._replace_keys(verification_keys)
        return True

    def _replace_keys(self, verification_keys: VerificationKeys | None) -> None:
        if verification_keys != self.verification_keys:
            keys = [key.kid for key in verification_keys] if verification_keys is not None else []
            log.info("JWKS changed", extra={"issuer": self._issuer, "key_ids": keys})
            self.verification_keys = verification_keys
            self._changed()

    async def _fetch_verification_keys(self) -> VerificationKeys:
        if self._url is None:
            self._url = await self._discover()
        return from_jwks(await self._get(self._url), self._algorithms)

    async def _discover(self) -> str:
        document = orjson.loads(decoded(await self._get(self._issuer.rstrip("/") + DISCOVERY)))
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise JwksError("the OpenID configuration is of another issuer")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or not is_safe_url(url):
            raise JwksError("the OpenID configuration has no https:// URL as jwks_uri")
        return url

    async def _get(self, url: str) -> bytes:
        """The body of a response, after removal of a content coding.

        Some servers compress although `Accept-Encoding: identity` was sent. The limit is on the
        decompressed bytes.
        """
        assert self._session is not None  # noqa: S101  # Fetches run inside `running`.
        async with self._session.get(url, allow_redirects=False, proxy=proxy_for(url)) as response:
            if response.status != HTTPStatus.OK:
                raise JwksError(f"HTTP {response.status}")
            body = await read_at_most(response.content, LIMIT_BYTES + 1)
        if len(body) > LIMIT_BYTES:
            raise JwksError(f"more than {LIMIT_BYTES:,} bytes")
        return body


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
