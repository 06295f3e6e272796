"""Normalisations of rows, in whole vectors; what is normalised may be made of several tensors.

Where whole vectors do not make up a row the last one starts sooner and takes some columns again:
the sums leave these out, and they are stored twice. See `expr.softmax`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tvm import te
from tvm.ir import Expr

from tvmlayers.expr import math as m
from tvmlayers.expr.expression import Expression, Place, size
from tvmlayers.expr.reduction import tree

At = Callable[[Expr, Expr, Expr | int], Expr]
"""A value by its row, step and lane."""


class Rows:
    """Rows of n numbers as steps of vectors, and sums over them.

    lanes: of a vector, at most n; stages: the names of those that are made on the way, in order;
    sums: of those among them that hold vectors of sums.
    """

    def __init__(self, x: At, count: Expr, n: int, lanes: int) -> None:
        self.x, self.count, self.n, self.lanes = x, count, n, lanes
        self.full, self.rest = divmod(n, lanes)
        self.stages: list[str] = []
        self.sums: list[str] = []

    @property
    def steps(self) -> int:
        """How many vectors a row is gone over in."""
        return self.full + (self.rest > 0)

    def column(self, step: Expr, lane: Expr | int) -> Expr:
        """The column that a lane of a step takes."""
        start = te.min(step * self.lanes, self.n - self.lanes) if self.rest else step * self.lanes
        return start + lane

    def square(self, i: Expr, s: Expr, v: Expr | int) -> Expr:
        """The square of an element."""
        return m.bind(self.x(i, s, v), lambda x: x * x)

    def each(self, name: str, value: Callable[[Expr], Expr]) -> te.Tensor:
        """A stage of one number a row."""
        self.stages.append(name)
        return te.compute((self.count,), value, name=name)

    def totals(self, name: str, *terms: At) -> list[Callable[[Expr], Expr]]:
        """The sum of each of the terms over row i, as functions of i; one pass over the row."""
        step = te.reduce_axis((0, self.full), f"{name}_step")

        def term(i: Expr, which: Expr, v: Expr) -> Expr:
            values = [value(i, step, v) for value in terms]
            found = values[-1]
            for place, value in reversed(list(enumerate(values[:-1]))):
                found = m.select(which == place, value, found)
            return found

        parts = te.compute(
            (self.count, len(terms), self.lanes),
            lambda i, which, v: te.sum(term(i, which, v), axis=step),
            name=name,
        )
        self.stages.append(name)
        self.sums.append(name)

        def total(which: int, i: Expr) -> Expr:
            return tree([in_lane(i, which, v) for v in range(self.lanes)])

        def in_lane(i: Expr, which: int, v: int) -> Expr:
            part: Expr = parts[i, which, v]
            again = v >= self.lanes - self.rest
            return part + terms[which](i, self.full, v) if again else part

        return [partial(total, which) for which in range(len(terms))]


Formula = Callable[[Any, Rows, Sequence[At]], At]
"""What a layer makes of rows and of its operands: the value by its place."""


def normalized(
    formula: Formula,
    layer: Any,
    made_of: Callable[..., Expr] | None,
    inputs: int,
    operands: int,
    n: int,
    *,
    lanes: int,
    dtype: str,
) -> tuple[Expression, Rows]:
    """(formula(layer, ...) of each of `count` rows, its rows): inputs (count, n), operands (n,) ->
    (count, n), n >= lanes.

    made_of: what the rows are made of, of one element of each input; None where there is one.
    Halves are widened first, and the result is rounded once. lanes: 1 where a sum is shared out
    among threads.
    """
    count = size("count")
    given = [te.placeholder((count, n), dtype, name=f"x{i}") for i in range(inputs)]
    shared = [te.placeholder((n,), dtype, name=f"w{i}") for i in range(operands)]

    def element(x: te.Tensor, i: Expr, s: Expr, v: Expr | int) -> Expr:
        return m.widened(x[i, rows.column(s, v)])

    rows = Rows(partial(element, given[0]), count, n, lanes)
    if made_of is not None:
        made = te.compute(
            (count, rows.steps, lanes),
            lambda i, s, v: made_of(*(element(x, i, s, v) for x in given)),
            name="made",
        )
        rows.x = lambda i, s, v: made[i, s, v]

    def operand(w: te.Tensor, _: Expr, s: Expr, v: Expr | int) -> Expr:
        return m.widened(w[rows.column(s, v)])

    value = formula(layer, rows, [partial(operand, w) for w in shared])
    out = te.compute(
        (count, rows.steps, lanes), lambda i, s, v: m.narrowed(value(i, s, v), dtype), name="out"
    )
    place = Place((count, n), lambda i: [i[0], rows.column(i[1], i[2])])
    return Expression((*given, *shared, out), (count,), {"out": place}), rows


def layer_normalization(layer: Any, rows: Rows, operands: Sequence[At]) -> At:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta.

    The mean is a first one and the mean of what that leaves, which takes nothing from a variance
    that is small beside it: the corrected two-pass algorithm (T. F. Chan, G. H. Golub and R. J.
    LeVeque, Algorithms for computing the sample variance, The American Statistician 37(3), 1983).
    """

    def left(i: Expr, s: Expr, v: Expr | int) -> Expr:
        return rows.x(i, s, v) - first[i]

    def square(i: Expr, s: Expr, v: Expr | int) -> Expr:
        return m.bind(left(i, s, v), lambda d: d * d)

    (total,) = rows.totals("sum", rows.x)
    first = rows.each("first", lambda i: _mean(total(i), rows))
    rest, squares = rows.totals("rest", left, square)
    more = rows.each("more", lambda i: _mean(rest(i), rows))

    def factor(i: Expr) -> Expr:
        variance = _mean(squares(i), rows) - more[i] * more[i]
        zero = m.constant(0, variance)
        return _one_over_root(m.largest(zero, variance) + m.constant(layer.epsilon, zero))

    by = rows.each("by", factor)
    taken = iter(operands)
    gamma = next(taken) if layer.scale else None
    beta = next(taken) if layer.center else None

    def value(i: Expr, s: Expr, v: Expr | int) -> Expr:
        found = (left(i, s, v) - more[i]) * by[i]
        found = found * gamma(i, s, v) if gamma is not None else found
        return found + beta(i, s, v) if beta is not None else found

    return value


def rms_normalization(layer: Any, rows: Rows, operands: Sequence[At]) -> At:
    """x / sqrt(mean(x^2) + epsilon) * scale."""
    (scale,) = operands
    (squares,) = rows.totals("squares", rows.square)

    def factor(i: Expr) -> Expr:
        square = _mean(squares(i), rows)
        return _one_over_root(square + m.constant(layer.epsilon, square))

    by = rows.each("by", factor)
    return lambda i, s, v: rows.x(i, s, v) * by[i] * scale(i, s, v)


def unit_normalization(layer: Any, rows: Rows, operands: Sequence[At]) -> At:
    """x / sqrt(max(sum(x^2), epsilon))."""
    (squares,) = rows.totals("squares", rows.square)

    def factor(i: Expr) -> Expr:
        total = squares(i)
        return _one_over_root(m.largest(m.constant(layer.epsilon, total), total))

    by = rows.each("by", factor)
    return lambda i, s, v: rows.x(i, s, v) * by[i]


def _mean(total: Expr, rows: Rows) -> Expr:
    return total / m.constant(rows.n, total)


def _one_over_root(x: Expr) -> Expr:
    return m.bind(x, lambda x: m.constant(1, x) / te.sqrt(x))
