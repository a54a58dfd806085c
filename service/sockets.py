"""Listening TCP sockets: one for a process, or one for each worker."""

import socket
import sys
from collections.abc import Sequence
from typing import Any

BACKLOG = 1_024
"""Connections waiting to be accepted: all agents reconnect at once when a replica restarts."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on an address on which no other process listens; port 0 is a free port.

    It listens at once. Several sockets can be bound to one address as long as none of them listens,
    so a later `listen` by the event loop could fail. Raises `OSError` with the address and the
    reason in `strerror`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        return _listening(socket.socket(family, kind, protocol), address)
    # A host name that is too long for DNS raises `UnicodeError`.
    except (OSError, UnicodeError) as error:
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            getattr(error, "errno", None), f"cannot listen on {shown}: {reason}"
        ) from error


def for_workers(first: socket.socket, workers: int) -> Sequence[socket.socket]:
    """A listening socket for each worker, on the address of `first`, which `listen` returned.

    On Linux each worker has its own socket, the first worker has `first`, and the kernel
    distributes connections evenly (`SO_REUSEPORT`). `first` gets this option only after it listens
    alone, and `listen` never sets it, so `listen` fails in every other process. On other systems
    the option does not distribute connections, and all workers accept from `first`.
    """
    sockets = [first]
    if sys.platform == "linux":
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(workers - 1):
            sock = socket.socket(first.family, first.type, first.proto)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sockets.append(_listening(sock, first.getsockname()))
    return sockets if len(sockets) == workers else [first] * workers


def _listening(sock: socket.socket, address: Any) -> socket.socket:
    """Bind a socket to an address and make it listen. It is closed if that raises `OSError`."""
    try:
        # Without this option, bind fails after a restart until old connections have left TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # `::` is both families, whatever the default of the system.
        if sock.family == socket.AF_INET6 and address[0] == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
