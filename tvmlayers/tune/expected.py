"""What a kernel should compute, in float64 by NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvmlayers.dtypes import is_half, limits, wide
from tvmlayers.workload import Workload

Array: TypeAlias = NDArray[Any]

# Multiply-adds that one check may cost; of a larger result only some rows are looked at.
MOST_MACS = 1_000_000_000
MOST_VALUES = 4_000_000


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, x))


def _hard_sigmoid(x: Array) -> Array:
    return np.asarray(np.clip(x + 3.0, 0.0, 6.0) / 6.0)


def _gelu_tanh(x: Array) -> Array:
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1.0 + np.tanh(inner)))


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


_erf = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "leaky_relu": lambda x: np.where(x < 0, 0.2 * x, x),
    "elu": _elu,
    "selu": lambda x: 1.0507009873554805 * _elu(x, 1.6732632423543772),
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "gelu_tanh": _gelu_tanh,
    "sigmoid": _sigmoid,
    "hard_sigmoid": _hard_sigmoid,
    "tanh": np.tanh,
    "silu": lambda x: x * _sigmoid(x),
    "hard_silu": lambda x: x * _hard_sigmoid(x),
    "softplus": _softplus,
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "exponential": np.exp,
    "softmax": lambda x: np.exp(_log_softmax(x)),
    "log_softmax": _log_softmax,
}


REDUCTIONS: dict[str, Callable[..., Array]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
}


class Expected:
    """The result of a workload on one set of inputs, to hold a kernel's result against."""

    def __init__(
        self, workload: Workload, weights: Mapping[str, Array], given: tuple[Array, ...]
    ) -> None:
        """weights: "kernel" and "bias" of a dense layer, or the "table" of a lookup."""
        count = len(given[1]) if workload.kind == "bag" else workload.batch
        self._rows = _looked_at(workload, count)
        self._values = _values(workload, weights, given, self._rows)
        self._allowed = _tolerance(workload, given)

    def difference(self, result: Array) -> str | None:
        """What is wrong with `result`, or None."""
        found = result.reshape(-1, result.shape[-1])[self._rows].astype(np.float64)
        worst = np.abs(found - self._values) / np.maximum(np.abs(self._values), 1.0)
        worst[found == self._values] = 0.0  # infinities too
        worst[np.isnan(worst)] = np.inf
        place = np.unravel_index(int(np.argmax(worst)), worst.shape)
        if worst[place] <= self._allowed:
            return None
        row = int(self._rows[place[0]])
        return (
            f"element ({row}, {int(place[1])}) is {found[place]:.8g} "
            f"instead of {self._values[place]:.8g}"
        )


def _looked_at(workload: Workload, count: int) -> NDArray[np.int64]:
    """The rows that are checked: all where that is quick, else some from first to last."""
    if workload.kind == "dense":
        most = max(16, MOST_MACS // (workload["k"] * workload["n"]))
    else:
        most = max(16, MOST_VALUES // workload["width" if workload.kind != "softmax" else "n"])
        if workload.kind == "bag":
            most = max(16, most * count // workload.batch)
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _values(
    workload: Workload,
    weights: Mapping[str, Array],
    given: tuple[Array, ...],
    rows: NDArray[np.int64],
) -> Array:
    if workload.kind == "dense":
        x = given[0][rows].astype(np.float64) @ weights["kernel"].astype(np.float64)
        return ACTIVATIONS[workload["activation"]](x + weights["bias"].astype(np.float64))
    if workload.kind == "softmax":
        return ACTIVATIONS["softmax"](given[0][rows].astype(np.float64))
    if workload.kind == "embedding":
        picked: Array = weights["table"][given[0].reshape(-1)[rows]]
        return picked.astype(np.float64)
    indices, offsets = given
    ends = np.append(offsets[1:], len(indices))
    reduce = REDUCTIONS[workload["mode"]]
    made = np.zeros((len(rows), workload["width"]))
    for place, row in enumerate(rows):
        bag = indices[offsets[row] : ends[row]]
        if len(bag):
            made[place] = reduce(weights["table"][bag].astype(np.float64), axis=0)
    return made


def _tolerance(workload: Workload, given: tuple[Array, ...]) -> float:
    """The error allowed beside max(|result|, 1): rounding over the longest sum, and of a half once
    at the end."""
    dtype = workload["dtype"]
    eps = limits(wide(dtype)).eps
    stored = limits(dtype).eps if is_half(dtype) else 0.0
    if workload.kind == "embedding":
        return 0.0
    if workload.kind == "bag":
        terms = int(np.diff(np.append(given[1], workload.batch)).max())
    else:
        terms = int(workload["k" if workload.kind == "dense" else "n"])
    return eps * (64 + 8 * math.sqrt(terms)) + stored
