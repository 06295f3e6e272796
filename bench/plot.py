"""What a run measured, as plots: the ratios to the peers, and the roofline of dense layers.

matplotlib is imported when something is drawn, and only then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rows import Row
from tvmlayers import plots
from tvmlayers.errors import TvmLayersError


class NoPlotError(TvmLayersError):
    """The plot was asked for and cannot be drawn."""


@dataclass(frozen=True)
class Run:
    """One run of the benchmark: its rows, under its conditions, beside the machine's limits."""

    conditions: dict[str, Any]
    limits: dict[str, float] | None
    rows: list[Row]

    @classmethod
    def read(cls, path: Path) -> Run:
        """The run that `--json` wrote to `path`; NoPlotError where it is not one."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            rows = [Row.from_json(row) for row in record["rows"]]
            return cls(record["conditions"], record["limits"], rows)
        except (ValueError, KeyError, TypeError) as error:
            raise NoPlotError(f"{path} is not a result of --json: {error}") from error


def draw(runs: Sequence[Run], ratios: Path | None, roofline: Path | None) -> None:
    """Writes the plots that have a path, each in the format of its suffix."""
    plots.need_matplotlib()
    from bench import plot_ratios, plot_roofline

    if ratios is not None:
        plots.save(plot_ratios.figure([run for run in runs if run.rows]), ratios)
    if roofline is not None:
        dense = [run for run in runs if plot_roofline.has_roofs(run)]
        if not dense:
            raise NoPlotError("a roofline needs a run of dense layers on a CPU, with its limits")
        plots.save(plot_roofline.figure(dense[0]), roofline)
