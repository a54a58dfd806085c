"""Limits and logs requests with bad credentials, for each client network.

Only refused requests are counted, after they were refused: a request with a valid credential is
never limited, whatever else comes from the same address. All memory is bounded.
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
from service.text import IPAddress, parse_ip

MOST_ADDRESSES = 8_192
"""Client networks in memory, about 1 MB; the least recently used one is removed first."""
LINES_PER_MINUTE = 300
"""Audit lines a minute for each client network.

Used for failures if no limit on them is set, and for requests whose role is too low."""

_V6_SITE_BITS = 64
_MOST_HOPS = 16
"""Elements of `X-Forwarded-For` that are parsed, counted from the last one.

A chain of proxies has two or three."""
_HOP = re.compile(
    r'"?(?:\[([0-9A-Fa-f:.]+(?:%[^\]"]*)?)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}|([^\[\]",]*))"?',
    re.ASCII,
)
"""One element (RFC 7239, section 6).

`[IPv6]` with or without a port, `IPv4:port`, or an address alone, each in quotes or not."""
_ROUNDING_S = 1e-6
"""More than the rounding error of the sums of times below."""


class RateLimiter:
    """At most so many acquisitions a minute for each key, as a leaky bucket.

    All acquisitions of a minute may come at once. The only state is one number for each key: the
    time at which its bucket is empty.
    """

    def __init__(self, per_minute: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._interval = 60 / per_minute
        self._monotonic = monotonic
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def acquire(self, key: str) -> float:
        """Acquire one and return 0, or return the seconds until one is available."""
        now = self._monotonic()
        empty_at = max(self._empty_at.get(key, now), now)
        # The bucket has room for a minute: `per_minute` times the interval.
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
    """Limits and logs bad credentials and insufficient roles, by client network."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limited = settings.auth_failures_per_minute > 0
        self._failures = RateLimiter(
            settings.auth_failures_per_minute or LINES_PER_MINUTE, monotonic
        )
        self._denials = RateLimiter(LINES_PER_MINUTE, monotonic)
        self._trusted = [ipaddress.ip_network(network) for network in settings.trusted_proxies]

    def address(self, peer: str | None, forwarded: Sequence[str]) -> str:
        """The client's address: the peer, or behind trusted proxies the address that they report.

        `forwarded` are the values of `X-Forwarded-For`, read from the last element up to the first
        address that is not a trusted proxy. Elements may have ports. The result has no port,
        brackets or zone. It is `local` for a client on a unix socket.
        """
        client = peer or "local"
        if not self._is_trusted(parse_ip(client)):
            return client
        for hop in reversed(",".join(forwarded).rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
            address = _hop_address(hop)
            # An element that is not an address: nothing before it can be trusted.
            if address is None:
                break
            client = str(address)
            if not self._is_trusted(address):
                break
        return client

    def record_failure(
        self, error: AuthenticationFailed, address: str, route: str, *, sent: bool
    ) -> ApiError:
        """Count and log a failed authentication, and return the error for the response.

        That is `error`, or 429 if the client network exceeds the limit and the request `sent` a
        credential.
        """
        wait = self._failures.acquire(client_network(address))
        if not wait:
            audit.refused(error.reason, error.identity, address, route)
        return TooManyRequests(math.ceil(wait)) if wait and sent and self._limited else error

    def record_denial(self, principal: Principal, needed: str, address: str, route: str) -> None:
        """Log a valid credential whose role does not allow the request."""
        if not self._denials.acquire(client_network(address)):
            audit.refused(f"needs the role '{needed}'", principal.name, address, route)

    def _is_trusted(self, address: IPAddress | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def client_network(address: str) -> str:
    """The network that counts as one client: an IPv4 address, or a /64 network of IPv6.

    One IPv6 client usually has a whole /64 network, and can change its address at no cost.
    """
    parsed = parse_ip(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _V6_SITE_BITS), strict=False))
    return str(parsed or address)


def _hop_address(element: str) -> IPAddress | None:
    """The address in an element of `X-Forwarded-For`, or `None` if there is none."""
    match = _HOP.fullmatch(element.strip())
    return parse_ip(next(filter(None, match.groups()), "")) if match else None
