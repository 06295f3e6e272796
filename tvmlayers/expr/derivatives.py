"""The derivatives of the activations: of one element, from its output where that will do.

FROM_OUTPUT(y) is f'(x) where y = f(x): nothing but y is kept for the backward pass. FROM_INPUT(x)
needs x. At a kink both are PyTorch's: the derivative on the side of smaller x for `relu`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

from tvm import tirx
from tvm.ir import Expr

from tvmlayers.expr import math as m
from tvmlayers.expr.activations import SELU_ALPHA, SELU_SCALE, SQRT_8_OVER_PI

Derivative = Callable[[Expr], Expr]


def _one(x: Expr) -> Expr:
    return m.constant(1.0, x)


def _between(x: Expr, low: float, high: float, inside: Expr) -> Expr:
    within = tirx.all(x > m.constant(low, x), x < m.constant(high, x))
    return m.select(within, inside, m.constant(0.0, x))


def _exponential_unit(y: Expr, scale: float, alpha: float) -> Expr:
    below = y + m.constant(scale * alpha, y)
    return m.select(y > m.constant(0.0, y), m.constant(scale, y), below)


FROM_OUTPUT: dict[str, Derivative] = {
    "linear": _one,
    "relu": lambda y: m.select(y > m.constant(0.0, y), _one(y), m.constant(0.0, y)),
    "relu6": lambda y: _between(y, 0.0, 6.0, _one(y)),
    "leaky_relu": lambda y: m.select(y > m.constant(0.0, y), _one(y), m.constant(0.2, y)),
    "elu": lambda y: _exponential_unit(y, 1.0, 1.0),
    "selu": lambda y: _exponential_unit(y, SELU_SCALE, SELU_ALPHA),
    "sigmoid": lambda y: y * (_one(y) - y),
    "hard_sigmoid": lambda y: _between(y, 0.0, 1.0, m.constant(1.0 / 6.0, y)),
    "tanh": lambda y: _one(y) - y * y,
    "softplus": lambda y: -m.expm1(-y),
    "exponential": lambda y: y,
}


def _gelu(x: Expr) -> Expr:
    """Phi(x) + x phi(x), phi the density of the standard normal distribution."""
    density = m.exp(x * x * m.constant(-0.5, x)) * m.constant(1.0 / sqrt(2.0 * pi), x)
    return m.normal_cdf(x) + x * density


def _gelu_tanh(x: Expr) -> Expr:
    """Of x sigmoid(u): s + x s (1 - s) u'."""
    first, third = m.constant(SQRT_8_OVER_PI, x), m.constant(0.044715 * SQRT_8_OVER_PI, x)
    inner = first + m.constant(3.0, x) * third * x * x

    def of_sigmoid(s: Expr) -> Expr:
        return s + x * s * (_one(x) - s) * inner

    return m.bind(m.sigmoid(x * (first + third * x * x)), of_sigmoid)


def _silu(x: Expr) -> Expr:
    return m.bind(m.sigmoid(x), lambda s: s * (_one(x) + x * (_one(x) - s)))


def _hard_silu(x: Expr) -> Expr:
    slope = x * m.constant(1.0 / 3.0, x) + m.constant(0.5, x)
    three = m.constant(3.0, x)
    return m.select(x < -three, m.constant(0.0, x), m.select(x > three, _one(x), slope))


def _softsign(x: Expr) -> Expr:
    return m.bind(_one(x) + m.absolute(x), lambda d: _one(x) / (d * d))


def _mish(x: Expr) -> Expr:
    """Of x w, w = tanh(softplus(x)): w + x sigmoid(x) (1 - w^2)."""

    def of_power(e: Expr) -> Expr:
        n, two = e * (e + m.constant(2.0, e)), m.constant(2.0, e)
        return m.bind(n, lambda n: of_parts(n / (n + two), m.constant(4.0, n) * (n + _one(n)), n))

    def of_parts(w: Expr, over: Expr, n: Expr) -> Expr:
        # 1 - w^2 = 4 (n + 1) / (n + 2)^2
        two = m.constant(2.0, n)
        return w + x * m.sigmoid(x) * (over / ((n + two) * (n + two)))

    return m.bind(m.exp(m.at_most(x, 20.0)), of_power)


FROM_INPUT: dict[str, Derivative] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "hard_silu": _hard_silu,
    "softsign": _softsign,
    "mish": _mish,
}
