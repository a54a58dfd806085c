"""The marks: what was promised, what was measured, and whether it holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a measured value stands to its mark."""

    MET = "met"
    ACCEPTED = "accepted"
    MISSED = "missed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Mark:
    """One promise and its measured value; `None` where it could not be measured.

    A value within `limit` meets it, one within `accept` is accepted. `at_least` turns the
    comparison round.
    """

    what: str
    limit: float
    value: float | None
    unit: str = "×"  # noqa: RUF001  # It is the sign of multiplication.
    accept: float | None = None
    at_least: bool = False
    digits: int = 2

    @property
    def verdict(self) -> Verdict:
        """Where the value stands."""
        if self.value is None:
            return Verdict.SKIPPED
        if self._within(self.limit):
            return Verdict.MET
        return (
            Verdict.ACCEPTED
            if self.accept is not None and self._within(self.accept)
            else Verdict.MISSED
        )

    @property
    def target(self) -> str:
        """The mark in words."""
        accept = f" (accept {self.accept:g})" if self.accept is not None else ""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}{accept}"

    @property
    def measured(self) -> str:
        """The value in words."""
        return f"{self.value:.{self.digits}f} {self.unit}" if self.value is not None else "-"

    def _within(self, limit: float) -> bool:
        # The value as it is shown decides: nobody should read "1.00, missed".
        assert self.value is not None
        value = round(self.value, self.digits)
        return value >= limit if self.at_least else value <= limit


def table(rows: Sequence[Sequence[str]], numbers: frozenset[int] = frozenset()) -> str:
    """Rows in columns; those in `numbers` are aligned to the right. The first row is the
    heading."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
