"""The derivative of an expression of one element, as an expression: for functions of the user's.

Forwards through the expression, by the chain rule. What is no arithmetic of the list below is
refused by name. At a kink the derivative is that of the branch that is taken; of |x| at 0 it is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi, sqrt

from tvm import te, tirx
from tvm.ir import Call, Expr

from tvmlayers.errors import ConfigError
from tvmlayers.expr import math as m

Slopes = Mapping[tirx.Var, Expr]
"""The derivative of each variable that stands for something that depends on x."""


def derivative_of(function: Callable[..., Expr], place: int = 0) -> Callable[..., Expr]:
    """The derivative of a function of elements by the one at a place, a function of them all.

    ConfigError, when it is called, where there is none that is known.
    """

    def derivative(*elements: Expr) -> Expr:
        variables = [tirx.Var(f"x{i}", m.dtype_of(each)) for i, each in enumerate(elements)]
        one, zero = (m.constant(value, variables[place]) for value in (1.0, 0.0))
        slope = _slope(function(*variables), {variables[place]: one})
        made = zero if slope is None else slope
        for variable, each in zip(reversed(variables), reversed(elements), strict=True):
            given = each.asobject() if isinstance(each, te.tensor.TensorSlice) else each
            made = tirx.Let(variable, given, made)
        return made

    return derivative


def _slope(value: Expr, known: Slopes) -> Expr | None:
    """The derivative of `value`; None where it does not depend on what is differentiated by."""
    if isinstance(value, tirx.Var):
        return known.get(value)
    if isinstance(value, tirx.IntImm | tirx.FloatImm):
        return None
    if isinstance(value, tirx.Let):
        inner = _slope(value.value, known)
        body = _slope(value.body, known if inner is None else {**known, value.var: inner})
        return None if body is None else tirx.Let(value.var, value.value, body)
    if isinstance(value, tirx.Select):
        return _either(value, value.condition, value.true_value, value.false_value, known)
    if isinstance(value, tirx.Cast):
        inner = _slope(value.value, known)
        return None if inner is None else tirx.Cast(m.dtype_of(value), inner)
    if isinstance(value, tirx.Max | tirx.Min):
        a, b = value.a, value.b
        condition = a > b if isinstance(value, tirx.Max) else a < b
        return _either(value, condition, a, b, known)
    if isinstance(value, tirx.Add | tirx.Sub | tirx.Mul | tirx.Div):
        return _arithmetic(value, known)
    if isinstance(value, Call):
        return _call(value, known)
    raise _unknown(type(value).__name__)


def _either(value: Expr, condition: Expr, yes: Expr, no: Expr, known: Slopes) -> Expr | None:
    slopes = [_slope(each, known) for each in (yes, no)]
    if slopes == [None, None]:
        return None
    zero = m.constant(0.0, value)
    first, second = (zero if slope is None else slope for slope in slopes)
    return m.select(condition, first, second)


def _arithmetic(value: Expr, known: Slopes) -> Expr | None:
    a, b = value.a, value.b
    da, db = _slope(a, known), _slope(b, known)
    if isinstance(value, tirx.Add):
        return _sum(da, db)
    if isinstance(value, tirx.Sub):
        return _sum(da, None if db is None else m.constant(0.0, value) - db)
    if isinstance(value, tirx.Mul):
        return _sum(None if da is None else da * b, None if db is None else a * db)
    by_b = None if db is None else m.constant(0.0, value) - a * db / (b * b)
    return _sum(None if da is None else da / b, by_b)


def _sum(a: Expr | None, b: Expr | None) -> Expr | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _one(x: Expr) -> Expr:
    return m.constant(1.0, x)


_OF_CALLS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "exp": lambda x, y: y,
    "log": lambda x, y: _one(x) / x,
    "log1p": lambda x, y: _one(x) / (_one(x) + x),
    "sqrt": lambda x, y: m.constant(0.5, x) / y,
    "rsqrt": lambda x, y: m.constant(-0.5, x) * y / x,
    "tanh": lambda x, y: _one(x) - y * y,
    "sigmoid": lambda x, y: y * (_one(x) - y),
    "sin": lambda x, y: te.cos(x),
    "cos": lambda x, y: m.constant(0.0, x) - te.sin(x),
    "erf": lambda x, y: m.constant(2.0 / sqrt(pi), x) * te.exp(m.constant(0.0, x) - x * x),
    "fabs": lambda x, y: m.select(
        x > m.constant(0.0, x),
        _one(x),
        m.select(x < m.constant(0.0, x), m.constant(-1.0, x), m.constant(0.0, x)),
    ),
}
"""From x and y = f(x) to f'(x)."""


def _call(value: Call, known: Slopes) -> Expr | None:
    name = str(getattr(value.op, "name", value.op)).rpartition(".")[2]
    slopes = [_slope(each, known) for each in value.args if isinstance(each, Expr)]
    if all(slope is None for slope in slopes):
        return None
    x = value.args[0]
    if name == "if_then_else":
        condition, yes, no = value.args
        return _either(value, condition, yes, no, known)
    if name == "pow":
        if slopes[1] is not None:
            raise _unknown("a power whose exponent is what is differentiated by")
        exponent = value.args[1]
        return exponent * te.power(x, exponent - _one(x)) * slopes[0]
    if name not in _OF_CALLS:
        raise _unknown(f"the function {name!r}")
    return _OF_CALLS[name](x, value) * slopes[0]


def _unknown(what: str) -> ConfigError:
    return ConfigError(
        f"{what} has no derivative here: write the loss or the activation with arithmetic and "
        f"{', '.join(_OF_CALLS)}, pow, max, min and Select, or take one of tl.losses"
    )
