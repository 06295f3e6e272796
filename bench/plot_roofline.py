"""The roofline of dense layers: FLOP/s over arithmetic intensity, beneath the measured roofs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench import plot_style, specs
from bench.cases import DenseCase
from bench.report import peer_names
from tvmlayers import plots
from tvmlayers.roofline import plot as roofline
from tvmlayers.tune.limits import LEVELS

if TYPE_CHECKING:
    from bench.plot import Run

ITEM_BYTES = {"float32": 4, "float64": 8}


def has_roofs(run: Run) -> bool:
    """Whether there are dense layers in the run, and a CPU's limits for them."""
    dense = any(row.kind == "dense" for row in run.rows)
    return dense and f"FMA {run.rows[0].dtype} GFLOP/s" in (run.limits or {})


def figure(run: Run) -> Any:
    """Our dense layers and the peers', in GFLOP/s of the layer's products and sums."""
    dtype = run.rows[0].dtype
    limits = run.limits or {}
    peak = limits[f"FMA {dtype} GFLOP/s"]
    made = plots.figure(9.5, 6)
    axes = made.subplots()
    rows = [row for row in run.rows if row.kind == "dense"]
    cases = [specs.parse("dense", row.case) for row in rows]
    points = [(intensity(case, dtype), case.flops) for case in cases if isinstance(case, DenseCase)]
    span = (min(x for x, _ in points) / 2, max(x for x, _ in points) * 2)
    roofline.roofs(axes, span, peak, {level: limits[f"read {level} GB/s"] for level in LEVELS})
    for peer in peer_names(rows):
        there = [
            (x, flops / row.peers[peer].median_us / 1e3)
            for (x, flops), row in zip(points, rows, strict=True)
            if peer in row.peers
        ]
        xs, ys = zip(*there, strict=True)
        axes.plot(xs, ys, markersize=4.5, alpha=0.7, label=peer, **plot_style.mark(peer))
    xs, _ = zip(*points, strict=True)
    ys = [flops / row.ours_us / 1e3 for (_, flops), row in zip(points, rows, strict=True)]
    look = {"color": plots.OURS, "marker": "*", "linestyle": "none"}
    axes.plot(xs, ys, markersize=11, markeredgecolor="white", label="tvmlayers", **look)
    title = f"dense layers, {plot_style.conditions(run.conditions, dtype)}"
    roofline.finish(axes, span, peak, title)
    axes.legend(loc="lower right", frameon=False)
    return made


def intensity(case: DenseCase, dtype: str) -> float:
    """FLOP for each byte that a layer must move once: x, kernel, bias and result."""
    items = case.m * case.k + case.k * case.n + case.n + case.m * case.n
    return case.flops / (items * ITEM_BYTES[dtype])
