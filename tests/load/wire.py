"""As little HTTP as the benchmark needs: one request on a connection that stays open, its reply in
bytes."""

import re
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """A reply as it came."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.head[9:12])

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The header fields in their order."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [
            (name, value.strip())
            for name, _, value in (line.partition(":") for line in lines if line)
        ]


class Connection:
    """A connection to a server on loopback."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        """Connects. Raises `OSError`."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, request: bytes) -> Reply:
        """Sends a request and reads its reply. Raises `OSError` if the connection ends first."""
        self._socket.sendall(request)
        data = self._rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._receive()
        head, data = data[: end + 2], data[end + 4 :]
        length = _LENGTH.search(head)
        wanted = int(length[1]) if length and head[9:12] != b"304" else 0
        while len(data) < wanted:
            data += self._receive()
        self._rest = data[wanted:]
        return Reply(head, data[:wanted])

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def _receive(self) -> bytes:
        data = self._socket.recv(262_144)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data


def get(path: str, *lines: str) -> bytes:
    """The head of a GET request with these header lines."""
    return request("GET", path, b"", *lines)


def post(path: str, body: bytes, *lines: str) -> bytes:
    """A POST request of JSON."""
    return request(
        "POST", path, body, "Content-Type: application/json", f"Content-Length: {len(body)}", *lines
    )


def request(method: str, path: str, body: bytes, *lines: str) -> bytes:
    """A request in bytes."""
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""])
    return head.encode("ascii") + body


def ask(port: int, request: bytes) -> Reply:
    """The reply to one request on a connection of its own. Raises `OSError`."""
    with Connection(port) as connection:
        return connection.ask(request)
