"""Element by element: an activation by itself, and copies into a place of a wider row."""

from collections.abc import Callable

from tvm import te
from tvm.ir import Expr

from tvmlayers.expr import math as m
from tvmlayers.expr.expression import Expression, Place, size


def elementwise(activation: Callable[[Expr], Expr], dtype: str) -> Expression:
    """activation of each of `count` elements: x (count,) -> (count,); of a half in float32."""
    count = size("count")
    x = te.placeholder((count,), dtype, name="x")
    out = te.compute(
        (count,), lambda i: m.narrowed(m.bind(m.widened(x[i]), activation), dtype), name="out"
    )
    return Expression(tensors=(x, out), sizes=(count,))


def copy_columns(width: int, total: int, offset: int, dtype: str) -> Expression:
    """x (count, width) stored at columns offset.. of the result (count, total)."""
    count = size("count")
    x = te.placeholder((count, width), dtype, name="x")
    out = te.compute((count, width), lambda i, j: x[i, j], name="out")
    return Expression(
        tensors=(x, out),
        sizes=(count,),
        places={"out": Place((count, total), lambda i: [i[0], i[1] + offset])},
    )
