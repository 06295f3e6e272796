"""Each layer in training: what it computes, and how gradients go back through it.

A part writes the layer's kernels on the tape and gives its output with what makes the gradients of
its inputs later. Rows of `operations.OPERATIONS` name the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvmlayers import layers
from tvmlayers.codegen.cpu import Use, is_view, lower
from tvmlayers.codegen.cpu.activation import elementwise_function
from tvmlayers.codegen.cpu.backward import (
    bag_gradient,
    elementwise_kernel,
    max_pooling_gradient,
    pooling_gradient,
    softmax_gradient,
)
from tvmlayers.codegen.cpu.bag_gradient import (
    BagGradient,
    extreme_rows,
    weight_gradient,
    weighted_rows,
)
from tvmlayers.codegen.cpu.lookup import add_table
from tvmlayers.codegen.fuse import NormalizedMerge, PooledLookup, Step
from tvmlayers.codegen.training.dense import DenseTraining
from tvmlayers.codegen.training.tables import follow_table
from tvmlayers.codegen.training.tape import Backward, Kept, Tape, Value, dims_of
from tvmlayers.errors import ConfigError
from tvmlayers.expr.activations import ROW_ACTIVATIONS
from tvmlayers.expr.derivatives import FROM_INPUT, FROM_OUTPUT
from tvmlayers.expr.differentiate import derivative_of
from tvmlayers.operations import operation_of

Part = Callable[[Tape, Step, Sequence[Value]], tuple[Value, Backward]]
INDEX_DTYPE = "int64"


def part_of(step: Step) -> Part:
    """The part of a step's layer; ConfigError where it has no derivative."""
    if isinstance(step.layer, PooledLookup):
        return pooled_lookup
    if isinstance(step.layer, layers.Layer):
        found: Part | None = operation_of(step.layer).part("training")
        if found is not None:
            return found
    raise ConfigError(
        f"{step.layer.describe()} has no derivative yet, so that no step can be compiled for a "
        "model with it: train the model without it, or with PyTorch, and import it"
    )


def forward(tape: Tape, step: Step, inputs: Sequence[Value], needs: bool) -> Value:
    """The output of a step's kernel, as inference computes it."""
    use = Use(step.layer, step.inputs, step.roles, step.output, INDEX_DTYPE, False)
    lowered = lower(use, tape.name(step.layer.name), tape.selector, tape.arena)
    for name in lowered.weights:
        assert not isinstance(step.layer, NormalizedMerge)
        weight = step.layer.weights.get(name.rpartition("/")[2])
        if weight is not None:
            tape.kept.setdefault(name, Kept("weight", weight.shape))
    out = tape.value(step.output.name, dims_of(step.output), step.output.dtype, needs=needs)
    masks = [tape.masks[id(t.mask_of)] for t in step.inputs if t.mask_of is not None]
    taken = [*inputs, *(masks if lowered.takes_masks else [])]
    tape.call(lowered.kernel, *taken, *(tape.weight(name) for name in lowered.weights), out)
    return out


