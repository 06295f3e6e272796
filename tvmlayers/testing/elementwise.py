"""Operations element by element in PyTorch, each with what a rounding of its steps may add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING

from tvmlayers import layers
from tvmlayers.testing.bounds import Array, Bounded, Rounding

if TYPE_CHECKING:
    from torch import Tensor

Inputs = Mapping[str, Bounded]


def add(_: layers.Add, __: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    """((x0 + x1) + x2) + ..."""
    return rounding.stored(_sum(_aligned(inputs), rounding))


def average(_: layers.Average, __: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    """The sum, divided by the number of the tensors."""
    terms = _aligned(inputs)
    total = _sum(terms, rounding)
    value = total.value / len(terms)
    rounded = rounding.eps / 2 * value.abs() + rounding.smallest
    return rounding.stored(Bounded(value, total.bound / len(terms) + rounded))


def subtract(_: layers.Subtract, __: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    """x0 - x1."""
    left, right = _aligned(inputs)
    return rounding.stored(_sum([left, Bounded(-right.value, right.bound)], rounding))


def multiply(_: layers.Multiply, __: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    """((x0 * x1) * x2) * ..."""
    return rounding.stored(reduce(lambda a, b: product(a, b, rounding), _aligned(inputs)))


def maximum(_: layers.Maximum, __: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    """The largest, to the last bit; NaN where one is NaN."""
    import torch

    return _extreme(torch.maximum, inputs)


def minimum(_: layers.Minimum, __: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    """The smallest, to the last bit; NaN where one is NaN."""
    import torch

    return _extreme(torch.minimum, inputs)


def _extreme(function: Callable[[Tensor, Tensor], Tensor], inputs: Inputs) -> Bounded:
    terms = _aligned(inputs)
    return Bounded(
        reduce(function, [term.value for term in terms]),
        reduce(lambda a, b: a.maximum(b), [term.bound for term in terms]),
    )


def _aligned(inputs: Inputs) -> list[Bounded]:
    """The inputs in order, with axes of length 1 after the batch where others have more."""
    given = [inputs[role] for role in inputs if role != "mask"]
    rank = max(each.value.ndim for each in given)

    def padded(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:1], *(1,) * (rank - x.ndim), *x.shape[1:])

    return [Bounded(padded(each.value), padded(each.bound)) for each in given]


def _sum(terms: list[Bounded], rounding: Rounding) -> Bounded:
    return reduce(lambda a, b: total(a, b, rounding), terms)


def total(a: Bounded, b: Bounded, rounding: Rounding) -> Bounded:
    """a + b, rounded once."""
    value = a.value + b.value
    passed_on = (a.bound.square() + b.bound.square()).sqrt()
    return Bounded(value, passed_on + rounding.eps / 2 * (value.abs() + passed_on))


def product(a: Bounded, b: Bounded, rounding: Rounding) -> Bounded:
    """a * b, rounded once."""
    value = a.value * b.value
    # of an infinite factor the value has no error that could be told
    moved = ((a.bound * b.value).square() + (b.bound * a.value).square()).sqrt()
    moved = (moved + a.bound * b.bound).nan_to_num(nan=0.0, posinf=float("inf"))
    return Bounded(value, moved + rounding.eps / 2 * (value.abs() + moved) + rounding.smallest)


def constant(array: Array) -> Bounded:
    """A weight, exact."""
    import numpy as np
    import torch

    return Bounded.exact(torch.from_numpy(np.array(array, dtype=np.float64)))
