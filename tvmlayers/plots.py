"""What every plot has: a file of a known kind, and one look, legible without colour."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from tvmlayers.errors import ConfigError, MissingDependencyError

FORMATS = (".png", ".svg", ".pdf")
OURS, GRID, TEXT = "#d55e00", "#d9d9d9", "#333333"  # the first of Okabe and Ito's palette


def need_matplotlib() -> None:
    """MissingDependencyError without it: better said before the work than after."""
    try:
        import_module("matplotlib")
    except ImportError as error:
        raise MissingDependencyError(
            "plots need matplotlib: pip install 'tvmlayers[plot]'"
        ) from error


def check(path: Path) -> None:
    """MissingDependencyError or ConfigError where a plot could not be written to `path` later."""
    need_matplotlib()
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a plot is a file of {', '.join(FORMATS)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no folder, {path.name} cannot go there")


def figure(width: float, height: float) -> Any:
    """An empty figure of so many inches."""
    return import_module("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")


def save(made: Any, path: Path) -> None:
    """Write a figure in the format of the suffix: the same file from the same numbers, without
    a date and without random ids."""
    matplotlib = import_module("matplotlib")
    with matplotlib.rc_context({"svg.hashsalt": "tvmlayers"}):
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        made.savefig(path, dpi=150, metadata=metadata)


def plain(axes: Any) -> None:
    """Axes without a box, their grid behind what is drawn."""
    axes.set_axisbelow(True)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.tick_params(which="both", length=0, labelcolor=TEXT, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
