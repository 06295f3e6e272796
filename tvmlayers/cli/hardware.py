"""`tvmlayers targets`: the hardware that can be compiled for."""

from __future__ import annotations

import argparse
from typing import Any

from tvmlayers import tables, targets
from tvmlayers.cli.console import OUT, print_json
from tvmlayers.errors import TvmLayersError


def add_commands(commands: Any) -> None:
    """Adds `targets` to the sub-parsers."""
    command = commands.add_parser("targets", help="list the hardware that can be compiled for")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run_targets)


def run_targets(args: argparse.Namespace) -> int:
    """Lists the named targets and whether this machine can run them."""
    rows = [_target_row(targets.TARGETS[name]) for name in targets.NAMES[1:]]
    gpus = [_gpu_row(target) for target in reversed(targets.GPUS.values())]
    if args.json:
        return print_json([*rows, *gpus])
    OUT.print(tables.targets_table(rows))
    OUT.print(tables.gpus_table(gpus))
    return 0


def _gpu_row(target: targets.CudaTarget) -> dict[str, Any]:
    return {
        "name": target.name,
        "family": target.family,
        "arch": target.arch,
        "card": target.card,
        "multiprocessors": target.multiprocessors,
        "l2": target.l2,
        "runs_here": target.name == _gpu_name(),
        "native": False,  # that is a CPU
    }


def _gpu_name() -> str | None:
    try:
        return targets.resolve("cuda").name
    except TvmLayersError:  # no driver, no GPU, or one too old
        return None


def _target_row(target: targets.Target) -> dict[str, Any]:
    is_foreign = target.architecture != targets.machine()
    lacks = [] if is_foreign else targets.missing_features(target.cpu_flags)
    return {
        "name": target.name,
        "family": target.family,
        "architecture": target.architecture,
        "vector_bits": 8 * target.vector_bytes,
        "features": list(target.cpu_flags),
        "runs_here": not lacks and not is_foreign,
        "lacks": lacks,
        "native": target.name == _native_name(),
    }


def _native_name() -> str | None:
    try:
        return targets.native().name
    except TvmLayersError:  # this machine runs none of them
        return None
