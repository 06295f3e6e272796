"""softmax and log_softmax over rows, in whole vectors.

exp(x - max) / sum(exp(x - max)), and (x - max) - log(sum(exp(x - max))): x - max first, as the
logarithm would be lost beside a large maximum.
"""

import operator
from collections.abc import Callable

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.expr import math as m
from tvmlayers.expr.expression import Expression, Place, size
from tvmlayers.expr.reduction import tree


def softmax(n: int, *, lanes: int, log: bool, dtype: str) -> Expression:
    """softmax (or its logarithm) of each of `count` rows: x (count, n) -> (count, n), n >= lanes.

    Where whole vectors do not make up a row the last one starts sooner and takes some columns
    again: no maximum changes by that, the sum leaves them out, and they are stored twice.
    """
    count = size("count")
    x = te.placeholder((count, n), dtype, name="x")
    full, rest = divmod(n, lanes)
    steps = full + (rest > 0)

    def column(s: Expr, v: Expr) -> Expr:
        return (te.min(s * lanes, n - lanes) if rest else s * lanes) + v

    near = te.compute((count, steps, lanes), lambda i, s, v: x[i, column(s, v)], name="near")
    step_max, step_sum = te.reduce_axis((0, steps)), te.reduce_axis((0, full))
    high = te.compute(
        (count, lanes), lambda i, v: te.max(near[i, step_max, v], axis=step_max), name="high"
    )
    top = te.compute(
        (count,), lambda i: tree([high[i, v] for v in range(lanes)], te.max), name="top"
    )
    power = te.compute(
        (count, steps, lanes), lambda i, s, v: m.exp(near[i, s, v] - top[i]), name="power"
    )
    part = te.compute(
        (count, lanes), lambda i, v: te.sum(power[i, step_sum, v], axis=step_sum), name="part"
    )

    def in_lane(i: Expr, v: int) -> Expr:
        return part[i, v] + power[i, full, v] if v >= lanes - rest else part[i, v]

    total = te.compute(
        (count,), lambda i: tree([in_lane(i, v) for v in range(lanes)]), name="total"
    )
    norm = te.compute((count,), lambda i: _norm(total[i], log), name="norm")
    out = te.compute(
        (count, steps, lanes),
        lambda i, s, v: near[i, s, v] - top[i] - norm[i] if log else power[i, s, v] * norm[i],
        name="out",
    )
    return Expression(
        tensors=(x, out),
        sizes=(count,),
        places={"out": Place((count, n), lambda i: [i[0], column(i[1], i[2])])},
    )


def short_softmax(n: int, *, log: bool, dtype: str) -> Expression:
    """As `softmax`, for rows of few columns that make up one vector of a power of two.

    The last column fills what is left of it: no maximum changes by that, and no sum has it in it.
    """
    count = size("count")
    x = te.placeholder((count, n), dtype, name="x")
    shape = (count, 1 << (n - 1).bit_length())
    near = te.compute(shape, lambda i, v: x[i, te.min(v, n - 1)], name="near")

    def over_row(
        name: str, stage: te.Tensor, combine: Callable[[Expr, Expr], Expr] = operator.add
    ) -> te.Tensor:
        return te.compute(
            (count,), lambda i: tree([stage[i, v] for v in range(n)], combine), name=name
        )

    top = over_row("top", near, te.max)
    power = te.compute(shape, lambda i, v: m.exp(near[i, v] - top[i]), name="power")
    total = over_row("total", power)
    norm = te.compute((count,), lambda i: _norm(total[i], log), name="norm")
    value = te.compute(
        shape,
        lambda i, v: near[i, v] - top[i] - norm[i] if log else power[i, v] * norm[i],
        name="value",
    )
    out = te.compute((count, n), lambda i, v: value[i, v], name="out")
    return Expression(tensors=(x, out), sizes=(count,))


def _norm(total: Expr, log: bool) -> Expr:
    """What is taken off a row of x - max, or what its powers are multiplied by."""
    return m.log(total) if log else tirx.const(1, m.dtype_of(total)) / total


def narrow_softmax(n: int, *, lanes: int, log: bool, dtype: str) -> Expression:
    """As `softmax`, for rows of few columns: a vector holds one column of `lanes` rows.

    The last rows are computed more than once where `lanes` does not divide their number. Sizes:
    count rows, tiles = ceil(count / lanes).
    """
    count, tiles = size("count"), size("tiles")
    x = te.placeholder((count, n), dtype, name="x")

    def row(t: Expr, v: Expr) -> Expr:
        return te.min(t * lanes + v, count - 1)

    column = te.compute((tiles, n, lanes), lambda t, j, v: x[row(t, v), j], name="column")
    column_max, column_sum = te.reduce_axis((0, n)), te.reduce_axis((0, n))
    top = te.compute(
        (tiles, lanes), lambda t, v: te.max(column[t, column_max, v], axis=column_max), name="top"
    )
    power = te.compute(
        (tiles, n, lanes), lambda t, j, v: m.exp(column[t, j, v] - top[t, v]), name="power"
    )
    total = te.compute(
        (tiles, lanes), lambda t, v: te.sum(power[t, column_sum, v], axis=column_sum), name="total"
    )
    norm = te.compute((tiles, lanes), lambda t, v: _norm(total[t, v], log), name="norm")

    def result(t: Expr, j: Expr, v: Expr) -> Expr:
        return column[t, j, v] - top[t, v] - norm[t, v] if log else power[t, j, v] * norm[t, v]

    value = te.compute((tiles, n, lanes), result, name="value")
    out = te.compute((tiles, lanes, n), lambda t, v, j: value[t, j, v], name="out")
    return Expression(
        tensors=(x, out),
        sizes=(count, tiles),
        places={"out": Place((count, n), lambda i: [row(i[0], i[1]), i[2]])},
    )
