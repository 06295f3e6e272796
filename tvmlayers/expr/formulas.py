"""What operations element by element make of one element of each operand.

A function of the layer, for its constants, and the operands: one element of each input, then of
what `Layer.operands` gives, in its order.
"""

import operator
from functools import partial, reduce
from typing import Any

from tvm import tirx
from tvm.ir import Expr

from tvmlayers.expr import activations
from tvmlayers.expr import math as m


def add(_: Any, *terms: Expr) -> Expr:
    """x0 + x1 + ..."""
    return reduce(operator.add, terms)


def average(_: Any, *terms: Expr) -> Expr:
    """The sum of the terms over their number."""
    total = reduce(operator.add, terms)
    return total / m.constant(len(terms), total)


def subtract(_: Any, left: Expr, right: Expr) -> Expr:
    """x0 - x1"""
    return left - right


def multiply(_: Any, *factors: Expr) -> Expr:
    """x0 * x1 * ..."""
    return reduce(operator.mul, factors)


def maximum(_: Any, *terms: Expr) -> Expr:
    """The largest; NaN where one is NaN."""
    return reduce(partial(_by_llvm, "llvm.maximum"), terms)


def minimum(_: Any, *terms: Expr) -> Expr:
    """The smallest; NaN where one is NaN."""
    return reduce(partial(_by_llvm, "llvm.minimum"), terms)


def _by_llvm(intrinsic: str, a: Expr, b: Expr) -> Expr:
    """A function of two numbers that names each of them once.

    By comparisons an expression would double with every term: TVM's passes write a bound value out
    wherever it is named.
    """
    return tirx.call_llvm_pure_intrin(m.dtype_of(a), intrinsic, a, b)


def leaky_relu(layer: Any, x: Expr) -> Expr:
    """x where positive, else negative_slope * x."""
    return activations.leaky_relu(x, layer.negative_slope)


def elu(layer: Any, x: Expr) -> Expr:
    """x where positive, else alpha * (exp(x) - 1)."""
    return m.bind(x, lambda x: activations.elu(x, layer.alpha))


def prelu(_: Any, x: Expr, alpha: Expr) -> Expr:
    """x where positive, else alpha * x."""
    return m.select(x < m.constant(0, x), x * alpha, x)


def rescaling(layer: Any, x: Expr, *arrays: Expr) -> Expr:
    """x * scale + offset; what is no array is a constant."""
    given, names = iter(arrays), layer.operands()
    scale, offset = (
        next(given) if name in names else m.constant(getattr(layer, name), x)
        for name in ("scale", "offset")
    )
    return x * scale + offset


def batch_normalization(layer: Any, x: Expr, mean: Expr, factor: Expr, *beta: Expr) -> Expr:
    """(x - mean) * factor + beta."""
    return reduce(operator.add, beta, (x - mean) * factor)
