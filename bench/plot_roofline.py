"""The roofline of dense layers: FLOP/s over arithmetic intensity, beneath the measured roofs."""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench import plot_style, specs
from bench.cases import DenseCase
from bench.report import peer_names

if TYPE_CHECKING:
    from bench.plot import Run

LEVELS = ("L2", "L3", "memory")
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
    made = import_module("matplotlib.figure").Figure(figsize=(9.5, 6), layout="constrained")
    axes = made.subplots()
    plot_style.plain(axes)
    rows = [row for row in run.rows if row.kind == "dense"]
    cases = [specs.parse("dense", row.case) for row in rows]
    points = [(intensity(case, dtype), case.flops) for case in cases if isinstance(case, DenseCase)]
    span = (min(x for x, _ in points) / 2, max(x for x, _ in points) * 2)
    _roofs(axes, span, peak, {level: limits[f"read {level} GB/s"] for level in LEVELS})
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
    look = {"color": plot_style.OURS, "marker": "*", "linestyle": "none"}
    axes.plot(xs, ys, markersize=11, markeredgecolor="white", label="tvmlayers", **look)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(*span)
    axes.set_ylim(top=2 * peak)
    axes.set_xlabel("arithmetic intensity, FLOP for each byte of inputs, weights and results")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(
        f"dense layers, {plot_style.conditions(run.conditions, dtype)}",
        fontsize=10,
        loc="left",
        color=plot_style.TEXT,
    )
    axes.legend(loc="lower right", frameon=False)
    return made


def intensity(case: DenseCase, dtype: str) -> float:
    """FLOP for each byte that a layer must move once: x, kernel, bias and result."""
    items = case.m * case.k + case.k * case.n + case.n + case.m * case.n
    return case.flops / (items * ITEM_BYTES[dtype])


def _roofs(axes: Any, span: tuple[float, float], peak: float, bandwidths: dict[str, float]) -> None:
    """The arithmetic peak, and a slope for reading from each level, GB/s."""
    line = {"color": plot_style.TEXT, "linewidth": 1.2}
    slowest = min(bandwidths.values())
    axes.plot([peak / slowest, span[1]], [peak, peak], **line)
    axes.plot([span[0], peak / slowest], [peak, peak], **{**line, "linestyle": ":"})
    note = {"fontsize": 8, "color": plot_style.TEXT, "va": "bottom"}
    axes.text(span[1] * 0.97, peak * 1.05, f"FMA {peak:.0f} GFLOP/s", ha="right", **note)
    for level, rate in bandwidths.items():
        axes.plot([span[0], peak / rate], [span[0] * rate, peak], **line)
        x = span[0] * 1.08
        axes.text(
            x,
            x * rate * 1.12,
            f"read {level} {rate:.0f} GB/s",
            rotation=math.degrees(math.atan(rate)),
            rotation_mode="anchor",
            transform_rotates_text=True,
            **note,
        )
