"""The `Host` check of a service without credentials, against DNS rebinding.

A page of `http://evil.example:8080` may read and write what its own origin serves, and the owner of
that name can make it resolve to 127.0.0.1. The page's requests then come from this machine, and
differ from those of a local client only in their `Host`.
"""

import re
from collections.abc import Sequence

from aiohttp import web

from service.errors import MisdirectedRequest
from service.settings import is_loopback
from service.text import parse_ip

_AUTHORITY = re.compile(r"(?:\[([0-9A-Za-z:.%]+)\]|([^][:@/]+))(?::[0-9]*)?", re.ASCII)
"""A host and a port (RFC 9110, section 7.2)."""


class Hosts:
    """The hosts whose requests are accepted.

    Loopback names and the local address of the connection are always accepted.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(map(_name, allowed))

    def check(self, request: web.Request) -> None:
        """Raise `MisdirectedRequest` for a request to another host; the port is ignored.

        The host is that of the request target if it has one, else that of `Host` (RFC 9112, section
        3.2.2). A request in HTTP/1.0 needs no `Host`.
        """
        name = _name(request.host)
        if not (_is_loopback(name) or name in self._allowed or name == _local_address(request)):
            raise MisdirectedRequest(request.host)


def _name(host: str) -> str:
    """The host without its port, in a canonical form; a malformed host only in lower case."""
    match = _AUTHORITY.fullmatch(host)
    name = (match[1] or match[2]) if match else host
    name = name.lower().removesuffix(".")
    return str(parse_ip(name) or name)


def _is_loopback(name: str) -> bool:
    """Whether the name always means this machine (RFC 6761, section 6.3)."""
    return is_loopback(name) or name.endswith(".localhost")


def _local_address(request: web.Request) -> str | None:
    transport = request.transport
    name = transport.get_extra_info("sockname") if transport is not None else None
    return str(parse_ip(name[0]) or name[0]) if isinstance(name, tuple) else None
