"""Notifications and key sets are requested through a proxy where the environment names one."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.auth.jwks import JwksClient
from service.metrics import Metrics
from service.monitor.kubernetes.assess import Rules
from service.monitor.kubernetes.checker import workload_checker
from service.monitor.notify import heartbeat, webhook
from service.monitor.probes.http import probe, session
from service.monitor.services import Workload
from service.outgoing import proxy_for
from tests.support.cluster import credentials
from tests.support.forward_proxy import ForwardProxy
from tests.support.services import certificate, http, says, service

BASIC = "Basic " + base64.b64encode(b"operator:hunter2").decode()
VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ForwardProxy]:
    """A proxy that the environment names for both schemes."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made = ForwardProxy()
    async with made.listening():
        monkeypatch.setenv("HTTP_PROXY", made.url)
        monkeypatch.setenv("https_proxy", made.url)
        yield made


async def called(url: str, _: Path) -> str:
    """The heartbeat call."""
    async with session() as client:
        return await heartbeat._call(client, url)


async def delivered(url: str, _: Path) -> str:
    """An attempt of the webhook."""
    hook = webhook._Webhook(url, b"k" * 32, Metrics(), ())
    async with session() as client:
        failure = await hook._attempt(client, webhook._Message("1", b"{}"))
        return failure.reason if failure else ""


async def fetched(url: str, _: Path) -> str:
    """A request for a key set."""
    keys = JwksClient("https://issuer.example", url, ("RS256",), lambda: None)
    async with keys.running():
        try:
            await keys._get(url)
        except Exception as error:
            return type(error).__name__
        return ""


async def probed(url: str, _: Path) -> str:
    """A check of a service."""
    async with session() as client:
        result = await probe(client, url, 30)
    return "" if result.healthy else result.info


async def checked(url: str, folder: Path) -> str:
    """A request to Kubernetes."""
    async with workload_checker(url, credentials(folder / "account"), Rules(), 0.0) as checker:
        return (await checker.check(Workload("deployment", "api"), 30)).unknown


Client = Callable[[str, Path], Awaitable[str]]
THROUGH: dict[str, Client] = {"heartbeat": called, "webhook": delivered, "JWKS": fetched}
PAST: dict[str, Client] = {"check": probed, "Kubernetes": checked}


@pytest.mark.parametrize("client", THROUGH.values(), ids=THROUGH)
async def test_a_proxy_is_used(proxy: ForwardProxy, tmp_path: Path, client: Client) -> None:
    """A request to the world goes through the proxy, with the credentials of its URL."""
    async with service(says(http("200 OK", b"{}"))) as port:
        assert await client(f"http://localhost:{port}/path?token=1", tmp_path) == ""
    assert [asked.partition(" ")[2] for asked in proxy.asked] == [
        f"http://localhost:{port}/path?token=1"
    ] * len(proxy.asked)
    assert proxy.asked
    assert set(proxy.credentials) == {BASIC}


@pytest.mark.parametrize("client", THROUGH.values(), ids=THROUGH)
async def test_https_is_tunnelled(proxy: ForwardProxy, tmp_path: Path, client: Client) -> None:
    """For https the proxy sees the host only: TLS is spoken with the server behind it."""
    tls, _ = certificate(tmp_path, "localhost")
    async with service(says(), tls) as port:
        failure = await client(f"https://localhost:{port}/path?token=t0psecret", tmp_path)
    assert failure == "ClientConnectorCertificateError"  # No authority has signed it.
    assert set(proxy.asked) == {f"CONNECT localhost:{port}"}
    assert "t0psecret" not in "".join(proxy.heads)


@pytest.mark.parametrize("client", PAST.values(), ids=PAST)
async def test_checks_use_no_proxy(proxy: ForwardProxy, tmp_path: Path, client: Client) -> None:
    """A check is of the way from the monitor to the service, and Kubernetes is near."""
    async with service(says(http("200 OK", b"{}"))) as port:
        await client(f"http://localhost:{port}/", tmp_path)
    assert proxy.asked == []


@pytest.mark.parametrize("exception", ["localhost", "LOCALHOST", ".localhost, other", "*"])
async def test_exceptions_are_requested_directly(
    proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exception: str
) -> None:
    """Hosts in `NO_PROXY`, and their subdomains, are requested without the proxy."""
    monkeypatch.setenv("NO_PROXY", exception)
    async with service(says(http("200 OK", b"{}"))) as port:
        for client in THROUGH.values():
            assert await client(f"http://localhost:{port}/", tmp_path) == ""
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({}, "http://a/", None),
        ({"HTTP_PROXY": "proxy:3128"}, "http://a/", "http://proxy:3128"),
        ({"HTTP_PROXY": "http://proxy"}, "https://a/", None),
        ({"http_proxy": "http://one", "HTTP_PROXY": "http://two"}, "http://a/", "http://one"),
        ({"HTTP_PROXY": "http://proxy", "NO_PROXY": "b,a:8080"}, "http://a:8080/", None),
        ({"HTTP_PROXY": "http://proxy", "no_proxy": "a"}, "http://u:p@x.a/", None),
        ({"HTTP_PROXY": "http://proxy", "no_proxy": "a"}, "http://ba/", "http://proxy"),
        ({"HTTP_PROXY": ""}, "http://a/", None),
    ],
)
def test_proxy_for(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], url: str, expected: str | None
) -> None:
    """The conventional variables in either case; the lower case counts where both are set."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == expected


async def test_netrc_is_not_read(
    proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Credentials of a netrc file are sent neither to a server nor to a proxy."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    async with service(says(http("200 OK", b"{}"))) as port:
        for client in THROUGH.values():
            await client(f"http://localhost:{port}/", tmp_path)
    assert proxy.credentials == []
    assert not [head for head in proxy.heads if "authorization" in head.lower()]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("client", THROUGH.values(), ids=THROUGH)
async def test_flood_of_a_proxy_is_bounded(
    proxy: ForwardProxy, tmp_path: Path, client: Client, scheme: str
) -> None:
    """The limits of a response hold for a proxy's as well, also for that to CONNECT."""
    proxy.flood = b"HTTP/1.1 100 Continue\r\n\r\n"
    failure = await client(f"{scheme}://localhost:1/", tmp_path)
    assert failure in {"ClientResponseError", "ClientHttpProxyError", "ServerDisconnectedError"}


async def test_credentials_of_a_proxy_are_not_logged(
    proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that cannot be reached is logged without its user and password."""
    monkeypatch.setenv("HTTP_PROXY", "http://operator:hunter2@127.0.0.1:1")
    url = "http://localhost:1/"
    with caplog.at_level(logging.INFO):
        keys = JwksClient("https://issuer.example", url, ("RS256",), lambda: None)
        async with keys.running():
            while not caplog.records:
                await asyncio.sleep(0.01)
        async with heartbeat.beating(SecretStr(url), Metrics()) as beat:
            beat()
            while len(caplog.records) < 2:
                await asyncio.sleep(0.01)
    text = " ".join(str(vars(line)) for line in caplog.records)
    assert "hunter2" not in text
    assert "operator" not in text
