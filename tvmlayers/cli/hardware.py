"""`tvmlayers targets`: the hardware that can be compiled for."""

from __future__ import annotations

import argparse
from typing import Any

from tvmlayers import tables, targets
from tvmlayers.cli.console import OUT, note, print_json
from tvmlayers.errors import TvmLayersError

DESCRIPTION = f"""The hardware that can be compiled for. The row marked native is this machine, what
--target native means: the best one whose CPU features it has, or the one that the environment
variable {targets.VARIABLE} names, such as x86-64-v3, to try out here what older CPUs get."""


def add_commands(commands: Any) -> None:
    """Adds `targets` to the sub-parsers."""
    command = commands.add_parser(
        "targets", help="list the hardware that can be compiled for", description=DESCRIPTION
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run_targets)


def run_targets(args: argparse.Namespace) -> int:
    """Lists the named targets and whether this machine can run them."""
    native = _native_name()
    rows = [_target_row(targets.TARGETS[name], native) for name in targets.NAMES[1:]]
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


def _target_row(target: targets.Target, native: str | None) -> dict[str, Any]:
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
        "native": target.name == native,
    }


def _native_name() -> str | None:
    try:
        return targets.native().name
    except TvmLayersError as error:  # this machine runs none, or not the one that was asked for
        note(str(error))
        return None
