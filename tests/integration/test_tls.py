"""`rediss://`: the store over TLS, with Debian's redis-server and a certificate made for the
test."""

import datetime as dt
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.errors import StoreUnavailable
from service.store import open_store
from tests.support import needs
from tests.support.observations import ALL_GOOD
from tests.support.settings import make_settings


def certify(folder: Path) -> None:
    """A key and a certificate for `localhost`, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(
        now + dt.timedelta(hours=1)
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A redis-server that speaks TLS only: its port, and its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    certify(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        needs.program("redis-server"),
        "--port",
        "0",
        "--tls-port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
    ]
    command += [
        "--tls-cert-file",
        "cert.pem",
        "--tls-key-file",
        "key.pem",
        "--tls-ca-cert-file",
        "cert.pem",
    ]
    command += ["--tls-auth-clients", "no", "--requirepass", "secret"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)
        yield port, folder / "cert.pem"
    finally:
        process.terminate()
        process.wait(10)


async def test_events_travel_over_tls(tls_server: tuple[int, Path]) -> None:
    """With the certificate's authority and the password in the URL, the store works as ever."""
    port, certificate = tls_server
    url = f"rediss://:secret@localhost:{port}/0?ssl_ca_certs={certificate}"
    store = open_store(make_settings(redis_url=url, redis_timeout="2s"))
    event = (await store.append(ALL_GOOD)).event
    assert (await store.read()).latest == event.id
    await store.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "rediss://:secret@localhost:{port}/0",  # An authority that this machine does not know.
        "rediss://:secret@127.0.0.1:{port}/0?ssl_ca_certs={certificate}",  # A name that is not the certificate's.  # noqa: E501
        "redis://:secret@localhost:{port}/0",  # No TLS where TLS is spoken.
    ],
)
async def test_a_server_that_cannot_be_trusted_is_no_store(
    tls_server: tuple[int, Path], url: str
) -> None:
    """The certificate is checked, and its name; nothing of the URL is in the error."""
    port, certificate = tls_server
    store = open_store(
        make_settings(redis_url=url.format(port=port, certificate=certificate), redis_timeout="1s")
    )
    with pytest.raises(StoreUnavailable) as caught:
        await store.read()
    assert "secret" not in str(caught.value)
    await store.aclose()
