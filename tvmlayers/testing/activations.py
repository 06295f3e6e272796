"""The activations in PyTorch, each with the error that a stable evaluation may have.

PyTorch's own functions where it has one of that name and constant that is exact in its tails too;
their constants are Keras's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, reduce
from math import log, pi, sqrt
from typing import TYPE_CHECKING, TypeAlias

from tvmlayers.testing.bounds import Bounded, Rounding, Total

if TYPE_CHECKING:
    from torch import Tensor

# Zeros of the derivatives, by bisection.
_LEAST_AT = {
    "gelu": -0.7517915,
    "gelu_tanh": -0.7524614,
    "silu": -1.2784645,
    "mish": -1.1924312,
}

Step: TypeAlias = Callable[[Bounded, Rounding], Bounded]


def smooth(
    function: Callable[[Tensor], Tensor], roundings: int = 0, least_at: float | None = None
) -> Step:
    """The Step of a function with at most one extremum.

    roundings: of its argument, or as much, that the result is exact for; least_at: where its least
    value is, if it has one.
    """

    def step(x: Bounded, rounding: Rounding) -> Bounded:
        value = function(x.value)
        reach = x.bound
        if roundings:  # else 0 times an infinity
            reach = reach + roundings * rounding.eps / 2 * x.value.abs()
        own = rounding.function * value.abs() + rounding.smallest
        return Bounded(value, _moved(function, x.value, reach, least_at) + own)

    return step


def _moved(
    function: Callable[[Tensor], Tensor], x: Tensor, reach: Tensor, least_at: float | None = None
) -> Tensor:
    """How far the function goes where its argument goes as far as `reach`; an infinity stays."""
    value, reach = function(x), reach.where(x.isfinite(), 0.0)
    ends = [x + reach, x - reach]
    if least_at is not None:
        ends.append(x.new_tensor(least_at).maximum(x - reach).minimum(x + reach))
    moved = [(function(end) - value).abs() for end in ends]
    return reduce(lambda a, b: a.maximum(b), moved)


def exact(function: Callable[[Tensor], Tensor]) -> Step:
    """The Step of a function that picks its argument or a constant: it rounds nothing."""
    return lambda x, _: Bounded(function(x.value), _moved(function, x.value, x.bound))


def linear(x: Bounded, rounding: Rounding) -> Bounded:
    """x, untouched."""
    return x


# In both, exp(x_i - max) is off by a rounding of x_i - max, and a row's sum by the average of those
# weighted with the softmax: that of max - x_i is at most log(n), as is log(sum).


def softmax(x: Bounded, rounding: Rounding) -> Bounded:
    """exp(x - max) / sum(exp(x - max)) over the last axis."""
    value, n = x.value.softmax(-1), x.value.shape[-1]
    below = x.value.amax(-1, keepdim=True) - x.value
    moved = x.bound + _sum_moved(x) + rounding.eps / 2 * (below + log(max(n, 1)))
    own = rounding.gamma(n) + 2 * rounding.function
    # of an infinite logit the value is 0 for certain
    bound = (value * (moved.expm1() + own)).nan_to_num(nan=0.0) + rounding.smallest
    total = Total(lambda rows: rows.sum(-1), rounding.gamma(n) + 2 * rounding.eps)
    return Bounded(value, bound, total)


def log_softmax(x: Bounded, rounding: Rounding) -> Bounded:
    """(x - max) - log(sum(exp(x - max))) over the last axis."""
    value, n = x.value.log_softmax(-1), x.value.shape[-1]
    below = x.value.amax(-1, keepdim=True) - x.value
    most = log(max(n, 1))
    own = rounding.gamma(n) + rounding.function * (1 + most) + rounding.eps / 2 * most
    rounded = rounding.eps / 2 * (below + value.abs())
    total = Total(lambda rows: rows.exp().sum(-1), own + rounding.eps * most)
    return Bounded(value, x.bound + _sum_moved(x) + own + rounded, total)


def _sum_moved(x: Bounded) -> Tensor:
    """How far log(sum(exp(x))) goes where each x goes as far as its bound."""
    share = x.value.softmax(-1)
    return (share * x.bound.exp()).sum(-1, keepdim=True).log().clamp(min=0.0)


def _gelu(x: Tensor) -> Tensor:
    """x Phi(x); PyTorch's is 1 + erf, which is lost below -5."""
    import torch

    return x / 2 * torch.special.erfc(-x * sqrt(0.5))


def _gelu_tanh(x: Tensor) -> Tensor:
    """As x sigmoid(2 u); PyTorch's is 1 + tanh(u), which is lost in the tail."""
    return x * (sqrt(8 / pi) * (x + 0.044715 * x**3)).sigmoid()


@cache
def steps() -> dict[str, Step]:
    """The Step of each activation, by name."""
    import torch
    from torch.nn import functional

    # torch's softplus gives x itself from 20 on, which differs in float64; its hardswish is
    # x * relu6(x + 3) / 6, which overflows at a sixth of the largest number
    functions: dict[str, Step] = {
        "linear": linear,
        "relu": exact(torch.relu),
        "relu6": exact(functional.relu6),
        "leaky_relu": smooth(partial(functional.leaky_relu, negative_slope=0.2)),
        "gelu": smooth(_gelu, roundings=2, least_at=_LEAST_AT["gelu"]),
        "gelu_tanh": smooth(_gelu_tanh, roundings=3, least_at=_LEAST_AT["gelu_tanh"]),
        "sigmoid": smooth(torch.sigmoid),
        "tanh": smooth(torch.tanh),
        "hard_sigmoid": smooth(functional.hardsigmoid),
        "hard_silu": smooth(lambda x: x * functional.hardsigmoid(x), least_at=-1.5),
        "softplus": smooth(lambda x: torch.logaddexp(x, torch.zeros_like(x))),
        "exponential": smooth(torch.exp),
        "softmax": softmax,
        "log_softmax": log_softmax,
    }
    same_name = ("elu", "selu", "silu", "softsign", "mish")
    return functions | {
        name: smooth(getattr(functional, name), least_at=_LEAST_AT.get(name)) for name in same_name
    }
