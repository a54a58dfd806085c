"""The bodies of pages: bounded in bytes, and counted in the memory budget as they are read."""

from collections.abc import Mapping, Sequence

from service.api.responses.contents import json_array
from service.api.responses.memory import MemoryBudget
from service.events import Selector
from service.replica import CurrentOrStale
from service.store import Entry

PAGE_BYTES = 4 * 1024 * 1024
"""The maximum bytes of a page (deploy/API.md), unless its first event alone is larger."""
_BATCH = 8
"""Full events that a page reads from the store at a time."""
_BATCH_BYTES = 256 * 1024
"""Bytes that a batch counts for until it is read: it bounds what all pages read at once."""


async def page_body(
    reading: CurrentOrStale, entries: Sequence[Entry], selector: Selector, memory: MemoryBudget
) -> tuple[bytes, int]:
    """The body of a page, and how many of the entries it contains.

    Raises `StoreUnavailable`, and `ServerBusy` when too many bytes of pages wait to be sent.
    """
    reserved = memory.reserve()
    # One page alone may use half of the memory, so that it can be read next to its copy.
    limit = min(PAGE_BYTES, memory.limit // 2)
    bodies: list[bytes] = []
    full_events: Mapping[str, bytes | None] = {}
    size, count = 2, len(entries)
    for index, entry in enumerate(entries):
        if selector is Selector.ALL and index % _BATCH == 0:
            reserved.resize(size + _BATCH_BYTES)
            batch = entries[index : index + _BATCH]
            full_events = await reading.replica.fulls(reading.snapshot, batch)
        body = entry.status if selector is Selector.STATUS else full_events[entry.id]
        if body is None:  # Trimmed since the snapshot was read.
            continue
        size += len(body) + 1
        if bodies and size > limit:
            count = index
            break
        bodies.append(body)
    reserved.resize(size)
    return json_array(bodies), count
