"""The roofline as a figure of matplotlib: also the benchmark's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmlayers import plots
from tvmlayers.errors import ConfigError

if TYPE_CHECKING:
    from tvmlayers.roofline.explanation import Explanation


def draw(found: Explanation, path: Path) -> None:
    """Write the layers beneath the roofs; those without arithmetic have no place there."""
    plots.check(path)
    rows = [row for row in found.rows if row.flops]
    if not rows:
        raise ConfigError(
            f"no layer of {found.model!r} does arithmetic, so none is on the roofline: memory "
            "alone limits it"
        )
    made = plots.figure(9.5, 6)
    axes = made.subplots()
    peaks = {dtype: found.roofs.peak(dtype) for dtype in {row.dtype for row in rows}}
    bandwidths = {level.name: level.rate / 1e9 for level in found.roofs.levels}
    spots = [row.intensity for row in rows]
    spots += [peak / level.rate for level in found.roofs.levels for peak in peaks.values()]
    span = (min(spots) / 2, max(spots) * 2)
    for peak in peaks.values():
        roofs(axes, span, peak / 1e9, bandwidths)
    for row in rows:
        spot = row.intensity, row.rate / 1e9
        axes.plot(*spot, color=plots.OURS, marker="*", markersize=11, markeredgecolor="white")
        axes.annotate(
            row.layer, spot, (5, -10), textcoords="offset points", fontsize=8, color=plots.TEXT
        )
    finish(axes, span, max(peaks.values()) / 1e9, found.title())
    plots.save(made, path)


def roofs(
    axes: Any, span: tuple[float, float], peak: float, bandwidths: Mapping[str, float]
) -> None:
    """Draw the arithmetic peak, GFLOP/s, and a slope for reading from each level, GB/s.

    span: the least and the largest intensity that are shown, FLOP for each byte.
    """
    plots.plain(axes)
    line = {"color": plots.TEXT, "linewidth": 1.2}
    slowest = min(bandwidths.values())
    axes.plot([peak / slowest, span[1]], [peak, peak], **line)
    axes.plot([span[0], peak / slowest], [peak, peak], **{**line, "linestyle": ":"})
    note = {"fontsize": 8, "color": plots.TEXT, "va": "bottom"}
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


def finish(axes: Any, span: tuple[float, float], peak: float, title: str) -> None:
    """Logarithmic axes up to twice the peak, GFLOP/s, and what they show."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(*span)
    axes.set_ylim(top=2 * peak)
    axes.set_xlabel("arithmetic intensity, FLOP for each byte of inputs, weights and results")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(title, fontsize=10, loc="left", color=plots.TEXT)
