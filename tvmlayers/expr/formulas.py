"""What operations element by element make of one element of each operand.

A function of the layer, for its constants, and the operands: one element of each input, then of
what `Layer.operands` gives, in its order.
"""

import operator
from functools import reduce
from typing import Any

from tvm.ir import Expr

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
    return reduce(m.largest, terms)


def minimum(_: Any, *terms: Expr) -> Expr:
    """The smallest; NaN where one is NaN."""
    return reduce(m.smallest, terms)
