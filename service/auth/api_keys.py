"""API keys: `apikey:<public id>_<256 random bits><checksum>`.

The public id is for look-ups and logs. With the checksum, a mistyped key is refused without a
look-up, and a secret scanner can recognise a key. The store has only the SHA-256 digest of a key:
the secret is random, so a slow hash would cost CPU and protect nothing.
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
"""The smallest number of base-62 characters with at least 256 bits."""
_KEY = re.compile(r"(apikey:([0-9A-Za-z]{8})_[0-9A-Za-z]{43})([0-9A-Za-z]{6})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_DAY_US = 86_400_000_000
_NO_DIGEST = "0" * 64
"""Compared with a key whose id is unknown, so that both cases take the same time."""


class ApiKeyMissing(AuthenticationFailed):
    """No API key has this id: it never existed, was revoked, or is newer than the snapshot."""

    error_code = "AuthenticationFailed"


def check_name(name: str) -> None:
    """Raise `ValueError` for a name that is not 1 to 64 of `A-Z a-z 0-9 . _ -`.

    A name is part of paths and log lines. `.` and `..` are refused too, because clients remove such
    segments from a path (RFC 3986, section 5.2.4).
    """
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        raise ValueError("a key's name has 1 to 64 of A-Z a-z 0-9 . _ -, and is neither . nor ..")


def mint(
    name: str, role: Role, now_us: int, expires_at_us: int | None = None
) -> tuple[str, StoredKey]:
    """Create an API key: the key itself, which is shown once, and its entry for the store.

    Times are in µs since 1970. Raises `ValueError` if `expires_at_us` is after the year 9999, which
    RFC 3339 cannot express.
    """
    if expires_at_us is not None:
        rfc3339(expires_at_us)  # Only for its `ValueError`.
    key_id = _random(8)
    body = f"{PREFIX}{key_id}_{_random(_SECRET_LENGTH)}"
    key = body + _checksum(body)
    return key, StoredKey(name, key_id, role.label, _digest(key), now_us, expires_at_us)


def verify(token: str, keys: Mapping[str, StoredKey], now: float) -> Principal:
    """Verify an API key and return its principal.

    `keys` maps public ids to keys, `now` is in seconds since 1970. Raises `AuthenticationFailed`
    for a key that is mistyped, unknown (`ApiKeyMissing`), revoked or expired.
    """
    match = _KEY.fullmatch(token)
    if not match or not hmac.compare_digest(_checksum(match[1]), match[3]):
        raise AuthenticationFailed("mistyped API key")
    stored = keys.get(match[2])
    matches = hmac.compare_digest(_digest(token), stored.sha256 if stored else _NO_DIGEST)
    if not matches or stored is None:
        error_type = AuthenticationFailed if stored else ApiKeyMissing
        raise error_type("unknown or revoked API key", f"key:{match[2]}")
    name = f"key:{stored.id}"
    expires = stored.expires_at / 1_000_000 if stored.expires_at is not None else float("inf")
    if now >= expires:
        raise AuthenticationFailed("expired", name)
    return Principal(name, parse_role(stored.role), expires, stored.id)


def describe(key: StoredKey, used: Mapping[str, int]) -> dict[str, Any]:
    """The public description of a key, without its digest.

    `used` maps public ids to the day of last use (days since 1970), where it is known.
    """
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
    """The CRC-32 as six base-62 digits."""
    number, text = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, len(_ALPHABET))
        text = _ALPHABET[digit] + text
    return text
