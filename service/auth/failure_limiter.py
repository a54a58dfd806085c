"""What happens to requests with bad credentials: they are counted for each client address, slowed,
and told to the audit log.

Only a request that was refused is counted, after it was refused: whoever has a good credential is
never slowed, whatever comes from the same address. All memory is bounded.
"""

import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from service.auth import audit
from service.auth.principal import Principal
from service.errors import ApiError, AuthenticationFailed, TooManyRequests
from service.settings import Settings

MOST_ADDRESSES = 8_192
"""Addresses that are remembered, the longest silent giving way: about 1 MB."""
LINES_PER_MINUTE = 300
"""Audit lines about one address, where no limit on failures is set, and about requests that lack a
role."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_V6_SITE_BITS = 64
_MOST_HOPS = 16
"""Elements of `X-Forwarded-For` that are looked at, from the last one: a chain of proxies has two
or three."""
_HOP = re.compile(
    r'"?(?:\[([0-9A-Fa-f:.]+(?:%[^\]"]*)?)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}|([^\[\]",]*))"?',
    re.ASCII,
)
"""One of them: `[IPv6]` with or without a port, `IPv4:port`, or an address alone, in quotes or not
(RFC 7239, section 6)."""
_ROUNDING_S = 1e-6
"""The error of adding times up is less."""


class RateLimiter:
    """So many things a minute for each key, all of them at once if need be (a leaky bucket: one
    number for each key)."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._interval = 60 / per_minute
        self._monotonic = monotonic
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def acquire(self, key: str) -> float:
        """Takes one and returns 0, or returns how many seconds there will be none."""
        now = self._monotonic()
        empty_at = max(self._empty_at.get(key, now), now)
        wait = empty_at + self._interval - now - 60
        if wait > _ROUNDING_S:
            return wait
        self._empty_at[key] = empty_at + self._interval
        self._empty_at.move_to_end(key)
        if len(self._empty_at) > MOST_ADDRESSES:
            self._empty_at.popitem(last=False)
        return 0.0

    def __len__(self) -> int:
        return len(self._empty_at)


class FailureLimiter:
    """Bad credentials and lacking roles, by client address."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limited = settings.auth_failures_per_minute > 0
        self._failures = RateLimiter(
            settings.auth_failures_per_minute or LINES_PER_MINUTE, monotonic
        )
        self._denials = RateLimiter(LINES_PER_MINUTE, monotonic)
        self._trusted = [ipaddress.ip_network(network) for network in settings.trusted_proxies]

    def address(self, peer: str | None, forwarded: Sequence[str]) -> str:
        """Where a request comes from: the peer, or if that is a trusted proxy, whom it names, as
        far as proxies are trusted.

        `forwarded` are the values of `X-Forwarded-For`, whose elements may have ports. The address
        that is returned has neither port nor brackets nor zone. A client on a unix socket has no
        address.
        """
        client = peer or "local"
        if not self._is_trusted(_parsed(client)):
            return client
        for hop in reversed(",".join(forwarded).rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
            address = _hop(hop)
            if address is None:  # No address: what the proxy before it wrote ends here.
                break
            client = str(address)
            if not self._is_trusted(address):
                break
        return client

    def record_failure(
        self, error: AuthenticationFailed, address: str, route: str, *, sent: bool
    ) -> ApiError:
        """What is to be answered: the error, or 429 for an address that `sent` too many bad
        credentials."""
        wait = self._failures.acquire(client_network(address))
        if not wait:
            audit.refused(error.why, error.who, address, route)
        return TooManyRequests(math.ceil(wait)) if wait and sent and self._limited else error

    def record_denial(self, principal: Principal, needed: str, address: str, route: str) -> None:
        """A good credential whose role does not allow the request."""
        if not self._denials.acquire(client_network(address)):
            audit.refused(f"needs the role '{needed}'", principal.name, address, route)

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def client_network(address: str) -> str:
    """What counts as one client: an IPv4 address, or the network of a site in IPv6, whose addresses
    cost nothing."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _V6_SITE_BITS), strict=False))
    return str(parsed or address)


def _hop(element: str) -> Address | None:
    """The address in an element of `X-Forwarded-For`, or `None` if there is none."""
    match = _HOP.fullmatch(element.strip())
    return _parsed(next(filter(None, match.groups()), "")) if match else None


def _parsed(host: str) -> Address | None:
    """The address, or `None`. IPv4 in the form of IPv6 is IPv4."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
