"""Losses of one output as expressions: the value, and its derivative by the prediction.

Functions of (y_true, y_pred); of cross-entropies the prediction is a logit. Those over a whole row
of classes are in `codegen.cpu.losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.ir import Expr

from tvmlayers.errors import ConfigError
from tvmlayers.expr import math as m
from tvmlayers.expr.activations import relu
from tvmlayers.expr.differentiate import derivative_of
from tvmlayers.training import losses

Function = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class Pointwise:
    """value(y_true, y_pred), and derivative(y_true, y_pred) of it by y_pred."""

    value: Function
    derivative: Function


def pointwise(loss: losses.Loss) -> Pointwise | None:
    """The formula of a loss that is a mean over the outputs; None for one over rows."""
    if isinstance(loss, losses.BinaryCrossentropy):
        return _binary(loss.label_smoothing)
    if isinstance(loss, losses.Huber):
        return _huber(loss.delta)
    if isinstance(loss, losses.Custom):
        return _custom(loss.function)
    return _PLAIN.get(type(loss))


def _difference(y: Expr, p: Expr) -> Expr:
    return p - y


def _sign(d: Expr) -> Expr:
    zero, one = m.constant(0.0, d), m.constant(1.0, d)
    return m.select(d > zero, one, m.select(d < zero, -one, d))


def _binary(smoothing: float) -> Pointwise:
    """max(z, 0) - z y + log1p(exp(-|z|)), and sigmoid(z) - y."""

    def target(y: Expr) -> Expr:
        if not smoothing:
            return y
        return y * m.constant(1.0 - smoothing, y) + m.constant(0.5 * smoothing, y)

    def value(y: Expr, z: Expr) -> Expr:
        return relu(z) - z * target(y) + m.log1p(m.exp(-m.absolute(z)))

    return Pointwise(value, lambda y, z: m.sigmoid(z) - target(y))


def _custom(function: Function) -> Pointwise:
    def checked(y: Expr, p: Expr) -> Expr:
        value = function(y, p)
        if not isinstance(value, Expr):
            raise ConfigError(
                "a loss maps two tensor expressions (y_true, y_pred) to one, "
                f"{function!r} gave {type(value).__name__}"
            )
        return value

    return Pointwise(checked, derivative_of(checked, place=1))


def _huber(delta: float) -> Pointwise:
    def value(y: Expr, p: Expr) -> Expr:
        half = m.constant(0.5, p)

        def of_distance(d: Expr) -> Expr:
            most = m.constant(delta, d)
            return m.select(d <= most, half * d * d, most * (d - half * most))

        return m.bind(m.absolute(_difference(y, p)), of_distance)

    def derivative(y: Expr, p: Expr) -> Expr:
        return m.bind(_difference(y, p), lambda d: m.clamp(d, -delta, delta))

    return Pointwise(value, derivative)


def _hinge_sign(y: Expr) -> Expr:
    return m.select(y > m.constant(0.0, y), y, m.constant(-1.0, y))


def _hinge_derivative(y: Expr, p: Expr) -> Expr:
    def of_sign(s: Expr) -> Expr:
        return m.select(s * p < m.constant(1.0, p), -s, m.constant(0.0, p))

    return m.bind(_hinge_sign(y), of_sign)


_PLAIN: dict[type, Pointwise] = {
    losses.MeanSquaredError: Pointwise(
        lambda y, p: m.bind(_difference(y, p), lambda d: d * d),
        lambda y, p: _difference(y, p) * m.constant(2.0, p),
    ),
    losses.MeanAbsoluteError: Pointwise(
        lambda y, p: m.absolute(_difference(y, p)),
        lambda y, p: m.bind(_difference(y, p), _sign),
    ),
    losses.Hinge: Pointwise(
        lambda y, p: relu(m.constant(1.0, p) - _hinge_sign(y) * p), _hinge_derivative
    ),
}
