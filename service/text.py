"""Parsing of texts from files, variables and header fields.

Editors and shells leave byte order marks and white space around a text, or save it in another
encoding than UTF-8. IP addresses have several spellings.
"""

import codecs
import ipaddress

MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
"""The byte order mark, decoded."""

_AROUND = MARK + "".join(character for character in map(chr, range(0x3001)) if character.isspace())
"""The byte order mark and all white space of Unicode, of which U+3000 is the last."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""In this order: the mark of UTF-32 LE begins with the mark of UTF-16 LE."""
_BY_ZEROS = {3: "UTF-32", 2: "UTF-16"}
"""The encoding of a text without a mark that begins with ASCII characters, by the number of zero
bytes among its first four bytes."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def stripped(text: str) -> str:
    """The text without byte order marks and white space at its beginning and end."""
    return text.strip(_AROUND)


def other_encoding(data: bytes) -> str | None:
    """`UTF-16` or `UTF-32` if the bytes seem to be in that encoding, else `None`."""
    return next(
        (name for mark, name in _MARKS if data.startswith(mark)), _BY_ZEROS.get(data[:4].count(0))
    )


def decoded(data: bytes) -> str:
    """The text of a UTF-8 file, without the byte order mark at its beginning.

    Raises `ValueError` for other bytes; its message continues a sentence that ends in "is", such as
    "the file is".
    """
    if (other := other_encoding(data)) is not None:
        raise ValueError(f"{other}: save it as UTF-8")
    try:
        return data.decode("utf-8").removeprefix(MARK)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None


def parse_ip(text: str) -> IPAddress | None:
    """The IP address without its zone, or `None` if the text is not an IP address.

    An IPv4-mapped IPv6 address becomes an IPv4 address (RFC 4291, section 2.5.5.2).
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def cut(value: str, limit: int = 100) -> str:
    """At most `limit` characters of a client's value, safe to repeat in a JSON response."""
    # JSON in UTF-8 cannot contain lone surrogates.
    clean = value.encode("utf-8", "replace").decode("utf-8")
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
