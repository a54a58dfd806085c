"""The audit log: who made or deleted a credential, and what was refused, from where and why.

`who` is the public id of an API key (`key:…`) or the subject of a token with a true signature; no
line has more of a credential than that.
"""

import logging

log = logging.getLogger("service.audit")


def created(key_id: str, name: str, role: str, who: str, address: str) -> None:
    """An API key was made."""
    log.info(
        "API key created",
        extra={"key_id": key_id, "key": name, "role": role, "who": who, "remote": address},
    )


def deleted(key_id: str | None, name: str, who: str, address: str) -> None:
    """An API key was deleted."""
    log.info(
        "API key deleted", extra={"key_id": key_id, "key": name, "who": who, "remote": address}
    )


def refused(why: str, who: str | None, address: str, route: str) -> None:
    """A request was refused for its credential."""
    log.warning(
        "request refused", extra={"why": why, "who": who, "remote": address, "route": route}
    )
