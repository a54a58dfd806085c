"""Roles and principals."""

from dataclasses import dataclass, field
from enum import IntEnum


class Role(IntEnum):
    """What a credential may do; a higher role includes the lower ones."""

    NONE = 0
    READ = 1
    WRITE = 2

    @property
    def label(self) -> str:
        """The role's name on the wire."""
        return self.name.lower()


def parse_role(name: object) -> Role:
    """The role of that name; `NONE` for a name that is not known."""
    return (
        {"read": Role.READ, "write": Role.WRITE}.get(name, Role.NONE)
        if isinstance(name, str)
        else Role.NONE
    )


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    `name` is fit for logs (a token's subject, or `key:` and an API key's public id). `expires` is
    when the credential ends, in seconds since 1970; `key_id` is set for API keys, which can also be
    revoked before that. `verified_against` is the object that the credential was verified against,
    compared by identity: once that object has been replaced, the credential must be verified again.
    """

    name: str
    role: Role
    expires: float = float("inf")
    key_id: str | None = None
    verified_against: object = field(default=None, compare=False, repr=False)


EVERYONE = Principal("anyone", Role.WRITE)
"""Every caller of a service with `AUTH=none`."""
