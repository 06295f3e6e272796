"""Rewrites of the graph before it becomes kernels: two layers that one kernel does better."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from tvmlayers import layers
from tvmlayers.layers.graph import Graph, Node, SymbolicTensor
from tvmlayers.layers.merge import Merge
from tvmlayers.layers.normalization import RowNormalization
from tvmlayers.operations import operation_of


@dataclass(frozen=True, eq=False)
class PooledLookup:
    """An Embedding whose only reader averages it over time: one pass, no gathered rows in between.

    masked: index 0 does not count, as mask_zero has it. A sequence in which nothing counts gives
    0 / 0, as the two layers would.
    """

    embedding: layers.Embedding
    masked: bool
    fits_any_shape: bool = True
    is_view: bool = False

    @property
    def name(self) -> str:
        """The name of the embedding, which owns the table."""
        return self.embedding.name

    @property
    def weights(self) -> Mapping[str, Any]:
        """The embedding's table."""
        return self.embedding.weights

    def describe(self) -> str:
        """How error messages call it."""
        return self.embedding.describe()


@dataclass(frozen=True, eq=False)
class NormalizedMerge:
    """A merge of tensors of one shape that only a normalisation of its rows reads: one pass."""

    merge: Merge
    normalization: RowNormalization
    fits_any_shape: bool = False
    is_view: bool = False

    @property
    def name(self) -> str:
        """The name of the normalisation, which owns the weights."""
        return self.normalization.name

    def describe(self) -> str:
        """How error messages call it."""
        return self.normalization.describe()


AnyLayer = layers.Layer | PooledLookup | NormalizedMerge


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel to be, or one view: a layer on tensors of the graph."""

    layer: AnyLayer
    inputs: tuple[SymbolicTensor, ...]
    roles: tuple[str, ...]
    output: SymbolicTensor


def fused_steps(graph: Graph, *, joins_merges: bool = True) -> list[Step]:
    """The nodes of `graph` in order, those joined that one kernel does better.

    joins_merges: whether a merge becomes a part of the normalisation after it.
    ConfigError where a layer is of no class that can be compiled.
    """
    readers: dict[int, int] = {id(tensor): 1 for tensor in graph.outputs}
    for node in graph.nodes:
        operation_of(node.layer)
        for tensor in node.inputs:
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    steps: list[Step] = []
    joined: set[int] = set()
    for node in graph.nodes:
        before = node.inputs[0].node
        made = None if before is None or readers[id(before.output)] != 1 else _joined(before, node)
        made = made if joins_merges or not isinstance(made, NormalizedMerge) else None
        if before is None or made is None:
            steps.append(Step(node.layer, node.inputs, node.roles, node.output))
        else:
            joined.add(id(before.output))
            steps.append(Step(made, before.inputs, before.roles, node.output))
    return [step for step in steps if id(step.output) not in joined]


def _joined(before: Node, node: Node) -> AnyLayer | None:
    """The layer that replaces two nodes, the second the only reader of the first."""
    first, second = before.layer, node.layer
    if isinstance(second, layers.GlobalAveragePooling1D) and isinstance(first, layers.Embedding):
        return PooledLookup(first, masked=before.output.mask_of is not None)
    if isinstance(second, layers.Activation) and isinstance(first, layers.Dense):
        has_none, has_one_dtype = first.activation == "linear", before.output.dtype == second.dtype
        return _activated(first, second) if has_none and has_one_dtype else None
    if isinstance(second, RowNormalization) and isinstance(first, Merge):
        has_one_shape = all(tensor.axes == before.output.axes for tensor in before.inputs)
        has_one_dtype = before.output.dtype == node.output.dtype
        return NormalizedMerge(first, second) if has_one_shape and has_one_dtype else None
    return None


def _activated(dense: layers.Dense, activation: layers.Activation) -> layers.Dense:
    """A Dense of the same name and weights with the activation after it as its own."""
    made = copy(dense)
    made.activation = activation.activation
    return made
