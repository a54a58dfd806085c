"""What docstrings and comments cite exists: headings of the design, files, names."""

import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.folders import ROOT

SOURCES = sorted(
    str(file.relative_to(ROOT))
    for folder in ("service", "tests", "deploy")
    for file in (ROOT / folder).rglob("*.py")
)
WORDS_ELSEWHERE = ("service/**/*.lua", "service/**/*.js", "tests/**/*.lua", "Makefile", "*.toml")
"""Other files whose words docstrings may name."""
OF_LIBRARIES = frozenset({"EX_USAGE", "http_request_duration_seconds", "restricted", "writelines"})
"""Names of the standard library, of libraries and of protocols that occur in prose only."""

_CITED = re.compile(r'DESIGN(?:\.md)?[`]?,\s+"([^"]+)"')
_SECTION = re.compile(r"\b(?:DESIGN(?:\.md)?|[Cc]ontract),\s+section")
_PATH = re.compile(r"`((?:service|tests|deploy|\.ci|\.github)/[\w./*-]+)`")
_NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\([^`]*\))?`")
_WORD = re.compile(r"[A-Za-z_]\w*")
_OF_F_STRINGS = getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)
"""The token of the text in an f-string. Until Python 3.11 an f-string is one `STRING`."""


def prose(source: str) -> Iterator[str]:
    """The docstrings of a module, and its comments, each run of comments as one text."""
    comments: list[str] = []
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.append(token.string.lstrip("# "))
            continue
        if token.type == tokenize.NL:
            continue
        if comments:
            yield " ".join(comments)
            comments = []
        starts_statement = previous in {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
        if token.type == tokenize.STRING and starts_statement:
            yield " ".join(token.string.split())
        previous = token.type


@cache
def known_names() -> frozenset[str]:
    """Every word of the repository's code: names, and words in strings that are no docstrings."""
    names: set[str] = set(OF_LIBRARIES)
    for path in SOURCES:
        if (ROOT / path) == Path(__file__):  # It names what does not exist.
            continue
        source = (ROOT / path).read_text(encoding="utf-8")
        previous = tokenize.NEWLINE
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            starts_statement = previous in {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
            if token.type == tokenize.NAME:
                names.add(token.string)
            elif token.type in {tokenize.STRING, _OF_F_STRINGS} and not starts_statement:
                names.update(_WORD.findall(token.string))
            if token.type not in {tokenize.NL, tokenize.COMMENT}:
                previous = token.type
    for pattern in WORDS_ELSEWHERE:
        for file in ROOT.glob(pattern):
            names.update(_WORD.findall(file.read_text(encoding="utf-8")))
    # Variables of settings are built from the names of fields.
    names.update([name.upper() for name in names])
    return frozenset(names)


def problems(source: str) -> Iterator[str]:
    """What a module's prose cites that does not exist."""
    design = (ROOT / "service/DESIGN.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^##+ (.+)$", design, re.MULTILINE))
    for text in prose(source):
        for heading in _CITED.findall(text):
            if heading not in headings:
                yield f"no heading of service/DESIGN.md: {heading}"
        if _SECTION.search(text):
            yield f"cites a section by its number: {text[:60]}"
        for path in _PATH.findall(text):
            if not any(ROOT.glob(path)):
                yield f"no such file: {path}"
        for name in _NAME.findall(text):
            if "NAME" in name:  # A placeholder, as in `NAME_FILE`.
                continue
            unknown = [part for part in name.split(".") if part not in known_names()]
            if unknown:
                yield f"no such name: {name}"


@pytest.mark.parametrize("path", SOURCES)
def test_what_is_cited_exists(path: str) -> None:
    """A reader who follows a citation finds something."""
    assert list(problems((ROOT / path).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        'service/DESIGN.md, "No Such Heading"',
        "(DESIGN, section 6)",
        "see the contract, section 3",
        "`service/no_such_module.py`",
        "`NoSuchClassAnywhere`",
        "`Store.no_such_method`",
    ],
)
def test_what_does_not_exist_is_found(text: str) -> None:
    """The test above can fail."""
    docstring = '"""' + text + " " + '"""'
    assert list(problems(f"{docstring}\n"))
    assert list(problems(f"x = 1\n# {text}\n"))
