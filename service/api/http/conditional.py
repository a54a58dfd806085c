"""Conditional reads (RFC 9110, section 13)."""

import re
from collections.abc import Iterable

_ENTITY_TAG = re.compile(r'[\s,]*(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')
"""One element of the list, and the empty elements before it (RFC 9110, section 5.6.1.2)."""

Condition = frozenset[str] | None
"""The entity tags of `If-None-Match`; `{"*"}` for any, `None` without the field."""


def parse_if_none_match(fields: Iterable[str]) -> Condition:
    """The condition in the values of all `If-None-Match` fields.

    Text that is not an entity tag matches nothing. Weak tags are compared as strong ones (RFC 9110,
    section 13.1.2).
    """
    value = ", ".join(fields)
    if not value:
        return None
    if value.strip() == "*":
        return frozenset({"*"})
    tags, position = set(), 0
    while match := _ENTITY_TAG.match(value, position):
        tags.add(match[1])
        position = match.end()
        if position >= len(value):
            break
    return frozenset(tags)


def names(condition: Condition, etag: str) -> bool:
    """Whether the condition contains the entity tag, by weak comparison."""
    return condition is not None and (etag.removeprefix("W/") in condition or "*" in condition)
