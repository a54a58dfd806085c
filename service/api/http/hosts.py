"""The hosts that a service without credentials answers for: what keeps web pages out whose own name
resolves to it.

A page of `http://evil.example:8080` may read and write what its own origin serves, and the owner of
that name can let it resolve to 127.0.0.1 (DNS rebinding). Its requests come from this machine and
look like those of a local client, but for their `Host`.
"""

import ipaddress
import re
from collections.abc import Sequence

from aiohttp import web

from service.errors import MisdirectedRequest
from service.settings import is_loopback

_AUTHORITY = re.compile(r"(?:\[([0-9A-Za-z:.%]+)\]|([^][:@/]+))(?::[0-9]*)?", re.ASCII)
"""A host and a port (RFC 9110, section 7.2)."""


class Hosts:
    """The names besides loopback ones and a connection's own address for which requests are
    answered."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(map(_name, allowed))

    def check(self, request: web.Request) -> None:
        """Raises `MisdirectedRequest` for a request to another host; its port does not matter.

        The host is that of the target, if that has one, else that of `Host` (RFC 9112, section
        3.2.2). A request in HTTP/1.0 need not name any.
        """
        name = _name(request.host)
        if not (_is_loopback(name) or name in self._allowed or name == _local_address(request)):
            raise MisdirectedRequest(request.host)


def _name(host: str) -> str:
    """The host without its port, in one spelling. A malformed host stays as it is, and matches no
    name."""
    match = _AUTHORITY.fullmatch(host)
    name = (match[1] or match[2]) if match else host
    return _spelled(name.lower().removesuffix("."))


def _spelled(name: str) -> str:
    """An address in one spelling, without its zone; IPv4 in the form of IPv6 is IPv4."""
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_loopback(name: str) -> bool:
    """Whether the name can stand for this machine only (RFC 6761, section 6.3)."""
    return is_loopback(name) or name.endswith(".localhost")


def _local_address(request: web.Request) -> str | None:
    transport = request.transport
    name = transport.get_extra_info("sockname") if transport is not None else None
    return _spelled(name[0]) if isinstance(name, tuple) else None
