"""A snapshot together with its freshness: what every response is made from.

`Replica.read` decides which of the two it is.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import StoreUnavailable
from service.replica.snapshot import Snapshot
from service.store import Entry

if TYPE_CHECKING:
    from service.replica.replica import Replica


@dataclass(frozen=True, slots=True)
class CurrentOrStale:
    """What a response is made from: a snapshot, and whether it is known to be the current state.

    `age` is `None` while it is current. Otherwise it is the whole seconds since the snapshot was
    last confirmed, and `reason` says why it is stale. What a stale snapshot does not contain is not
    known, so the look-ups here never return "none" from a stale snapshot (`service/DESIGN.md`,
    "Snapshot and freshness").
    """

    replica: "Replica"
    snapshot: Snapshot
    age: int | None = None
    reason: str = ""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The retained events, newest first."""
        return self.replica.retained(self.snapshot)

    def latest(self) -> Entry | None:
        """The newest event, or `None`. Raises `StoreUnavailable` if that is not known."""
        return self._unless_unknown(self.snapshot.latest)

    def event(self, event_id: str) -> Entry | None:
        """The retained event of that id, or `None`.

        Raises `StoreUnavailable` if that is not known.
        """
        return self._unless_unknown(self.replica.entry(self.snapshot, event_id))

    def _unless_unknown(self, entry: Entry | None) -> Entry | None:
        if entry is None and self.age is not None:
            raise StoreUnavailable(self.reason)
        return entry
