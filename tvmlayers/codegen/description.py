"""What a compiled model says of itself: the manifest of its artefact."""

import datetime
from typing import Any

import tvm

import tvmlayers
from tvmlayers import targets
from tvmlayers.codegen.graph import Kernels
from tvmlayers.layers import Model
from tvmlayers.layers.graph import leading_axes


def make_manifest(
    model: Model,
    target: targets.Hardware,
    entries: list[dict[str, Any]],
    checks: list[list[dict[str, Any]]],
    kernels: Kernels,
) -> dict[str, Any]:
    """The manifest of a compiled model, but for what its kind of hardware adds to it."""
    return {
        **made_by(),
        "model": model.get_config(),
        "target": target.describe(),
        "entries": entries,
        "leading_axes": leading_axes(model.graph),
        "checks": _merged(checks),
        "weights": kernels.arena.manifest(),
        "arena_bytes": kernels.arena.arena_bytes,
        "kernels": [made.kernel.report for made in kernels.made.values() if made.kernel.report],
    }


def made_by() -> dict[str, str]:
    """What made an artefact, and when."""
    return {
        "tvmlayers_version": tvmlayers.__version__,
        "tvm_version": tvm.__version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _merged(checks: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The checks of all entries. Entries that differ put theirs at the same bits: longest wins."""
    return max(checks, key=len, default=[])
