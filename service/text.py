"""Text as editors and shells leave it: byte order marks, white space around it, other encodings
than UTF-8."""

import codecs

MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
"""The byte order mark, decoded."""

_AROUND = MARK + "".join(character for character in map(chr, range(0x3001)) if character.isspace())
"""The byte order mark and all white space of Unicode, which ends with U+3000."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""In this order: the mark of UTF-32 begins with that of UTF-16."""
_BY_ZEROS = {3: "UTF-32", 2: "UTF-16"}
"""What text without a mark is, by the zeros among its first four bytes, as far as it begins with
ASCII."""


def stripped(text: str) -> str:
    """The text without byte order marks and white space around it; what is inside stays."""
    return text.strip(_AROUND)


def other_encoding(data: bytes) -> str | None:
    """UTF-16 or UTF-32, if that is what the text seems to be in."""
    return next(
        (name for mark, name in _MARKS if data.startswith(mark)), _BY_ZEROS.get(data[:4].count(0))
    )


def decoded(data: bytes) -> str:
    """The text of a file in UTF-8, without the byte order mark at its beginning.

    Raises `ValueError` for bytes that are something else, in words that follow "the file is".
    """
    if (other := other_encoding(data)) is not None:
        raise ValueError(f"{other}: save it as UTF-8")
    try:
        return data.decode("utf-8").removeprefix(MARK)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
