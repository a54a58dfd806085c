"""The audit log: created and deleted API keys, and requests refused for their credential.

The field `who` is the public id of an API key (`key:…`) or the subject of a token whose signature
was verified. A log line contains no other part of a credential.
"""

import logging

log = logging.getLogger("service.audit")


def created(key_id: str, name: str, role: str, who: str, address: str) -> None:
    """An API key was created; `who` created it."""
    log.info(
        "API key created",
        extra={"key_id": key_id, "key": name, "role": role, "who": who, "remote": address},
    )


def deleted(key_id: str | None, name: str, who: str, address: str) -> None:
    """An API key was deleted; `who` deleted it."""
    log.info(
        "API key deleted", extra={"key_id": key_id, "key": name, "who": who, "remote": address}
    )


def refused(reason: str, who: str | None, address: str, route: str) -> None:
    """A request was refused because of its credential."""
    log.warning(
        "request refused", extra={"why": reason, "who": who, "remote": address, "route": route}
    )
