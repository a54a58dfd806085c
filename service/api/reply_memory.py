"""The bytes of responses that only one client gets, such as pages, bounded for the whole process (`REPLY_MEMORY`).

Shared responses need no bound: however many clients wait for one, its bytes are there once.
"""

from service.errors import ServerBusy


class ReplyMemory:
    """How much is reserved, and how much may be. Both in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def reserve(self, size: int = 0) -> "Reservation":
        """Reserves memory for one response. Raises `ServerBusy` if there is not that much."""
        reservation = Reservation(self)
        reservation.resize(size)
        return reservation


class Reservation:
    """Memory reserved for one response. It is given back with the last reference to this object, whatever ends the response."""

    __slots__ = ("_memory", "size")

    def __init__(self, memory: ReplyMemory) -> None:
        self._memory = memory
        self.size = 0

    def resize(self, size: int) -> None:
        """Reserves so many bytes instead. Raises `ServerBusy`, and leaves it as it was, if there are not that many."""
        memory = self._memory
        used = memory.used - self.size + size
        if size > self.size and used > memory.limit:
            raise ServerBusy("REPLY_MEMORY")
        memory.used, self.size = used, size

    def __del__(self) -> None:
        self._memory.used -= self.size
