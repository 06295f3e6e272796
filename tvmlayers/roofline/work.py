"""What a call of each layer does: operations, and bytes moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvmlayers import layers
from tvmlayers.codegen.cpu import is_view
from tvmlayers.codegen.entries import root
from tvmlayers.codegen.fuse import PooledLookup, Step, fused_steps
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.layers import Model
from tvmlayers.layers.graph import BATCH, Dim, Graph, Node, Symbol, SymbolicTensor


@dataclass(frozen=True)
class Work:
    """One call of a layer, or of two that are compiled into one.

    flops: floating point operations; moved: bytes of inputs, results and the weights that are read;
    held: bytes of inputs, results and all weights, which tells from which cache they come.
    """

    name: str
    kind: str
    dtype: str
    flops: int
    moved: int
    held: int
    step: Step


class Sizes:
    """The lengths of a graph's free axes in one call.

    batch: of the batch axis, or the number of bags where indices have none; length: of all others,
    or the indices of each bag.
    """

    def __init__(self, graph: Graph, batch: int, length: int) -> None:
        self._batch, self._length = batch, length
        self._known: list[tuple[Dim, int]] = [(BATCH, batch)]
        for node in graph.nodes:
            offsets = _of_role(node, "offsets")
            if offsets is not None and isinstance(node.layer, layers.EmbeddingBag):
                ends = batch + node.layer.include_last_offset
                self._known.append((offsets.axes[0], ends))
                self._known.append((node.inputs[0].axes[0], batch * length))

    def shape(self, tensor: SymbolicTensor) -> tuple[int, ...]:
        """The shape of a tensor in this call."""
        return tuple(map(self._extent, tensor.axes))

    def sized(self, tensor: SymbolicTensor) -> SymbolicTensor:
        """A tensor whose axes are all numbers, of which a layer can count the whole."""
        return SymbolicTensor(self.shape(tensor), tensor.dtype, tensor.name)

    def _extent(self, axis: Dim) -> int:
        if not isinstance(axis, Symbol):
            return axis
        if axis.base is not None:
            return self._extent(axis.base) - 1
        return next((size for known, size in self._known if known == axis), self._length)


def works(model: Model, sizes: Sizes) -> list[Work]:
    """The Work of each layer of a model in the order of calls; views do none."""
    model.name_parts()
    steps = [step for step in fused_steps(model.graph) if not is_view(step.layer)]
    return [_work(step, sizes) for step in steps]


def nodes_of(step: Step) -> list[Node]:
    """The nodes that became one step, in order."""
    nodes = [_node(step.output)]
    while nodes[0].inputs is not step.inputs:
        nodes.insert(0, _node(nodes[0].inputs[0]))
    return nodes


def draw(model: Model, sizes: Sizes, rng: np.random.Generator) -> list[NDArray[np.generic]]:
    """An array for each input of a model: normal numbers, indices of any row, equal bags."""
    steps = fused_steps(model.graph)
    return [_drawn(tensor, steps, sizes, rng) for tensor in model.inputs]


def _work(step: Step, sizes: Sizes) -> Work:
    nodes = nodes_of(step)
    flops, read, kept = 0, 0, 0
    for node in nodes:
        inputs = tuple(map(sizes.sized, node.inputs))
        flops += node.layer.flops(inputs, sizes.sized(node.output))
        all_weights = node.layer.kept_bytes()
        # Rows of a table that come again are counted again, up to the whole table.
        read += min(node.layer.weight_bytes(inputs), all_weights)
        kept += all_weights
    values = sum(sizes.sized(tensor).nbytes for tensor in {*step.inputs, step.output})
    return Work(
        " + ".join(node.output.name for node in nodes),
        " + ".join(node.layer.kind for node in nodes),
        step.output.dtype,
        flops,
        values + read,
        values + kept,
        step,
    )


def _node(tensor: SymbolicTensor) -> Node:
    assert tensor.node is not None, "a step's output is made by a layer"
    return tensor.node


def _of_role(node: Node, role: str) -> SymbolicTensor | None:
    pairs = zip(node.inputs, node.roles, strict=True)
    return next((tensor for tensor, own in pairs if own == role), None)


def _drawn(
    tensor: SymbolicTensor, steps: Sequence[Step], sizes: Sizes, rng: np.random.Generator
) -> NDArray[np.generic]:
    shape = sizes.shape(tensor)
    readers = list(_readers(tensor, steps))
    for step, role in readers:
        if role == "offsets":
            (total,) = sizes.shape(step.inputs[0])
            (bags,) = sizes.shape(step.output)[:1]
            ends = np.arange(shape[0]) * total // max(bags, 1)
            return ends.astype(tensor.dtype)
    if not tensor.dtype.startswith(("int", "uint")):
        return rng.standard_normal(shape).astype(numpy_dtype(tensor.dtype))
    return rng.integers(0, min(map(_rows, readers), default=1), shape).astype(tensor.dtype)


def _readers(tensor: SymbolicTensor, steps: Sequence[Step]) -> Iterator[tuple[Step, str]]:
    """The steps that read a tensor, or a view of it, and the role that it has there."""
    for step in steps:
        for given, role in zip(step.inputs, step.roles, strict=True):
            if root(given) is tensor:
                yield step, role


def _rows(reader: tuple[Step, str]) -> int:
    """How many rows may be asked for."""
    layer = reader[0].layer
    table = layer.embedding if isinstance(layer, PooledLookup) else layer
    return int(getattr(table, "input_dim", 1))
