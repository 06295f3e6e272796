"""PyTorch as it comes: eager, under inference_mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import DenseCase
from bench.peers import Unsupported
from bench.reference import activation
from bench.settings import Settings
from bench.timing import Side
from bench.twins import TWINS, frozen_linear
from bench.work import Array, BagWork, DenseWork, EmbeddingWork, ModelWork
from tvmlayers.runtime.tensors import to_torch

NAME = "torch"

# On a fresh result, writing in place saves an allocation and gives the same numbers.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "relu6": lambda x: F.relu6(x, inplace=True),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2, inplace=True),
    "elu": lambda x: F.elu(x, inplace=True),
    "selu": torch.selu_,
    "sigmoid": torch.sigmoid_,
    "hard_sigmoid": lambda x: F.hardsigmoid(x, inplace=True),
    "tanh": torch.tanh_,
    "silu": lambda x: F.silu(x, inplace=True),
    "swish": lambda x: F.silu(x, inplace=True),
    "hard_silu": lambda x: F.hardswish(x, inplace=True),
    "hard_swish": lambda x: F.hardswish(x, inplace=True),
    "mish": lambda x: F.mish(x, inplace=True),
    "exponential": torch.exp_,
}


def version() -> str:
    return str(torch.__version__)


def set_up(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)


def dense(work: DenseWork) -> list[Side]:
    """nn.Linear's layout (out, in), and addmm on (in, out): either may be the faster."""
    x, bias, *kernels = map(to_torch, (work.x, work.bias, *work.kernels))
    after = _epilogue(work.case)
    linears = [frozen_linear(kernel, bias) for kernel in kernels]
    ways: dict[str, list[Callable[[], Tensor]]] = {
        "linear": [partial(linear, x) for linear in linears],
        "addmm": [partial(torch.addmm, bias, x, kernel) for kernel in kernels],
    }
    return [
        _side(variant, [_then(call, after) for call in calls]) for variant, calls in ways.items()
    ]


def embedding(work: EmbeddingWork) -> list[Side]:
    table = torch.from_numpy(work.table)
    return [_side("", [partial(F.embedding, ids, table) for ids in _tensors(work.indices)])]


def bag(work: BagWork) -> list[Side]:
    """1-D indices with offsets; 2-D indices too where every bag has the same length."""
    table, mode = torch.from_numpy(work.table), work.case.mode
    ways: dict[str, list[Callable[[], Tensor]]] = {}
    if mode != "min":  # which embedding_bag does not know
        pairs = zip(_tensors(work.flat), _tensors(work.offsets), strict=True)
        ways["offsets"] = [
            partial(F.embedding_bag, ids, table, starts, mode=mode) for ids, starts in pairs
        ]
    if not work.case.ragged:
        squares = _tensors(work.indices)
        ways["2-D"] = [
            partial(F.embedding_bag, ids, table, mode=mode)
            if mode != "min"
            else partial(_gathered_min, ids, table)
            for ids in squares
        ]
    if not ways:
        raise Unsupported("embedding_bag knows no minimum")
    return [_side(variant, calls) for variant, calls in ways.items()]


def _gathered_min(ids: Tensor, table: Tensor) -> Tensor:
    return F.embedding(ids, table).amin(dim=1)


def model(work: ModelWork) -> list[Side]:
    twin = TWINS[work.case.name](work.weights).eval()
    return [_side("", [partial(twin, *_tensors(arrays)) for arrays in work.inputs])]


SIDES: dict[str, Callable[[Any], list[Side]]] = {
    "dense": dense,
    "embedding": embedding,
    "bag": bag,
    "model": model,
}


def _side(variant: str, calls: list[Callable[[], Tensor]]) -> Side:
    return Side(NAME, calls, torch.inference_mode, variant)


def _tensors(arrays: list[Array] | tuple[Array, ...]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def _epilogue(case: DenseCase) -> Callable[[Tensor], Tensor] | None:
    if case.activation is None:
        return None
    return IN_PLACE.get(case.activation) or activation(case)


def _then(call: Callable[[], Tensor], after: Callable[[Tensor], Tensor] | None) -> Any:
    if after is None:
        return call
    return lambda: after(call())
