"""Draws the ratio to each peer, a bar a case. matplotlib is imported here only."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.rows import Row


class NoPlotError(RuntimeError):
    """The plot was asked for and cannot be drawn."""


def check() -> None:
    """NoPlotError unless matplotlib is there: better said before the timing than after."""
    try:
        import_module("matplotlib")
    except ImportError as error:
        raise NoPlotError("--plot needs matplotlib; pip install 'tvmlayers[bench]'") from error


def ratio_bars(path: Path, rows: Sequence[Row], conditions: dict[str, Any]) -> None:
    """Writes the plot to `path`, in the format of its suffix."""
    check()
    peers = sorted({peer for row in rows for peer in row.peers})
    if not peers:
        raise NoPlotError("no peer was timed, so there is no ratio to plot")
    figure = import_module("matplotlib.figure").Figure(
        figsize=(9, 1.2 + 0.28 * len(rows) * len(peers)), layout="constrained"
    )
    axes = figure.subplots()
    height = 0.8 / len(peers)
    for place, peer in enumerate(peers):
        bars = [(at, row.peers[peer]) for at, row in enumerate(rows) if peer in row.peers]
        axes.barh(
            [at + (place - (len(peers) - 1) / 2) * height for at, _ in bars],
            [times.ratio - 1 for _, times in bars],
            height=height,
            left=1,  # bars begin at a draw: right of it we are faster
            label=peer,
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_yticks(range(len(rows)), [f"{row.case}, {row.data}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("peer's time / ours (above 1x we are faster)")
    axes.set_title(
        f"{rows[0].kind}, {conditions['threads']} threads, {rows[0].dtype}, "
        f"{conditions['target']} on {conditions['native']}, {conditions['date'][:10]}",
        fontsize="medium",
    )
    axes.legend(loc="best")
    figure.savefig(path, dpi=150)
