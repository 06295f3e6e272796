"""Rewrites of the graph before it becomes kernels: two layers that one kernel does better."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvmlayers import layers
from tvmlayers.layers.graph import Graph, SymbolicTensor


@dataclass(frozen=True, eq=False)
class PooledLookup:
    """An Embedding whose only reader averages it over time: one pass, no gathered rows in between.

    masked: index 0 does not count, as mask_zero has it. A sequence in which nothing counts gives
    0 / 0, as the two layers would.
    """

    embedding: layers.Embedding
    masked: bool
    has_weights: bool = True
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


AnyLayer = layers.Layer | PooledLookup


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel to be, or one view: a layer on tensors of the graph."""

    layer: AnyLayer
    inputs: tuple[SymbolicTensor, ...]
    roles: tuple[str, ...]
    output: SymbolicTensor


def fused_steps(graph: Graph) -> list[Step]:
    """The nodes of `graph` in order, with lookups that are only averaged joined to their mean."""
    readers: dict[int, int] = {id(tensor): 1 for tensor in graph.outputs}
    for node in graph.nodes:
        for tensor in node.inputs:
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    steps: list[Step] = []
    joined: set[int] = set()
    for node in graph.nodes:
        source = node.inputs[0]
        if (
            isinstance(node.layer, layers.GlobalAveragePooling1D)
            and source.node is not None
            and isinstance(source.node.layer, layers.Embedding)
            and readers[id(source)] == 1
        ):
            pooled = PooledLookup(source.node.layer, masked=source.mask_of is not None)
            joined.add(id(source.node))
            steps.append(Step(pooled, source.node.inputs, ("indices",), node.output))
        else:
            steps.append(Step(node.layer, node.inputs, node.roles, node.output))
    dropped = {id(node.output) for node in graph.nodes if id(node) in joined}
    return [step for step in steps if id(step.output) not in dropped]
