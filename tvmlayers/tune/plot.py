"""The tuning curves as a picture: the best so far after each trial, against untuned."""

from __future__ import annotations

from pathlib import Path

from tvmlayers.errors import ConfigError, MissingDependencyError
from tvmlayers.tune.result import TuneResult

FORMATS = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """MissingDependencyError or ConfigError where `draw` could not write `path` later."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "--plot needs matplotlib: pip install 'tvmlayers[tune]'"
        ) from error
    if path.suffix not in FORMATS:
        raise ConfigError(f"a plot is a file of {', '.join(FORMATS)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no folder, {path.name} cannot go there")


def draw(result: TuneResult, path: Path) -> None:
    """Write the picture: one line a workload."""
    check(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
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
    figure.savefig(path, dpi=150)
