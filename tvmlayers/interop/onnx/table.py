"""The ONNX operators that can be imported: one row each, from a node to what it makes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvmlayers import layers
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.onnx import merges, norms
from tvmlayers.interop.onnx.calls import Array, Call, Value, array_of
from tvmlayers.layers.graph import SymbolicTensor


def _activation(name: str, **options: float) -> Callable[[Call], Value]:
    """The row of an activation; options: the attributes that it is right for."""

    def row(call: Call) -> Value:
        for attribute, wanted in options.items():
            got = call.get(attribute, DEFAULTS.get((name, attribute), wanted))
            if not np.isclose(got, wanted, rtol=1e-7, atol=0):
                raise Unsupported(f"only {attribute}={wanted} is there, not {got}")
        return call.apply(layers.Activation, name)

    return row


DEFAULTS = {("hard_sigmoid", "alpha"): 0.2}
"""Of attributes, where ONNX's is not ours."""


def _slope(
    name: str, kind: Callable[..., layers.Layer], default: float, own: float
) -> Callable[[Call], Value]:
    """The row of an activation with an alpha: of that name where it is our own, else a layer."""

    def row(call: Call) -> Value:
        alpha = call.get("alpha", default)
        if np.isclose(alpha, own, rtol=1e-7, atol=0):
            return call.apply(layers.Activation, name)
        return call.apply(kind, alpha)

    return row


def _over_last_axis(name: str) -> Callable[[Call], Value]:
    def row(call: Call) -> Value:
        rank = call.tensor().rank
        if call.get("axis", -1) % rank != rank - 1:
            raise Unsupported("only the last axis can be reduced over")
        return call.apply(layers.Activation, name)

    return row


def _gelu(call: Call) -> Value:
    by_tanh = call.get("approximate", b"none") == b"tanh"
    return call.apply(layers.Activation, "gelu_tanh" if by_tanh else "gelu")


def _clip(call: Call) -> Value:
    limits = [
        None if i >= len(call.values) or not call.names[i] else call.constant(i) for i in (1, 2)
    ]
    low, high = (None if limit is None else float(limit) for limit in limits)
    if low != 0 or high not in (None, 6):
        raise Unsupported(f"only limits (0, None) and (0, 6) are there, not {(low, high)}")
    return call.apply(layers.Activation, "relu6" if high else "relu")


def _gather(call: Call) -> Value:
    """Embedding."""
    table = call.constant(0)
    if call.get("axis", 0) != 0 or table.ndim != 2:
        raise Unsupported("only rows of a matrix can be looked up")
    rows, columns = table.shape
    layer = call.weighted(
        "embedding",
        lambda name: layers.Embedding(rows, columns, dtype=table.dtype.name, name=name),
        table,
    )
    made: Value = layer(call.tensor(1))
    return made


def _dense(call: Call, x: SymbolicTensor, kernel: Array, bias: Array | None) -> Value:
    if kernel.ndim != 2:
        raise Unsupported("its weight is no matrix")
    features, units = kernel.shape
    if bias is not None and bias.reshape(-1).shape != (units,):
        raise Unsupported(f"a bias is one number for each of {units} columns, not {bias.shape}")
    has_bias, weights = bias is not None, [kernel]
    if bias is not None:
        weights.append(bias if bias.ndim == 1 else bias.reshape(-1))
    dtype = kernel.dtype.name
    layer = call.weighted(
        "dense",
        lambda name: layers.Dense(
            units, use_bias=has_bias, input_dim=features, dtype=dtype, name=name
        ),
        *weights,
    )
    made: Value = layer(x)
    return made


def _gemm(call: Call) -> Value:
    if call.get("alpha", 1.0) != 1 or call.get("beta", 1.0) != 1 or call.get("transA", 0):
        raise Unsupported("only alpha=1, beta=1 and transA=0 are there")
    kernel = call.constant(1)
    bias = call.constant(2) if len(call.values) > 2 and call.names[2] else None
    return _dense(call, call.tensor(), kernel.T if call.get("transB", 0) else kernel, bias)


def _matmul(call: Call) -> Value:
    if isinstance(call.values[1], SymbolicTensor):
        return call.layer(layers.Dot, (2, 1))([call.tensor(), call.tensor(1)])  # type: ignore
    return _dense(call, call.tensor(), call.constant(1), None)


def _add(call: Call) -> Value:
    """The bias of a MatMul, or any other sum."""
    for place, other in ((0, 1), (1, 0)):
        kind, values = call.known.get(call.names[place], ("", []))
        bias = call.values[other]
        if kind == "MatMul" and isinstance(bias, np.ndarray) and isinstance(values[1], np.ndarray):
            assert isinstance(values[0], SymbolicTensor)
            return _dense(call, values[0], values[1], bias)
    return merges.merged(call, layers.Add, 1.0)


def _mul(call: Call) -> Value:
    """x * Sigmoid(x), which is silu, or any other product."""
    for place, other in ((0, 1), (1, 0)):
        kind, values = call.known.get(call.names[other], ("", []))
        if kind == "Sigmoid" and values[0] is call.values[place]:
            return call.layer(layers.Activation, "silu")(values[0])  # type: ignore[no-any-return]
    return merges.merged(call, layers.Multiply, None)


