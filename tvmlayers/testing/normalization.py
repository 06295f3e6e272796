"""Normalisations in PyTorch, each with the error that a stable evaluation may have.

Stable are those that lose nothing to a mean far from 0: the mean is corrected by that of what it
leaves (T. F. Chan, G. H. Golub and R. J. LeVeque, Algorithms for computing the sample variance, The
American Statistician 37(3), 1983). Differences from the mean then have errors of their own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tvmlayers import layers
from tvmlayers.testing.bounds import Array, Bounded, Rounding
from tvmlayers.testing.elementwise import constant, product, total

if TYPE_CHECKING:
    from torch import Tensor

Inputs = Mapping[str, Bounded]


def layer_normalization(
    layer: layers.LayerNormalization,
    weights: Mapping[str, Array],
    inputs: Inputs,
    rounding: Rounding,
) -> Bounded:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the last axes."""
    import torch
    from torch.nn.functional import layer_norm

    x, axes = inputs["input"], tuple(range(-len(layer.axes), 0))
    n = layer.width
    value = layer_norm(x.value, x.value.shape[-len(axes) :], eps=layer.epsilon)
    mean = x.value.mean(axes, keepdim=True)
    d = x.value - mean
    # a first mean is off by this much, and its correction by as much of itself
    first_off = rounding.gamma(n) * x.value.abs().mean(axes, keepdim=True)
    off = rounding.gamma(n) * (d.abs().mean(axes, keepdim=True) + first_off)
    moved_mean = rounding.added(x.bound, axes) / n
    own = rounding.eps * (d.abs() + first_off) + off
    both = (x.bound, moved_mean.expand_as(x.bound))
    d_bound = rounding.added(torch.stack(both), (0,)).squeeze(0) + own
    d_moved = Bounded(d, d_bound)
    variance = d.square().mean(axes, keepdim=True)
    passed_on = 2 * rounding.added(d * x.bound, axes) / n
    squares = (2 * d.abs() * own + d_bound.square()).mean(axes, keepdim=True)
    # a variance of what a first mean leaves is larger, by the square of what that is off
    summed = rounding.gamma(n + 2) * (variance + first_off.square())
    moved = passed_on + squares + summed + rounding.smallest
    result = _divided(d_moved, Bounded(variance, moved), value, layer.epsilon, rounding)
    if layer.scale:
        result = product(result, constant(weights["gamma"]), rounding)
    if layer.center:
        result = total(result, constant(weights["beta"]), rounding)
    return rounding.stored(result)


def _divided(
    x: Bounded, square: Bounded, value: Tensor, epsilon: float, rounding: Rounding
) -> Bounded:
    """x / sqrt(square + epsilon), whose value is given."""
    at = square.value + epsilon
    lowest = (at - square.bound).clamp(min=epsilon).maximum(at * 1e-12)
    share = (1 / lowest.sqrt() - 1 / at.sqrt()).clamp(min=0.0)
    bound = (x.value.abs() + x.bound) * share + x.bound / at.sqrt()
    # a sum, a root, a quotient and a product
    return Bounded(value, bound + 4 * rounding.eps * (value.abs() + bound) + rounding.smallest)


def rms_normalization(
    layer: layers.RMSNormalization,
    weights: Mapping[str, Array],
    inputs: Inputs,
    rounding: Rounding,
) -> Bounded:
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axes."""
    from torch.nn.functional import rms_norm

    x, n = inputs["input"], layer.width
    value = rms_norm(x.value, x.value.shape[-len(layer.axes) :], eps=layer.epsilon)
    square = _squares(x, layer.axes, rounding)
    mean = Bounded(square.value / n, square.bound / n)
    result = _divided(x, mean, value, layer.epsilon, rounding)
    return rounding.stored(product(result, constant(weights["scale"]), rounding))


def unit_normalization(
    layer: layers.UnitNormalization, _: object, inputs: Inputs, rounding: Rounding
) -> Bounded:
    """x / sqrt(max(sum(x^2), epsilon)) over the last axes."""
    x = inputs["input"]
    square = _squares(x, layer.axes, rounding)
    at = Bounded(square.value.clamp(min=layer.epsilon), square.bound)
    return rounding.stored(_divided(x, at, x.value / at.value.sqrt(), 0.0, rounding))


def _squares(x: Bounded, axes: tuple[int, ...], rounding: Rounding) -> Bounded:
    """The sum of the squares over the last axes."""
    last = tuple(range(-len(axes), 0))
    value = x.value.square().sum(last, keepdim=True)
    n = x.value[:1].numel() // max(value[:1].numel(), 1)
    passed_on = 2 * rounding.added(x.value * x.bound, last)
    passed_on = passed_on + x.bound.square().sum(last, keepdim=True)
    return Bounded(value, passed_on + rounding.gamma(n) * value + n * rounding.smallest)
