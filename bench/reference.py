"""The right answers in float64, by PyTorch, and the check that every side passes before timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import DenseCase
from bench.timing import Side
from bench.twins import TWINS
from bench.work import Array, BagWork, DenseWork, EmbeddingWork, ModelWork, Work
from tvmlayers.dtypes import is_half, limits, wide

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "swish": F.silu,
    "hard_silu": F.hardswish,
    "hard_swish": F.hardswish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "mish": F.mish,
    "exponential": torch.exp,
    "softmax": lambda x: torch.softmax(x, dim=-1),
    "log_softmax": lambda x: torch.log_softmax(x, dim=-1),
}


class WrongResult(AssertionError):
    """A side's result is not the reference's; nothing is timed."""


def check(sides: Sequence[Side], work: Work) -> None:
    """WrongResult unless every side agrees with float64 on its first and last inputs."""
    turns = sorted({0, len(sides[0].calls) - 1})
    allowed = tolerance(work)
    for turn, want in zip(turns, expected(work, turns), strict=True):
        for side in sides:
            what = " ".join(filter(None, (side.name, side.variant)))
            what = f"{what} on {work.case.kind} {work.case.spec}"
            with side.context():
                # No name for the result: LiteRT refuses to run while one of its own is in use.
                _compare(what, _array(side.calls[turn]()), want, allowed)


def _array(result: Any) -> Array:
    """A side's result; NumPy takes no bfloat16 from torch."""
    is_bfloat16 = isinstance(result, Tensor) and result.dtype == torch.bfloat16
    return np.asarray(result.float() if is_bfloat16 else result)


def expected(work: Work, turns: Sequence[int]) -> list[Array]:
    """The float64 results for the inputs of these turns of the rotation."""
    with torch.inference_mode():
        answer = _answers(work)
        return [answer(turn).numpy() for turn in turns]


def tolerance(work: Work) -> float:
    """The error allowed beside max(|result|, 1): rounding of the dtype over the longest sum, of a
    half that of float32 and twice its own, as peers round the sum and the activation."""
    if isinstance(work, EmbeddingWork):
        return 0.0
    if isinstance(work, ModelWork):
        dtype = next(iter(work.weights.values())).dtype
        terms = max(array.shape[0] for name, array in work.weights.items() if "kernel" in name)
    elif isinstance(work, DenseWork):
        dtype, terms = work.x.dtype, work.case.k
    else:
        dtype, terms = work.table.dtype, work.case.longest
    own = 2 * limits(dtype.name).eps if is_half(dtype.name) else 0.0
    return limits(wide(dtype.name)).eps * (32 + 4 * terms**0.5) + own


def _answers(work: Work) -> Callable[[int], Tensor]:
    if isinstance(work, DenseWork):
        x, kernel, bias = (_double(array) for array in (work.x, work.kernels[0], work.bias))
        result = activation(work.case)(torch.addmm(bias, x, kernel))
        return lambda turn: result
    if isinstance(work, EmbeddingWork):
        return lambda turn: _double(work.table[work.indices[turn]])
    if isinstance(work, BagWork):
        return lambda turn: _bag(work, turn)
    twin = TWINS[work.case.name]({name: _float64(w) for name, w in work.weights.items()})
    inputs = [
        [_double(a) if a.dtype.kind == "f" else torch.from_numpy(a) for a in arrays]
        for arrays in work.inputs
    ]
    return lambda turn: twin(*inputs[turn])


def _bag(work: BagWork, turn: int) -> Tensor:
    # Only the rows in use become float64: a table may be gigabytes.
    rows, places = np.unique(work.flat[turn], return_inverse=True)
    offsets = torch.from_numpy(work.offsets[turn].astype(np.int64))
    indices = torch.from_numpy(places.reshape(-1))
    table = _double(work.table[rows])
    if work.case.mode == "min":  # which embedding_bag does not know
        return -F.embedding_bag(indices, -table, offsets, mode="max")
    return F.embedding_bag(indices, table, offsets, mode=work.case.mode)


def _float64(array: Array) -> Array:
    return array.astype(np.float64, copy=False)


def _double(array: Array) -> Tensor:
    return torch.from_numpy(_float64(array))


def activation(case: DenseCase) -> Callable[[Tensor], Tensor]:
    """PyTorch's function for the case's activation; ValueError where it has none."""
    if case.activation is None:
        return lambda x: x
    if case.activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"no reference for activation {case.activation!r}; known are {known}")
    return ACTIVATIONS[case.activation]


def _compare(what: str, got: Array, want: Array, allowed: float) -> None:
    if got.shape != want.shape:
        raise WrongResult(f"{what}: expected shape {want.shape}, got {got.shape}")
    if want.size == 0:
        return
    error = np.abs(got.astype(np.float64) - want) / np.maximum(np.abs(want), 1.0)
    error = np.where(np.isnan(error), np.inf, error)
    worst = np.unravel_index(int(error.argmax()), error.shape)
    if error[worst] > allowed:
        place = tuple(int(axis) for axis in worst)
        raise WrongResult(
            f"{what}: at {place} expected {want[worst]:.9g}, got {got[worst]:.9g} "
            f"(error {error[worst]:.2g}, allowed {allowed:.2g})"
        )
