"""Ports that are taken: always one line that names the address, however late it is taken."""

import errno
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from service.sockets import for_workers, listen
from tests.support import needs
from tests.support.environment import environment
from tests.support.folders import ROOT
from tests.support.ports import reserve_port
from tests.support.processes import kill_session


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nothing listens, kept from others by a socket that is bound only."""
    with reserve_port() as sock:
        yield sock.getsockname()[1]


def close(*sockets: socket.socket) -> None:
    """Closes them."""
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("shared", [False, True], ids=["one", "workers"])
def test_a_port_that_is_listened_on_is_taken(host: str, shared: bool) -> None:
    """`listen` listens at once, and fails where another socket listens, that of a service with
    workers included."""
    if ":" in host:
        needs.ipv6()
    first = listen(host, 0)
    sockets = for_workers(first, 3 if shared else 1)
    port = first.getsockname()[1]
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        socket.create_connection((host, port), timeout=5).close()
        with pytest.raises(OSError, match="in use") as caught:
            listen(host, port)
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.strerror == f"cannot listen on {shown}: Address already in use"
    finally:
        close(*sockets)
    close(listen(host, port))


class OneFamily(socket.socket):
    """A socket as on a system whose IPv6 sockets accept no IPv4."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.family == socket.AF_INET6:
            self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def test_both_families_are_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """`::` accepts connections over IPv4 as well, whatever the default of the system."""
    needs.ipv6()
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", OneFamily)
        sockets = for_workers(listen("::", 0), 2)
    port = sockets[0].getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port), timeout=5).close()
    for sock in sockets:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    close(*sockets)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_worker_gets_its_share(host: str) -> None:
    """On Linux connections are spread over the workers' sockets, each of which is the port's."""
    needs.linux("a kernel that spreads connections over the sockets of a port")
    if ":" in host:
        needs.ipv6()
    first = listen(host, 0)
    sockets = for_workers(first, 3)
    clients = [socket.create_connection(first.getsockname()[:2], timeout=5) for _ in range(300)]
    accepted: Counter[int] = Counter()
    for index, sock in enumerate(sockets):
        assert sock.getsockname() == first.getsockname()
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            accepted[index] += 1
    close(*sockets, *clients)
    assert accepted.total() == 300
    assert min(accepted[index] for index in range(3)) >= 50


def test_workers_share_one_socket_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not spread connections, all workers accept from one socket."""
    monkeypatch.setattr(sys, "platform", "darwin")
    first = listen("127.0.0.1", 0)
    assert for_workers(first, 3) == [first] * 3
    close(first)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "192.0.2.1"])
def test_an_address_that_is_not_ours(host: str) -> None:
    """A host that does not exist or belongs to another machine is an `OSError` that names it."""
    with pytest.raises(OSError, match="cannot listen") as caught:
        listen(host, 8080)
    assert str(caught.value.strerror).startswith(f"cannot listen on {host}:8080: ")


RIVAL = """
import socket, sys
plain, rivals = socket.socket, []

class Racing(plain):
    def bind(self, address):
        super().bind(address)
        if address[1] == {port}:
            rivals.append(plain(self.family, self.type))
            rivals[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            rivals[-1].bind(address)
            rivals[-1].listen()

socket.socket = Racing
from service.cli.main import main
sys.argv[0] = "cluster-events"
main()
"""
"""The command, beaten by another process between its `bind` and its `listen`."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "setting", "start"),
    [
        ("serve --workers 2", "port", "cannot listen on"),
        ("serve", "metrics_port", "cannot listen on"),
        ("monitor", "monitor_port", "cannot start: cannot listen on"),
        ("dev", "port", "cannot listen on"),
        ("dev", "metrics_port", "cannot start: cannot listen on"),
        ("dev", "monitor_port", "cannot start: cannot listen on"),
    ],
)
def test_a_port_that_another_process_takes_at_the_same_time(
    free_port: int, valkey: str, command: str, setting: str, start: str
) -> None:
    """Two processes may both bind before either listens: the second one ends with one line and exit
    code 1."""
    needs.linux("two sockets bound to one address")
    settings = {
        "port": "0",
        "redis_url": valkey,
        "jwt_secret": "x" * 32,
        "services": "api=http://127.0.0.1:1/",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", RIVAL.format(port=free_port), *command.split()],
        cwd=ROOT,
        env=environment(**(settings | {setting: str(free_port)})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=30)
    finally:
        kill_session(process.pid)
        process.wait()
    assert process.returncode == 1
    assert out == ""
    errors = [line for line in err.splitlines() if " INFO " not in line]
    assert errors == [f"Error: {start} 127.0.0.1:{free_port}: Address already in use"]
