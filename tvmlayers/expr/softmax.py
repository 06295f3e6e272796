"""softmax and log_softmax over rows, in whole vectors with the row padded by -inf.

exp(x - max) / sum(exp(x - max)), and x - max - log(sum(exp(x - max))).
"""

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.expr import math as m
from tvmlayers.expr.expression import Expression, size


def softmax(n: int, *, lanes: int, log: bool, dtype: str) -> Expression:
    """softmax (or its logarithm) of each of `count` rows: x (count, n) -> (count, n)."""
    count = size("count")
    x = te.placeholder((count, n), dtype, name="x")
    steps = -(-n // lanes)
    lowest = tirx.const(float("-inf"), dtype)

    padded = te.compute(
        (count, steps, lanes),
        lambda i, s, v: te.if_then_else(s * lanes + v < n, x[i, s * lanes + v], lowest),
        name="padded",
    )
    step_max, lane_max = te.reduce_axis((0, steps)), te.reduce_axis((0, lanes))
    high = te.compute(
        (count, lanes), lambda i, v: te.max(padded[i, step_max, v], axis=step_max), name="high"
    )
    top = te.compute((count,), lambda i: te.max(high[i, lane_max], axis=lane_max), name="top")
    power = te.compute(
        (count, steps, lanes), lambda i, s, v: m.exp(padded[i, s, v] - top[i]), name="power"
    )
    step_sum, lane_sum = te.reduce_axis((0, steps)), te.reduce_axis((0, lanes))
    part = te.compute(
        (count, lanes), lambda i, v: te.sum(power[i, step_sum, v], axis=step_sum), name="part"
    )
    total = te.compute((count,), lambda i: te.sum(part[i, lane_sum], axis=lane_sum), name="total")

    def value(i: Expr, j: Expr) -> Expr:
        s, v = te.indexdiv(j, lanes), te.indexmod(j, lanes)
        if log:
            return padded[i, s, v] - shift[i]
        return power[i, s, v] * shift[i]

    one = tirx.const(1, dtype)
    shift = te.compute(
        (count,),
        lambda i: top[i] + m.log(total[i]) if log else one / total[i],
        name="shift",
    )
    out = te.compute((count, n), value, name="out")
    return Expression(tensors=(x, out), sizes=(count,))
