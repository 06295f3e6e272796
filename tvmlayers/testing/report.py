"""What a verification found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

HEADINGS = ("batch", "max abs error", "max rel error", "tolerance", "of tolerance", "")


@dataclass(frozen=True)
class Row:
    """One call of one entry point beside the reference.

    max_abs_error: the largest difference; max_rel_error: that over the largest magnitude expected;
    tolerance: what rounding may amount to at the element that used most of it; share: how much of
    it that element used; output: the output that this was in; problem: what went wrong beside
    numbers, "" for nothing.
    """

    entry: str
    takes: str
    batch: int
    output: str
    max_abs_error: float
    max_rel_error: float
    tolerance: float
    share: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        return self.share <= 1.0 and not self.problem

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; None is a number that is not finite."""
        return {
            key: None if isinstance(value, float) and not isfinite(value) else value
            for key, value in {**asdict(self), "passed": self.passed}.items()
        }


@dataclass(frozen=True)
class Report:
    """All rows of a verification, and its conditions. against: an original's class, or ""."""

    model: str
    target: str
    threads: int
    seed: int
    torch: str
    rows: tuple[Row, ...]
    against: str = ""

    @property
    def passed(self) -> bool:
        """Whether every result is the reference's, but for rounding."""
        return all(row.passed for row in self.rows)

    @property
    def ok(self) -> bool:
        """The same as `passed`."""
        return self.passed

    @property
    def largest_error(self) -> float:
        """The largest absolute error of all rows."""
        return max((row.max_abs_error for row in self.rows), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with the rows as dictionaries."""
        own = {key: value for key, value in asdict(self).items() if key != "rows"}
        largest = self.largest_error if isfinite(self.largest_error) else None
        verdict = {"ok": self.ok, "passed": self.passed, "largest_error": largest}
        return {**own, **verdict, "rows": [row.to_dict() for row in self.rows]}

    def __str__(self) -> str:
        failed = sum(not row.passed for row in self.rows)
        verdict = "passed" if self.passed else f"FAILED in {failed} of {len(self.rows)} calls"
        lines = [
            f"{self.model} for {self.target}, {self.threads} threads, "
            f"against {self.against or f'PyTorch {self.torch} in float64'}: {verdict}"
        ]
        for entry in dict.fromkeys(row.entry for row in self.rows):
            rows = [row for row in self.rows if row.entry == entry]
            lines += ["", f"{entry}({rows[0].takes})", *_table([HEADINGS, *map(_cells, rows)])]
        return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "ok" if row.passed else f"FAILED {row.output}"
    return (
        str(row.batch),
        *(f"{number:.2e}" for number in (row.max_abs_error, row.max_rel_error, row.tolerance)),
        f"{row.share:.0%}" if isfinite(row.share) else "all of it",
        f"{verdict}: {row.problem}" if row.problem else verdict,
    )


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of right-aligned columns; the last column is text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                *(cell.rjust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)),
                row[-1],
            ]
        ).rstrip()
        for row in rows
    ]
