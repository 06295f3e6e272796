"""The ratio to each peer in every case: a bar to the best peer, a mark for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench import plot_style, stats
from bench.report import peer_names
from tvmlayers import plots

if TYPE_CHECKING:
    from bench.plot import Run

ROW_INCHES = 0.2
PANEL_INCHES = 0.75  # of a panel's title and axis
AHEAD, BEHIND = "#bfe0c8", "#f4c7b8"


def figure(runs: Sequence[Run]) -> Any:
    """A panel for each run, a line for each of its rows; NoPlotError where no peer was timed."""
    from bench.plot import NoPlotError

    runs = [run for run in runs if peer_names(run.rows)]
    if not runs:
        raise NoPlotError("no peer was timed, so there is no ratio to plot")
    heights = [PANEL_INCHES + ROW_INCHES * len(run.rows) for run in runs]
    made = plots.figure(9.5, sum(heights) + 0.5)
    panels = made.subplots(len(runs), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, run in zip(panels, runs, strict=True):
        _panel(axes, run)
    told = dict.fromkeys(plot_style.conditions(run.conditions, run.rows[0].dtype) for run in runs)
    meaning = "peer's time / tvmlayers' time: right of 1x tvmlayers is faster"
    made.supxlabel("\n".join([meaning, *told]), fontsize=9, color=plots.TEXT)
    _legend(made, peer_names([row for run in runs for row in run.rows]))
    return made


def _panel(axes: Any, run: Run) -> None:
    plots.plain(axes)
    for place, row in enumerate(run.rows):
        if row.ratio is not None:
            colour = AHEAD if row.ratio >= 1 else BEHIND
            # A bar begins at a draw.
            axes.barh(place, row.ratio - 1, left=1, height=0.85, color=colour)
    for peer in peer_names(run.rows):
        found = [
            (row.peers[peer].ratio, at) for at, row in enumerate(run.rows) if peer in row.peers
        ]
        ratios, places = zip(*found, strict=True)
        axes.plot(ratios, places, markersize=4.5, alpha=0.9, **plot_style.mark(peer))
    axes.axvline(1, color=plots.TEXT, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.tick_params(axis="x", labelbottom=True)
    axes.set_yticks(range(len(run.rows)), [row.label for row in run.rows], fontsize=7.5)
    axes.set_ylim(len(run.rows) - 0.4, -0.6)
    best = [row.ratio for row in run.rows if row.ratio is not None]
    axes.set_title(
        f"{run.rows[0].kind}: geometric mean {stats.geometric_mean(best):.2f}x the best peer",
        fontsize=9.5,
        loc="left",
        color=plots.TEXT,
    )


def _legend(made: Any, peers: Sequence[str]) -> None:
    line = import_module("matplotlib.lines").Line2D
    patch = import_module("matplotlib.patches").Patch
    handles = [
        *(line([], [], markersize=6, label=peer, **plot_style.mark(peer)) for peer in peers),
        patch(color=AHEAD, label="best peer, slower"),
        patch(color=BEHIND, label="best peer, faster"),
    ]
    made.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
