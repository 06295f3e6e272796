"""`python -m bench cuda`: our kernels against PyTorch's on the GPU here, by CUDA events.

Dense layers against `torch.nn.functional.linear` (cuBLASLt, TF32 off) and its compiled form with
`mode="max-autotune"`, in float32, float16 and bfloat16; the halves also at batches below 64 and at
4096 cubed. Lookups against `torch.nn.functional.embedding` and the memory's bandwidth. Every result
is compared before it is timed. Written where there was no GPU: unmeasured so far.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from bench import cases

ROUNDS, CALLS = 21, 20
HALF_DTYPES = ("float16", "bfloat16")
FEW_ROWS = (1, 2, 4, 8, 16, 32, 48, 64)


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
    works: list[Callable[[], dict[str, Any]]] = [
        *(partial(_dense, case, dtype, arguments.target) for dtype, case in dense_cases()),
        *(partial(_rows, case, arguments) for case in cases.public("embedding")),
    ]
    for work in works:
        row = work()
        wrong += not row["agrees"]
        rows.append(row)
        times = ", ".join(f"{name} {us:.1f} us" for name, us in row["us"].items())
        print(f"{row['case']:40s} {times}{'' if row['agrees'] else '  WRONG'}", flush=True)
    if arguments.json:
        said = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
        arguments.json.write_text(json.dumps(said, indent=1) + "\n")
    return 1 if wrong else 0


def dense_cases() -> list[tuple[str, cases.DenseCase]]:
    """(dtype, case): the public ones in every dtype, and those that halves are made for."""
    public = [case for case in cases.public("dense") if isinstance(case, cases.DenseCase)]
    few = [cases.DenseCase(m, 4096, 4096, last) for m in FEW_ROWS for last in (None, "gelu")]
    halves = [*public, *few, cases.DenseCase(4096, 4096, 4096)]
    return [("float32", case) for case in public] + list(product(HALF_DTYPES, halves))


def _dense(case: cases.DenseCase, dtype: str, target: str) -> dict[str, Any]:
    import torch

    import tvmlayers as tl

    own = getattr(torch, dtype)
    layer = tl.Dense(case.n, activation=case.activation, input_dim=case.k, dtype=dtype)
    ours = tl.compile(layer, target=target)
    weights = [torch.from_numpy(weight.astype("float32")).cuda() for weight in layer.get_weights()]
    kernel, bias = (weight.to(own) for weight in weights)
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

    x = torch.randn(case.m, case.k, device="cuda").to(own)
    exact = last(x.double() @ kernel.double() + bias.double())
    compiled = torch.compile(eager, mode="max-autotune")
    ways = {"ours": ours, "torch": eager, "torch.compile": compiled}
    tolerance = max(1e-4, 2 * torch.finfo(own).eps)
    agrees = torch.allclose(ours(x).double(), exact, rtol=tolerance, atol=tolerance)
    name = case.spec if dtype == "float32" else f"{case.spec} {dtype}"
    return {"case": name, "agrees": agrees, "us": _times(ways, x)}


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
