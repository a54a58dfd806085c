"""Services on loopback that behave as a test says."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.monitor.probes.http import Result, probe, session
from service.tasks import cancel_and_wait

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def service(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A service on loopback that does as it likes with every connection; gives its port."""
    open_connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_connections[task] = writer
        try:
            await behaviour(reader, writer)
        # The client hung up, or the service ends.
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            del open_connections[task]

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_connections.values():
            writer.transport.abort()
        await cancel_and_wait(*open_connections)


def says(*parts: bytes, stays: bool = False) -> Behaviour:
    """Reads a request, sends these bytes, and closes the connection, or leaves it open and says
    nothing more."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        for part in parts:
            writer.write(part)
            await writer.drain()
        if stays:
            await reader.read()  # Until the monitor hangs up.

    return behave


def http(status: str, body: bytes = b"", *fields: str) -> bytes:
    """An answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def certificate(folder: Path, name: str, days: int = 1) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context with a self-signed certificate for that name, and the certificate's
    file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context, cert_file


DEADLINE_S = 2.0


async def check(url: str, deadline: float = DEADLINE_S) -> Result:
    """One check, with the client that the monitor has."""
    async with session() as client:
        return await probe(client, url, deadline)


async def check_of(behaviour: Behaviour, deadline: float = DEADLINE_S) -> tuple[Result, str]:
    """One check of such a service, and the URL that was checked."""
    async with service(behaviour) as port:
        url = f"http://127.0.0.1:{port}/healthz"
        return await check(url, deadline), url
