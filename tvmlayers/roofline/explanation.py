"""What `explain` found, as data, as text and as a plot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.table import Table

from tvmlayers.printing import PlainConsole, styled
from tvmlayers.roofline.chart import chart
from tvmlayers.roofline.roofs import COMPUTE, Roofs
from tvmlayers.tables import table

WIDTH = 80
_NAMES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class LayerRow:
    """One layer in one call, or two that are compiled into one kernel.

    bytes: inputs, results and the weights that are read, once each; bound: "compute" or "memory",
    what the layer waits for; level: the cache that holds its data, or "memory"; least_seconds: the
    limit; seconds: measured, where that was asked for.
    """

    layer: str
    kind: str
    dtype: str
    flops: int
    bytes: int
    bound: str
    level: str
    least_seconds: float
    seconds: float | None

    @property
    def intensity(self) -> float:
        """Floating point operations for each byte."""
        return self.flops / self.bytes

    @property
    def of_limit(self) -> float | None:
        """The share of the limit that was reached; None where nothing was measured."""
        return None if self.seconds is None else self.least_seconds / self.seconds

    @property
    def rate(self) -> float:
        """Operations a second: those measured, else the most that the limit allows."""
        return self.flops / (self.least_seconds if self.seconds is None else self.seconds)

    @property
    def limit(self) -> str:
        """What limits the layer: "compute", or the level that it reads from."""
        return self.bound if self.bound == COMPUTE else self.level

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: all of the above."""
        return {**asdict(self), "intensity": self.intensity, "of_limit": self.of_limit}


@dataclass(frozen=True)
class Explanation:
    """The layers of a model beside the roofs of a machine.

    batch, length: of the call that the rows are about; seconds: of a call of the whole model, where
    it was measured.
    """

    model: str
    target: str
    batch: int
    length: int
    roofs: Roofs
    rows: tuple[LayerRow, ...]
    seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the conditions, the roofs and the rows."""
        return {**asdict(self), "rows": [row.to_dict() for row in self.rows]}

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the layers beneath the roofs into a file: .png, .svg or .pdf.

        MissingDependencyError without matplotlib, ConfigError for another kind of file.
        """
        from tvmlayers.roofline import plot

        plot.draw(self, Path(path))

    def __str__(self) -> str:
        text = StringIO()
        console = PlainConsole(file=text, width=WIDTH, color_system=None)
        console.print(self.title())
        for line in chart(self):
            console.print(line, soft_wrap=True)
        console.print(self._table())
        for note in self._notes():
            console.print(styled(note))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def title(self) -> str:
        """What the numbers depend on, in one line."""
        threads = f"{self.roofs.threads} thread{'s' if self.roofs.threads > 1 else ''}"
        return f"{self.model}, batch {self.batch}, on {self.target} with {threads}"

    def marks(self) -> Iterator[tuple[str, LayerRow]]:
        """Each row and the letter that it is drawn as."""
        for place, row in enumerate(self.rows):
            yield _NAMES[place % len(_NAMES)], row

    def _table(self) -> Table:
        numbers = ["FLOP", "bytes", "FLOP/B", "least"]
        if self.seconds is not None:
            numbers += ["time", "share"]
        made = table(None, ("", "layer", "limit"), numbers)
        made.box, made.pad_edge, made.padding = None, False, (0, 1, 0, 0)
        for name, row in self.marks():
            cells = [_short(row.flops), _short(row.bytes), f"{row.intensity:.3g}"]
            cells.append(_time(row.least_seconds))
            if row.seconds is not None:
                cells += [_time(row.seconds), f"{row.of_limit:.0%}"]
            made.add_row(name, row.layer, row.limit, *cells)
        return made

    def _notes(self) -> Iterator[str]:
        if self.seconds is not None:
            total = sum(row.seconds or 0.0 for row in self.rows)
            yield (
                f"The whole model takes {_time(self.seconds)}, its layers one by one "
                f"{_time(total)}."
            )
        if any(row.of_limit is not None and row.of_limit > 1 for row in self.rows):
            yield (
                "Above 100%: the roofs are multiply-adds of vectors, which AMX exceeds, and "
                "reading, which a nearer cache exceeds."
            )


def _short(count: int) -> str:
    for unit, prefix in _UNITS:
        if count >= unit:
            return f"{count / unit:.3g} {prefix}"
    return f"{count} "


def _time(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e9:.3g} ns"
