"""PyTorch with weights in fewer bits: its packed products, dynamic linear layers, quantised
bags."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.peers import Unsupported
from bench.peers.torch_eager import NAME
from bench.timing import Side
from bench.work import BagWork, DenseWork

_GROUP = 32


def dense(work: DenseWork, kind: str, threads: int) -> dict[str, list[Side]]:
    """Ways by whether inputs stay as they are. The activation is left out: it is in PyTorch's
    favour.

    `_weight_int8pack_mm` and `_weight_int4pack_mm_for_cpu` are fast with inputs in bfloat16 alone.
    """
    x, kernel = torch.from_numpy(work.x), torch.from_numpy(work.kernels[0])
    bias = torch.from_numpy(work.bias)
    if kind == "int8":
        return {"weights": [_int8_packed(x, kernel, bias)], "all": [_dynamic(x, kernel, bias)]}
    if kind == "int4":
        return {"weights": [_int4_packed(x, kernel, bias)]}
    half = getattr(torch, kind)
    linear = partial(
        torch.nn.functional.linear, x.to(half), kernel.T.contiguous().to(half), bias.to(half)
    )
    return {"all": [_side(f"{kind}, inputs too", [linear])]}


def _int8_packed(x: Tensor, kernel: Tensor, bias: Tensor) -> Side:
    scales = kernel.abs().amax(0) / 127
    codes = (kernel / scales).round().to(torch.int8).T.contiguous()
    given, steps, more = x.bfloat16(), scales.bfloat16(), bias.bfloat16()

    def call() -> Tensor:
        return torch._weight_int8pack_mm(given, codes, steps) + more

    return _side("int8pack, inputs bfloat16", [call])


def _int4_packed(x: Tensor, kernel: Tensor, bias: Tensor) -> Side:
    k, n = kernel.shape
    if k % _GROUP:
        raise Unsupported(f"k is a multiple of {_GROUP}")
    groups = kernel.T.reshape(n, k // _GROUP, _GROUP)
    steps = groups.abs().amax(-1) / 7
    codes = (groups / steps[..., None]).round().reshape(n, k).to(torch.int32) + 8
    packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    tail = torch.stack([steps, torch.zeros_like(steps)], -1).transpose(0, 1).contiguous()
    given, tail, more = x.bfloat16(), tail.bfloat16(), bias.bfloat16()

    def call() -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(given, packed, _GROUP, tail) + more

    return _side("int4pack, inputs bfloat16", [call])


def _dynamic(x: Tensor, kernel: Tensor, bias: Tensor) -> Side:
    linear = torch.nn.Linear(*kernel.shape)
    with torch.no_grad():
        linear.weight.copy_(kernel.T)
        linear.bias.copy_(bias)
    model = torch.nn.Sequential(linear)
    made = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    return _side("dynamic, inputs uint8", [partial(made, x)])


def bag(work: BagWork, kind: str, threads: int) -> dict[str, list[Side]]:
    """Its quantised bags are sums."""
    ways = {"int8": ("byte", "byte_rowwise"), "int4": ("4bit", "4bit_rowwise")}
    if kind not in ways or work.case.mode != "sum":
        raise Unsupported("sums of int8 and int4 rows")
    table = torch.from_numpy(work.table)
    pack, reduce = ways[kind]
    packed = getattr(torch.ops.quantized, f"embedding_bag_{pack}_prepack")(table)
    operator = getattr(torch.ops.quantized, f"embedding_bag_{reduce}_offsets")
    calls = [
        partial(operator, packed, torch.from_numpy(ids), torch.from_numpy(starts))
        for ids, starts in zip(work.flat, work.offsets, strict=True)
    ]
    return {"all": [_side(kind, calls)]}


SIDES: dict[str, Callable[..., dict[str, list[Side]]]] = {"dense": dense, "bag": bag}


def _side(variant: str, calls: list[Callable[[], Any]]) -> Side:
    return Side(NAME, calls, torch.inference_mode, variant)