def view(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """Flatten and Reshape: the same memory."""
    (given,) = inputs
    return tape.view(given, dims_of(step.output)), lambda dy: [tape.view(dy, given.dims)]


def activation(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """Activation."""
    assert isinstance(step.layer, layers.Activation)
    if is_view(step.layer) or id(step.output) in tape.logits:
        return view(tape, step, inputs)
    return activated(tape, step.layer.activation, inputs[0])


def activated(tape: Tape, kind: Any, x: Value) -> tuple[Value, Backward]:
    """An activation by itself: f(x), and dy f'(x)."""
    lanes, dtype = tape.target.lanes(x.dtype), x.dtype
    tensor = layers.Input(shape=tuple(None if isinstance(d, str) else d for d in x.dims[1:]))
    tensor.settle_dtype(dtype)
    layer = layers.Activation(kind)
    lowered = lower(
        Use(layer, (tensor,), ("input",), tensor, INDEX_DTYPE, False),
        tape.name("activation"),
        tape.selector,
        tape.arena,
    )
    y = tape.value("activated", x.dims, dtype, needs=x.needs)
    tape.call(lowered.kernel, x, y)

    def backward(dy: Value) -> list[Value | None]:
        made = tape.value("activation_gradient", x.dims, dtype, needs=True)
        if kind in ROW_ACTIVATIONS:
            n, log = int(x.dims[-1]), kind == "log_softmax"
            kernel = softmax_gradient(tape.name("softmax_gradient"), n, lanes, dtype, log=log)
            tape.call(kernel, y, dy, made)
            return [made]
        return [through(tape, kind, y, x, dy)]

    return y, backward


def through(tape: Tape, kind: Any, y: Value, x: Value | None, dy: Value) -> Value:
    """dy f'(x), from y = f(x) where that will do."""
    if kind == "linear":
        return dy
    dtype = dy.dtype
    if kind in FROM_OUTPUT:
        saved, derivative = y, FROM_OUTPUT[kind]
    else:
        assert x is not None
        saved, derivative = x, FROM_INPUT.get(kind) or _of_own(kind)
    made = tape.value("activation_gradient", saved.dims, dtype, needs=True)
    kernel = elementwise_kernel(
        tape.name("derivative"), lambda v, d: d * derivative(v), dtype, operands=2
    )
    tape.call(kernel, saved, dy, made)
    return made


def _of_own(kind: Any) -> Callable[[Any], Any]:
    """The derivative of the user's own activation."""
    return derivative_of(elementwise_function(kind))


def dense(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """Dense: with its activation fused where its derivative can be had from the output."""
    (x,) = inputs
    layer = step.layer
    assert isinstance(layer, layers.Dense)
    kind = "linear" if id(step.output) in tape.logits else layer.activation
    is_fused = isinstance(kind, str) and kind in FROM_OUTPUT
    product = DenseTraining.of(tape, layer)
    z = product.forward(x, dims_of(step.output), kind if is_fused else "linear")
    if is_fused:

        def backward(dy: Value) -> list[Value | None]:
            return [product.backward(x, through(tape, kind, z, None, dy))]

        return z, backward
    y, through_activation = activated(tape, kind, z)

    def backward_all(dy: Value) -> list[Value | None]:
        (dz,) = through_activation(dy)
        assert dz is not None
        return [product.backward(x, dz)]

    return y, backward_all


def embedding(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """Embedding: every index has a row of the gradient."""
    layer = step.layer
    assert isinstance(layer, layers.Embedding)
    out = forward(tape, step, inputs, needs=layer.trainable)

    def backward(dy: Value) -> list[Value | None]:
        follow_table(tape, layer, inputs[0], dy, skipped=layer.padding_idx, is_bag=False)
        return [None]

    return out, backward


def pooled_lookup(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """An Embedding that is averaged over time: a bag."""
    pooled = step.layer
    assert isinstance(pooled, PooledLookup)
    layer = pooled.embedding
    if layer.padding_idx is not None and not (pooled.masked and layer.padding_idx == 0):
        raise ConfigError(
            f"{layer.describe()} has padding_idx={layer.padding_idx} and is averaged over time, "
            "where that row counts: no step is compiled for that yet. Use tl.EmbeddingBag with "
            "padding_idx, which leaves it out, or mask_zero=True with padding_idx=0"
        )
    return _bag(tape, step, inputs, layer, "mean", 0 if pooled.masked else None)


def embedding_bag(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """EmbeddingBag of bags of one length."""
    layer = step.layer
    assert isinstance(layer, layers.EmbeddingBag)
    if "offsets" in step.roles:
        raise ConfigError(
            f"{layer.describe()} is called with offsets: steps take bags of one length, (batch, "
            "length) indices, so far"
        )
    if "per_sample_weights" in step.roles or layer.mode in ("max", "min"):
        return _bag_by_index(tape, step, inputs, layer)
    return _bag(tape, step, inputs, layer, layer.mode, layer.padding_idx)


def _bag_by_index(
    tape: Tape, step: Step, inputs: Sequence[Value], layer: layers.EmbeddingBag
) -> tuple[Value, Backward]:
    """Bags whose indices have gradients of their own: weighted ones, and extremes."""
    indices, *weights = inputs
    needs = layer.trainable or any(weight.needs for weight in weights)
    out = forward(tape, step, inputs, needs=needs)
    dtype = layer.dtype
    spec = BagGradient(
        layer.input_dim,
        layer.output_dim,
        tape.target.lanes(dtype),
        dtype,
        INDEX_DTYPE,
        layer.padding_idx,
        layer.oob,
        layer.mode == "mean",
    )

    def backward(dy: Value) -> list[Value | None]:
        table = tape.weight(add_table(layer, tape.arena))
        made: list[Value | None] = [None]
        for weight in weights:
            slope = None
            if weight.needs:
                slope = tape.value("bag_weights", weight.dims, dtype, needs=True)
                kernel = weight_gradient(tape.name("bag_weights"), spec)
                tape.call(kernel, indices, weight, table, out, dy, slope)
            made.append(slope)
        if layer.trainable:
            rows = tape.value("bag_rows", (*indices.dims, layer.output_dim), dtype)
            if weights:
                tape.call(weighted_rows(tape.name("bag_rows"), spec), indices, *weights, dy, rows)
            else:
                kernel = extreme_rows(tape.name("bag_rows"), spec)
                tape.call(kernel, indices, table, out, dy, rows)
            follow_table(tape, layer, indices, rows, skipped=layer.padding_idx, is_bag=False)
        return made

    return out, backward


def _bag(
    tape: Tape,
    step: Step,
    inputs: Sequence[Value],
    layer: layers.Embedding | layers.EmbeddingBag,
    mode: str,
    skipped: int | None,
) -> tuple[Value, Backward]:
    (indices,) = inputs
    out = forward(tape, step, inputs, needs=layer.trainable)
    width, dtype = layer.output_dim, layer.dtype

    def backward(dy: Value) -> list[Value | None]:
        rows = dy
        if mode == "mean":
            rows = tape.value("bag_gradient", dy.dims, dtype, needs=True)
            kernel = bag_gradient(
                tape.name("bag_gradient"),
                width,
                tape.target.lanes(dtype),
                dtype,
                index_dtype=INDEX_DTYPE,
                skipped=skipped,
            )
            tape.call(kernel, indices, dy, rows)
        follow_table(tape, layer, indices, rows, skipped=skipped, is_bag=True)
        return [None]

    return out, backward


def average_pooling(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """GlobalAveragePooling1D, of all steps of time."""
    (x,) = inputs
    if step.inputs[0].mask_of is not None:
        raise ConfigError(
            f"{step.layer.describe()} averages a masked tensor that others read too: no step is "
            "compiled for that yet; let the pooling be the only reader of the Embedding"
        )
    out = forward(tape, step, inputs, needs=x.needs)
    width = int(x.dims[-1])

    def backward(dy: Value) -> list[Value | None]:
        made = tape.value("pooling_gradient", x.dims, x.dtype, needs=True)
        lanes = tape.target.lanes(x.dtype)
        tape.call(pooling_gradient(tape.name("pooling"), width, lanes, x.dtype), dy, made)
        return [made]

    return out, backward


def max_pooling(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """GlobalMaxPooling1D: steps that are alike share the gradient."""
    (x,) = inputs
    out = forward(tape, step, inputs, needs=x.needs)
    width = int(x.dims[-1])

    def backward(dy: Value) -> list[Value | None]:
        made = tape.value("pooling_gradient", x.dims, x.dtype, needs=True)
        lanes, name = tape.target.lanes(x.dtype), tape.name("max_pooling")
        tape.call(max_pooling_gradient(name, width, lanes, x.dtype), x, out, dy, made)
        return [made]

    return out, backward
