"""Content codings: which a client accepts (RFC 9110, section 12.5.3), and the compression."""

import gzip
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from service.errors import NotAcceptable

SMALLEST = 1_024
"""Bytes of a body below which compression saves nothing: it fits into one packet anyway."""

_MOST_ELEMENTS = 64
"""Elements of `Accept-Encoding` that are parsed; fewer codings exist."""
_LONGEST_CACHED = 256
"""Characters of a field whose meaning is cached. Ordinary clients send shorter ones; longer ones
would take memory."""
_ELEMENT = re.compile(
    r"[ \t]*([A-Za-z0-9!#$%&'*+.^_`|~-]+)[ \t]*(?:;[ \t]*[Qq]=([01](?:\.[0-9]{0,3})?)[ \t]*)?",
    re.ASCII,
)


def _codings() -> Mapping[str, Callable[[bytes], bytes]]:
    """The codings that this Python supports, the preferred one first."""
    codings: dict[str, Callable[[bytes], bytes]] = {}
    try:
        # Python ≥ 3.14.
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    except ImportError:
        pass
    else:  # pragma: no cover
        codings["zstd"] = zstd.compress
    codings["gzip"] = _gzip
    return codings


def _gzip(body: bytes) -> bytes:
    """Compresses with level 8: 3 ms for a list of a thousand events, once per change."""
    # Without a time, all replicas compress a body to the same bytes.
    return gzip.compress(body, 8, mtime=0)


CODINGS = _codings()


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a client accepts."""

    coding: str | None
    """The coding of a long response; `None` for none."""
    identity: bool = True
    """Whether the client accepts a response without a coding."""


def negotiate(accept_encoding: str) -> Accepted:
    """Parses an `Accept-Encoding` field. Malformed elements are ignored.

    Raises `NotAcceptable` if the client accepts neither a supported coding nor `identity`.
    """
    cached = len(accept_encoding) <= _LONGEST_CACHED
    return (_negotiate if cached else _negotiate.__wrapped__)(accept_encoding)


@lru_cache(maxsize=512)
def _negotiate(accept_encoding: str) -> Accepted:
    weights: dict[str, float] = {}
    for element in accept_encoding.split(",", _MOST_ELEMENTS)[:_MOST_ELEMENTS]:
        match = _ELEMENT.fullmatch(element)
        if match:
            weights[match[1].lower().removeprefix("x-")] = min(float(match[2] or 1), 1.0)
    others = weights.get("*", 0.0)
    identity = weights.get("identity", weights.get("*", 1.0))
    best = max(CODINGS, key=lambda name: weights.get(name, others))
    weight = weights.get(best, others)
    if weight and (weight >= identity or "identity" not in weights):
        return Accepted(best, identity > 0)
    if not identity:
        raise NotAcceptable(list(CODINGS))
    return Accepted(None)
