"""API keys: `apikey:<public id>_<256 random bits><checksum>`.

The id is for look-ups and logs; the checksum lets a mistyped key be refused without a look-up, and
secret scanners tell a key from noise. The store holds a SHA-256 digest only: the secret is random,
so a slow hash would protect nothing and cost CPU.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Mapping
from typing import Any

from service.auth.principal import Principal, Role, parse_role
from service.errors import AuthenticationFailed
from service.events import rfc3339
from service.store import StoredKey

PREFIX = "apikey:"

_ALPHABET = string.digits + string.ascii_letters
_SECRET_LENGTH = 43
"""The fewest characters of 62 that carry 256 bits."""
_KEY = re.compile(r"(apikey:([0-9A-Za-z]{8})_[0-9A-Za-z]{43})([0-9A-Za-z]{6})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_DAY_US = 86_400_000_000
_NO_DIGEST = "0" * 64
"""What an unknown id is compared with, so that it takes the same time as a known one."""


class ApiKeyMissing(AuthenticationFailed):
    """No API key of that id is known: it never was, it was revoked, or it is newer than what is
    known."""

    error_code = "AuthenticationFailed"


def check_name(name: str) -> None:
    """Raises `ValueError` for a name that is not 1 to 64 of `A-Z a-z 0-9 . _ -`: it stands in paths
    and logs.

    `.` and `..` are no names either: clients remove such segments from a path (RFC 3986, section
    5.2.4).
    """
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        raise ValueError("a key's name has 1 to 64 of A-Z a-z 0-9 . _ -, and is neither . nor ..")


def mint(
    name: str, role: Role, now_us: int, expires_at_us: int | None = None
) -> tuple[str, StoredKey]:
    """A new key, to be shown once, and what the store keeps of it. Times are in µs since 1970.

    Raises `ValueError` for an end that cannot be printed, after the year 9999.
    """
    if expires_at_us is not None:
        rfc3339(expires_at_us)
    key_id = _random(8)
    body = f"{PREFIX}{key_id}_{_random(_SECRET_LENGTH)}"
    key = body + _checksum(body)
    return key, StoredKey(name, key_id, role.label, _digest(key), now_us, expires_at_us)


def verify(token: str, keys: Mapping[str, StoredKey], now: float) -> Principal:
    """The principal of a key. `keys` is by public id, `now` in seconds since 1970.

    Raises `AuthenticationFailed` for a key that is mistyped, unknown (`ApiKeyMissing`), revoked or
    expired.
    """
    match = _KEY.fullmatch(token)
    if not match or not hmac.compare_digest(_checksum(match[1]), match[3]):
        raise AuthenticationFailed("mistyped API key")
    stored = keys.get(match[2])
    matches = hmac.compare_digest(_digest(token), stored.sha256 if stored else _NO_DIGEST)
    if not matches or stored is None:
        kind = AuthenticationFailed if stored else ApiKeyMissing
        raise kind("unknown or revoked API key", f"key:{match[2]}")
    name = f"key:{stored.id}"
    expires = stored.expires_at / 1_000_000 if stored.expires_at is not None else float("inf")
    if now >= expires:
        raise AuthenticationFailed("expired", name)
    return Principal(name, parse_role(stored.role), expires, stored.id)


def describe(key: StoredKey, used: Mapping[str, int]) -> dict[str, Any]:
    """What may be told of a key. `used` has the days of last use since 1970 by public id, as far as
    they have been noted."""
    day = used.get(key.id)
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "created_at": rfc3339(key.created_at),
        "expires_at": rfc3339(key.expires_at) if key.expires_at is not None else None,
        "last_used_on": rfc3339(day * _DAY_US)[:10] if day is not None else None,
    }


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(body: str) -> str:
    """CRC-32 in six characters of base 62."""
    number, text = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, len(_ALPHABET))
        text = _ALPHABET[digit] + text
    return text
