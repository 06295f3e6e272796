"""A model's graph run by PyTorch in float64, with what rounding may add at each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tvmlayers import layers
from tvmlayers.dtypes import FLOAT_DTYPES, is_half, numpy_dtype
from tvmlayers.layers.activations import label
from tvmlayers.layers.graph import Node
from tvmlayers.layers.stored import input_bits
from tvmlayers.operations import operation_of
from tvmlayers.testing import activations
from tvmlayers.testing.bounds import Array, Bounded, Rounding
from tvmlayers.testing.custom import custom_step
from tvmlayers.testing.stored import code_roundings, digit_errors, kernel_of

if TYPE_CHECKING:
    from torch import Tensor

Inputs: TypeAlias = Mapping[str, Bounded]
"""The inputs of a node by role; "mask" is the index tensor that a mask is made from."""

Step: TypeAlias = Callable[[Any, Mapping[str, Array], Inputs, Rounding], Bounded]
"""What the table of operations has for each layer: of the layer, its weights and its inputs."""


class Reference:
    """What a model gives in float64: `reference(*inputs)` is a list of Bounded, one an output."""

    label = ""

    def __init__(
        self,
        model: layers.Model,
        weights: Mapping[str, Array] | None = None,
        *,
        beside_floats: bool = False,
    ) -> None:
        """weights: by default the model's own; beside_floats: the bounds hold for what the model
        gave before its weights were kept in fewer bits."""
        self.graph = model.graph
        self.weights = model.weights if weights is None else weights
        self._beside_floats = beside_floats
        self._adds_up = any(input_bits(layer) for layer in self.graph.layers)

    def __call__(self, *inputs: Array, **more: Array) -> list[Bounded]:
        """inputs: those of the graph; more: a lone bag's "offsets" and "per_sample_weights"."""
        import torch

        with torch.inference_mode():
            known = {
                id(tensor): _given(array)
                for tensor, array in zip(self.graph.inputs, inputs, strict=True)
            }
            extras = {role: _given(array) for role, array in more.items()}
            for node in self.graph.nodes:
                known[id(node.output)] = self._run(node, known, extras)
            return [known[id(tensor)] for tensor in self.graph.outputs]

    def _run(self, node: Node, known: Mapping[int, Bounded], extras: Inputs) -> Bounded:
        layer = node.layer
        roles = zip(node.roles, node.inputs, strict=True)
        taken = {role: known[id(tensor)] for role, tensor in roles}
        if isinstance(layer, layers.EmbeddingBag) and self.graph.inputs[0] in node.inputs:
            taken.update(extras)
        mask = node.inputs[0].mask_of
        if mask is not None:
            taken["mask"] = known[id(mask)]
        weights = {name: self.weights[f"{layer.name}/{name}"] for name in layer.weight_specs()}
        if layer.weight_dtype != layer.dtype:
            weights = {k: w.astype(numpy_dtype(layer.dtype)) for k, w in weights.items()}
        step: Step = operation_of(layer).part("reference")
        rounding = Rounding.of(
            node.output.dtype,
            beside_floats=self._beside_floats,
            adds_up=self._adds_up,
            from_halves=any(is_half(tensor.dtype) for tensor in (*node.inputs, node.output)),
        )
        for role, tensor in zip(node.roles, node.inputs, strict=True):
            if tensor.dtype in FLOAT_DTYPES and tensor.dtype != node.output.dtype:
                taken[role] = rounding.stored(taken[role])
        return step(layer, weights, taken, rounding)


