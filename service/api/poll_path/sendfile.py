"""Sending long replies without copying them: from a file in memory, as a web server sends a file
from its cache.

A list of a thousand events is 190 KB. Written from a `bytes`, the kernel copies all of it for every
client; sent from a file, it hands on references to the same pages. Where there is no such file
(other systems than Linux), it is written as ever.
"""

import asyncio
import os
from collections import OrderedDict
from typing import Self

SMALLEST = 65_536
"""Bytes of a reply from which this pays."""
KEPT = 8
"""Files kept: one for each long reply that is asked for, each a second old at the most."""


class MemoryFile:
    """Bytes in a file that has no name. It is closed when it is forgotten."""

    __slots__ = ("data", "descriptor")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.descriptor = -1
        self.descriptor = os.memfd_create("reply")
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Files:
    """The files of the replies that were sent last, by the identity of their bytes."""

    def __init__(self) -> None:
        self._files: OrderedDict[int, MemoryFile] = OrderedDict()

    @classmethod
    def where_supported(cls) -> Self | None:
        """`None` where the system has no files in memory."""
        return cls() if hasattr(os, "memfd_create") and hasattr(os, "sendfile") else None

    def send(self, transport: asyncio.Transport, data: bytes) -> None:
        """Sends bytes that will be sent to others as well: the same object each time."""
        sent = 0
        if not transport.get_write_buffer_size():  # Else it would overtake what waits there.
            try:
                sent = os.sendfile(
                    _descriptor(transport), self._file(data).descriptor, 0, len(data)
                )
            except OSError:
                sent = (
                    0  # The transport's own write waits for room, or finds the connection broken.
                )
        if sent < len(data):
            transport.write(memoryview(data)[sent:])

    def _file(self, data: bytes) -> MemoryFile:
        file = self._files.get(id(data))
        if file is None:
            file = self._files[id(data)] = MemoryFile(data)
            if len(self._files) > KEPT:
                self._files.popitem(last=False)
        return file


def _descriptor(transport: asyncio.Transport) -> int:
    """Raises `OSError` for a transport without a socket of its own."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        raise OSError("no socket")
    return int(sock.fileno())
