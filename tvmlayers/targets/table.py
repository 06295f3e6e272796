"""All named hardware, and how one row serves another. ROWS and TARGETS are CPUs, GPUS the rest."""

from __future__ import annotations

from tvmlayers.targets import arm, cuda, x86
from tvmlayers.targets.target import Target

FAMILIES = (x86.ROWS, arm.ROWS)
ROWS = tuple(row for rows in FAMILIES for row in rows)
TARGETS = {row.name: row for row in ROWS}
NAMES = ("native", *(row.name for rows in FAMILIES for row in reversed(rows)))
GPUS = {row.name: row for row in cuda.ROWS}
NATIVE_GPU = "cuda"  # the first GPU of this machine
NATIVE_GPU_NAMES = (NATIVE_GPU, "cuda-native")
GPU_NAMES = (NATIVE_GPU, *(row.name for row in reversed(cuda.ROWS)))


def ancestors(target: Target) -> list[str]:
    """Names of the rows whose code runs on `target` too, the most capable first."""
    flags = set(target.cpu_flags)
    return [
        row.name
        for row in ROWS
        if row.name != target.name and row.family == target.family and flags >= set(row.cpu_flags)
    ]
