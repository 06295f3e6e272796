"""`python -m bench cuda`: our kernels against PyTorch's on the GPU here, by CUDA events.

Dense layers against `torch.nn.functional.linear` (cuBLASLt, TF32 off) and its compiled form with
`mode="max-autotune"`; lookups against `torch.nn.functional.embedding` and the memory's bandwidth.
Every result is compared before it is timed. Written where there was no GPU: unmeasured so far.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench import cases

ROUNDS, CALLS = 21, 20


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `cuda`."""
    sub.add_argument("--target", default="cuda", help="a GPU's name; the one that is here")
    sub.add_argument("--json", type=Path, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """0, 1 where a result is wrong, 2 where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        print("bench: no GPU, or a build of torch without CUDA", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    rows = []
    wrong = 0
    for case in [*cases.public("dense"), *cases.public("embedding")]:
        row = _dense(case, arguments.target) if case.kind == "dense" else _rows(case, arguments)
        wrong += not row["agrees"]
        rows.append(row)
        times = ", ".join(f"{name} {us:.1f} us" for name, us in row["us"].items())
        print(f"{row['case']:40s} {times}{'' if row['agrees'] else '  WRONG'}", flush=True)
    if arguments.json:
        said = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
        arguments.json.write_text(json.dumps(said, indent=1) + "\n")
    return 1 if wrong else 0


def _dense(case: Any, target: str) -> dict[str, Any]:
    import torch

    import tvmlayers as tl

    layer = tl.Dense(case.n, activation=case.activation, input_dim=case.k)
    ours = tl.compile(layer, target=target)
    kernel, bias = (torch.from_numpy(weight).cuda() for weight in layer.get_weights())
    w = kernel.T.contiguous()
    last: Callable[[Any], Any] = {
        None: lambda y: y,
        "relu": torch.relu,
        "softmax": lambda y: torch.softmax(y, -1),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "gelu": torch.nn.functional.gelu,
        "silu": torch.nn.functional.silu,
    }[case.activation]

    def eager(x: Any) -> Any:
        return last(torch.nn.functional.linear(x, w, bias))

    x = torch.randn(case.m, case.k, device="cuda")
    compiled = torch.compile(eager, mode="max-autotune")
    ways = {"ours": ours, "torch": eager, "torch.compile": compiled}
    agrees = torch.allclose(ours(x), eager(x), rtol=1e-3, atol=1e-3)
    return {"case": case.spec, "agrees": agrees, "us": _times(ways, x)}


def _rows(case: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    import tvmlayers as tl

    layer = tl.Embedding(case.rows, case.dim, oob="clip", input_shape=())
    ours = tl.compile(layer, target=arguments.target)
    (table,) = (torch.from_numpy(weight).cuda() for weight in layer.get_weights())
    ids = torch.randint(case.rows, (case.indices,), device="cuda")

    def eager(ids: Any) -> Any:
        return torch.nn.functional.embedding(ids, table)

    agrees = torch.equal(ours(ids), eager(ids))
    times = _times({"ours": ours, "torch": eager}, ids)
    moved = 2 * case.indices * case.dim * 4
    return {
        "case": case.spec,
        "agrees": agrees,
        "us": times,
        "ours_gb_per_s": moved / times["ours"] / 1e3,
    }


def _times(ways: dict[str, Callable[[Any], Any]], x: Any) -> dict[str, float]:
    """Microseconds of a call of each way: medians over rounds in which all take their turn."""
    import torch

    found: dict[str, list[float]] = {name: [] for name in ways}
    for call in ways.values():
        for _ in range(3):
            call(x)
    for _ in range(ROUNDS):
        for name, call in ways.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(CALLS):
                call(x)
            end.record()
            end.synchronize()
            found[name].append(begin.elapsed_time(end) * 1e3 / CALLS)
    return {name: median(times) for name, times in found.items()}