def _concat(call: Call) -> Value:
    tensors = [call.tensor(place) for place in range(len(call.values))]
    if len(tensors) == 1:
        return tensors[0]
    return call.layer(layers.Concatenate, call.get("axis", -1))(tensors)  # type: ignore[no-any-return]


def _pooled(kind: Callable[..., layers.Layer]) -> Callable[[Call], Value]:
    """The row of a reduction over the steps of (batch, steps, features)."""

    def row(call: Call) -> Value:
        return _over_steps(call, kind)

    return row


def _over_steps(call: Call, kind: Callable[..., layers.Layer]) -> Value:
    axes = call.get("axes", None) or (call.constant(1).tolist() if len(call.values) > 1 else [])
    x = call.tensor()
    if x.rank != 3 or [axis % 3 for axis in axes] != [1]:
        raise Unsupported("only axis 1 of (batch, steps, features) can be reduced over")
    pooled = call.apply(kind)
    if not call.get("keepdims", 1):
        return pooled
    return call.layer(layers.Reshape, (1, x.shape[2]))(pooled)  # type: ignore[no-any-return]


def _flatten(call: Call) -> Value:
    if call.get("axis", 1) != 1:
        raise Unsupported("only axis=1 is there")
    return call.apply(layers.Flatten)


def _reshape(call: Call) -> Value:
    x, sizes = call.tensor(), call.constant(1).tolist()
    if call.get("allowzero", 0) or not sizes:
        raise Unsupported("only shapes that begin with the batch are there")
    sizes = [x.shape[i] if size == 0 and i else size for i, size in enumerate(sizes)]
    wanted = sizes[1:]
    # A first size of -1 is the batch where the others take up one sample.
    if any(not isinstance(size, int) for size in wanted) or sizes[0] > 0:
        raise Unsupported(f"it fixes the batch, or has a free axis: {sizes}")
    if sizes[0] == -1 and int(np.prod(wanted, dtype=int)) != x.elements:
        raise Unsupported(f"it moves the batch axis: {x.shape} into {sizes}")
    return call.apply(layers.Reshape, wanted)


def _squeezed(call: Call) -> Value:
    """Squeeze of axes after the batch."""
    x = call.tensor()
    axes = call.get("axes", None) or (call.constant(1).tolist() if len(call.values) > 1 else [])
    gone = {axis % x.rank for axis in axes}
    if not gone or 0 in gone or any(x.shape[axis] != 1 for axis in gone):
        raise Unsupported("only axes of length 1 after the batch can go")
    return call.apply(layers.Reshape, [s for i, s in enumerate(x.shape) if i and i not in gone])


def _unsqueezed(call: Call) -> Value:
    x = call.tensor()
    axes = call.get("axes", None) or call.constant(1).tolist()
    rank = x.rank + len(axes)
    new = {axis % rank for axis in axes}
    if 0 in new:
        raise Unsupported("the first axis is the batch")
    old = iter(x.shape[1:])
    return call.apply(layers.Reshape, [1 if i in new else next(old) for i in range(1, rank)])


def _identity(call: Call) -> Value:
    return call.values[0]


def _cast(call: Call) -> Value:
    from onnx.helper import tensor_dtype_to_np_dtype

    x, after = call.tensor(), tensor_dtype_to_np_dtype(call.get("to", 0))
    is_index = np.dtype(x.dtype).kind in "iu" and after.kind in "iu"
    if x.dtype != after.name and not (is_index and np.can_cast(x.dtype, after)):
        raise Unsupported(f"no layer here casts {x.dtype} to {after.name}")
    return x


def _constant(call: Call) -> Value:
    from onnx import TensorProto

    (value,) = call.attributes.values()
    return array_of(value) if isinstance(value, TensorProto) else np.asarray(value)


OPERATORS: dict[str, Callable[[Call], Value]] = {
    "Add": _add,
    "BatchNormalization": norms.batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Div": merges.div,
    "Dropout": _identity,
    "Elu": _slope("elu", layers.ELU, 1.0, 1.0),
    "Exp": _activation("exponential"),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "HardSigmoid": _activation("hard_sigmoid", alpha=1 / 6, beta=0.5),
    "HardSwish": _activation("hard_silu"),
    "Identity": _identity,
    "LayerNormalization": norms.layer_norm,
    "LeakyRelu": _slope("leaky_relu", layers.LeakyReLU, 0.01, 0.2),
    "LogSoftmax": _over_last_axis("log_softmax"),
    "MatMul": _matmul,
    "Max": merges.merge(layers.Maximum),
    "Min": merges.merge(layers.Minimum),
    "Mish": _activation("mish"),
    "Mul": _mul,
    "PRelu": norms.prelu,
    "RMSNormalization": norms.rms_norm,
    "ReduceMax": _pooled(layers.GlobalMaxPooling1D),
    "ReduceMean": _pooled(layers.GlobalAveragePooling1D),
    "Relu": _activation("relu"),
    "Reshape": _reshape,
    "Selu": _activation("selu"),
    "Sigmoid": _activation("sigmoid"),
    "Softmax": _over_last_axis("softmax"),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "Squeeze": _squeezed,
    "Sub": merges.sub,
    "Swish": _activation("silu", alpha=1.0),
    "Tanh": _activation("tanh"),
    "Unsqueeze": _unsqueezed,
}
"""By ONNX's operator type, of its own domain."""
