"""What is around a text, and what a file is instead of one."""

import pytest

from service.text import decoded, stripped


@pytest.mark.parametrize(
    "around",
    ["", " ", "\n\t\r\n", "\ufeff", " \ufeff \ufeff\n", "\u00a0", "\u2003\u2029", "\x1f\x85"],
)
def test_what_is_around_is_stripped(around: str) -> None:
    """Byte order marks and white space around a text are taken away in any order; what is inside
    stays."""
    assert stripped(f"{around}a {around} b{around}") == f"a {around} b"
    assert stripped(around) == ""


@pytest.mark.parametrize("text", ["", "a", "a\nb\r\n", "é€😀", "x" * 9])
def test_utf_8_is_text(text: str) -> None:
    """UTF-8 is text, with a byte order mark and without."""
    assert decoded(text.encode()) == decoded(text.encode("utf-8-sig")) == text


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_other_encodings_of_unicode_are_named(encoding: str) -> None:
    """UTF-16 and UTF-32 are named, with their byte order marks and without."""
    with pytest.raises(ValueError, match=f"^{encoding[:6].upper()}: save it as UTF-8$"):
        decoded("a secret é".encode(encoding))


@pytest.mark.parametrize("data", [b"\xff", "é".encode("latin-1"), b"a\xc3", b"\xed\xa0\x80"])
def test_bytes_that_are_no_text(data: bytes) -> None:
    """Bytes of no encoding of Unicode are refused, without repeating them."""
    with pytest.raises(ValueError, match=r"^not UTF-8 text$") as caught:
        decoded(data)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
