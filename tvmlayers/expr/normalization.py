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
from tvmlayers.expr.dot import NORMALIZE_EPSILON
from tvmlayers.expr.expression import Expression, Place, size
from tvmlayers.expr.reduction import tree

At = Callable[[Expr, Expr, Expr | int], Expr]
"""A value by its row, step and lane."""


class Rows:
    """Rows of n numbers as steps of vectors, and sums over them. lanes: of a vector, at most n."""

    def __init__(self, x: At, count: Expr, n: int, lanes: int) -> None:
        self.x, self.count, self.n, self.lanes = x, count, n, lanes
        self.full, self.rest = divmod(n, lanes)
        self.sums: list[str] = []  # the stages of vectors of sums
        self.totals: list[str] = []  # the stages of numbers, one a row

    @property
    def steps(self) -> int:
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
        self.totals.append(name)
        return te.compute((self.count,), value, name=name)

    def total(self, name: str, term: At, then: Callable[[Expr], Expr]) -> te.Tensor:
        """A stage of then(the sum of term over a row)."""
        step = te.reduce_axis((0, self.full), f"{name}_step")
        part = te.compute(
            (self.count, self.lanes),
            lambda i, v: te.sum(term(i, step, v), axis=step),
            name=f"{name}_part",
        )
        self.sums.append(f"{name}_part")

        def in_lane(i: Expr, v: int) -> Expr:
            again = v >= self.lanes - self.rest
            return part[i, v] + term(i, self.full, v) if again else part[i, v]

        return self.each(name, lambda i: then(tree([in_lane(i, v) for v in range(self.lanes)])))


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
    """
    count = size("count")
    given = [te.placeholder((count, n), dtype, name=f"x{i}") for i in range(inputs)]
    shared = [te.placeholder((n,), dtype, name=f"w{i}") for i in range(operands)]
    rows = Rows(lambda i, s, v: given[0][i, rows.column(s, v)], count, n, lanes)
    if made_of is not None:
        made = te.compute(
            (count, rows.steps, lanes),
            lambda i, s, v: made_of(*(x[i, rows.column(s, v)] for x in given)),
            name="made",
        )
        rows.x = lambda i, s, v: made[i, s, v]

    def operand(w: te.Tensor, _: Expr, s: Expr, v: Expr | int) -> Expr:
        found: Expr = w[rows.column(s, v)]
        return found

    value = formula(layer, rows, [partial(operand, w) for w in shared])
    out = te.compute((count, rows.steps, lanes), value, name="out")
    place = Place((count, n), lambda i: [i[0], rows.column(i[1], i[2])])
    return Expression((*given, *shared, out), (count,), {"out": place}), rows


def layer_normalization(layer: Any, rows: Rows, operands: Sequence[At]) -> At:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta.

    The mean is the sum of a first one and of the mean of what it leaves, which is exact to the last
    digits of the differences: a first mean alone would be rounded to its own.
    """
    x = rows.x

    def mean(total: Expr) -> Expr:
        return total / m.constant(rows.n, total)

    first = rows.total("first", x, mean)
    more = rows.total("more", lambda i, s, v: x(i, s, v) - first[i], mean)

    def difference(i: Expr, s: Expr, v: Expr | int) -> Expr:
        return (x(i, s, v) - first[i]) - more[i]

    def square(i: Expr, s: Expr, v: Expr | int) -> Expr:
        return m.bind(difference(i, s, v), lambda d: d * d)

    def factor(total: Expr) -> Expr:
        variance = mean(total) + m.constant(layer.epsilon, total)
        return m.constant(1, total) / te.sqrt(variance)

    by = rows.total("by", square, factor)
    taken = iter(operands)
    gamma = next(taken) if layer.scale else None
    beta = next(taken) if layer.center else None

    def value(i: Expr, s: Expr, v: Expr | int) -> Expr:
        found = difference(i, s, v) * by[i]
        found = found * gamma(i, s, v) if gamma is not None else found
        return found + beta(i, s, v) if beta is not None else found

    return value


def rms_normalization(layer: Any, rows: Rows, operands: Sequence[At]) -> At:
    """x / sqrt(mean(x^2) + epsilon) * scale."""
    (scale,) = operands

    def factor(total: Expr) -> Expr:
        square = total / m.constant(rows.n, total) + m.constant(layer.epsilon, total)
        return m.constant(1, total) / te.sqrt(square)

    by = rows.total("by", rows.square, factor)
    return lambda i, s, v: rows.x(i, s, v) * by[i] * scale(i, s, v)


def unit_normalization(_: Any, rows: Rows, operands: Sequence[At]) -> At:
    """x / sqrt(max(sum(x^2), 1e-12)), as Keras has it."""

    def factor(total: Expr) -> Expr:
        least = m.constant(NORMALIZE_EPSILON, total)
        return m.constant(1, total) / te.sqrt(m.largest(least, total))

    by = rows.total("by", rows.square, factor)
    return lambda i, s, v: rows.x(i, s, v) * by[i]
