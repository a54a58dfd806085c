"""Budgets for the memory that clients can make a process hold: unshared responses, request bodies.

Shared responses need no budget: their bytes exist once, however many clients wait for them.
"""

from service.errors import ServerBusy


class MemoryBudget:
    """Reserved bytes and their limit. `name` is the limit's name in `ServerBusy`."""

    def __init__(self, limit: int, name: str) -> None:
        self.limit = limit
        self.name = name
        self.used = 0

    def reserve(self, size: int = 0) -> "Reservation":
        """Reserves bytes for one response or body. Raises `ServerBusy` beyond the limit."""
        reservation = Reservation(self)
        reservation.resize(size)
        return reservation


class Reservation:
    """Memory reserved for one response or body.

    It is released with the last reference to this object, whichever way the request ends.
    """

    __slots__ = ("_budget", "size")

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.size = 0

    def resize(self, size: int) -> None:
        """Changes the number of reserved bytes. Raises `ServerBusy`, and then changes nothing."""
        budget = self._budget
        used = budget.used - self.size + size
        if size > self.size and used > budget.limit:
            raise ServerBusy(budget.name)
        budget.used, self.size = used, size

    def __del__(self) -> None:
        self._budget.used -= self.size
