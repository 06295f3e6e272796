"""Mean, with or without a mask, and maximum over the time axis."""

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.dtypes import wide
from tvmlayers.expr import math as m
from tvmlayers.expr.expression import Expression, size


def mean_over_time(width: int, *, mask_dtype: str | None, dtype: str) -> Expression:
    """Mean of x (count, time, width) over time -> (count, width).

    With mask_dtype, a second tensor ids (count, time): steps whose id is 0 do not count, and a row
    of nothing but zeros gives 0 / 0 as Keras does. Halves are summed in float32.
    """
    count, time = size("count"), size("time")
    x = te.placeholder((count, time, width), dtype, name="x")
    ids = te.placeholder((count, time), mask_dtype or "int32", name="ids")
    step = te.reduce_axis((0, time), "step")
    computed = wide(dtype)
    zero = tirx.const(0, computed)

    def counts(i: Expr, t: Expr) -> Expr:
        return tirx.Cast("int64", ids[i, t]) != tirx.const(0, "int64")

    def term(i: Expr, t: Expr, j: Expr) -> Expr:
        value = m.widened(x[i, t, j])
        return m.select(counts(i, t), value, zero) if mask_dtype else value

    acc = te.compute((count, width), lambda i, j: te.sum(term(i, step, j), axis=step), name="acc")
    if mask_dtype:
        member = te.reduce_axis((0, time), "member")
        present = te.compute(
            (count,),
            lambda i: te.sum(tirx.Cast("int64", counts(i, member)), axis=member),
            name="present",
        )

    def mean(i: Expr, j: Expr) -> Expr:
        steps = present[i] if mask_dtype else time
        return m.narrowed(acc[i, j] / tirx.Cast(computed, steps), dtype)

    out = te.compute((count, width), mean, name="out")
    tensors = (x, ids, out) if mask_dtype else (x, out)
    return Expression(tensors=tensors, sizes=(count, time))


def max_over_time(width: int, *, dtype: str) -> Expression:
    """Maximum of x (count, time, width) over time -> (count, width); NaN where one is NaN, minus
    infinity where there is none."""
    count, time = size("count"), size("time")
    x = te.placeholder((count, time, width), dtype, name="x")
    step = te.reduce_axis((0, time), "step")
    largest = te.comm_reducer(m.largest, lambda dtype: tirx.const(float("-inf"), dtype), "largest")
    acc = te.compute(
        (count, width), lambda i, j: largest(m.widened(x[i, step, j]), axis=step), name="acc"
    )
    out = te.compute((count, width), lambda i, j: m.narrowed(acc[i, j], dtype), name="out")
    return Expression(tensors=(x, out), sizes=(count, time))
