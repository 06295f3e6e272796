"""Our layers as ONNX's operators, of opset 20: one row each.

Attributes are float32 there. Where a float64 layer has a number that float32 does not, the layer is
written out in operators that take it as a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import TypeAlias

import numpy as np

from tvmlayers.dtypes import numpy_dtype
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.exporting import need
from tvmlayers.interop.onnx import coded
from tvmlayers.interop.onnx.pen import Pen

SELU = 1.6732632423543772, 1.0507009873554805
"""alpha and scale: G. Klambauer et al., Self-Normalizing Neural Networks, NeurIPS 2017."""


Written: TypeAlias = Callable[[Pen], str]

PLAIN = {
    "elu": "Elu",
    "exponential": "Exp",
    "gelu": "Gelu",
    "mish": "Mish",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "tanh": "Tanh",
}
"""Activations that are one operator without attributes."""


def _activated(pen: Pen, name: str, x: str, op: Callable[..., str]) -> str:
    """The activation of x; op: what writes its last operator."""
    if name == "gelu" and pen.dtype == "float64":
        part = pen.op("Erf", pen.op("Div", x, pen.number(sqrt(2))))
        part = pen.op("Mul", x, pen.op("Add", part, pen.number(1.0)))
        return op("Mul", part, pen.number(0.5))
    if name in PLAIN:
        return op(PLAIN[name], x)
    if name == "gelu_tanh":
        return op("Gelu", x, approximate="tanh")
    if name in ("softmax", "log_softmax"):
        return op("Softmax" if name == "softmax" else "LogSoftmax", x, axis=-1)
    if name == "silu":
        return op("Mul", x, pen.op("Sigmoid", x))
    if name == "relu6":
        return op("Clip", x, pen.number(0.0), pen.number(6.0))
    if name == "leaky_relu":
        return _leaky(pen, 0.2, x, op)
    if name == "selu":
        if pen.dtype != "float64":
            return op("Selu", x)
        alpha, scale = SELU
        return op("Mul", _leaky(pen, alpha, pen.op("Elu", x), pen.op), pen.number(scale))
    if pen.dtype != "float64":
        if name == "hard_sigmoid":
            return op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
        return op("HardSwish", x)
    gate = pen.op("Add", x, pen.number(3.0))
    gate = pen.op("Clip", gate, pen.number(0.0), pen.number(6.0))
    if name == "hard_sigmoid":
        return op("Div", gate, pen.number(6.0))
    return op("Mul", x, pen.op("Div", gate, pen.number(6.0)))


def _leaky(pen: Pen, slope: float, x: str, op: Callable[..., str]) -> str:
    """x where positive, else slope * x."""
    if slope == 0:
        return op("Relu", x)
    if pen.dtype != "float64":
        return op("LeakyRelu", x, alpha=slope)
    return op("Max" if slope < 1 else "Min", x, pen.op("Mul", x, pen.number(slope)))


def elu(pen: Pen) -> str:
    alpha = pen.layer.alpha
    if pen.holds(alpha):
        return pen.end("Elu", pen.x, alpha=alpha)
    return _leaky(pen, alpha, pen.op("Elu", pen.x), pen.end)


def activation(pen: Pen) -> str:
    name = pen.layer.activation
    if name == "linear":
        return pen.end("Identity", pen.x)
    return _activated(pen, name, pen.x, pen.end)


def dense(pen: Pen) -> str:
    layer, kernel = pen.layer, coded.kernel(pen)
    bias = [pen.weight("bias")] if layer.use_bias else []
    if pen.use.given.rank == 2:
        made = pen.end("Gemm", pen.x, kernel, *bias)
    elif bias:
        made = pen.end("Add", pen.op("MatMul", pen.x, kernel), *bias)
    else:
        made = pen.end("MatMul", pen.x, kernel)
    return made if layer.activation == "linear" else _activated(pen, layer.activation, made, pen.op)


def _indices(pen: Pen) -> str:
    """Indices as Gather takes them, int32 or int64; for oob="clip" the nearest in the table."""
    layer, tensor = pen.layer, pen.use.given
    need("oob", layer.oob, "raise", "clip", "unchecked")
    indices, dtype = pen.x, tensor.dtype
    if dtype not in ("int32", "int64"):
        indices, dtype = pen.op("Cast", indices, to=7), "int64"  # TensorProto.INT64
    if layer.oob == "clip":
        ends = (pen.scalar(end, dtype) for end in (0, layer.input_dim - 1))
        indices = pen.op("Clip", indices, *ends)
    return indices


def embedding(pen: Pen) -> str:
    return coded.rows(pen, _indices(pen))


def embedding_bag(pen: Pen) -> str:
    """A reduction of gathered rows."""
    layer, given = pen.layer, pen.use.by_role
    if "offsets" in given:
        raise Unsupported("bags with offsets have no operator there: use indices (batch, length)")
    factors, padding = given.get("per_sample_weights"), layer.padding_idx
    if padding is not None and (layer.mode in ("max", "min") or factors is not None):
        raise Unsupported("padding_idx has an equivalent with mode sum or mean only, unweighted")
    indices = _indices(pen)
    rows, steps = coded.rows(pen, indices), pen.ints(1)
    if layer.mode in ("max", "min"):
        return pen.op(f"Reduce{layer.mode.title()}", rows, steps, keepdims=0)
    if padding is not None:
        count = "" if layer.mode == "sum" else "least"
        return _without(pen, rows, indices, padding, count, pen.op)
    if factors is not None:
        rows = pen.op("Mul", rows, pen.op("Unsqueeze", factors, pen.ints(2)))
        if layer.mode == "mean":
            above = pen.op("ReduceSum", rows, steps, keepdims=0)
            return pen.op("Div", above, pen.op("ReduceSum", factors, steps, keepdims=1))
    kind = "ReduceSum" if layer.mode == "sum" else "ReduceMean"
    return pen.op(kind, rows, steps, keepdims=0)


def _without(
    pen: Pen, x: str, indices: str, padding: int, count: str, op: Callable[..., str]
) -> str:
    """The sum of x (batch, steps, d) without the steps of one index, or their mean.

    count: "" for the sum, "least" for a divisor of at least 1, "any" for one that may be 0.
    """
    masked = pen.use.given.mask_of
    dtype = "int32" if pen.use.given.dtype == "int32" else "int64"
    dtype = dtype if masked is None else masked.dtype
    hidden = pen.op("Equal", indices, pen.scalar(padding, dtype))
    zeros = pen.op("Where", pen.op("Unsqueeze", hidden, pen.ints(2)), pen.number(0.0), x)
    if not count:
        return op("ReduceSum", zeros, pen.ints(1), keepdims=0)
    counted = pen.op("Where", hidden, pen.number(0.0), pen.number(1.0))
    below = pen.op("ReduceSum", counted, pen.ints(1), keepdims=1)
    if count == "least":
        below = pen.op("Max", below, pen.number(1.0))
    return op("Div", pen.op("ReduceSum", zeros, pen.ints(1), keepdims=0), below)


def average_pooling(pen: Pen) -> str:
    if pen.use.mask is not None:
        return _without(pen, pen.x, pen.use.mask, 0, "any", pen.end)
    return pen.end("ReduceMean", pen.x, pen.ints(1), keepdims=0)


def max_pooling(pen: Pen) -> str:
    return pen.end("ReduceMax", pen.x, pen.ints(1), keepdims=0)


def reshape(pen: Pen) -> str:
    sizes = [size or -1 for size in pen.use.node.output.shape[1:]]
    return pen.end("Reshape", pen.x, pen.ints(-1, *sizes))


def flatten(pen: Pen) -> str:
    if pen.use.given.rank == 1:
        return pen.end("Unsqueeze", pen.x, pen.ints(1))
    return pen.end("Flatten", pen.x, axis=1)


def dot(pen: Pen) -> str:
    layer, ranks = pen.layer, [tensor.rank for tensor in pen.use.node.inputs]
    axes = layer.axes_of(pen.use.node.inputs)
    left, right = (
        _unit(pen, x, (axis,), 1e-6, pen.op) if layer.normalize else x
        for x, axis in zip(pen.tensors, axes, strict=True)
    )
    if ranks == [2, 2]:
        return pen.end("ReduceSum", pen.op("Mul", left, right), pen.ints(1), keepdims=1)
    left = _matrix(pen, left, ranks[0], axes[0] == 1, 1)
    right = _matrix(pen, right, ranks[1], axes[1] == 2, 2)
    if ranks == [3, 3]:
        return pen.end("MatMul", left, right)
    return pen.end("Squeeze", pen.op("MatMul", left, right), pen.ints(ranks.index(2) + 1))


def _matrix(pen: Pen, x: str, rank: int, turned: bool, new: int) -> str:
    """x as a batch of matrices, with a new axis where it is of vectors."""
    if rank == 2:
        return pen.op("Unsqueeze", x, pen.ints(new))
    return pen.op("Transpose", x, perm=[0, 2, 1]) if turned else x


def dot_interaction(pen: Pen) -> str:
    features = pen.use.given.shape[1]
    assert features is not None
    product = pen.op("MatMul", pen.x, pen.op("Transpose", pen.x, perm=[0, 2, 1]))
    flat = pen.op("Reshape", product, pen.ints(-1, features**2))
    rows, columns = np.tril_indices(features, -1)
    return pen.end("Gather", flat, pen.ints(*(rows * features + columns).tolist()), axis=1)


def average(pen: Pen) -> str:
    if pen.dtype != "float64":  # which ONNX Runtime has no Mean of
        return _merged(pen, "Mean")
    return pen.op("Div", _merged(pen, "Sum"), pen.number(float(len(pen.tensors))))


def _merged(pen: Pen, kind: str) -> str:
    """An operator of all tensors; those of fewer axes get some behind the batch."""
    ranks = [tensor.rank for tensor in pen.use.node.inputs]
    aligned = [
        x
        if rank == max(ranks)
        else pen.op("Unsqueeze", x, pen.ints(*range(1, 1 + max(ranks) - rank)))
        for x, rank in zip(pen.tensors, ranks, strict=True)
    ]
    if kind == "Mul":
        for more in aligned[1:-1]:
            aligned = [pen.op("Mul", aligned[0], more), aligned[-1]]
    return pen.end(kind, *aligned)


def rescaling(pen: Pen) -> str:
    """x * scale + offset."""

    def number(name: str) -> str | None:
        value, plain = getattr(pen.layer, name), {"scale": 1.0, "offset": 0.0}[name]
        if isinstance(value, np.ndarray):
            return pen.weight(name, value.astype(numpy_dtype(pen.dtype)))
        return None if value == plain else pen.number(value)

    scale, offset = number("scale"), number("offset")
    if scale is None and offset is None:
        return pen.end("Identity", pen.x)
    if offset is None:
        return pen.end("Mul", pen.x, str(scale))
    return pen.end("Add", pen.x if scale is None else pen.op("Mul", pen.x, scale), offset)


def layer_normalization(pen: Pen) -> str:
    """The operator, or written out where it has no equivalent of the options."""
    layer, count = pen.layer, len(pen.layer.axes)
    gamma = [pen.weight("gamma")] if layer.scale else []
    beta = [pen.weight("beta")] if layer.center else []
    if layer.scale and pen.dtype != "float64":  # it sums in float32
        inputs = (pen.x, *gamma, *beta)
        return pen.end("LayerNormalization", *inputs, axis=-count, epsilon=layer.epsilon)
    axes = pen.ints(*range(-count, 0))
    left = pen.op("Sub", pen.x, pen.op("ReduceMean", pen.x, axes))
    return _scaled(pen, "Div", (left, _root_of_mean_square(pen, left, axes)), gamma, beta)


def rms_normalization(pen: Pen) -> str:
    axes = pen.ints(*range(-len(pen.layer.axes), 0))
    return _scaled(
        pen, "Div", (pen.x, _root_of_mean_square(pen, pen.x, axes)), [pen.weight("scale")], []
    )


def _root_of_mean_square(pen: Pen, x: str, axes: str) -> str:
    """sqrt(mean(x^2) + epsilon)."""
    square = pen.op("ReduceMean", pen.op("Mul", x, x), axes)
    return pen.op("Sqrt", pen.op("Add", square, pen.number(pen.layer.epsilon)))


def _scaled(
    pen: Pen, kind: str, inputs: Sequence[str], scale: Sequence[str], offset: Sequence[str]
) -> str:
    """An operator of these inputs, then a product and a sum where they are given."""
    steps = [(kind, list(inputs))]
    steps += [("Mul", [weight]) for weight in scale] + [("Add", [weight]) for weight in offset]
    made: list[str] = []
    for place, (operator, taken) in enumerate(steps):
        write = pen.end if place == len(steps) - 1 else pen.op
        made = [write(operator, *made, *taken)]
    return made[0]


def unit_normalization(pen: Pen) -> str:
    axes = tuple(range(-len(pen.layer.axes), 0))
    return _unit(pen, pen.x, axes, sqrt(pen.layer.epsilon), pen.end)


def _unit(pen: Pen, x: str, axes: Sequence[int], least: float, op: Callable[..., str]) -> str:
    """x over its length along axes."""
    length = pen.op("ReduceL2", x, pen.ints(*axes))
    return op("Div", x, pen.op("Max", length, pen.number(least)))


def batch_normalization(pen: Pen) -> str:
    """The operator works along axis 1."""
    layer, rank, x = pen.layer, pen.use.given.rank, pen.x
    axis, variance, epsilon = layer.axis % rank, pen.weight("moving_variance"), layer.epsilon
    if not pen.holds(epsilon):
        variance, epsilon = pen.op("Add", variance, pen.number(epsilon)), 0.0
    plain = [1.0 if name == "gamma" else 0.0 for name in ("gamma", "beta")]
    gamma, beta = (
        pen.weight(name)
        if name in layer.weights
        else pen.weight(f"no_{name}", np.full(layer.features, value, layer.dtype))
        for name, value in zip(("gamma", "beta"), plain, strict=True)
    )
    weights = gamma, beta, pen.weight("moving_mean"), variance
    if axis == 1:
        return pen.end("BatchNormalization", x, *weights, epsilon=epsilon)
    order = list(range(rank))
    order[1], order[axis] = axis, 1
    turned = pen.op("Transpose", x, perm=order)
    normal = pen.end("BatchNormalization", turned, *weights, epsilon=epsilon)
    return pen.op("Transpose", normal, perm=order)


def prelu(pen: Pen) -> str:
    return pen.end("PRelu", pen.x, pen.weight("alpha"))


ROWS: dict[str, Written] = {
    "Activation": activation,
    "Add": lambda pen: _merged(pen, "Sum"),
    "Average": average,
    "BatchNormalization": batch_normalization,
    "Concatenate": lambda pen: pen.end("Concat", *pen.tensors, axis=pen.layer.axis),
    "Dense": dense,
    "Dot": dot,
    "DotInteraction": dot_interaction,
    "Dropout": lambda pen: pen.end("Identity", pen.x),
    "ELU": elu,
    "Embedding": embedding,
    "EmbeddingBag": embedding_bag,
    "Flatten": flatten,
    "GlobalAveragePooling1D": average_pooling,
    "GlobalMaxPooling1D": max_pooling,
    "LayerNormalization": layer_normalization,
    "LeakyReLU": lambda pen: _leaky(pen, pen.layer.negative_slope, pen.x, pen.end),
    "Maximum": lambda pen: _merged(pen, "Max"),
    "Minimum": lambda pen: _merged(pen, "Min"),
    "Multiply": lambda pen: _merged(pen, "Mul"),
    "PReLU": prelu,
    "RMSNormalization": rms_normalization,
    "Rescaling": rescaling,
    "Reshape": reshape,
    "Subtract": lambda pen: _merged(pen, "Sub"),
    "UnitNormalization": unit_normalization,
}
"""By the class of the layer."""
