"""TCP ports on loopback for servers that stop listening for a while and then listen again."""

import socket


def reserve_port() -> socket.socket:
    """A bound socket that does not listen. Its port is refused to clients while nothing else
    listens on it.

    While it is open, the kernel gives its port to no other `bind` to port 0 and to no outgoing
    connection. On Linux a server that sets `SO_REUSEADDR` can listen on the port, elsewhere one
    that sets `SO_REUSEPORT`.
    """
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
    except OSError:
        sock.close()
        raise
    return sock
