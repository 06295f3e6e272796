"""Batch normalisations that become a part of the Dense before or after them.

All of these are affine, and two in a row are one, whose weights are computed in float64 and rounded
once.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tvmlayers.dtypes import is_half
from tvmlayers.layers import BatchNormalization, Dense, Layer, Model
from tvmlayers.layers.graph import Graph, Node, SymbolicTensor

_MOST_DEVIATIONS = 8.0
"""How far from 0 a mean may be where a Dense follows: folded, x is multiplied before its mean is
taken away, which costs log2 of as many bits."""

Array = NDArray[np.float64]


def folded(model: Model, *, halves: bool) -> Model:
    """The model without those batch normalisations that a Dense takes in, or the model itself.

    halves: whether those of bfloat16 and float16 are too, though what comes out is rounded again.
    """
    graph = model.ready().graph
    if not any(type(layer) is BatchNormalization for layer in graph.layers):
        return model
    folding = _Folding(graph, halves)
    made = {id(tensor): tensor for tensor in graph.inputs}
    for node in graph.nodes:
        made[id(node.output)] = folding.output(node, [made[id(tensor)] for tensor in node.inputs])
    if not folding.is_smaller:
        return model
    return Model(graph.inputs, [made[id(tensor)] for tensor in graph.outputs], name=model.name)


class _Folding:
    """A graph on its way to one of fewer nodes."""

    def __init__(self, graph: Graph, halves: bool) -> None:
        self.is_smaller, self.halves = False, halves
        self.shared = _twice(node.layer for node in graph.nodes)
        read = [tensor for node in graph.nodes for tensor in node.inputs]
        self.kept = _twice([*graph.outputs, *read])

    def output(self, node: Node, inputs: list[SymbolicTensor]) -> SymbolicTensor:
        """What replaces a node's output in the new graph, made of the new inputs."""
        before = inputs[0].node
        layer = None
        if before is not None and id(node.inputs[0]) not in self.kept:
            layer = self._joined(before.layer, node.layer)
        if layer is None or before is None:
            return node.layer.replay(tuple(inputs), node.roles)
        self.is_smaller = True
        return layer.replay(before.inputs, before.roles)

    def _joined(self, first: Layer, second: Layer) -> Dense | None:
        """The Dense that does what two layers in a row do; None where none is as accurate.

        A kernel in fewer bits stays as it is: folded, it would have to be rounded again.
        """
        if {id(first), id(second)} & self.shared or first.dtype != second.dtype:
            return None
        if is_half(first.dtype) and not self.halves:
            return None
        if type(first) is Dense and type(second) is BatchNormalization:
            if first.activation != "linear" or second.axes_after or first.is_quantized:
                return None
            kernel, bias = _weights(first)
            factor, shift = _affine(second)
            return _changed(first, kernel * factor, bias * factor + shift)
        if type(first) is BatchNormalization and type(second) is Dense:
            if first.axes_after or not _is_near_zero(first) or second.is_quantized:
                return None
            kernel, bias = _weights(second)
            factor, shift = _affine(first)
            return _changed(second, factor[:, None] * kernel, bias + shift @ kernel)
        return None


def _twice(things: Iterable[object]) -> set[int]:
    """The ids of what is there more than once."""
    return {each for each, count in Counter(map(id, things)).items() if count > 1}


def _weights(dense: Dense) -> tuple[Array, Array]:
    """Kernel and bias, which may be 0, in float64."""
    kernel = dense.weights["kernel"].astype(np.float64)
    bias = dense.weights["bias"] if dense.use_bias else np.zeros(dense.units)
    return kernel, bias.astype(np.float64)


def _affine(norm: BatchNormalization) -> tuple[Array, Array]:
    """(factor, shift) of x * factor + shift, which is the normalisation, in float64."""
    factor = norm.factor()
    beta = norm.weights["beta"].astype(np.float64) if norm.center else 0.0
    with np.errstate(all="ignore"):
        return factor, beta - norm.weights["moving_mean"].astype(np.float64) * factor


def _is_near_zero(norm: BatchNormalization) -> bool:
    """Whether no mean is further from 0 than so many standard deviations."""
    mean, variance = norm.weights["moving_mean"], norm.weights["moving_variance"]
    most = _MOST_DEVIATIONS**2 * (variance.astype(np.float64) + norm.epsilon)
    return bool(np.all(mean.astype(np.float64) ** 2 <= most))


def _changed(dense: Dense, kernel: Array, bias: Array) -> Dense | None:
    """A Dense as the given one with other weights; None where one of them is no number."""
    made = Dense(
        dense.units, dense.activation, input_dim=len(kernel), dtype=dense.dtype, name=dense.name
    )
    made.auto_named = dense.auto_named
    with np.errstate(all="ignore"):
        made.set_weights([kernel, bias])
    is_finite = all(np.isfinite(weight.astype(np.float64)).all() for weight in made.get_weights())
    return made if is_finite else None
