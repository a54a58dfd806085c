"""Content codings: what a client takes (RFC 9110, section 12.5.3), and how a body is compressed."""

import gzip
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from service.errors import NotAcceptable

SMALLEST = 1_024
"""Bytes of a body below which compression saves nothing: it fits one packet anyway."""

_MOST_ELEMENTS = 64
"""Elements of `Accept-Encoding` that are looked at; there are not that many codings."""
_LONGEST_REMEMBERED = 256
"""Characters of a field whose meaning is remembered: longer ones, which no client sends, would take
room."""
_ELEMENT = re.compile(
    r"[ \t]*([A-Za-z0-9!#$%&'*+.^_`|~-]+)[ \t]*(?:;[ \t]*[Qq]=([01](?:\.[0-9]{0,3})?)[ \t]*)?",
    re.ASCII,
)


def _codings() -> Mapping[str, Callable[[bytes], bytes]]:
    """The codings that this platform has, the preferred one first."""
    codings: dict[str, Callable[[bytes], bytes]] = {}
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  # Python ≥ 3.14.
    except ImportError:
        pass
    else:  # pragma: no cover
        codings["zstd"] = zstd.compress
    # Without a time in it, replicas make the same bytes of the same body.
    codings["gzip"] = lambda body: gzip.compress(
        body, 8, mtime=0
    )  # Once a change: 3 ms for a list of a thousand events
    return codings


CODINGS = _codings()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The coding in which a client would have a long answer (`None` for none), and whether it takes
    one without."""

    coding: str | None
    identity: bool = True


def negotiate(accept_encoding: str) -> Accepted:
    """What to make of an `Accept-Encoding` field. Elements that are not well-formed are ignored.

    Raises `NotAcceptable` if the client takes nothing that there is.
    """
    remembered = len(accept_encoding) <= _LONGEST_REMEMBERED
    return (_negotiate if remembered else _negotiate.__wrapped__)(accept_encoding)


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
