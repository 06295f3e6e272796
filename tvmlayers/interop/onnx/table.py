"""The ONNX operators that can be imported: one row each, from a node to what it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvmlayers import layers
from tvmlayers.errors import ModelImportError
from tvmlayers.interop.building import Builder, Unsupported
from tvmlayers.layers.graph import SymbolicTensor

Array = NDArray[Any]
Value: TypeAlias = SymbolicTensor | Array | None
"""What a name of the graph stands for: a tensor, a constant, or nothing after a problem."""

LARGEST = 2**40  # elements that an initialiser may claim


@dataclass(frozen=True)
class Call:
    """One node: its inputs' values, its attributes, and how its layers are made."""

    builder: Builder
    name: str
    values: list[Value]
    names: list[str]
    attributes: dict[str, Any]
    known: dict[str, tuple[str, list[Value]]]

    def tensor(self, place: int = 0) -> SymbolicTensor:
        value = self.values[place]
        if not isinstance(value, SymbolicTensor):
            raise Unsupported(f"its input {place} is a constant")
        return value

    def constant(self, place: int) -> Array:
        value = self.values[place] if place < len(self.values) else None
        if not isinstance(value, np.ndarray):
            raise Unsupported(f"its input {place} is not a constant")
        return value

    def get(self, attribute: str, default: Any) -> Any:
        return self.attributes.get(attribute, default)

    def apply(self, kind: Callable[..., layers.Layer], *args: Any) -> SymbolicTensor:
        """A layer without weights on the first input."""
        made: SymbolicTensor = self.layer(kind, *args)(self.tensor())
        return made

    def layer(self, kind: Callable[..., layers.Layer], *args: Any) -> layers.Layer:
        return self.builder.layer(object(), self.name, lambda name: kind(*args, name=name))

    def weighted(
        self, kind: str, make: Callable[[str], layers.Layer], *weights: Array
    ) -> layers.Layer:
        """The layer of these weights: initialisers that are used twice are one layer."""
        places = tuple((w.__array_interface__["data"][0], w.shape, w.strides) for w in weights)
        return self.builder.layer((kind, places), self.name, make, weights)


def array_of(tensor: Any) -> Array:
    """The numbers of an initialiser; ModelImportError where they are fewer than its shape says."""
    from onnx import TensorProto, numpy_helper

    if any(size < 0 for size in tensor.dims) or np.prod(tensor.dims, dtype=float) > LARGEST:
        raise ModelImportError(
            f"the initialiser {tensor.name!r} claims a shape {list(tensor.dims)}"
        )
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelImportError(
            f"the initialiser {tensor.name!r} is in another file: pass the path of the model"
        )
    try:
        array: Array = numpy_helper.to_array(tensor)
    except (TypeError, ValueError) as error:
        raise ModelImportError(f"the initialiser {tensor.name!r} is damaged: {error}") from error
    return array


def _activation(name: str, **options: float) -> Callable[[Call], Value]:
    """The row of an activation; options: the attributes that it is right for."""

    def row(call: Call) -> Value:
        for attribute, wanted in options.items():
            got = call.get(attribute, DEFAULTS.get((name, attribute), wanted))
            if not np.isclose(got, wanted, rtol=1e-7, atol=0):
                raise Unsupported(f"only {attribute}={wanted} is there, not {got}")
        return call.apply(layers.Activation, name)

    return row


DEFAULTS = {("leaky_relu", "alpha"): 0.01, ("hard_sigmoid", "alpha"): 0.2}
"""Of attributes, where ONNX's is not ours."""


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
    """The bias of a MatMul."""
    for place, other in ((0, 1), (1, 0)):
        kind, values = call.known.get(call.names[place], ("", []))
        bias = call.values[other]
        if kind == "MatMul" and isinstance(bias, np.ndarray) and isinstance(values[1], np.ndarray):
            assert isinstance(values[0], SymbolicTensor)
            return _dense(call, values[0], values[1], bias)
    raise Unsupported("no layer here adds, but for a constant bias to a MatMul")


def _mul(call: Call) -> Value:
    """x * Sigmoid(x), which is silu."""
    for place, other in ((0, 1), (1, 0)):
        kind, values = call.known.get(call.names[other], ("", []))
        if kind == "Sigmoid" and values[0] is call.values[place]:
            return call.layer(layers.Activation, "silu")(values[0])  # type: ignore[no-any-return]
    raise Unsupported("no layer here multiplies element by element")


def _concat(call: Call) -> Value:
    tensors = [call.tensor(place) for place in range(len(call.values))]
    if len(tensors) == 1:
        return tensors[0]
    return call.layer(layers.Concatenate, call.get("axis", -1))(tensors)  # type: ignore[no-any-return]


def _mean(call: Call) -> Value:
    """GlobalAveragePooling1D."""
    axes = call.get("axes", None) or (call.constant(1).tolist() if len(call.values) > 1 else [])
    x = call.tensor()
    if x.rank != 3 or [axis % 3 for axis in axes] != [1]:
        raise Unsupported("only axis 1 of (batch, steps, features) can be reduced over")
    pooled = call.apply(layers.GlobalAveragePooling1D)
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
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Dropout": _identity,
    "Elu": _activation("elu", alpha=1.0),
    "Exp": _activation("exponential"),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "HardSigmoid": _activation("hard_sigmoid", alpha=1 / 6, beta=0.5),
    "HardSwish": _activation("hard_silu"),
    "Identity": _identity,
    "LeakyRelu": _activation("leaky_relu", alpha=0.2),
    "LogSoftmax": _over_last_axis("log_softmax"),
    "MatMul": _matmul,
    "Mish": _activation("mish"),
    "Mul": _mul,
    "ReduceMean": _mean,
    "Relu": _activation("relu"),
    "Reshape": _reshape,
    "Selu": _activation("selu"),
    "Sigmoid": _activation("sigmoid"),
    "Softmax": _over_last_axis("softmax"),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "Squeeze": _squeezed,
    "Swish": _activation("silu", alpha=1.0),
    "Tanh": _activation("tanh"),
    "Unsqueeze": _unsqueezed,
}
"""By ONNX's operator type, of its own domain."""
