"""Element by element in training: functions of operands that are broadcast, and sums back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from tvm.ir import Expr
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.backward import written_rows
from tvmlayers.codegen.cpu.columns import number, over_columns, parameters, put
from tvmlayers.codegen.cpu.kernel import Functions, Kernel, Shapes, core
from tvmlayers.codegen.cpu.rows import Pointer, call_core, fixed, row_kernel
from tvmlayers.expr.elementwise import Operand, broadcast
from tvmlayers.spaces import rows as row_spaces

Rows = Callable[[Shapes], list[Expr]]


def broadcast_kernel(
    name: str,
    function: Callable[..., Expr],
    operands: Sequence[Operand],
    lengths: tuple[int, ...],
    dtype: str,
    rows: Rows,
) -> Kernel:
    """function(element of each operand): (count, *lengths); rows: count, from the shapes."""
    functions: Functions = {}
    expression = broadcast(function, operands, lengths, dtype)
    made, body = core(f"{name}_rows", expression, row_spaces.plain)
    functions[made] = body
    pointers = [
        Pointer(f"x{i}", each.dtype, fixed(prod(each.lengths) if each.has_rows else 0))
        for i, each in enumerate(operands)
    ]
    pointers.append(Pointer("out", dtype, fixed(prod(lengths))))
    moved = prod(lengths) * (1 + len(operands)) * np.dtype(dtype).itemsize
    work = call_core(made, pointers)
    return row_kernel(name, functions, pointers, ["count"], moved, work, rows, {})


def sum_over(
    name: str, lengths: tuple[int, ...], own: tuple[int, ...], lanes: int, dtype: str, rows: Rows
) -> Kernel:
    """(count, *lengths) summed over the axes that are of length 1 in `own`: (count, *own)."""
    *outer, last = lengths
    keeps_last = own[-1] == last
    width, own_width = prod(lengths), prod(own)

    def body() -> None:
        x, out, count = parameters(x=f"*{dtype}", out=f"*{dtype}", count="int64")
        zero = number(0.0, dtype)

        def inner(begin: Expr, to: Expr) -> None:
            def column(j: Expr, _: Expr) -> None:
                at = to + j if keeps_last else to
                put(out, at, out[at] + x[begin + j])

            over_columns(last, lanes if keeps_last else 1, column)

        def over_axes(axis: int, begin: Expr, to: Expr) -> None:
            if axis == len(outer):
                inner(begin, to)
                return
            step, own_step = prod(lengths[axis + 1 :]), prod(own[axis + 1 :])
            moves = own[axis] == lengths[axis]
            with T.serial(emit.i64(0), emit.i64(lengths[axis])) as i:
                there = to + i * emit.i64(own_step) if moves else to
                over_axes(axis + 1, emit.bound(begin + i * emit.i64(step)), emit.bound(there))

        with emit.loop(emit.i64(0), count) as i:
            to = emit.bound(i * emit.i64(own_width))
            over_columns(own_width, lanes, lambda j, _: put(out, to + j, zero))
            over_axes(0, emit.bound(i * emit.i64(width)), to)

    pointers = [Pointer("x", dtype, fixed(width)), Pointer("out", dtype, fixed(own_width))]
    return written_rows(name, body, pointers, rows, ["count"], 2 * width)
