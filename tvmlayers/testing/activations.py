"""The activations in PyTorch, each with the error that its compiled form may have.

PyTorch's own functions where it has one of that name and constant; their constants are Keras's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import log
from typing import TYPE_CHECKING, TypeAlias

from tvmlayers.testing.bounds import Bounded, Rounding

if TYPE_CHECKING:
    from torch import Tensor

Step: TypeAlias = Callable[[Bounded, Rounding], Bounded]


def smooth(function: Callable[[Tensor], Tensor], slope: float, cancels_to: float = 0.0) -> Step:
    """The Step of a function no steeper than slope.

    cancels_to: where a function subtracts nearly equal numbers, its own error is relative to |x|
    instead of |f(x)|, until it levels out at |x| = cancels_to.
    """

    def step(x: Bounded, rounding: Rounding) -> Bounded:
        value = function(x.value)
        magnitude = value.abs() + x.value.abs().clamp(max=cancels_to)
        # a sigmoid that underflows is multiplied by x afterwards
        lost = rounding.smallest * (1 + x.value.abs().clamp(max=-log(rounding.smallest)))
        own = rounding.function * magnitude + lost
        return Bounded(value, slope * x.bound + own)

    return step


def linear(x: Bounded, rounding: Rounding) -> Bounded:
    """x, untouched."""
    return x


def exact(function: Callable[[Tensor], Tensor]) -> Step:
    """The Step of a function that picks its argument or a constant: it rounds nothing."""
    return lambda x, rounding: Bounded(function(x.value), x.bound)


def exponential(x: Bounded, rounding: Rounding) -> Bounded:
    """exp(x); an error d in x is a factor of exp(d)."""
    value = x.value.exp()
    return Bounded(value, value * (x.bound.expm1() + rounding.function) + rounding.smallest)


def softmax(x: Bounded, rounding: Rounding) -> Bounded:
    """exp(x - max) / sum(exp(x - max)) over the last axis."""
    value = x.value.softmax(-1)
    spread = (x.value.amax(-1, keepdim=True) - x.value).abs()
    moved = 2 * x.bound.amax(-1, keepdim=True) + spread * rounding.eps
    own = rounding.gamma(x.value.shape[-1]) + 2 * rounding.function
    return Bounded(value, value * (moved.expm1() + own) + rounding.smallest)


def log_softmax(x: Bounded, rounding: Rounding) -> Bounded:
    """x - max - log(sum(exp(x - max))) over the last axis."""
    value = x.value.log_softmax(-1)
    top = x.value.amax(-1, keepdim=True)
    shift = x.value - value  # max + log(sum)
    moved = x.bound + x.bound.amax(-1, keepdim=True)
    magnitude = x.value.abs() + top.abs() + shift.abs() + (shift - top).abs()
    own = rounding.gamma(x.value.shape[-1]) + 2 * rounding.function
    return Bounded(value, moved + own + 2 * rounding.eps * magnitude)


@cache
def steps() -> dict[str, Step]:
    """The Step of each activation, by name."""
    import torch
    from torch.nn import functional

    def elementwise(name: str) -> Callable[[Tensor], Tensor]:
        function: Callable[[Tensor], Tensor] = getattr(functional, name)
        return function

    return {
        "linear": linear,
        "relu": exact(torch.relu),
        "relu6": exact(functional.relu6),
        "leaky_relu": smooth(lambda x: functional.leaky_relu(x, 0.2), slope=1.0),
        "elu": smooth(elementwise("elu"), slope=1.0),
        "selu": smooth(elementwise("selu"), slope=1.7581),
        "gelu": smooth(elementwise("gelu"), slope=1.13, cancels_to=6.0),
        "gelu_tanh": smooth(
            lambda x: functional.gelu(x, approximate="tanh"), slope=1.13, cancels_to=6.0
        ),
        "sigmoid": smooth(torch.sigmoid, slope=0.25),
        "hard_sigmoid": smooth(elementwise("hardsigmoid"), slope=1 / 6, cancels_to=3.0),
        "tanh": smooth(torch.tanh, slope=1.0),
        "silu": smooth(elementwise("silu"), slope=1.1),
        # hardswish is x * relu6(x + 3) / 6, which overflows at a sixth of the largest number
        "hard_silu": smooth(lambda x: x * functional.hardsigmoid(x), slope=1.5, cancels_to=3.0),
        # torch's softplus gives x itself from 20 on, which float64 tells apart
        "softplus": smooth(lambda x: torch.logaddexp(x, torch.zeros_like(x)), slope=1.0),
        "softsign": smooth(elementwise("softsign"), slope=1.0),
        "mish": smooth(elementwise("mish"), slope=1.09),
        "exponential": exponential,
        "softmax": softmax,
        "log_softmax": log_softmax,
    }
