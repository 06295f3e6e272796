"""Dropout in training: which elements are dropped is computed from their places, never stored.

Philox2x32-10 of J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, Parallel Random Numbers: As
Easy as 1, 2, 3, SC 2011: a number for each (element, step) under the layer's key.
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.backward import written_rows
from tvmlayers.codegen.cpu.columns import number, over_columns, parameters, put
from tvmlayers.codegen.cpu.kernel import Kernel, axis, elements
from tvmlayers.codegen.cpu.rows import Pointer, fixed
from tvmlayers.expr import math as m

_MULTIPLIER, _WEYL, _ROUNDS = 0xD256D193, 0x9E3779B9, 10


def random_bits(element: Expr, step: Expr, key: int) -> Expr:
    """A uint32 for an element and a step, both uint32."""
    low, high, place = element, step, key
    for _ in range(_ROUNDS):
        product = tirx.Cast("uint64", low) * tirx.const(_MULTIPLIER, "uint64")
        upper = tirx.Cast("uint32", product >> tirx.const(32, "uint64"))
        mixed = upper ^ high ^ tirx.const(place, "uint32")
        low, high = mixed, tirx.Cast("uint32", product)
        place = (place + _WEYL) % 2**32
    return low


def dropout_kernel(name: str, rate: float, key: int, lanes: int, dtype: str) -> Kernel:
    """`f(x, iterations, out, count, row, first)`: x / (1 - rate), or 0 where an element is dropped.

    row: elements of a row; first: the place of the first row in the batch.
    """
    limit = tirx.const(min(int(rate * 2.0**32), 2**32 - 1), "uint32")
    scale, zero = number(1.0 / (1.0 - rate) if rate < 1 else 0.0, dtype), number(0.0, dtype)

    def body() -> None:
        x, iterations, out, count, row, first = parameters(
            x=f"*{dtype}",
            iterations="*int64",
            out=f"*{dtype}",
            count="int64",
            row="int64",
            first="int64",
        )
        step = emit.bound(tirx.Cast("uint32", iterations[emit.i64(0)]))
        begin = emit.bound(first * row)
        total = emit.bound(count * row)

        def element(j: Expr) -> None:
            bits = random_bits(tirx.Cast("uint32", begin + j), step, key)
            put(out, j, m.select(bits < limit, zero, x[j] * scale))

        whole = emit.bound(emit.quotient(total, emit.i64(lanes)))
        with emit.loop(emit.i64(0), whole) as chunk:
            over_columns(lanes, lanes, lambda j, _: element(chunk * emit.i64(lanes) + j))
        with emit.loop(whole * emit.i64(lanes), total) as j:
            element(j)

    pointers = [
        Pointer("x", dtype, lambda s: s["row"]),
        Pointer("iterations", "int64", fixed(0)),
        Pointer("out", dtype, lambda s: s["row"]),
    ]
    return written_rows(
        name,
        body,
        pointers,
        lambda s: [axis(s[0][0]), elements(s[0][1:])],
        ["count", "row", "first"],
        2,
    )
