"""Operations element by element whose operands are broadcast, or are weights, in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm.ir import Expr

from tvmlayers.codegen.cpu import Use, elements
from tvmlayers.codegen.cpu.broadcast_gradient import broadcast_kernel, sum_over
from tvmlayers.codegen.cpu.elementwise import Elementwise, planned
from tvmlayers.codegen.fuse import Step
from tvmlayers.codegen.training.tape import Kept, Tape, Value, dims_of
from tvmlayers.expr.elementwise import Operand

Slope = Callable[[int, Sequence[Expr], Expr], Expr]
"""The derivative by operand i, of one element of each operand and of the result."""


@dataclass(frozen=True)
class Broadcast:
    """One use of such a layer. work: what its kernel computes; dims: of the result."""

    tape: Tape
    step: Step
    inputs: Sequence[Value]
    work: Elementwise

    @staticmethod
    def of(tape: Tape, step: Step, inputs: Sequence[Value]) -> Broadcast:
        """Its operands go into the arena."""
        use = Use(step.layer, step.inputs, step.roles, step.output, "int64", False)
        work = planned(use, tape.arena)
        layer: Any = step.layer
        for key, array in {**layer.weights, **layer.operands()}.items():
            role = "weight" if key in layer.weights else "constant"
            tape.kept.setdefault(f"{layer.name}/{key}", Kept(role, array.shape))
        return Broadcast(tape, step, inputs, work)

    @property
    def dims(self) -> tuple[int | str, ...]:
        """Of the result."""
        return dims_of(self.step.output)

    def operand_values(self) -> list[Value]:
        """All that an element is computed from."""
        return [*self.inputs, *(self.tape.weight(name) for name in self.work.weights)]

    def through(self, i: int, slope: Slope, out: Value, dy: Value) -> Value:
        """The gradient of operand i, with one row for each row of the result: (rows, its lengths).

        As the input itself has it, where it is one.
        """
        tape, work, dtype = self.tape, self.work, dy.dtype
        full = Operand(work.lengths, True, dtype)
        operands = [*work.operands, full, full]

        def function(*elements: Expr) -> Expr:
            *given, y, d = elements
            return d * slope(i, given, y)

        made = tape.value("slope", dy.dims, dtype, needs=True)
        kernel = broadcast_kernel(
            tape.name("slope"), function, operands, work.lengths, dtype, work.rows
        )
        tape.call(kernel, *self.operand_values(), out, dy, made)
        own = work.operands[i].lengths
        if own == work.lengths:
            return made
        lead = self.dims[: len(self.dims) - len(work.lengths)]
        is_input = i < len(self.inputs)
        dims = self.inputs[i].dims if is_input else (*lead, *own)
        summed = tape.value("summed", dims, dtype, needs=True)
        kernel = sum_over(
            tape.name("sum_over"),
            work.lengths,
            own,
            tape.target.lanes(dtype),
            dtype,
            partial(_rows, len(lead)),
        )
        tape.call(kernel, made, summed)
        return summed


def _rows(axes: int, shapes: Any) -> list[Expr]:
    return [elements(shapes[0][:axes])]
