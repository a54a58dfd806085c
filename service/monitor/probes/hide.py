"""Hides the secrets of a check in its texts: every reader of the events gets these.

A service can repeat them, in a redirect, an error page or an echo of the request.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import parse_qsl, quote, unquote, urlsplit

SHORTEST = 4
"""The fewest characters of a secret that is hidden by itself. Shorter ones occur in other words."""
HIDDEN = "[hidden]"
_CREDENTIAL = re.compile("auth|cookie|key|password|secret|token", re.IGNORECASE)
"""Names of header fields whose values are secret."""


def without_secrets(url: str) -> str:
    """A URL, or a reference to one, without credentials, query and fragment.

    What is not well-formed is cut at the first `?`, `#` or `@`.
    """
    try:
        parts = urlsplit(url)
        netloc = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=netloc, query="", fragment="").geturl()
    except ValueError:
        return re.split(r"[?#@]", url)[0]


def hider(url: str, headers: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """A function that replaces the secrets of a check's URL and header fields in a text."""
    found = {form for secret in _secrets(url, headers or {}) for form in _forms(secret)}
    if not found:
        return lambda text: text
    # The longest first: one secret may be part of another.
    pattern = re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))))
    return lambda text: pattern.sub(HIDDEN, text)


def _secrets(url: str, headers: Mapping[str, str]) -> Iterator[str]:
    parts = urlsplit(url)
    user_info = parts.netloc.rpartition("@")[0]
    yield user_info
    yield from user_info.split(":", 1)
    yield base64.b64encode(unquote(user_info).encode()).decode() if user_info else ""
    yield parts.query
    yield from (value for _, value in parse_qsl(parts.query))
    for name, value in headers.items():
        if _CREDENTIAL.search(name):
            yield value
            # The credential after the scheme, as in `Bearer abc`.
            yield value.partition(" ")[2]


def _forms(secret: str) -> Iterator[str]:
    """The spellings of a secret: as it is, decoded, encoded for URLs, and in JSON."""
    for plain in (secret, unquote(secret)):
        for form in (plain, quote(plain), quote(plain, safe=""), json.dumps(plain)[1:-1]):
            if len(form) >= SHORTEST:
                yield form
