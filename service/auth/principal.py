"""Roles and principals."""

from dataclasses import dataclass, field
from enum import IntEnum


class Role(IntEnum):
    """What a credential allows; a higher role includes the lower ones."""

    NONE = 0
    READ = 1
    WRITE = 2

    @property
    def label(self) -> str:
        """The name of the role in tokens, settings and responses."""
        return self.name.lower()


def parse_role(name: object) -> Role:
    """The role with this name; `NONE` for an unknown name."""
    return (
        {"read": Role.READ, "write": Role.WRITE}.get(name, Role.NONE)
        if isinstance(name, str)
        else Role.NONE
    )


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated client.

    `name` is safe to log: the subject of a token, or `key:` and the public id of an API key.
    `expires` is when the credential expires, in seconds since 1970. `key_id` is set for API keys,
    which can be revoked before they expire. `verified_against` is the object that the credential
    was verified against, compared by identity: when that object has been replaced, the credential
    must be verified again.
    """

    name: str
    role: Role
    expires: float = float("inf")
    key_id: str | None = None
    verified_against: object = field(default=None, compare=False, repr=False)


EVERYONE = Principal("anyone", Role.WRITE)
"""The principal of every client with `AUTH=none`."""
