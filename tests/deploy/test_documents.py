"""The documents: what they name exists, and their lines are short enough to be read anywhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import references
from service.settings import CLIENT_VARIABLES, PREFIX, Settings, is_secret
from tests.support.folders import ROOT
from tests.support.needs import NEED_ALL

DOCUMENTS = sorted(
    str(file.relative_to(ROOT))
    for pattern in ("*.md", ".github/*.md", "deploy/*.md", "service/*.md")
    for file in ROOT.glob(pattern)
)
LONGEST = 100
"""Columns of prose and code. Tables and URLs may be longer."""
VARIABLES = {
    *(f"{PREFIX}{name}".upper() for name in Settings.model_fields),
    *(f"{PREFIX}{name}_FILE".upper() for name in Settings.model_fields if is_secret(name)),
    *CLIENT_VARIABLES,
    NEED_ALL,
}
METRICS = {row.name for row in references.metrics()}


def read(document: str) -> str:
    """The text of a document."""
    return (ROOT / document).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as hosts of repositories make them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: str) -> Iterator[str]:
    """The links of a document, within this repository, that lead nowhere."""
    for link in re.findall(r"\]\(([^)\s]+)\)", read(document)):
        path, _, anchor = link.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        target = (ROOT / document).parent / path if path else ROOT / document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            yield link


def unknown_paths(text: str) -> Iterator[str]:
    """Paths of files in the repository that a text names in code, and that do not exist."""
    for path in re.findall(r"`((?:service|tests|deploy|\.ci|\.github)/[\w./*{}-]*)`", text):
        if not any(ROOT.glob(path.rstrip("/"))):
            yield path


def long_lines(text: str) -> Iterator[str]:
    """Lines of a document that are too long."""
    for line in text.splitlines():
        if len(line) > LONGEST and not line.startswith("|") and "http" not in line:
            yield line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_names_exists(document: str) -> None:
    """Links lead to files and headings; files, settings and metrics are there by those names."""
    text = read(document)
    assert list(broken_links(document)) == []
    assert list(unknown_paths(text)) == []
    assert set(re.findall(rf"\b{PREFIX}[A-Z][A-Z_]*[A-Z]\b", text)) - VARIABLES == set()
    assert set(re.findall(r"\bcluster_events_[a-z_]+\b", text)) - METRICS == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_are_short(document: str) -> None:
    """A line of prose or code fits a terminal and a review."""
    assert list(long_lines(read(document))) == []


def test_what_is_wrong_in_a_document_is_found(tmp_path: Path) -> None:
    """A broken link, an unknown anchor, a file that has moved and a long line do not pass."""
    (tmp_path / "a.md").write_text("# One heading\n```\n# no heading\n```\n[ok](a.md#one-heading)")
    document = tmp_path / "b.md"
    document.write_text("[a](a.md#one-heading) [b](a.md#no-heading) [c](c.md) [d](https://x)")
    assert list(broken_links(str(document))) == ["a.md#no-heading", "c.md"]
    assert list(unknown_paths("`service/moved.py` `service/errors.py` `tests/deploy/`")) == [
        "service/moved.py"
    ]
    assert list(long_lines("x" * 101 + "\n| " + "x" * 101 + "\nhttps://" + "x" * 101)) == [
        "x" * 101
    ]


def test_the_documents_are_found() -> None:
    """The list above has those that a user begins with."""
    assert {"README.md", ".github/SECURITY.md", "deploy/SETTINGS.md"} <= set(DOCUMENTS)
