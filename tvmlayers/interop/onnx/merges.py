"""Rows of the table for operators element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tvmlayers import layers
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.onnx.calls import Call
from tvmlayers.interop.onnx.patterns import scalar, with_constant
from tvmlayers.layers.graph import SymbolicTensor


def add(call: Call) -> SymbolicTensor:
    """A sum of tensors; with a constant, x * scale + constant."""
    if (pair := with_constant(call)) is None:
        return merge(layers.Add)(call)
    x, offset = pair
    product = call.call_of(x)
    if product is not None and product.kind == "Mul" and (inner := with_constant(product)):
        source, scale = inner
        if call.tensor_of(source).shape == call.tensor_of(x).shape:
            return rescaled(call, source, scale, offset)
    return rescaled(call, x, 1.0, offset)


def mul(call: Call) -> SymbolicTensor:
    """A product of tensors, or with a constant."""
    pair = with_constant(call)
    return merge(layers.Multiply)(call) if pair is None else rescaled(call, *pair, 0.0)


def sub(call: Call) -> SymbolicTensor:
    """A difference of two tensors, or of a tensor and a constant."""
    if (pair := with_constant(call)) is None:
        return merge(layers.Subtract)(call)
    x, constant = pair
    if call.is_constant(1):
        return rescaled(call, x, 1.0, -np.asarray(constant, np.float64))
    return rescaled(call, x, -1.0, constant)


def div(call: Call) -> SymbolicTensor:
    """A tensor over a constant."""
    below = np.asarray(call.constant(1), np.float64)
    return rescaled(call, call.inputs[0], 1.0 / below, 0.0)


def most(call: Call) -> SymbolicTensor:
    """The largest of tensors; of x and a share of it, LeakyReLU."""
    return _leaky(call, layers.Maximum, lambda slope: slope <= 1)


def least(call: Call) -> SymbolicTensor:
    """The smallest of tensors; of x and a multiple of it, LeakyReLU."""
    return _leaky(call, layers.Minimum, lambda slope: slope >= 1)


def _leaky(
    call: Call, kind: Callable[..., layers.Layer], fits: Callable[[float], bool]
) -> SymbolicTensor:
    if len(call.inputs) == 2:
        for x, other in (call.inputs, reversed(call.inputs)):
            product = call.call_of(other)
            pair = with_constant(product) if product is not None else None
            if product is None or product.kind != "Mul" or pair is None or pair[0] != x:
                continue
            slope = next((s for n in product.inputs if (s := scalar(call, n)) is not None), None)
            if slope is not None and fits(slope):
                tensor = call.tensor_of(x)
                return leaky(call, slope)(tensor)  # type: ignore[no-any-return]
    return merge(kind)(call)


def leaky(call: Call, slope: float) -> layers.Layer:
    """LeakyReLU, or the activation of Keras's slope."""
    if slope == 0.2:
        return call.layer(layers.Activation, "leaky_relu")
    return call.layer(layers.LeakyReLU, slope)


def merge(kind: Callable[..., layers.Layer]) -> Callable[[Call], SymbolicTensor]:
    """The row of an operator on tensors of one rank and one batch."""

    def row(call: Call) -> SymbolicTensor:
        tensors = call.tensors()
        if len({(tensor.rank, tensor.axes[:1]) for tensor in tensors}) != 1:
            raise Unsupported("only tensors of one rank and one batch are there")
        if len(tensors) == 1:
            return tensors[0]
        return call.layer(kind)(tensors)  # type: ignore[no-any-return]

    return row


def rescaled(call: Call, name: str, scale: Any, offset: Any) -> SymbolicTensor:
    """x * scale + offset; a constant of as many axes as x has 1 for the batch."""
    x = call.tensor_of(name)

    def numbers(value: Any) -> Any:
        array = np.asarray(value, np.float64)
        if array.ndim == x.rank and array.shape[0] == 1:
            array = array.reshape(array.shape[1:])
        return array if array.ndim else float(array)

    return call.layer(layers.Rescaling, numbers(scale), numbers(offset))(x)  # type: ignore
