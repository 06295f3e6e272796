"""`python -m bench.batches KxN:activation`: one artefact for any batch against one for each batch.

For each batch size the layer compiled for any batch is timed against layers compiled for exactly
that batch: with the analytic decisions for it, and with every other register tile and way of
sharing the work out. The ratio is the time of the first over the best of the others, round by
round.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

BATCHES = (*range(1, 33), 37, 40, 48, 53, 64, 79, 96, 100, 113, 128, 150, 192, 200, 241, 256, 300)
ROUNDS = 21
ROUND_SECONDS = 2e-3


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 for a shape that cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m bench.batches", description=__doc__)
    parser.add_argument("shape", help="as 640x128:relu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    size, _, activation = arguments.shape.partition(":")
    try:
        k, n = map(int, size.split("x"))
    except ValueError:
        print(f"a shape is KxN:activation, got {arguments.shape!r}", file=sys.stderr)
        return 2
    os.environ["TVM_NUM_THREADS"] = str(arguments.threads)
    rows = [_row(m, k, n, activation or "linear", arguments.threads) for m in BATCHES]
    for row in rows:
        print(f"{row['batch']:4d} {row['any_us']:9.2f} us, ratio {row['ratio']:.2f}, {row['best']}")
    worst = max(rows, key=lambda row: row["ratio"])
    print(f"worst {worst['ratio']:.2f} at batch {worst['batch']}")
    if arguments.json:
        said = {"shape": arguments.shape, "threads": arguments.threads, "rows": rows}
        arguments.json.write_text(json.dumps(said, indent=1) + "\n")
    return 0


def _row(m: int, k: int, n: int, activation: str, threads: int) -> dict[str, Any]:
    import numpy as np

    import tvmlayers as tl
    from tvmlayers.codegen.compiler import compile_selected
    from tvmlayers.layers import as_model
    from tvmlayers.schedule import Selector, analytic
    from tvmlayers.spaces import choices_of
    from tvmlayers.spaces.gemm import Tile
    from tvmlayers.targets import resolve
    from tvmlayers.workload import Workload

    target = resolve("native")
    model = as_model(tl.Dense(n, activation=activation, input_dim=k), None)
    workload = Workload.make("dense", m=m, k=k, n=n, dtype="float32", activation=activation)
    own = analytic(workload, target)
    choices = choices_of(workload, target)
    exact = {
        f"{tile} {split}": {**own, "tile": tile, "split": split}
        for tile in choices["tile"]
        for split in choices["split"]
        if Tile.of({"tile": tile}).rows * 4 >= min(m, 16)  # smaller ones cannot be the best
    }
    x = np.random.default_rng(0).standard_normal((m, k), dtype=np.float32)
    calls: dict[str, Callable[[], Any]] = {}
    for name, decisions in exact.items():
        selector = Selector(target, use_records=False, fixed={"dense": decisions})
        calls[name] = _call(compile_selected(model, selector, threads), x)
    anyone = _call(tl.compile(model, threads=threads), x)
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    times: list[float] = []
    for _ in range(ROUNDS):
        times.append(_seconds(anyone))
        for name, call in calls.items():
            ratios[name].append(times[-1] / _seconds(call))
    best = max(ratios, key=lambda name: median(ratios[name]))
    return {
        "batch": m,
        "any_us": round(median(times) * 1e6, 3),
        "ratio": round(median(ratios[best]), 3),
        "best": best,
    }


def _call(compiled: Any, x: Any) -> Callable[[], Any]:
    return lambda: compiled(x)


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    repeats = max(1, int(ROUND_SECONDS / (time.perf_counter() - begin)))
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


if __name__ == "__main__":
    sys.exit(main())