class FloatReference:
    """What a model gave with float weights: as `Reference`, the bounds those that fewer bits have.

    Bounds hold for certain but for rounding: they follow from the steps between the numbers that
    the kept weights can be, and the errors that come into a layer are added up.
    """

    label = " beside float weights"

    def __init__(
        self, model: layers.Model, quantized: layers.Model, weights: Mapping[str, Array]
    ) -> None:
        """model: with float weights; weights: those of `quantized`, as they are kept."""
        self._floats = Reference(model)
        self._kept = Reference(quantized, weights, beside_floats=True)
        self.graph = self._kept.graph

    def __call__(self, *inputs: Array, **more: Array) -> list[Bounded]:
        kept, floats = self._kept(*inputs, **more), self._floats(*inputs, **more)
        return [replace(a, bound=b.bound) for a, b in zip(floats, kept, strict=True)]


def _given(array: Array) -> Bounded:
    import torch

    wide = np.int64 if array.dtype.kind in "iub" else np.float64
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        return Bounded.exact(torch.from_numpy(np.ascontiguousarray(array, dtype=wide)))


def _double(array: Array) -> Tensor:
    import torch

    return torch.from_numpy(np.array(array, dtype=np.float64))


def _activated(activation: Any, x: Bounded, rounding: Rounding) -> Bounded:
    if isinstance(activation, str):
        return activations.steps()[activation](x, rounding)
    return custom_step(activation, label(activation))(x, rounding)


def dense(
    layer: layers.Dense, weights: Mapping[str, Array], inputs: Inputs, rounding: Rounding
) -> Bounded:
    x, stored = inputs["input"], kernel_of(layer, weights, rounding)
    kernel, k = stored.value, stored.value.shape[0]
    value, magnitude = x.value @ kernel, x.value.abs() @ kernel.abs()
    if layer.use_bias:
        bias = _double(weights["bias"])
        value, magnitude = value + bias, magnitude + bias.abs()
    own = rounding.gamma(k + 1 + code_roundings(layer)) * magnitude + k * rounding.smallest
    own = own + digit_errors(layer, x) * kernel.abs().sum(0)
    if rounding.adds_up:
        bound = own + x.bound @ kernel.abs() + (x.value.abs() + x.bound) @ stored.bound
    else:
        bound = (rounding.passed_on(x.bound, kernel).square() + own.square()).sqrt()
    return rounding.stored(_activated(layer.activation, Bounded(value, bound), rounding))


