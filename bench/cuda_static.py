"""`python -m bench cuda-static`: what the kernels of the public cases take of a GPU, by compiler.

Registers, shared memory and spills are the compiler's report; occupancy, the share of a
multiprocessor's threads that can be there at once, follows from them and the target's limits. Every
tile for tensor cores is among them, named with its warps' tile, steps of k and stages. No GPU is
needed, and nothing here is a time.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bench import cases

DTYPES = ("float32", "float16", "bfloat16")
# Tables are compiled with few rows: no kernel depends on how many there are.
FEW_ROWS = 100


@dataclass(frozen=True)
class Row:
    """One kernel of one case on one target; threads: of a block."""

    target: str
    case: str
    kernel: str
    threads: int
    registers: int
    shared: int
    spilled: int
    occupancy: float


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `cuda-static`."""
    sub.add_argument("--target", action="append", help="a GPU's name; all, if left out")
    sub.add_argument("--json", type=Path, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """0, 1 where a kernel spills, 2 where a target is no GPU's."""
    from rich.console import Console
    from rich.table import Table

    from bench import hardware
    from tvmlayers.errors import TvmLayersError
    from tvmlayers.targets import GPUS

    try:
        names = [hardware.gpu(name).name for name in arguments.target or GPUS]
    except TvmLayersError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    rows = [row for name in names for row in measure(name)]
    table = Table(title="what the kernels take")
    for heading in ("target", "case", "kernel"):
        table.add_column(heading, overflow="fold")
    for heading in ("threads", "registers", "shared", "spilled", "occupancy"):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = row.threads, row.registers, row.shared, row.spilled
        made = (row.target, row.case, row.kernel, *map(str, numbers), f"{row.occupancy:.0%}")
        table.add_row(*made)
    console = Console(width=120)
    console.print(table)
    spilling = [row for row in rows if row.spilled]
    console.print(f"{len(rows)} kernels, {len(spilling)} of them spill")
    if arguments.json:
        from tvmlayers.codegen.cuda import toolchain

        said = {"compiler": toolchain.available(), "rows": [vars(row) for row in rows]}
        arguments.json.write_text(json.dumps(said, indent=1) + "\n")
    return 1 if spilling else 0


def measure(target_name: str) -> list[Row]:
    """A row for each different kernel of the public cases on a target."""
    from tvmlayers.codegen.cuda.compiler import lower_model
    from tvmlayers.codegen.cuda.toolchain import device_images, threads_of
    from tvmlayers.layers import as_model
    from tvmlayers.schedule.cuda import CudaSelector
    from tvmlayers.targets import GPUS

    target = GPUS[target_name]
    rows: list[Row] = []
    for case, model, decided in [*_models(), *_tensor_tiles(target)]:
        lowered, _, _ = lower_model(as_model(model), CudaSelector(target, fixed=decided))
        images = device_images(lowered.source, lowered.kernels, target)
        threads = threads_of(lowered.source)
        for kernel in lowered.kernels:
            taken = images.resources[kernel.name]
            rows.append(
                Row(
                    target_name,
                    case,
                    kernel.name,
                    threads[kernel.name],
                    taken["registers"],
                    taken["shared"],
                    taken["spill_stores"] + taken["spill_loads"],
                    occupancy(target, threads[kernel.name], taken["registers"], taken["shared"]),
                )
            )
    return rows


def occupancy(target: Any, threads: int, registers: int, shared: int) -> float:
    """The share of a multiprocessor's threads that blocks of a kernel can fill.

    Registers are given out to warps by 256, shared memory to blocks by 128 bytes and 1 KiB for the
    system, as the CUDA C++ Programming Guide has it for compute capability 8 and 9.
    """
    warps = -(-threads // 32)
    of_a_warp = max(-(-registers * 32 // 256) * 256, 256)
    by_registers = target.registers_per_multiprocessor // of_a_warp // warps
    by_shared = target.shared_per_multiprocessor // (-(-shared // 128) * 128 + 1024)
    by_threads = target.threads_per_multiprocessor // (warps * 32)
    blocks = min(by_registers, by_shared, by_threads, target.blocks_per_multiprocessor)
    return float(blocks * warps * 32 / target.threads_per_multiprocessor)


def _models() -> list[tuple[str, Any, dict[str, Any]]]:
    """(case, layer, nothing decided for it) of the public cases, each layer once."""
    import tvmlayers as tl

    made: dict[str, Any] = {}
    for dtype, case in product(DTYPES, cases.public("dense")):
        assert isinstance(case, cases.DenseCase)
        name = f"dense {case.k}x{case.n}:{case.activation or 'linear'}{_suffix(dtype)}"
        if name not in made:
            made[name] = tl.Dense(case.n, case.activation, input_dim=case.k, dtype=dtype)
    for dtype, case in product(DTYPES, cases.public("embedding")):
        assert isinstance(case, cases.EmbeddingCase)
        table = tl.Embedding(FEW_ROWS, case.dim, input_shape=(), dtype=dtype)
        made.setdefault(f"embedding {case.dim}{_suffix(dtype)}", table)
    for dtype, case in product(DTYPES, cases.public("bag")):
        assert isinstance(case, cases.BagCase)
        bag = tl.EmbeddingBag(FEW_ROWS, case.dim, mode=case.mode, dtype=dtype)
        made.setdefault(f"bag {case.dim}:{case.mode}{_suffix(dtype)}", bag)
    return [(name, layer, {}) for name, layer in made.items()]


def _tensor_tiles(target: Any) -> list[tuple[str, Any, dict[str, Any]]]:
    """(case, layer, decisions) of every tile for tensor cores, whether `target` chooses it or not.

    With the steps of k that the analytic choice takes, and with the most. Those of bfloat16 are
    float16's but for the names of two instructions.
    """
    import tvmlayers as tl
    from tvmlayers.spaces.cuda_tensor_gemm import pipeline, tensor_tiles

    k, n = 768, 3072
    made: dict[str, Any] = {}
    for dtype in DTYPES[:2]:
        layer = tl.Dense(n, activation="gelu", input_dim=k, dtype=dtype)
        for tile, choice in product(tensor_tiles(n, k, dtype), (1, 2)):
            steps = tile.operand.steps[choice]
            decided = {"tile": tile.name, "k_steps": steps, "stages": 3}
            stages = pipeline(tile, decided, target)
            name = f"tensor {k}x{n}:gelu {tile.name} {stages.k_steps}x{stages.stages}"
            made.setdefault(name, (layer, {"dense": decided}))
    return [(name, *rest) for name, rest in made.items()]


def _suffix(dtype: str) -> str:
    """What a case's name says of a dtype that is not float32."""
    return "" if dtype == "float32" else f" {dtype}"
