"""Bounds for the whole process of what each client can make it keep: responses that only one client
gets, and request bodies.

Shared responses need no bound: however many clients wait for one, its bytes are there once.
"""

from service.errors import ServerBusy


class MemoryBudget:
    """How much is reserved, and how much may be. Both in bytes; `name` is what a refusal calls the
    limit."""

    def __init__(self, limit: int, name: str) -> None:
        self.limit = limit
        self.name = name
        self.used = 0

    def reserve(self, size: int = 0) -> "Reservation":
        """Reserves memory for one response or body. Raises `ServerBusy` if there is not that
        much."""
        reservation = Reservation(self)
        reservation.resize(size)
        return reservation


class Reservation:
    """Memory reserved for one response or body. It is given back with the last reference to this
    object, whatever ends that."""

    __slots__ = ("_memory", "size")

    def __init__(self, memory: MemoryBudget) -> None:
        self._memory = memory
        self.size = 0

    def resize(self, size: int) -> None:
        """Reserves so many bytes instead. Raises `ServerBusy`, and leaves it as it was, if there
        are not that many."""
        memory = self._memory
        used = memory.used - self.size + size
        if size > self.size and used > memory.limit:
            raise ServerBusy(memory.name)
        memory.used, self.size = used, size

    def __del__(self) -> None:
        self._memory.used -= self.size
