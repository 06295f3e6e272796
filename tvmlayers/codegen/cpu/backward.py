"""Small kernels of the backward pass, over rows or over elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr, GlobalVar

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.columns import (
    each_lane,
    lanes_of,
    local,
    number,
    over_columns,
    parameters,
    put,
)
from tvmlayers.codegen.cpu.kernel import Functions, Kernel, axis, core, elements
from tvmlayers.codegen.cpu.rows import (
    UNTUNED_GRAIN,
    Pointer,
    call_core,
    fixed,
    row_driver,
    row_kernel,
)
from tvmlayers.expr import math as m
from tvmlayers.expr.elementwise import Operand, broadcast
from tvmlayers.expr.reduction import tree
from tvmlayers.spaces import rows as row_spaces


def elementwise_kernel(
    name: str, function: Callable[..., Expr], dtype: str, operands: int
) -> Kernel:
    """function(element of each operand) for tensors of one shape, whatever it is."""
    functions: Functions = {}
    operand = Operand((1,), has_rows=True, dtype=dtype)
    expression = broadcast(function, [operand] * operands, (1,), dtype)
    made, functions_body = core(f"{name}_elements", expression, row_spaces.plain)
    functions[made] = functions_body
    pointers = [Pointer(f"x{i}", dtype, fixed(1)) for i in range(operands)]
    pointers.append(Pointer("out", dtype, fixed(1)))
    return row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        (operands + 1) * np.dtype(dtype).itemsize,
        call_core(made, pointers),
        lambda shapes: [elements(shapes[0])],
        {},
    )


def sum_kernel(name: str, dtype: str) -> Kernel:
    """x0 + x1"""
    return elementwise_kernel(name, lambda a, b: a + b, dtype, 2)


def padded_columns(name: str, n: int, first: int, width: int, dtype: str) -> Kernel:
    """Columns first.. of x (..., n) with zeros behind them: (..., width)."""
    valid = n - first

    def body() -> None:
        source, to, count = parameters(x=f"*{dtype}", out=f"*{dtype}", count="int64")
        with emit.loop(emit.i64(0), count) as i:
            with emit.loop(emit.i64(0), emit.i64(valid)) as j:
                put(to, i * emit.i64(width) + j, source[i * emit.i64(n) + emit.i64(first) + j])
            with emit.loop(emit.i64(valid), emit.i64(width)) as j:
                put(to, i * emit.i64(width) + j, number(0.0, dtype))

    pointers = [Pointer("x", dtype, fixed(n)), Pointer("out", dtype, fixed(width))]
    return written_rows(
        name, body, pointers, lambda shapes: [elements(shapes[0][:-1])], ["count"], 2 * width
    )


def softmax_gradient(name: str, n: int, lanes: int, dtype: str, *, log: bool) -> Kernel:
    """Of rows y = softmax(z): y (dy - sum of y dy); of its logarithm dy - exp(y) sum of dy."""

    def body() -> None:
        floats = dict.fromkeys(("y", "dy", "out"), f"*{dtype}")
        y, dy, out, count = parameters(**floats, count="int64")
        parts = local(lanes, dtype)
        with emit.loop(emit.i64(0), count) as i:
            begin = emit.bound(i * emit.i64(n))
            each_lane(lanes, lambda lane: put(parts, lane, number(0.0, dtype)))

            def term(j: Expr) -> Expr:
                return dy[begin + j] if log else dy[begin + j] * y[begin + j]

            over_columns(n, lanes, lambda j, lane: put(parts, lane, parts[lane] + term(j)))
            total = emit.bound(tree(lanes_of(parts, lanes)))

            def column(j: Expr, _: Expr) -> None:
                at = begin + j
                value = dy[at] - m.exp(y[at]) * total if log else y[at] * (dy[at] - total)
                put(out, at, value)

            over_columns(n, lanes, column)

    pointers = [Pointer(each, dtype, fixed(n)) for each in ("y", "dy", "out")]
    scalars = ["count"]
    return written_rows(name, body, pointers, lambda s: [elements(s[0][:-1])], scalars, 3 * n)


def bag_gradient(
    name: str, width: int, lanes: int, dtype: str, *, index_dtype: str, skipped: int | None
) -> Kernel:
    """The gradient of a mean over `length` indices, of those that are not skipped: dy / count.

    `f(indices, dy, out, count, length)`; of no indices 0.
    """

    def body() -> None:
        indices, dy, out, count, length = parameters(
            indices=f"*{index_dtype}",
            dy=f"*{dtype}",
            out=f"*{dtype}",
            count="int64",
            length="int64",
        )
        present = local(1, "int64")
        with emit.loop(emit.i64(0), count) as i:
            put(present, 0, length)
            if skipped is not None:
                with emit.loop(emit.i64(0), length) as j:
                    is_skipped = emit.i64(indices[i * length + j]) == emit.i64(skipped)
                    less = tirx.Select(is_skipped, emit.i64(1), emit.i64(0))
                    put(present, 0, present[emit.i64(0)] - less)
            there = present[emit.i64(0)]
            share = number(1.0, dtype) / tirx.Cast(dtype, te.max(there, emit.i64(1)))
            factor = emit.bound(tirx.Select(there > 0, share, number(0.0, dtype)))
            begin = emit.bound(i * emit.i64(width))
            over_columns(width, lanes, lambda j, _: put(out, begin + j, dy[begin + j] * factor))

    pointers = [
        Pointer("indices", index_dtype, lambda s: s["length"]),
        Pointer("dy", dtype, fixed(width)),
        Pointer("out", dtype, fixed(width)),
    ]
    names = ["count", "length"]
    return written_rows(
        name, body, pointers, lambda s: [axis(s[0][0]), axis(s[0][1])], names, 2 * width
    )


def pooling_gradient(name: str, width: int, lanes: int, dtype: str) -> Kernel:
    """The gradient of a mean over time: dy (count, width) / time at each step of it.

    `f(dy, out, count, time)`.
    """

    def body() -> None:
        dy, out, count, time = parameters(
            dy=f"*{dtype}", out=f"*{dtype}", count="int64", time="int64"
        )
        share = emit.bound(number(1.0, dtype) / tirx.Cast(dtype, te.max(time, emit.i64(1))))
        with emit.loop(emit.i64(0), count) as i, emit.loop(emit.i64(0), time) as t:
            begin = emit.bound(i * emit.i64(width))
            to = emit.bound((i * time + t) * emit.i64(width))
            over_columns(width, lanes, lambda j, _: put(out, to + j, dy[begin + j] * share))

    pointers = [
        Pointer("dy", dtype, fixed(width)),
        Pointer("out", dtype, lambda s: s["time"] * emit.i64(width)),
    ]
    return written_rows(
        name, body, pointers, lambda s: [axis(s[1][0]), axis(s[1][1])], ["count", "time"], 2 * width
    )


def max_pooling_gradient(name: str, width: int, lanes: int, dtype: str) -> Kernel:
    """The gradient of a maximum y over time: dy at the steps that are y, shared among them.

    `f(x, y, dy, out, count, time)`.
    """

    def body() -> None:
        floats = dict.fromkeys(("x", "y", "dy", "out"), f"*{dtype}")
        x, y, dy, out, count, time = parameters(**floats, count="int64", time="int64")
        alike = local(-(-width // lanes) * lanes, dtype)
        zero, one = number(0.0, dtype), number(1.0, dtype)
        with emit.loop(emit.i64(0), count) as i:
            begin = emit.bound(i * emit.i64(width))

            def over_time(write: Callable[[Expr, Expr, Expr], None]) -> None:
                """write(place in x, column, 1 where it is the largest else 0)"""
                with emit.loop(emit.i64(0), time) as t:
                    at = emit.bound((i * time + t) * emit.i64(width))

                    def column(j: Expr, _: Expr) -> None:
                        is_most = x[at + j] == y[begin + j]
                        write(at + j, j, tirx.Select(is_most, one, zero))

                    over_columns(width, lanes, column)

            over_columns(width, lanes, lambda j, _: put(alike, j, zero))
            over_time(lambda _, j, there: put(alike, j, alike[j] + there))
            over_time(lambda at, j, there: put(out, at, there * dy[begin + j] / alike[j]))

    pointers = [
        Pointer("x", dtype, lambda s: s["time"] * emit.i64(width)),
        Pointer("y", dtype, fixed(width)),
        Pointer("dy", dtype, fixed(width)),
        Pointer("out", dtype, lambda s: s["time"] * emit.i64(width)),
    ]
    return written_rows(
        name, body, pointers, lambda s: [axis(s[0][0]), axis(s[0][1])], ["count", "time"], 3 * width
    )


def written_rows(
    name: str,
    body: Callable[[], None],
    pointers: Sequence[Pointer],
    scalars: Callable[[Sequence[Sequence[Expr]]], list[Expr]],
    scalar_names: Sequence[str],
    cost: int,
) -> Kernel:
    """A kernel of a function over rows that is written out."""
    made, driver = GlobalVar(f"{name}_rows"), GlobalVar(name)
    functions: Functions = {made: emit.noinline(emit.private(body))}
    functions[driver] = row_driver(
        pointers,
        scalar_names,
        lambda s: s["count"] * emit.i64(cost * 4),
        UNTUNED_GRAIN,
        call_core(made, pointers, scalar_names[1:]),
    )
    return Kernel(name, driver, functions, scalars)
