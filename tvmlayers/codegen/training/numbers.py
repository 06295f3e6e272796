"""The numbers that all elements of an update share, in the host function of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.square_sums import PARTS
from tvmlayers.codegen.training.tape import ITERATIONS, MOST_NUMBERS, Tape, Value
from tvmlayers.expr.optimizers import rounded, rule_of

Pointers = dict[Value, Expr]


def zero_squares(tape: Tape, pointers: Pointers) -> dict[str, list[Any]]:
    """Zeros for the sums of squares of each norm, by its name."""
    made: dict[str, list[Any]] = {}
    for norm, values in tape.norms.items():
        for value in values:
            buffer = T.alloc_buffer((PARTS,), "float64")
            with T.serial(emit.i64(0), emit.i64(PARTS)) as i:
                T.buffer_store(buffer, tirx.const(0.0, "float64"), [i])
            pointers[value] = buffer.data
            made.setdefault(norm, []).append(buffer)
    return made


def write_numbers(
    tape: Tape, arena: Any, rates: Any, pointers: Pointers, squares: dict[str, list[Any]]
) -> None:
    """Count the step, and compute its numbers; rates: of dense weights and of tables."""
    place = emit.bound(tirx.address_of(arena[emit.i64(tape.arena.offsets[ITERATIONS])]))
    counted = emit.view(place, "int64")
    step = emit.kept(counted[emit.i64(0)] + emit.i64(1))
    T.buffer_store(counted, step, [emit.i64(0)])
    for numbers in tape.numbers:
        value, of_table = numbers.value, numbers.of_table
        optimizer = tape.tables if of_table else tape.optimizer
        rule = rule_of(optimizer, of_table=of_table)
        buffer = T.alloc_buffer((MOST_NUMBERS,), value.dtype)
        limit = optimizer.clipnorm or optimizer.global_clipnorm or 0.0
        made = [
            *rule.numbers(rates[int(of_table)], tirx.Cast("float64", step)),
            *(_left(limit, squares[norm]) for norm in numbers.norms),
        ]
        for i, each in enumerate(made):
            T.buffer_store(buffer, rounded(each, value.dtype), [i])
        pointers[value] = buffer.data


def _left(limit: float, squares: Sequence[Any]) -> Expr:
    """What a limit leaves of gradients with these squares: limit / max(norm, limit)."""
    total = T.alloc_buffer((1,), "float64")
    T.buffer_store(total, tirx.const(0.0, "float64"), [0])
    for each in squares:
        with T.serial(emit.i64(0), emit.i64(PARTS)) as i:
            T.buffer_store(total, total[0] + each[i], [0])
    most = tirx.const(limit, "float64")
    return emit.bound(most / te.max(te.sqrt(total[0]), most))
