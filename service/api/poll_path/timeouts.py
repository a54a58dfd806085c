"""Timeouts of client connections that aiohttp 3.14 does not have."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds after which a connection is closed. Each may take up to `sweep` seconds longer."""

    head: float = 10.0
    """For a request head, from the beginning of the connection or of the head."""
    idle: float = 75.0
    """Between two requests (the setting `IDLE_TIMEOUT`)."""
    no_progress: float = 15.0
    """For a client to take any byte of what waits for it."""
    response: float = 60.0
    """For a client to take all that waits for it, since its last request (the setting
    `REPLY_TIMEOUT`). Event streams are exempt."""
    sweep: float = 2.0
    """Between two checks of all connections."""
