"""Sums of the squares of a gradient, in parts that do not depend on the threads."""

from __future__ import annotations

from tvm import te, tirx
from tvm.ir import GlobalVar
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.columns import local, number, parameters, put
from tvmlayers.codegen.cpu.units import Units

PARTS = 64  # at most: the sums of a weight
_LEAST = 4096  # elements of a part


def square_units(name: str, dtype: str) -> Units:
    """`f(gradient, squares, size, unit, units)`: squares[unit], float64, of its elements."""

    def body() -> None:
        gradient, squares, size, unit, units = parameters(
            gradient=f"*{dtype}", squares="*float64", size="int64", unit="int64", units="int64"
        )
        first, last = emit.task_bounds(unit, units, size)
        total = local(1, "float64")
        put(total, 0, number(0.0, "float64"))
        with T.serial(first, last) as i:
            value = emit.bound(tirx.Cast("float64", gradient[i]))
            put(total, 0, total[emit.i64(0)] + value * value)
        put(squares, unit, total[emit.i64(0)])

    entry = GlobalVar(name)
    functions = {entry: emit.noinline(emit.private(body))}
    return Units(
        entry,
        functions,
        lambda sizes: te.min(
            emit.quotient(sizes["size"], emit.i64(_LEAST)) + emit.i64(1), emit.i64(PARTS)
        ),
    )
