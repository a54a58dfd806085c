"""The memo: request heads that were authenticated before, and what each is entitled to.

`PollServer.respond` uses it to respond.
"""

from dataclasses import dataclass

from service.api.http.conditional import Condition
from service.api.responses.model import CacheEntry

MAX_ENTRIES = 32_768
"""Heads that are remembered: more than the agents of one replica send."""
MAX_BYTES = 32 * 1024 * 1024
"""Bytes of the heads that are remembered: 1 KiB for each on average."""
MAX_SEEN = 65_536
"""Hashes of heads that were seen once. A head is remembered when it is seen again, so that of heads
that never come again only a hash is kept."""


@dataclass(slots=True, eq=False)
class MemoEntry:
    """What a remembered head is entitled to.

    `expires` is when its credential expires, in seconds since 1970. `verified_against` is the
    object that the credential was verified against (see `Principal`).
    """

    cached: CacheEntry
    expires: float
    verified_against: object
    condition: Condition
    close: bool


class Memo:
    """Request heads and their entries, bounded in number and in bytes. The oldest are dropped."""

    def __init__(self) -> None:
        self.entries: dict[bytes, MemoEntry] = {}
        """By the exact bytes of the head, without tracing fields."""
        self._bytes = 0
        self._seen: set[int] = set()

    def seen(self, head: bytes) -> bool:
        """Whether the head was seen before. Heads that are not seen twice are not remembered."""
        digest = hash(head)
        if digest in self._seen:
            return True
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen.add(digest)
        return False

    def remember(self, head: bytes, entry: MemoEntry) -> None:
        """Remembers a head."""
        if head not in self.entries:
            self._bytes += len(head)
        self.entries[head] = entry
        while len(self.entries) > MAX_ENTRIES or self._bytes > MAX_BYTES:
            self.forget(next(iter(self.entries)))

    def forget(self, head: bytes) -> None:
        """Forgets a head."""
        if self.entries.pop(head, None) is not None:
            self._bytes -= len(head)
