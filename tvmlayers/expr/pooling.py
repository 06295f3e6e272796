"""Mean over the time axis, with or without a mask."""

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.expr import math as m
from tvmlayers.expr.expression import Expression, size


def mean_over_time(width: int, *, mask_dtype: str | None, dtype: str) -> Expression:
    """Mean of x (count, time, width) over time -> (count, width).

    With mask_dtype, a second tensor ids (count, time): steps whose id is 0 do not count, and a row
    of nothing but zeros gives 0 / 0 as Keras does.
    """
    count, time = size("count"), size("time")
    x = te.placeholder((count, time, width), dtype, name="x")
    ids = te.placeholder((count, time), mask_dtype or "int32", name="ids")
    step = te.reduce_axis((0, time), "step")
    zero = tirx.const(0, dtype)

    def counts(i: Expr, t: Expr) -> Expr:
        return tirx.Cast("int64", ids[i, t]) != tirx.const(0, "int64")

    def term(i: Expr, t: Expr, j: Expr) -> Expr:
        return m.select(counts(i, t), x[i, t, j], zero) if mask_dtype else x[i, t, j]

    acc = te.compute((count, width), lambda i, j: te.sum(term(i, step, j), axis=step), name="acc")
    if mask_dtype:
        member = te.reduce_axis((0, time), "member")
        present = te.compute(
            (count,),
            lambda i: te.sum(tirx.Cast("int64", counts(i, member)), axis=member),
            name="present",
        )
        out = te.compute(
            (count, width), lambda i, j: acc[i, j] / tirx.Cast(dtype, present[i]), name="out"
        )
    else:
        out = te.compute(
            (count, width), lambda i, j: acc[i, j] / tirx.Cast(dtype, time), name="out"
        )
    tensors = (x, ids, out) if mask_dtype else (x, out)
    return Expression(tensors=tensors, sizes=(count, time))