def activation(layer: layers.Activation, _: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    return rounding.stored(_activated(layer.activation, inputs["input"], rounding))


def reshape(layer: layers.Reshape, _: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    x = inputs["input"]
    shape = (x.value.shape[0], *_target_shape(layer, x.value))
    return Bounded(x.value.reshape(shape), x.bound.reshape(shape))


def _target_shape(layer: layers.Reshape, value: Tensor) -> tuple[int, ...]:
    """The target with its -1 worked out, which torch cannot do for a batch of nothing."""
    known = [size for size in layer.target_shape if size != -1]
    left = value[:1].new_empty((1, *value.shape[1:])).numel() // int(np.prod(known, dtype=int))
    return tuple(left if size == -1 else size for size in layer.target_shape)


def flatten(_: layers.Flatten, __: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    x = inputs["input"]
    shape = (x.value.shape[0], int(np.prod(x.value.shape[1:], dtype=int)))
    return Bounded(x.value.reshape(shape), x.bound.reshape(shape))


def dropout(_: layers.Dropout, __: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    return inputs["input"]


def average_pooling(
    _: layers.GlobalAveragePooling1D, __: object, inputs: Inputs, rounding: Rounding
) -> Bounded:
    x = inputs["input"]
    counted = x.value.new_ones(x.value.shape[:2])
    if "mask" in inputs:
        counted = (inputs["mask"].value != 0).to(x.value.dtype)
    share = counted.unsqueeze(-1)
    count = share.sum(1)
    passed_on = rounding.added(x.bound * share, (1,)).squeeze(1) / count
    magnitude = (x.value.abs() * share).sum(1) / count
    value = (x.value * share).sum(1) / count
    own = rounding.gamma(x.value.shape[1] + 1) * magnitude
    return rounding.stored(Bounded(value, passed_on + own))


def max_pooling(
    _: layers.GlobalMaxPooling1D, __: object, inputs: Inputs, rounding: Rounding
) -> Bounded:
    x = inputs["input"]
    if x.value.shape[1] == 0:
        return Bounded.exact(x.value.new_full(x.value[:, 0:0].sum(1).shape, float("-inf")))
    return Bounded(x.value.amax(1), x.bound.amax(1))


def concatenate(
    layer: layers.Concatenate, _: object, inputs: Inputs, rounding: Rounding
) -> Bounded:
    import torch

    parts = [inputs[f"input_{i}"] for i in range(len(inputs) - ("mask" in inputs))]
    values, bounds = [part.value for part in parts], [part.bound for part in parts]
    return Bounded(torch.cat(values, layer.axis), torch.cat(bounds, layer.axis))


def dot(layer: layers.Dot, _: object, inputs: Inputs, rounding: Rounding) -> Bounded:
    left, right = (_vectors(inputs[f"input_{i}"], axis) for i, axis in enumerate(layer.axes))
    result = _products(left, right, rounding)
    if layer.normalize:
        lengths = [_lengths(part, rounding) for part in (left, right)]
        norm = lengths[0].value.unsqueeze(2) * lengths[1].value.unsqueeze(1)
        a, b = lengths[0].bound.unsqueeze(2), lengths[1].bound.unsqueeze(1)
        value = result.value / norm
        moved = result.bound / norm + value.abs() * (a + b + a * b + 2 * rounding.eps)
        result = Bounded(value, moved / ((1 - a).clamp(min=0.0) * (1 - b).clamp(min=0.0)))
    kept = [
        size
        for i, axis in enumerate(layer.axes)
        for place, size in enumerate(inputs[f"input_{i}"].value.shape)
        if place not in (0, axis % inputs[f"input_{i}"].value.ndim)
    ]
    shape = (result.value.shape[0], *(kept or [1]))
    return rounding.stored(Bounded(result.value.reshape(shape), result.bound.reshape(shape)))


def _vectors(x: Bounded, axis: int) -> Bounded:
    """(batch, vectors, k) with the contracted axis last."""
    value, bound = x.value.movedim(axis, -1), x.bound.movedim(axis, -1)
    if value.ndim == 2:
        return Bounded(value.unsqueeze(1), bound.unsqueeze(1))
    return Bounded(value, bound)


def _products(left: Bounded, right: Bounded, rounding: Rounding) -> Bounded:
    """All dot products of the vectors of each sample."""
    a, b = left.value, right.value.transpose(1, 2)
    a_bound, b_bound = left.bound, right.bound.transpose(1, 2)
    magnitude = a.abs() @ b.abs()
    errors = ((a_bound, b), (a, b_bound), (a_bound, b_bound))
    passed_on = sum(rounding.passed_on(*pair) for pair in errors)
    own = rounding.gamma(a.shape[-1]) * magnitude + a.shape[-1] * rounding.smallest
    return Bounded(a @ b, passed_on + own)


def _lengths(x: Bounded, rounding: Rounding) -> Bounded:
    """Euclidean lengths, at least 1e-6 as in Keras; the bound is relative."""
    squares = x.value.square().sum(-1).clamp(min=1e-12)
    if rounding.adds_up:
        moved = (x.bound.square().sum(-1) / squares).sqrt()
    else:
        moved = (x.value * x.bound).square().sum(-1).sqrt() / squares
    relative = moved + rounding.gamma(x.value.shape[-1]) / 2 + 2 * rounding.eps
    return Bounded(squares.sqrt(), relative)


def dot_interaction(
    _: layers.DotInteraction, __: object, inputs: Inputs, rounding: Rounding
) -> Bounded:
    import torch

    x = inputs["input"]
    result = _products(x, x, rounding)
    row, column = torch.tril_indices(x.value.shape[1], x.value.shape[1], offset=-1)
    return rounding.stored(Bounded(result.value[:, row, column], result.bound[:, row, column]))
