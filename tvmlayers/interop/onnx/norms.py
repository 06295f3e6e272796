"""Rows of the table for normalisations, and for PRelu."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvmlayers import layers
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.codes import Array
from tvmlayers.interop.onnx.calls import Call
from tvmlayers.interop.onnx.patterns import (
    Normal,
    normal_of,
    same_axes,
    scalar,
    unit_of,
    with_constant,
)
from tvmlayers.layers.graph import SymbolicTensor


def layer_norm(call: Call) -> SymbolicTensor:
    """LayerNormalization over the last axes."""
    x = call.tensor()
    if call.get("stash_type", 1) != 1 and x.dtype == "float32":
        raise Unsupported("only stash_type=1 is there")
    epsilon = call.number("epsilon", 1e-5, x.dtype)
    gamma, beta = call.constant(1), call.constant(2) if call.has(2) else None
    return _layer_norm(call, x, _count(call, x), epsilon, gamma, beta)


def rms_norm(call: Call) -> SymbolicTensor:
    """RMSNormalization over the last axes."""
    x = call.tensor()
    epsilon = call.number("epsilon", 1e-5, x.dtype)
    return _rms_norm(call, x, _count(call, x), epsilon, call.constant(1))


def _count(call: Call, x: SymbolicTensor) -> int:
    """How many last axes a node normalises over, which gives the first of them."""
    return x.rank - int(call.get("axis", -1)) % x.rank


def written_out(call: Call) -> SymbolicTensor | None:
    """The normalisation that ends with this node, its weights included; None for another node."""
    name = call.node.output[0]
    beta, gamma = None, None
    if call.kind == "Add" and (pair := with_constant(call)):
        name, beta = pair
    scaled = call.call_of(name)
    if scaled is not None and scaled.kind == "Mul" and (pair := with_constant(scaled)):
        name, gamma = pair
    normal = normal_of(call, name)
    if normal is None or (normal.kind == "rms" and beta is not None):
        return None
    x = call.tensor_of(normal.x)
    if any(weight is not None and weight.ndim == 0 for weight in (gamma, beta)):
        return None
    count = _last(x, normal)
    if normal.kind == "layer":
        return _layer_norm(call, x, count, normal.epsilon, gamma, beta)
    if gamma is None:
        gamma = np.ones([size or 1 for size in x.shape[-count:]], x.dtype)
    return _rms_norm(call, x, count, normal.epsilon, gamma)


def _last(x: SymbolicTensor, normal: Normal) -> int:
    """How many last axes are normalised over."""
    axes = same_axes(normal.axes, x.rank)
    if axes != tuple(range(x.rank - len(axes), x.rank)):
        raise Unsupported("only the last axes can be normalised over")
    return len(axes)


def _layer_norm(
    call: Call,
    x: SymbolicTensor,
    count: int,
    epsilon: float,
    gamma: Array | None,
    beta: Array | None,
) -> SymbolicTensor:
    def make(name: str) -> layers.Layer:
        layer = layers.LayerNormalization(
            tuple(range(-count, 0)),
            epsilon,
            center=beta is not None,
            scale=gamma is not None,
            dtype=x.dtype,
            name=name,
        )
        layer.build(x.shape)
        return layer

    weights = [_shaped(x, count, weight) for weight in (gamma, beta) if weight is not None]
    key = f"layer_norm {count} {epsilon} {gamma is None}"
    layer = (
        call.weighted(key, make, *weights) if weights else make(call.graph.builder.name(call.name))
    )
    return layer(x)  # type: ignore[no-any-return]


def _rms_norm(
    call: Call, x: SymbolicTensor, count: int, epsilon: float, scale: Array
) -> SymbolicTensor:
    def make(name: str) -> layers.Layer:
        axes = tuple(range(-count, 0))
        layer = layers.RMSNormalization(axes, epsilon, dtype=x.dtype, name=name)
        layer.build(x.shape)
        return layer

    weight = _shaped(x, count, scale)
    return call.weighted(f"rms_norm {count} {epsilon}", make, weight)(x)  # type: ignore


def unit_norm(call: Call) -> SymbolicTensor | None:
    """UnitNormalization over the last axes; None for what is no division by its own length."""
    unit = unit_of(call, call.node.output[0])
    if unit is None:
        return None
    x = call.tensor_of(unit.x)
    count = len(unit.axes)
    if same_axes(unit.axes, x.rank) != tuple(range(x.rank - count, x.rank)):
        raise Unsupported("only vectors along the last axes can be brought to length 1")
    # its square, without the noise of squaring a power of ten
    least = unit.least if x.dtype == "float64" else float(str(np.float32(unit.least)))
    epsilon = float(f"{least**2:.12g}")
    return call.layer(layers.UnitNormalization, tuple(range(-count, 0)), epsilon)(x)  # type: ignore


def batch_norm(
    call: Call, turned: str | None = None, order: Sequence[int] | None = None
) -> SymbolicTensor:
    """BatchNormalization. turned, order: the tensor whose axis 1 was put there by Transpose."""
    if call.get("training_mode", 0):
        raise Unsupported("it takes the statistics of each batch; ours are those of training")
    x = call.tensor() if turned is None else call.tensor_of(turned)
    axis = 1 if order is None else order[1]
    weights = [call.constant(place) for place in (1, 2, 3)]
    epsilon, variance = call.number("epsilon", 1e-5, x.dtype), call.inputs[4]
    if (exact := call.graph.sums.get(variance)) is not None and epsilon == 0:
        variance, constant = exact
        epsilon = scalar(call, constant) or 0.0
    weights.append(call.graph.constants[variance])
    has_gamma, has_beta = (
        not name.endswith(f"/no_{weight}")
        for name, weight in zip(call.inputs[1:3], ("gamma", "beta"), strict=True)
    )
    if not has_beta:
        del weights[1]
    if not has_gamma:
        del weights[0]

    def make(name: str) -> layers.Layer:
        layer = layers.BatchNormalization(
            axis if axis < x.rank - 1 else -1,
            epsilon=epsilon,
            center=has_beta,
            scale=has_gamma,
            dtype=x.dtype,
            name=name,
        )
        layer.build(x.shape)
        return layer

    key = f"batch_norm {x.rank} {axis} {epsilon} {has_gamma}"
    return call.weighted(key, make, *weights)(x)  # type: ignore[no-any-return]


def turned_back(call: Call) -> SymbolicTensor:
    """BatchNormalization along another axis than 1: of a tensor whose two axes change places."""
    found = batch_norm_of(call)
    if found is None:
        raise Unsupported("no layer here moves axes")
    inner, turned = found
    return batch_norm(inner, turned, list(call.get("perm", ())))


def batch_norm_of(call: Call) -> tuple[Call, str] | None:
    """(BatchNormalization, x before its axes changed places) of a Transpose that turns back."""
    inner, order = call.source(0), list(call.get("perm", ()))
    if inner is None or inner.kind != "BatchNormalization":
        return None
    turned = inner.source(0)
    moved = [place for place, axis in enumerate(order) if place != axis]
    is_swap = len(moved) == 2 and moved[0] == 1
    is_turned = turned is not None and turned.kind == "Transpose"
    if turned is None or not is_swap or not is_turned or list(turned.get("perm", ())) != order:
        return None
    return inner, turned.inputs[0]


def prelu(call: Call) -> SymbolicTensor:
    """PReLU; its slope is broadcast to the input from the last axis on."""
    x, slope = call.tensor(), call.constant(1)
    if slope.ndim == x.rank and slope.shape[0] == 1:
        slope = slope.reshape(slope.shape[1:])
    if slope.ndim >= x.rank:
        raise Unsupported("its slope differs from sample to sample")
    slope = slope.reshape(*(1,) * (x.rank - 1 - slope.ndim), *slope.shape)
    shared = [axis for axis, size in enumerate(slope.shape, 1) if size == 1]

    def make(name: str) -> layers.Layer:
        layer = layers.PReLU(shared_axes=shared or None, dtype=x.dtype, name=name)
        layer.build(x.shape)
        return layer

    return call.weighted(f"prelu {shared}", make, slope)(x)  # type: ignore[no-any-return]


def _shaped(x: SymbolicTensor, count: int, weight: Array) -> Array:
    """A weight of the last axes, as it is broadcast to them."""
    sizes = [size for size in x.shape[-count:] if size is not None]
    if count == x.rank or len(sizes) != count:
        raise Unsupported("it normalises over the batch, or over an axis of free length")
    while weight.ndim > count and weight.shape[0] == 1:
        weight = weight[0]
    return weight if weight.shape == tuple(sizes) else np.broadcast_to(weight, sizes)
