"""Rows of the table for operators element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tvmlayers import layers
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.onnx.calls import Call, Value
from tvmlayers.layers.graph import SymbolicTensor


def merged(call: Call, kind: Callable[..., layers.Layer], scale: float | None) -> Value:
    """A merge of two tensors; with a constant, x * scale + constant, or x * constant."""
    if all(isinstance(value, SymbolicTensor) for value in call.values):
        return merge(kind)(call)
    at = 0 if isinstance(call.values[0], SymbolicTensor) else 1
    constant = call.constant(1 - at)
    return rescaled(call, at, *((constant, 0.0) if scale is None else (scale, constant)))


def sub(call: Call) -> Value:
    """A difference of two tensors, or of a tensor and a constant."""
    if all(isinstance(value, SymbolicTensor) for value in call.values):
        return merge(layers.Subtract)(call)
    if isinstance(call.values[0], SymbolicTensor):
        return rescaled(call, 0, 1.0, -np.asarray(call.constant(1), np.float64))
    return rescaled(call, 1, -1.0, call.constant(0))


def div(call: Call) -> Value:
    """A tensor over a constant."""
    return rescaled(call, 0, 1.0 / np.asarray(call.constant(1), np.float64), 0.0)


def merge(kind: Callable[..., layers.Layer]) -> Callable[[Call], Value]:
    """The row of an operator on tensors of one rank and one batch."""

    def row(call: Call) -> Value:
        tensors = [call.tensor(place) for place in range(len(call.values))]
        if len({(tensor.rank, tensor.axes[:1]) for tensor in tensors}) != 1:
            raise Unsupported("only tensors of one rank and one batch are there")
        if len(tensors) == 1:
            return tensors[0]
        return call.layer(kind)(tensors)  # type: ignore[no-any-return]

    return row


def rescaled(call: Call, place: int, scale: Any, offset: Any) -> Value:
    """x * scale + offset; a constant of as many axes as x has 1 for the batch."""
    x = call.tensor(place)

    def numbers(value: Any) -> Any:
        array = np.asarray(value, np.float64)
        if array.ndim == x.rank and array.shape[0] == 1:
            array = array.reshape(array.shape[1:])
        return array if array.ndim else float(array)

    return call.layer(layers.Rescaling, numbers(scale), numbers(offset))(x)  # type: ignore
