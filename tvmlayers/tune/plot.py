"""The tuning curves as a picture: the best so far after each trial, against untuned."""

from __future__ import annotations

from pathlib import Path

from tvmlayers import plots
from tvmlayers.tune.result import TuneResult


def draw(result: TuneResult, path: Path) -> None:
    """Write the picture: one line a workload."""
    plots.check(path)
    made = plots.figure(8, 5)
    axes = made.subplots()
    for each in result.workloads:
        if each.curve:
            speed = [each.curve[0] / time for time in each.curve]
            axes.step(range(1, len(speed) + 1), speed, where="post", label=str(each.case))
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set_xlabel("trials")
    axes.set_ylabel("best so far, times as fast as untuned")
    axes.set_title(f"{result.target}, {result.threads} threads")
    if any(each.curve for each in result.workloads):
        axes.legend(fontsize="small", frameon=False)
    plots.save(made, path)
