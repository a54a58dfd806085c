"""An issuer of tokens with a real HTTP server, which rotates its keys, hangs, breaks, lies, and
counts who asks."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service.sockets import listen

AUDIENCE = "cluster-events"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def private_key(algorithm: str, number: int = 0) -> PrivateKey:
    """A key for an algorithm, made once for each number."""
    return _private_key(algorithm, number)


@cache
def _private_key(algorithm: str, _number: int) -> PrivateKey:
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm in {"EdDSA", "Ed25519"}:
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65_537, 2_048)


def jwk(kid: str | None, algorithm: str, key: PrivateKey, **members: object) -> dict[str, object]:
    """The public half as a member of a key set; members that are `None` are left out."""
    found = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    found = {name: value for name, value in found.items() if name not in {"alg", "use", "key_ops"}}
    return {
        name: value for name, value in (found | {"kid": kid} | members).items() if value is not None
    }


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _segment(members: Mapping[str, Any]) -> str:
    return _encoded(
        json.dumps({name: value for name, value in members.items() if value is not None}).encode()
    )


def _signature(key: Any, algorithm: str, message: bytes) -> bytes:
    """A signature, also where the library would not make one."""
    if algorithm == "none":
        return b""
    if algorithm.startswith("HS"):
        return hmac.digest(key.encode(), message, f"sha{algorithm[2:]}")
    signature: bytes = jwt.get_algorithm_by_name(algorithm).sign(message, key)
    return signature


class Issuer:
    """Signs tokens, and publishes its keys at `url` + `/keys`.

    `keys` are by key id, each with its algorithm. `fetches` counts the requests for the key set,
    `discoveries` those for the configuration. `hanging` keeps every answer back; `status`, `body`
    and `headers` replace what is right; `coding` is a content coding and what brings a body into
    it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: dict[str, tuple[str, PrivateKey]] = {"first": ("ES256", private_key("ES256"))}
        self.fetches = self.discoveries = 0
        self.hanging = False
        self.status = 200
        self.body: bytes | None = None
        self.headers: Mapping[str, str] = {}
        self.coding: tuple[str, Callable[[bytes], bytes]] | None = None
        self.configuration: Mapping[str, object] | None = None

    @property
    def jwks_url(self) -> str:
        """Where the key set is."""
        return f"{self.url}/keys"

    def settings(self, **more: object) -> dict[str, Any]:
        """Settings of a service that trusts this issuer."""
        mine = {
            "jwt_secret": None,
            "jwt_issuer": self.url,
            "jwt_jwks_url": self.jwks_url,
            "jwt_audience": AUDIENCE,
        }
        return mine | more

    def token(
        self, kid: str | None = "first", headers: Mapping[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token signed with the key of that id; claims that are `None` are left out."""
        algorithm, key = self.keys[kid or "first"]
        return self.signed(key, algorithm, {"kid": kid, **(headers or {})}, **claims)

    def signed(
        self, key: Any, algorithm: str, headers: Mapping[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token of any key, algorithm and header fields; what is `None` is left out."""
        now = int(time.time())
        all_claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "agent",
            "iat": now,
            "exp": now + 600,
        } | claims
        parts = f"{_segment({'alg': algorithm, 'typ': 'JWT', **(headers or {})})}.{_segment(all_claims)}"  # noqa: E501
        return f"{parts}.{_encoded(_signature(key, algorithm, parts.encode()))}"

    def rotate(self, kid: str, algorithm: str = "ES256", number: int = 1) -> None:
        """From now on there is this key only."""
        self.keys = {kid: (algorithm, private_key(algorithm, number))}

    async def _keys(self, _request: web.Request) -> web.Response:
        self.fetches += 1
        keys = [
            jwk(kid, algorithm, key, alg=algorithm, use="sig")
            for kid, (algorithm, key) in self.keys.items()
        ]
        return await self._answer({"keys": keys})

    async def _configuration(self, _request: web.Request) -> web.Response:
        self.discoveries += 1
        return await self._answer(
            self.configuration or {"issuer": self.url, "jwks_uri": self.jwks_url}
        )

    async def _answer(self, document: Mapping[str, object]) -> web.Response:
        while self.hanging:
            await asyncio.sleep(0.02)
        body = self.body if self.body is not None else json.dumps(document).encode()
        if self.coding is None:
            return web.Response(status=self.status, body=body, headers=self.headers)
        name, compress = self.coding
        return web.Response(
            status=self.status, body=compress(body), headers={"Content-Encoding": name}
        )


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """A running issuer on a free port of loopback."""
    sock = listen("127.0.0.1", 0)
    issuer = Issuer(f"http://127.0.0.1:{sock.getsockname()[1]}")
    app = web.Application()
    app.router.add_get("/keys", issuer._keys)
    app.router.add_get("/.well-known/openid-configuration", issuer._configuration)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    try:
        yield issuer
    finally:
        issuer.hanging = False
        await runner.cleanup()
