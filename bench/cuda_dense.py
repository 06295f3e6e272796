"""Dense layers on the GPU here, beside `torch.nn.functional.linear` and its compiled form."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bench.cases import DenseCase
from bench.cuda_rows import OURS, Prepared
from bench.reference import WrongResult, activation

COMPILED = "torch.compile"
Function = Callable[..., Any]


@dataclass(frozen=True)
class Twin:
    """A layer compiled, and torch's weights: w (n, k), bias (n,)."""

    compiled: Any
    seconds: float
    w: Any
    bias: Any


@lru_cache(maxsize=1)  # the cases of one layer come one after the other
def twin(k: int, n: int, last: str | None, dtype: str, target: str, device: str) -> Twin:
    """The layer, for any number of rows."""
    import torch

    import tvmlayers as tl

    layer = tl.Dense(n, activation=last, input_dim=k, dtype=dtype)
    begun = time.perf_counter()
    made = tl.compile(layer, target=target)
    seconds = time.perf_counter() - begun
    weights = [torch.from_numpy(weight.astype("float32")) for weight in layer.get_weights()]
    kernel, bias = (weight.to(device, getattr(torch, dtype)) for weight in weights)
    return Twin(made, seconds, kernel.T.contiguous(), bias)


def prepare(
    dtype: str, case: DenseCase, target: str, peers: list[str], device: str = "cuda"
) -> Prepared:
    """Ours, PyTorch's and the asked peers' calls; WrongResult where ours is not float64's."""
    import torch

    own, last = getattr(torch, dtype), activation(case)
    layer = twin(case.k, case.n, case.activation, dtype, target, device)
    w, bias = layer.w, layer.bias

    def eager(x: Any) -> Any:
        return last(torch.nn.functional.linear(x, w, bias))

    x = torch.randn(case.m, case.k, device=device).to(own)
    exact = last(x.double() @ w.T.double() + bias.double())
    tolerance = max(1e-4, 2 * torch.finfo(own).eps)
    given = layer.compiled(x).double()
    if not torch.allclose(given, exact, rtol=tolerance, atol=tolerance):
        worst = (given - exact).abs().max().item()
        raise WrongResult(f"{case.spec} {dtype}: off by up to {worst:.2g}, allowed {tolerance:.2g}")
    ways = {OURS: [lambda: layer.compiled(x)], "torch": [lambda: eager(x)]}
    skipped: dict[str, str] = {}
    if COMPILED in peers:
        try:
            call = compiled(eager, mode="max-autotune")
            call(x)
            ways[COMPILED] = [lambda: call(x)]
        except RuntimeError as error:  # of dynamo and inductor all are
            skipped[COMPILED] = str(error).partition("\n")[0]
    return Prepared(
        case=case,
        dtype=dtype,
        data="1 set repeated",
        compiled=layer.compiled,
        prepare_seconds=layer.seconds,
        ways=ways,
        moved=sum(each.numel() * each.element_size() for each in (x, w, bias))
        + case.m * case.n * x.element_size(),
        flops=case.flops,
        skipped=skipped,
    )


def compiled(function: Function, **options: Any) -> Function:
    """The function by torch.compile, for the shapes of one case; an error where it gives up.

    What earlier cases compiled is dropped: beyond a limit of shapes the same code would be run
    eagerly, and from the second shape on be compiled for any.
    """
    import torch
    import torch._dynamo.config

    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    made: Function = torch.compile(function, dynamic=False, **options)
    return made
