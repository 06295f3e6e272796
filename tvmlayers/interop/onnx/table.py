"""The ONNX operators that can be imported: one row each, from a call to what it makes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvmlayers import layers
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.onnx import means, merges, norms, products, quantized, shapes
from tvmlayers.interop.onnx.calls import Call
from tvmlayers.interop.onnx.patterns import activation_of, scalar
from tvmlayers.layers.graph import SymbolicTensor

Row = Callable[[Call], SymbolicTensor]


def _activation(name: str, **options: float) -> Row:
    """The row of an activation; options: the attributes that it is right for."""

    def row(call: Call) -> SymbolicTensor:
        for attribute, wanted in options.items():
            got = call.get(attribute, DEFAULTS.get((name, attribute), wanted))
            if not np.isclose(got, wanted, rtol=1e-7, atol=0):
                raise Unsupported(f"only {attribute}={wanted} is there, not {got}")
        return call.apply(layers.Activation, name)

    return row


DEFAULTS = {("hard_sigmoid", "alpha"): 0.2}
"""Of attributes, where ONNX's is not ours."""


def _leaky_relu(call: Call) -> SymbolicTensor:
    x = call.tensor()
    return merges.leaky(call, call.number("alpha", 0.01, x.dtype))(x)  # type: ignore[no-any-return]


def _elu(call: Call) -> SymbolicTensor:
    alpha = call.number("alpha", 1.0, call.tensor().dtype)
    if alpha == 1:
        return call.apply(layers.Activation, "elu")
    return call.apply(layers.ELU, alpha)


def _over_last_axis(name: str) -> Row:
    def row(call: Call) -> SymbolicTensor:
        rank = call.tensor().rank
        if call.get("axis", -1) % rank != rank - 1:
            raise Unsupported("only the last axis can be reduced over")
        return call.apply(layers.Activation, name)

    return row


def _gelu(call: Call) -> SymbolicTensor:
    by_tanh = call.get("approximate", b"none") == b"tanh"
    return call.apply(layers.Activation, "gelu_tanh" if by_tanh else "gelu")


def _clip(call: Call) -> SymbolicTensor:
    limits = [call.constant(place) if call.has(place) else None for place in (1, 2)]
    low, high = (None if limit is None else float(limit.reshape(())) for limit in limits)
    if low != 0 or high not in (None, 6):
        raise Unsupported(f"only limits (0, None) and (0, 6) are there, not {(low, high)}")
    return call.apply(layers.Activation, "relu6" if high else "relu")


def _gather(call: Call) -> SymbolicTensor:
    return means.embedding(call) if call.is_constant(0) else products.pairs(call)


def _add(call: Call) -> SymbolicTensor:
    """A bias, the last step of rows in codes or of a normalisation, or any other sum."""
    weighed = products.biased(call) or means.widened(call)
    return weighed or norms.written_out(call) or merges.add(call)


def _mul(call: Call) -> SymbolicTensor:
    """A Dense whose input was rounded, an activation, a step of a normalisation, or any other
    product."""
    rounded = quantized.dynamic(call)
    if rounded is not None:
        return quantized.dense(call, *rounded, None)
    return _written_activation(call) or norms.written_out(call) or merges.mul(call)


def _div(call: Call) -> SymbolicTensor:
    """As `_mul`, and what is divided by its length or by a sum of weights."""
    below = call.source(1)
    if below is not None and below.kind == "Add":  # softsign's x / (1 + |x|)
        for name, one in (below.inputs, reversed(below.inputs)):
            inner = call.call_of(name)
            is_size = inner is not None and inner.kind == "Abs" and inner.inputs == call.inputs[:1]
            if is_size and scalar(call, one) == 1:
                return call.apply(layers.Activation, "softsign")
    return (
        _written_activation(call)
        or norms.written_out(call)
        or norms.unit_norm(call)
        or means.weighted_mean(call)
        or merges.div(call)
    )


def _written_activation(call: Call) -> SymbolicTensor | None:
    found = activation_of(call, call.node.output[0])
    if found is None:
        return None
    name, x = found
    tensor = call.tensor_of(x)
    return call.layer(layers.Activation, name)(tensor)  # type: ignore[no-any-return]


def _identity(call: Call) -> SymbolicTensor:
    return call.tensor()


OPERATORS: dict[str, Row] = {
    "Add": _add,
    "BatchNormalization": norms.batch_norm,
    "Cast": lambda call: means.widened(call) or shapes.cast(call),
    "Clip": _clip,
    "Concat": shapes.concat,
    "Div": _div,
    "Dropout": _identity,
    "Elu": _elu,
    "DequantizeLinear": means.dequantised,
    "Exp": _activation("exponential"),
    "Flatten": shapes.flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": products.gemm,
    "HardSigmoid": _activation("hard_sigmoid", alpha=1 / 6, beta=0.5),
    "HardSwish": _activation("hard_silu"),
    "Identity": _identity,
    "LayerNormalization": norms.layer_norm,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _over_last_axis("log_softmax"),
    "MatMul": products.matmul,
    "Max": merges.most,
    "Mean": merges.merge(layers.Average),
    "Min": merges.least,
    "Mish": _activation("mish"),
    "Mul": _mul,
    "PRelu": norms.prelu,
    "RMSNormalization": norms.rms_norm,
    "ReduceMax": means.over_steps("max"),
    "ReduceMean": means.over_steps("mean"),
    "ReduceMin": means.over_steps("min"),
    "ReduceSum": means.over_steps("sum"),
    "Relu": _activation("relu"),
    "Reshape": shapes.reshape,
    "Selu": _activation("selu"),
    "Sigmoid": _activation("sigmoid"),
    "Softmax": _over_last_axis("softmax"),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "Squeeze": lambda call: products.of_vectors(call) or shapes.squeeze(call),
    "Sub": merges.sub,
    "Sum": merges.merge(layers.Add),
    "Swish": _activation("silu", alpha=1.0),
    "Tanh": _activation("tanh"),
    "Transpose": norms.turned_back,
    "Unsqueeze": shapes.unsqueeze,
}
"""By ONNX's operator type, of its own domain."""

CONTRIBUTED: dict[str, Row] = {
    "GatherBlockQuantized": means.embedding,
    "MatMulNBits": quantized.n_bits,
}
"""By operator type, of ONNX Runtime's domain com.microsoft."""
