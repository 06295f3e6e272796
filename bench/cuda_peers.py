"""`python -m bench cuda`: our kernels against PyTorch's on the GPU here, by CUDA events.

Dense layers against `torch.nn.functional.linear` (cuBLASLt, TF32 off) and its compiled form with
`mode="max-autotune"`, in float32, float16 and bfloat16; the halves also at batches below 64 and at
4096 cubed. Lookups and bags against PyTorch's, FBGEMM's and the measured bandwidth of the memory.
Every result is compared before it is timed. Written where there was no GPU: unmeasured so far.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from bench import cases, cuda_dense, cuda_fbgemm, cuda_lookups, work
from bench.cases import Case, DenseCase

ROUNDS, CALLS = 21, 20
KINDS = ("dense", "embedding", "bag")
PEERS = ("torch.compile", cuda_fbgemm.NAME)
HALF_DTYPES = ("float16", "bfloat16")
FEW_ROWS = (1, 2, 4, 8, 16, 32, 48, 64)


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `cuda`."""
    sub.add_argument("--target", default="cuda", help="a GPU's name; the one that is here")
    sub.add_argument(
        "--kind", action="append", dest="kinds", choices=KINDS, help="of case; all, if left out"
    )
    sub.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=list(PEERS),
        help="beside PyTorch eager; all, if left out",
    )
    sub.add_argument("--json", type=Path, metavar="FILE")


def chosen(arguments: argparse.Namespace) -> list[tuple[str, Case]]:
    """(dtype, case): the cases of the kinds that are asked for."""
    made: list[tuple[str, Case]] = []
    for kind in arguments.kinds or KINDS:
        if kind == "dense":
            made += dense_cases()
        else:
            made += [("float32", case) for case in cases.public(kind)]
    return made


def dense_cases() -> list[tuple[str, DenseCase]]:
    """(dtype, case): the public ones in every dtype, and those that halves are made for."""
    public = [case for case in cases.public("dense") if isinstance(case, DenseCase)]
    few = [DenseCase(m, 4096, 4096, last) for m in FEW_ROWS for last in (None, "gelu")]
    halves = [*public, *few, DenseCase(4096, 4096, 4096)]
    return [("float32", case) for case in public] + list(product(HALF_DTYPES, halves))


def run(arguments: argparse.Namespace) -> int:
    """0, 1 where a result is wrong, 2 where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        print("bench: no GPU, or a build of torch without CUDA", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    bandwidth = cuda_lookups.bandwidth(_times)
    rows = []
    for dtype, case in chosen(arguments):
        row = _row(dtype, case, arguments, bandwidth)
        rows.append(row)
        print(line_of(row), flush=True)
        work.release()
        torch.cuda.empty_cache()
    if arguments.json:
        said = {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "bandwidth_gb_per_s": bandwidth / 1e9,
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(said, indent=1) + "\n")
    return 0 if all(row["agrees"] for row in rows) else 1


def line_of(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    said = [f"{name} {us:.1f} us" for name, us in row["us"].items()]
    if "of_bandwidth" in row:
        said.append(f"{row['of_bandwidth']:.0%} of the bandwidth")
    said += [f"without {name}: {reason}" for name, reason in row.get("skipped", {}).items()]
    if not row["agrees"]:
        said.append("WRONG")
    return f"{row['case']:40s} {', '.join(said)}"


def _row(dtype: str, case: Case, arguments: argparse.Namespace, bandwidth: float) -> dict[str, Any]:
    if isinstance(case, DenseCase):
        return _dense(dtype, case, arguments.target, arguments.peers)
    assert not isinstance(case, cases.ModelCase)
    return cuda_lookups.row(case, arguments.target, arguments.peers, bandwidth, _times)


def _dense(dtype: str, case: DenseCase, target: str, peers: list[str]) -> dict[str, Any]:
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
    ways = {"ours": lambda: ours(x), "torch": lambda: eager(x)}
    if "torch.compile" in peers:
        compiled = cuda_dense.compiled(eager, mode="max-autotune")
        ways["torch.compile"] = lambda: compiled(x)
    tolerance = max(1e-4, 2 * torch.finfo(own).eps)
    agrees = torch.allclose(ours(x).double(), exact, rtol=tolerance, atol=tolerance)
    name = case.spec if dtype == "float32" else f"{case.spec} {dtype}"
    return {"case": name, "kind": case.kind, "agrees": agrees, "us": _times(ways)}


def _times(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Microseconds of a call of each way: medians over rounds in which all take their turn."""
    import torch

    found: dict[str, list[float]] = {name: [] for name in ways}
    for call in ways.values():
        for _ in range(3):
            call()
    for _ in range(ROUNDS):
        for name, call in ways.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(CALLS):
                call()
            end.record()
            end.synchronize()
            found[name].append(begin.elapsed_time(end) * 1e3 / CALLS)
    return {name: median(times) for name, times in found.items()}
