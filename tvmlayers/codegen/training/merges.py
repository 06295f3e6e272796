"""Parts in training of layers element by element, of normalisations and of contractions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

from tvm.ir import Expr

from tvmlayers import layers
from tvmlayers.codegen.cpu.backward import elementwise_kernel
from tvmlayers.codegen.cpu.dropout import dropout_kernel
from tvmlayers.codegen.cpu.merge_gradient import (
    DotOperand,
    dot_gradient,
    dot_of_matrices_gradient,
    interaction_gradient,
    part_of_columns,
)
from tvmlayers.codegen.cpu.normalization_gradient import (
    RowScale,
    column_update,
    normalization_gradient,
)
from tvmlayers.codegen.fuse import Step
from tvmlayers.codegen.training.broadcasting import Broadcast
from tvmlayers.codegen.training.clipping import Clip
from tvmlayers.codegen.training.parts import forward, view
from tvmlayers.codegen.training.shared import joined
from tvmlayers.codegen.training.tape import (
    FIRST_ROW,
    ITERATIONS,
    Backward,
    Tape,
    Value,
    dims_of,
)
from tvmlayers.expr import math as m
from tvmlayers.expr.differentiate import derivative_of
from tvmlayers.expr.gradients import collecting
from tvmlayers.expr.optimizers import rule_of
from tvmlayers.layers.normalization import RowNormalization
from tvmlayers.operations import operation_of


def elementwise(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """An operation element by element."""
    layer: Any = step.layer
    if layer.operands() or any(value.dims != dims_of(step.output) for value in inputs):
        return _broadcast(tape, step, inputs)
    out = forward(tape, step, inputs, needs=any(value.needs for value in inputs))

    def backward(dy: Value) -> list[Value | None]:
        return [
            _slope(tape, layer, inputs, i, out, dy) if value.needs else None
            for i, value in enumerate(inputs)
        ]

    return out, backward


def _broadcast(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """With operands that are broadcast: gradients are summed over the axes of that. A weight has
    one too; the numbers of a Rescaling stay."""
    layer: Any = step.layer
    work = Broadcast.of(tape, step, inputs)
    is_trained = bool(layer.weights) and layer.trainable
    needs = is_trained or any(value.needs for value in inputs)
    out = forward(tape, step, inputs, needs=needs)

    def slope(i: int, given: Sequence[Expr], y: Expr) -> Expr:
        return _derivative(layer, given, i, y)

    def backward(dy: Value) -> list[Value | None]:
        names = [name.rpartition("/")[2] for name in work.work.weights]
        for i, name in enumerate(names, len(inputs)):
            if is_trained and name in layer.weights:
                rows = work.through(i, slope, out, dy)
                lengths = work.work.operands[i].lengths
                lead = rows.dims[: len(rows.dims) - len(lengths)]
                follow_columns(tape, layer, name, tape.view(rows, (*lead, prod(lengths))))
        return [
            work.through(i, slope, out, dy) if value.needs else None
            for i, value in enumerate(inputs)
        ]

    return out, backward


def _slope(tape: Tape, layer: Any, inputs: Sequence[Value], i: int, out: Value, dy: Value) -> Value:
    """dy times the derivative by one input."""
    if isinstance(layer, layers.Add) or (isinstance(layer, layers.Subtract) and i == 0):
        return dy
    made = tape.value("slope", dy.dims, dy.dtype, needs=True)
    count = len(inputs)

    def value(*elements: Expr) -> Expr:
        *given, y, slope = elements
        return slope * _derivative(layer, given, i, y)

    kernel = elementwise_kernel(tape.name("slope"), value, dy.dtype, operands=count + 2)
    tape.call(kernel, *inputs, out, dy, made)
    return made


def _derivative(layer: Any, given: Sequence[Expr], i: int, y: Expr) -> Expr:
    zero, one = m.constant(0.0, y), m.constant(1.0, y)
    if isinstance(layer, layers.Maximum | layers.Minimum):
        # Those that are alike share it.
        alike = [m.select(x == y, one, zero) for x in given]
        total = alike[0]
        for each in alike[1:]:
            total = total + each
        return m.select(given[i] == y, one / total, zero)
    if isinstance(layer, layers.ELU):
        return m.select(y > zero, one, y + m.constant(layer.alpha, y))
    return derivative_of(partial(operation_of(layer).part("formula"), layer), i)(*given)


def normalization(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """LayerNormalization, RMSNormalization and UnitNormalization."""
    layer, (x,) = step.layer, inputs
    assert isinstance(layer, RowNormalization)
    out = forward(tape, step, inputs, needs=x.needs or bool(layer.weights and layer.trainable))
    lanes, dtype, width = tape.target.lanes(x.dtype), x.dtype, layer.width
    scale = next((name for name in ("gamma", "scale") if name in layer.weights), None)
    spec = RowScale(
        width,
        isinstance(layer, layers.LayerNormalization),
        isinstance(layer, layers.UnitNormalization),
        float(getattr(layer, "epsilon", 0.0)),
        scale is not None,
    )

    def backward(dy: Value) -> list[Value | None]:
        dx = tape.value("normalization_gradient", x.dims, dtype, needs=True)
        row_axes = len(x.dims) - len(layer.axes)
        name = tape.name("normalization_gradient")
        kernel = normalization_gradient(name, spec, lanes, dtype, row_axes)
        scaled = []
        if scale is not None:
            products = tape.value("products", x.dims, dtype)
            scaled = [tape.weight(f"{layer.name}/{scale}"), products]
            _follow(tape, layer, scale, products, width)
        if "beta" in layer.weights:
            _follow(tape, layer, "beta", dy, width)
        tape.call(kernel, x, dy, *scaled, dx)
        return [dx]

    return out, backward


def _follow(tape: Tape, layer: Any, name: str, dy: Value, width: int) -> None:
    """A weight of the last axes follows the sum of dy over all others."""
    lead = dy.dims[: len(dy.dims) - len(layer.axes)]
    follow_columns(tape, layer, name, tape.view(dy, (*lead, width)))


def follow_columns(tape: Tape, layer: Any, name: str, rows: Value) -> None:
    """A weight follows the sum of rows, (..., its size), of its gradient."""
    if layer.trainable:
        full_name = f"{layer.name}/{name}"
        tape.follow(full_name, partial(_column_update, tape, layer, full_name), rows)


def _column_update(tape: Tape, layer: Any, name: str, uses: list[Value]) -> None:
    dy = joined(tape, layer.describe(), uses, 1)
    weight, optimizer, width = tape.weight(name), tape.optimizer, int(dy.dims[-1])
    begin = getattr(optimizer, "initial_accumulator_value", 0.0)
    lanes, dtype, label = tape.target.lanes(dy.dtype), dy.dtype, name.replace("/", "_")
    clip, rule = Clip.of(tape, [name], of_table=False), rule_of(optimizer)
    if clip.norms:
        (gradient,) = clip.gradients(tape, [weight])
        alone = column_update(tape.name(f"{label}_gradient"), width, collecting(), lanes, dtype)
        # It has no numbers: any pointer will do.
        tape.collect(alone, dy, gradient, gradient, n=dy.dims[:-1])
        (rule,) = clip.rules(rule)
    states = tape.states(weight, optimizer.state, begin)
    units = column_update(tape.name(label), width, rule, lanes, dtype)
    numbers = tape.numbers_of(dtype, of_table=False, norms=clip.norms)
    tape.update(units, dy, weight, *states, numbers, n=dy.dims[:-1])


def concatenate(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """Concatenate: each tensor gets its columns."""
    layer = step.layer
    assert isinstance(layer, layers.Concatenate)
    out = forward(tape, step, inputs, needs=any(value.needs for value in inputs))
    first = layer.axis % len(out.dims)
    widths = [prod(int(dim) for dim in value.dims[first:]) for value in inputs]

    def backward(dy: Value) -> list[Value | None]:
        made: list[Value | None] = []
        for i, (value, width) in enumerate(zip(inputs, widths, strict=True)):
            if not value.needs:
                made.append(None)
                continue
            part = tape.value("part", value.dims, value.dtype, needs=True)
            kernel = part_of_columns(
                tape.name("part"),
                sum(widths),
                sum(widths[:i]),
                width,
                tape.target.lanes(value.dtype),
                value.dtype,
                first,
            )
            tape.call(kernel, dy, part)
            made.append(part)
        return made

    return out, backward


def dot_interaction(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """DotInteraction."""
    (x,) = inputs
    out = forward(tape, step, inputs, needs=x.needs)
    features, width = int(x.dims[1]), int(x.dims[2])

    def backward(dy: Value) -> list[Value | None]:
        made = tape.value("interaction_gradient", x.dims, x.dtype, needs=True)
        lanes, name = tape.target.lanes(x.dtype), tape.name("interaction")
        tape.call(interaction_gradient(name, features, width, lanes, x.dtype), x, dy, made)
        return [made]

    return out, backward


def dot(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """Dot."""
    layer = step.layer
    assert isinstance(layer, layers.Dot)
    if any(len(value.dims) != 2 for value in inputs):
        return _dot_of_matrices(tape, step, inputs)
    out = forward(tape, step, inputs, needs=any(value.needs for value in inputs))
    width = int(inputs[0].dims[1])

    def backward(dy: Value) -> list[Value | None]:
        made: list[Value | None] = []
        for own, other in (tuple(inputs), tuple(inputs)[::-1]):
            if not own.needs:
                made.append(None)
                continue
            slope = tape.value("dot_gradient", own.dims, own.dtype, needs=True)
            lanes, name = tape.target.lanes(own.dtype), tape.name("dot_gradient")
            kernel = dot_gradient(name, width, lanes, own.dtype, normalize=layer.normalize)
            tape.call(kernel, own, other, dy, slope)
            made.append(slope)
        return made

    return out, backward


def _dot_of_matrices(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    layer: Any = step.layer
    out = forward(tape, step, inputs, needs=any(value.needs for value in inputs))
    operands = []
    for value, place in zip(inputs, layer.axes_of(step.inputs), strict=True):
        counts = [int(dim) for i, dim in enumerate(value.dims) if i not in (0, place)]
        is_contiguous = place == len(value.dims) - 1
        length = int(value.dims[place])
        operands.append(DotOperand(counts[0] if counts else 1, length, is_contiguous))

    def backward(dy: Value) -> list[Value | None]:
        made: list[Value | None] = []
        for i, own in enumerate(inputs):
            if not own.needs:
                made.append(None)
                continue
            slope = tape.value("dot_gradient", own.dims, own.dtype, needs=True)
            kernel = dot_of_matrices_gradient(
                tape.name("dot_gradient"),
                operands[i],
                operands[1 - i],
                own.dtype,
                is_left=i == 0,
                normalize=layer.normalize,
            )
            tape.call(kernel, own, inputs[1 - i], out, dy, slope)
            made.append(slope)
        return made

    return out, backward


def dropout(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """Dropout: the mask is computed again on the way back."""
    layer, (x,) = step.layer, inputs
    assert isinstance(layer, layers.Dropout)
    if layer.rate == 0:
        return view(tape, step, inputs)
    key = _key(layer, tape.drops)
    tape.drops += 1
    lanes = tape.target.lanes(x.dtype)
    kernel = dropout_kernel(tape.name("dropout"), layer.rate, key, lanes, x.dtype)
    counted = tape.weight(ITERATIONS)
    first = partial(tape.call, kernel, first=(FIRST_ROW,))
    out = tape.value("dropped", x.dims, x.dtype, needs=x.needs)
    first(x, counted, out)

    def backward(dy: Value) -> list[Value | None]:
        made = tape.value("dropout_gradient", x.dims, x.dtype, needs=True)
        first(dy, counted, made)
        return [made]

    return out, backward


def _key(layer: layers.Dropout, place: int) -> int:
    """The layer's key: its seed, or its place among the model's layers of the kind."""
    seed = place if layer.seed is None else layer.seed
    return (int(seed) * 0x85EBCA6B + 0x5BD1E995 + place * 0xC2B2AE35) % 2**32
