"""Operations element by element in PyTorch, each with what a rounding of its steps may add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import TYPE_CHECKING

from tvmlayers import layers
from tvmlayers.testing.activations import smooth
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
    passed_on = a.bound + b.bound  # of so few errors the certain sum is not much too large
    return Bounded(value, passed_on + rounding.eps / 2 * (value.abs() + passed_on))


def product(a: Bounded, b: Bounded, rounding: Rounding) -> Bounded:
    """a * b, rounded once."""
    value = a.value * b.value
    # of an infinite factor the value has no error that could be told
    moved = a.bound * b.value.abs() + b.bound * (a.value.abs() + a.bound)
    moved = moved.nan_to_num(nan=0.0, posinf=float("inf"))
    return Bounded(value, moved + rounding.eps / 2 * (value.abs() + moved) + rounding.smallest)


def constant(value: object) -> Bounded:
    """A weight or a number, exact."""
    import numpy as np
    import torch

    return Bounded.exact(torch.from_numpy(np.array(value, dtype=np.float64)))


def leaky_relu(layer: layers.LeakyReLU, _: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    """x where positive, else negative_slope * x."""
    from torch.nn.functional import leaky_relu

    step = smooth(partial(leaky_relu, negative_slope=layer.negative_slope))
    return rounding.stored(step(inputs["input"], rounding))


def elu(layer: layers.ELU, _: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    """x where positive, else alpha * (exp(x) - 1)."""
    from torch.nn.functional import elu

    return rounding.stored(smooth(partial(elu, alpha=layer.alpha))(inputs["input"], rounding))


def prelu(
    _: layers.PReLU, weights: Mapping[str, Array], inputs: Inputs, rounding: Rounding
) -> Bounded:
    """x where positive, else alpha * x."""
    x, alpha = inputs["input"], constant(weights["alpha"])
    below = product(x, alpha, rounding)
    is_below = x.value < 0
    # where x may have either sign, both slopes may be taken
    near = (x.value.abs() <= x.bound) * x.bound * alpha.value.abs().clamp(min=1.0)
    bound = below.bound.where(is_below, x.bound).maximum(near)
    return rounding.stored(Bounded(below.value.where(is_below, x.value), bound))


def rescaling(layer: layers.Rescaling, _: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    """x * scale + offset, both of which are rounded to the dtype."""

    def rounded(value: object) -> Bounded:
        found = constant(value)
        return Bounded(found.value, rounding.eps / 2 * found.value.abs())

    scaled = product(inputs["input"], rounded(layer.scale), rounding)
    return rounding.stored(total(scaled, rounded(layer.offset), rounding))


def batch_normalization(
    layer: layers.BatchNormalization,
    weights: Mapping[str, Array],
    inputs: Inputs,
    rounding: Rounding,
) -> Bounded:
    """(x - mean) * (gamma / sqrt(variance + epsilon)) + beta, the factor rounded once."""

    def numbers(name: str) -> Tensor:
        return constant(weights[name]).value.reshape(-1, *(1,) * layer.axes_after)

    mean = Bounded.exact(-numbers("moving_mean"))
    factor = 1 / (numbers("moving_variance") + layer.epsilon).sqrt()
    factor = factor * numbers("gamma") if layer.scale else factor
    made = Bounded(factor, rounding.eps / 2 * factor.abs())
    result = product(total(inputs["input"], mean, rounding), made, rounding)
    if layer.center:
        result = total(result, Bounded.exact(numbers("beta")), rounding)
    return rounding.stored(result)
