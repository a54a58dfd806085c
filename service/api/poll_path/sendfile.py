"""Sending long responses without a copy for each client (`sendfile` from a memory file).

A list of a thousand events is 190 KB. Written from `bytes`, the kernel copies all of it for every
client; sent from a file, the kernel shares its pages. Only Linux has memory files; elsewhere the
response is written as usual.
"""

import asyncio
import os
from collections import OrderedDict
from typing import Self

SMALLEST = 65_536
"""Bytes of a response from which `sendfile` is cheaper than a write."""
KEPT = 8
"""Files kept: one for each long response, each for a second at most."""


class MemoryFile:
    """Bytes in an anonymous file, which is closed with its last reference."""

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
    """The files of the responses that were sent last, by the identity of their bytes."""

    def __init__(self) -> None:
        self._files: OrderedDict[int, MemoryFile] = OrderedDict()

    @classmethod
    def where_supported(cls) -> Self | None:
        """An instance, or `None` on a system without memory files."""
        return cls() if hasattr(os, "memfd_create") and hasattr(os, "sendfile") else None

    def send(self, transport: asyncio.Transport, data: bytes) -> None:
        """Sends bytes that are sent to several clients: each time the same object."""
        sent = 0
        if not transport.get_write_buffer_size():  # Else it would overtake the buffer.
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
