"""Gradients clipped by their norms: all of a norm's gradients are there before a weight moves.

Such a step goes over the gradients of weights twice. First they are summed up alone, those of a
table row by row, and only their squares are added up; then the updates sum them again, times what
the norm leaves of them. A step without these options does neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmlayers.codegen.cpu.square_sums import square_units
from tvmlayers.codegen.training.tape import Tape, Value
from tvmlayers.expr.optimizers import Rule, scaled


@dataclass(frozen=True)
class Clip:
    """Of some weights that one kernel updates: the names of their norms, and the values that take
    the sums of their squares. Of none where gradients are not clipped by norm."""

    norms: tuple[str, ...] = ()
    squares: tuple[Value, ...] = ()

    @staticmethod
    def of(tape: Tape, weights: Sequence[str], *, of_table: bool) -> Clip:
        """For these weights, by name."""
        optimizer = tape.tables if of_table else tape.optimizer
        if optimizer.clipnorm is not None:
            norms = tuple(weights)
        elif optimizer.global_clipnorm is not None:
            apart = "tables" if of_table else "others"
            norms = ("all" if tape.tables == tape.optimizer else apart,) * len(weights)
        else:
            return Clip()
        return Clip(norms, tuple(tape.squares(norm) for norm in norms))

    def rules(self, rule: Rule) -> list[Rule]:
        """The rule of each weight, for gradients that are clipped."""
        count = len(self.norms)
        return [scaled(rule, place, count) for place in range(count)]

    def gradients(self, tape: Tape, weights: Sequence[Value]) -> list[Value]:
        """Where the gradients of weights are collected, laid out as they are; their squares are
        added up."""
        made = []
        for weight, squares in zip(weights, self.squares, strict=True):
            gradient = tape.value("gradient", weight.dims, weight.dtype)
            units = square_units(tape.name("squares"), weight.dtype)
            tape.sum_squares(units, gradient, squares, size=weight.dims)
            made.append(gradient)
        return made
