"""`Accept`: which of several media types a client prefers (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

_MOST_RANGES = 64
"""Media ranges that are parsed: browsers send at most ten, and each one costs time."""
_LONGEST_RANGE = 256
"""Characters of a media range that is parsed, parameters included."""

_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
# A quoted string without an end extends to the end of the field. Otherwise the search would begin
# again at each quote and take quadratic time.
_ELEMENT = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.)*+(?:"|\\?$))++', re.DOTALL)
_RANGE = re.compile(rf"[ \t]*({_NAME})/({_NAME})[ \t]*", re.ASCII)
_PARAMETER = re.compile(rf';[ \t]*(?:({_NAME})=({_NAME}|"(?:[^"\\]|\\.)*"))?[ \t]*', re.ASCII)
_WEIGHT = re.compile(r"0(?:\.[0-9]*)?|1(?:\.0*)?", re.ASCII)

Range = tuple[str, str]
"""Type and subtype; each is `*` for any."""


def preferred(fields: Iterable[str], offers: Sequence[str]) -> str:
    """The media type of `offers` that a client prefers.

    `fields` are the values of the request's `Accept` lines. The first offer is the default: without
    the field, at equal weights, and if the client accepts no offer. Malformed media ranges are
    ignored. All offers are in UTF-8, so `charset=utf-8` matches them; a range with any other
    parameter matches none.
    """
    weights: dict[Range, float] = {}
    for element in islice(_ELEMENT.finditer(",".join(fields)), _MOST_RANGES):
        if (parsed := _parse(element[0])) is not None:
            media, weight = parsed
            weights[media] = max(weight, weights.get(media, 0.0))
    return max(offers, key=lambda offer: _weight(weights, offer)) if weights else offers[0]


def _weight(weights: Mapping[Range, float], offer: str) -> float:
    """The weight of the most specific range that matches the offer; 0 without one."""
    type_, subtype = offer.split("/")
    found = (weights.get(media) for media in ((type_, subtype), (type_, "*"), ("*", "*")))
    return next((weight for weight in found if weight is not None), 0.0)


def _parse(element: str) -> tuple[Range, float] | None:
    """A media range and its weight; `None` if it is malformed or can match no offer."""
    match = _RANGE.match(element) if len(element) <= _LONGEST_RANGE else None
    if match is None:
        return None
    type_, subtype, position, weight = match[1].lower(), match[2].lower(), match.end(), "1"
    while position < len(element):
        match = _PARAMETER.match(element, position)
        if match is None:
            return None
        name, value, position = (match[1] or "").lower(), match[2], match.end()
        # The weight need not be the last parameter (RFC 9110, section 12.4.2).
        if name == "q":
            weight = value
        elif name and (name, value.strip('"').lower()) != ("charset", "utf-8"):
            return None
    if not _WEIGHT.fullmatch(weight) or (type_ == "*" and subtype != "*"):
        return None
    return (type_, subtype), float(weight)
