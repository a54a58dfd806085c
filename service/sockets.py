"""Listening TCP sockets: one for a process, or one for each worker of a service."""

import socket
import sys
from collections.abc import Sequence
from typing import Any

BACKLOG = 1_024
"""Connections that wait to be accepted: all agents reconnect at once when a replica restarts."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on an address on which no other process listens. Port 0 takes a free one.

    It listens at once: several sockets may be bound to one address while none of them listens, and
    the later ones would fail only when the event loop makes them listen. Raises `OSError`, whose
    `strerror` names the address and the reason.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        return _listening(socket.socket(family, kind, protocol), address)
    except (OSError, UnicodeError) as error:  # A name that is too long for DNS is a UnicodeError.
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            getattr(error, "errno", None), f"cannot listen on {shown}: {reason}"
        ) from error


def for_workers(first: socket.socket, workers: int) -> Sequence[socket.socket]:
    """A listening socket for each worker, on the address of `first`, a socket of `listen`.

    On Linux each worker has its own, `first` among them, and the kernel spreads connections evenly
    over them (`SO_REUSEPORT`). `first` gets that option only after it listens alone, and `listen`
    never uses it, so `listen` fails in every other process. On other systems the option does not
    spread connections, and all workers accept from `first`.
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
    """Binds a socket to an address and makes it listen. Closes it on an `OSError`."""
    try:
        # Else a restart would have to wait for the connections of before (TIME_WAIT).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
