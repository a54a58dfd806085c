"""Parsing of `Host`, and the hosts for which a service without credentials accepts requests.

The latter is a defence against DNS rebinding: a page of `http://evil.example:8080` may read and
write whatever its own origin serves, and the owner of that name can make it resolve to 127.0.0.1.
Such a request comes from this machine and differs from that of a local client only in its `Host`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address

from aiohttp import web

from service.errors import MisdirectedRequest
from service.settings import is_loopback
from service.text import parse_ip

_HOST_FIELD = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)(?:%25[0-9A-Za-z._~-]+)?\]"
    r"|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?",
    re.ASCII,
)
"""A host, or none, and a port (RFC 9110, section 7.2; RFC 3986, section 3.2; zones: RFC 6874)."""
_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Za-z:.%_~-]+)\]|([^][:@/]+))(?::[0-9]*)?", re.ASCII)
"""The pattern for the name without port.

It also accepts hosts from other sources: settings and socket addresses may have a zone without
`%25`, and the host of a target in absolute form is decoded.
"""


@dataclass(frozen=True, slots=True)
class ParsedHost:
    """A host, with or without a port."""

    name: str
    """The host without its port, in one spelling; for a malformed host, the whole value."""
    valid: bool
    """Whether a `Host` field may have this value (RFC 9112, section 3.2)."""


@lru_cache(256)
def parse_host(value: str) -> ParsedHost:
    """Parses a host, with or without a port. Clients repeat theirs, so the result is cached."""
    match = _HOST_AND_PORT.fullmatch(value)
    name = (match[1] or match[2]) if match else value
    name = name.lower().removesuffix(".")
    return ParsedHost(str(parse_ip(name) or name), _is_valid(value))


class Hosts:
    """The hosts whose requests are accepted.

    Loopback names and the local address of the connection are always accepted.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(parse_host(host).name for host in allowed)

    def check(self, request: web.Request) -> None:
        """Raise `MisdirectedRequest` for a request to another host; the port is ignored.

        The host is that of the request target if it has one, else that of `Host` (RFC 9112, section
        3.2.2). A request in HTTP/1.0 needs neither: its host is then the connection's address.
        """
        name = parse_host(request.host).name
        if not (_is_loopback(name) or name in self._allowed or name == _local_address(request)):
            raise MisdirectedRequest(request.host)


def _is_valid(value: str) -> bool:
    match = _HOST_FIELD.fullmatch(value)
    if match is None:
        return False
    if match[1] is not None:
        # The pattern alone would accept `[1]` or `[:::]`.
        try:
            IPv6Address(match[1])
        except ValueError:
            return False
    return True


def _is_loopback(name: str) -> bool:
    """Whether the name always means this machine (RFC 6761, section 6.3)."""
    return is_loopback(name) or name.endswith(".localhost")


def _local_address(request: web.Request) -> str | None:
    transport = request.transport
    name = transport.get_extra_info("sockname") if transport is not None else None
    return str(parse_ip(name[0]) or name[0]) if isinstance(name, tuple) else None
