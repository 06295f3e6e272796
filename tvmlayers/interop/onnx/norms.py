"""Rows of the table for normalisations, and for PRelu."""

from __future__ import annotations

import numpy as np

from tvmlayers import layers
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.onnx.calls import Array, Call, Value
from tvmlayers.layers.graph import SymbolicTensor


def layer_norm(call: Call) -> Value:
    """LayerNormalization over the last axes."""
    x, scale = call.tensor(), call.constant(1)
    bias = call.constant(2) if len(call.values) > 2 and call.names[2] else None
    count = x.rank - call.get("axis", -1) % x.rank
    if call.get("stash_type", 1) != 1 and x.dtype == "float32":
        raise Unsupported("only stash_type=1 is there")

    def make(name: str) -> layers.Layer:
        layer = layers.LayerNormalization(
            tuple(range(-count, 0)),
            call.get("epsilon", 1e-5),
            center=bias is not None,
            dtype=x.dtype,
            name=name,
        )
        layer.build(x.shape)
        return layer

    weights = [scale] if bias is None else [scale, bias]
    shaped = [_last(x, count, weight) for weight in weights]
    return call.weighted(f"layer_norm {call.attributes}", make, *shaped)(x)  # type: ignore


def rms_norm(call: Call) -> Value:
    """RMSNormalization over the last axes."""
    x = call.tensor()
    count = x.rank - call.get("axis", -1) % x.rank

    def make(name: str) -> layers.Layer:
        axes, epsilon = tuple(range(-count, 0)), call.get("epsilon", 1e-5)
        layer = layers.RMSNormalization(axes, epsilon, dtype=x.dtype, name=name)
        layer.build(x.shape)
        return layer

    scale = _last(x, count, call.constant(1))
    return call.weighted(f"rms_norm {call.attributes}", make, scale)(x)  # type: ignore


def batch_norm(call: Call) -> Value:
    """BatchNormalization over axis 1."""
    if call.get("training_mode", 0):
        raise Unsupported("it takes the statistics of each batch; ours are those of training")
    x = call.tensor()

    def make(name: str) -> layers.Layer:
        axis, epsilon = 1 if x.rank > 2 else -1, call.get("epsilon", 1e-5)
        layer = layers.BatchNormalization(axis, epsilon=epsilon, dtype=x.dtype, name=name)
        layer.build(x.shape)
        return layer

    weights = [call.constant(place) for place in range(1, 5)]
    return call.weighted(f"batch_norm {x.rank} {call.attributes}", make, *weights)(x)  # type: ignore


def prelu(call: Call) -> Value:
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


def _last(x: SymbolicTensor, count: int, weight: Array) -> Array:
    """A weight of the last axes, as it is broadcast to them."""
    sizes = [size for size in x.shape[-count:] if size is not None]
    if count == x.rank or len(sizes) != count:
        raise Unsupported("it normalises over the batch, or over an axis of free length")
    return np.broadcast_to(weight, sizes)
