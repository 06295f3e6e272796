"""Activations as functions of one float expression; `softmax` and `log_softmax` need a whole row.

Names and defaults are Keras 3's: the slope of `leaky_relu` is 0.2 where PyTorch has 0.01.
"""

from collections.abc import Callable

from tvm.ir import Expr

from tvmlayers.expr import math as m

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
SQRT_8_OVER_PI = 1.5957691216057308


def linear(x: Expr) -> Expr:
    """x"""
    return x


def relu(x: Expr) -> Expr:
    """max(x, 0)"""
    return m.select(x < m.constant(0, x), m.constant(0, x), x)


def relu6(x: Expr) -> Expr:
    """min(max(x, 0), 6)"""
    return m.clamp(x, 0.0, 6.0)


def leaky_relu(x: Expr, negative_slope: float = 0.2) -> Expr:
    """x where positive, else negative_slope * x"""
    return m.select(x < m.constant(0, x), x * m.constant(negative_slope, x), x)


def elu(x: Expr, alpha: float = 1.0) -> Expr:
    """x where positive, else alpha * (exp(x) - 1)"""
    return m.select(x < m.constant(0, x), m.expm1(x) * m.constant(alpha, x), x)


def selu(x: Expr) -> Expr:
    """scale * elu(x, alpha), constants of Klambauer et al. 2017"""
    return elu(x, SELU_ALPHA) * m.constant(SELU_SCALE, x)


def gelu(x: Expr) -> Expr:
    """x * Phi(x), Phi the cumulative distribution function of the standard normal"""
    return m.times_normal_cdf(x)


def gelu_tanh(x: Expr) -> Expr:
    """x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 x^3), as x * sigmoid(2 u)"""
    first, third = m.constant(SQRT_8_OVER_PI, x), m.constant(0.044715 * SQRT_8_OVER_PI, x)
    return x * m.sigmoid(x * (first + third * x * x))


def hard_sigmoid(x: Expr) -> Expr:
    """relu6(x + 3) / 6"""
    return m.clamp(x + m.constant(3.0, x), 0.0, 6.0) / m.constant(6.0, x)


def silu(x: Expr) -> Expr:
    """x * sigmoid(x)"""
    return x * m.sigmoid(x)


def hard_silu(x: Expr) -> Expr:
    """x * hard_sigmoid(x)"""
    return x * hard_sigmoid(x)


def softplus(x: Expr) -> Expr:
    """log(1 + exp(x)), as max(x, 0) + log1p(exp(-|x|))"""
    return m.bind(m.exp(-m.absolute(x)), lambda e: relu(x) + m.log1p(e))


def softsign(x: Expr) -> Expr:
    """x / (1 + |x|)"""
    return x / (m.constant(1.0, x) + m.absolute(x))


def mish(x: Expr) -> Expr:
    """x * tanh(softplus(x)) = x * n / (n + 2) with n = e^x (e^x + 2)"""
    most = 20.0  # where n + 2 is n, in float64 too

    def from_power(e: Expr) -> Expr:
        n = e * (e + m.constant(2.0, e))
        return m.bind(n, lambda n: x * (n / (n + m.constant(2.0, n))))

    return m.bind(m.exp(m.at_most(x, most)), from_power)


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "linear": linear,
    "relu": relu,
    "relu6": relu6,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "selu": selu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "sigmoid": m.sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "tanh": m.tanh,
    "silu": silu,
    "hard_silu": hard_silu,
    "softplus": softplus,
    "softsign": softsign,
    "mish": mish,
    "exponential": m.exp,
}

ROW_ACTIVATIONS = ("softmax", "log_softmax")

# A few instructions a value: cheap enough to be unrolled into the registers of a GEMM tile.
CHEAP = frozenset({"linear", "relu", "relu6", "leaky_relu", "hard_sigmoid", "hard_silu"})
