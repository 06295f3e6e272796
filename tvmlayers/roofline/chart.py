"""The roofline as lines of text: operations a second over intensity, both logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvmlayers.roofline.explanation import Explanation

_MARGIN, _COLUMNS, _LINES = 9, 69, 14
_SLOPES = ".:'"
_SEVERAL = "*"


def chart(found: Explanation) -> Iterator[str]:
    """Lines of 80 characters at the most; none where no layer has floating point operations."""
    points = [(name, row) for name, row in found.marks() if row.flops]
    if not points:
        return
    roofs = found.roofs
    peaks = {dtype: roofs.peak(dtype) for dtype in dict.fromkeys(row.dtype for _, row in points)}
    ridges = [peak / level.rate for peak in peaks.values() for level in roofs.levels]
    spots = [row.intensity for _, row in points]
    x = _Axis(min(*spots, *ridges) / 2, max(*spots, *ridges) * 2, _COLUMNS)
    rates = [row.rate for _, row in points]
    slopes = [min(x.low * level.rate, *peaks.values()) for level in roofs.levels]
    y = _Axis(min(*rates, *slopes), max(*rates, *peaks.values()) * 1.2, _LINES)
    grid = [[" "] * _COLUMNS for _ in range(_LINES)]
    most = max(peaks.values())
    for level, mark in zip(roofs.levels, _SLOPES, strict=False):
        for column in range(_COLUMNS):
            roof = x.value(column) * level.rate
            if roof < most:
                grid[y.cell(roof)][column] = mark
    for peak in peaks.values():
        first = x.cell(peak / max(level.rate for level in roofs.levels))
        line = grid[y.cell(peak)]
        line[first:] = "_" * (_COLUMNS - first)
    taken: set[tuple[int, int]] = set()
    for name, row in points:
        spot = y.cell(row.rate), x.cell(row.intensity)
        grid[spot[0]][spot[1]] = _SEVERAL if spot in taken else name
        taken.add(spot)
    labelled = {y.cell(peak): f"{peak / 1e9:.4g}" for peak in peaks.values()}
    labelled.setdefault(0, f"{y.low / 1e9:.3g}")
    yield "GFLOP/s"
    for place in reversed(range(_LINES)):
        yield f"{labelled.get(place, ''):>{_MARGIN}} |{''.join(grid[place])}".rstrip()
    yield f"{'':{_MARGIN}} +{'-' * _COLUMNS}"
    yield _ticks(x)
    legend = [
        f"{mark} {level.name} {level.rate / 1e9:.3g} GB/s"
        for level, mark in zip(roofs.levels, _SLOPES, strict=False)
    ]
    yield f" {'   '.join(legend)}"
    yield " " + "   ".join(
        f"_ {peak / 1e9:.4g} GFLOP/s of {dtype}" for dtype, peak in peaks.items()
    )
    yield ""


class _Axis:
    """A logarithmic axis from `low` to `high` on so many cells."""

    def __init__(self, low: float, high: float, cells: int) -> None:
        self.low, self._cells = low, cells
        self._step = math.log(high / low) / (cells - 1)

    def cell(self, value: float) -> int:
        """The cell of a value; the nearest one for a value outside."""
        place = round(math.log(value / self.low) / self._step)
        return min(max(place, 0), self._cells - 1)

    def value(self, cell: int) -> float:
        """The value in the middle of a cell."""
        return self.low * math.exp(cell * self._step)


def _ticks(x: _Axis) -> str:
    """Powers of two under their columns, as many as fit, and what the axis shows."""
    line = [" "] * _COLUMNS
    title = "FLOP/byte"
    line[_COLUMNS - len(title) :] = title
    free = 0
    for power in range(math.ceil(math.log2(x.low)), 64):
        text = f"{2.0**power:g}"
        first = x.cell(2.0**power)
        if x.value(first) > 2.0**power * 1.5 or first + len(text) >= _COLUMNS - len(title):
            break
        if first >= free:
            line[first : first + len(text)] = text
            free = first + len(text) + 3
    return f"{'':{_MARGIN}}  {''.join(line)}".rstrip()
