"""The graph that calling layers on symbolic tensors records."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ref

from tvmlayers.dtypes import numpy_dtype
from tvmlayers.errors import ConfigError

if TYPE_CHECKING:
    from tvmlayers.layers.base import Layer


class Symbol:
    """An axis whose length is known at call time only.

    Axes of different inputs that a layer needs to be equally long are joined into one symbol,
    which compiled code then checks.
    """

    __slots__ = ("_joined", "_name", "base")

    def __init__(self, name: str, base: Symbol | None = None) -> None:
        self._name = name
        self._joined: Symbol | None = None
        self.base = base

    @property
    def root(self) -> Symbol:
        """The symbol that represents all that were joined with this one."""
        return self if self._joined is None else self._joined.root

    @property
    def name(self) -> str:
        return f"{self.base.name}-1" if self.base else self.root._name

    @name.setter
    def name(self, name: str) -> None:
        self.root._name = name

    def less_one(self) -> Symbol:
        """The symbol of an axis that is one shorter: bags whose offsets include the last one."""
        return Symbol("", base=self)

    def join(self, other: Symbol) -> bool:
        """Make both one symbol; False when they cannot be, as the batch axis and another."""
        if self == other:
            return True
        if self.base or other.base or self.root is BATCH or other.root is BATCH:
            return False
        other.root._joined = self.root
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Symbol) and self._key == other._key

    def __hash__(self) -> int:
        # Joining changes what a symbol equals, so nothing may depend on a finer hash.
        return hash(Symbol)

    @property
    def _key(self) -> tuple[int, bool]:
        return (id(self.base.root), True) if self.base else (id(self.root), False)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self is BATCH:  # there is one, for copies as well
            return "BATCH"
        if self._joined is not None:
            return _itself, (self.root,)
        return Symbol, (self._name, self.base)


def _itself(symbol: Symbol) -> Symbol:
    return symbol


BATCH = Symbol("n")

Dim: TypeAlias = int | Symbol
Shape: TypeAlias = tuple[int | None, ...]


def same_length(left: Dim, right: Dim) -> bool:
    """Whether two axes are equally long, which free ones are from now on."""
    if isinstance(left, Symbol) and isinstance(right, Symbol):
        return left.join(right)
    return left == right


class SymbolicTensor:
    """A tensor without data: an `Input`, or what a layer makes of other symbolic tensors."""

    def __init__(
        self,
        axes: tuple[Dim, ...],
        dtype: str | None,
        name: str | None = None,
        node: Node | None = None,
        mask_of: SymbolicTensor | None = None,
    ) -> None:
        self.axes = axes
        self.node = node
        self.mask_of = mask_of
        self.auto_named = name is None
        self.stem = "input"
        self.name = name or self.stem
        self._dtype = dtype

    @property
    def shape(self) -> Shape:
        """The length of each axis, None where it is free; the batch comes first."""
        return tuple(None if isinstance(axis, Symbol) else axis for axis in self.axes)

    @property
    def dims(self) -> tuple[int | str, ...]:
        """As shape, with the free axes named: "n" is the batch, "n1", "n2" are others."""
        return tuple(axis.name if isinstance(axis, Symbol) else axis for axis in self.axes)

    @property
    def rank(self) -> int:
        return len(self.axes)

    @property
    def dtype(self) -> str:
        return self._dtype or "float32"

    def settle_dtype(self, dtype: str) -> str:
        """The tensor's dtype; an Input made without one takes the dtype of its first use."""
        if self._dtype is None:
            self._dtype = dtype
        return self._dtype

    @property
    def elements(self) -> int:
        """How many elements one sample has, free axes counted as 1."""
        return prod(axis for axis in self.axes if isinstance(axis, int))

    @property
    def nbytes(self) -> int:
        """The bytes of those elements."""
        return self.elements * numpy_dtype(self.dtype).itemsize

    def __getstate__(self) -> dict[str, Any]:
        if self.node is not None:
            raise ConfigError(
                f"{self.name!r} is the output of a layer and is copied or pickled with its model; "
                "make a tl.Model that ends in it"
            )
        return self.__dict__

    def __repr__(self) -> str:
        return f"<SymbolicTensor {self.name!r} {self.shape} {self.dtype}>"


@dataclass(eq=False)
class Node:
    """One use of a layer. A layer that is used twice has two nodes and one set of weights."""

    layer: Layer
    inputs: tuple[SymbolicTensor, ...]
    roles: tuple[str, ...]
    _output: ref[SymbolicTensor] = field(init=False)

    @property
    def output(self) -> SymbolicTensor:
        """The tensor that it makes, which is there as long as a model or another node has it.

        It knows its node. Were it held from here, the weights of a model without other references
        would wait for the garbage collector.
        """
        tensor = self._output()
        assert tensor is not None
        return tensor

    @output.setter
    def output(self, tensor: SymbolicTensor) -> None:
        self._output = ref(tensor)

    def __repr__(self) -> str:
        return f"<Node {self.layer.name!r} {[t.shape for t in self.inputs]}>"


@dataclass(frozen=True, eq=False)
class Graph:
    """What a model computes: nodes in topological order, layers in Keras's order."""

    inputs: list[SymbolicTensor]
    outputs: list[SymbolicTensor]
    nodes: list[Node]
    layers: list[Layer]


def graph_of(inputs: list[SymbolicTensor], outputs: list[SymbolicTensor]) -> Graph:
    """The checked Graph between inputs and outputs; ConfigError where they are not connected."""
    _check_ends(inputs, outputs)
    nodes, found = _sorted_nodes(outputs)
    known = set(map(id, inputs))
    for node in nodes:
        for tensor in node.inputs:
            if tensor.node is None and id(tensor) not in known:
                raise ConfigError(
                    f"the outputs also depend on Input {tensor.name!r} {tensor.shape}; "
                    "add it to the model's inputs"
                )
    return Graph(inputs, outputs, nodes, _sorted_layers(nodes, found))


FlatGraph: TypeAlias = tuple[
    list[SymbolicTensor], list[tuple["Layer", list[int], tuple[str, ...]]], list[int]
]
"""Inputs; layer, numbers of the inputs and roles for each node; numbers of the outputs. Tensors are
numbered: the inputs first, then what each node makes."""


def flat(graph: Graph) -> FlatGraph:
    """The graph as lists, which are copied and pickled however deep it is."""
    tensors = [*graph.inputs, *(node.output for node in graph.nodes)]
    number = {id(tensor): place for place, tensor in enumerate(tensors)}
    nodes = [
        (node.layer, [number[id(tensor)] for tensor in node.inputs], node.roles)
        for node in graph.nodes
    ]
    return graph.inputs, nodes, [number[id(tensor)] for tensor in graph.outputs]


def unflat(lists: FlatGraph) -> Graph:
    """The graph that `flat` gave the lists of."""
    inputs, nodes, outputs = lists
    tensors = list(inputs)
    for layer, taken, roles in nodes:
        tensors.append(layer.replay(tuple(tensors[place] for place in taken), roles))
    return graph_of(inputs, [tensors[place] for place in outputs])


def _check_ends(inputs: list[SymbolicTensor], outputs: list[SymbolicTensor]) -> None:
    if not inputs or not outputs:
        raise ConfigError("a model needs at least one input and one output")
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            if not isinstance(tensor, SymbolicTensor):
                raise ConfigError(
                    f"a model's {kind}s are symbolic tensors, got {type(tensor).__name__}; "
                    "begin with tl.Input(shape=...)"
                )
        if len(set(map(id, tensors))) != len(tensors):
            raise ConfigError(f"the same tensor is twice among the model's {kind}s")
    for tensor in inputs:
        if tensor.node is not None:
            raise ConfigError(
                f"{tensor.name!r} is the output of a layer; a model's inputs come from tl.Input"
            )
    for tensor in outputs:
        if tensor.node is None:
            raise ConfigError(f"output {tensor.name!r} is an Input that no layer has touched")


def _sorted_nodes(outputs: list[SymbolicTensor]) -> tuple[list[Node], dict[int, int]]:
    """Nodes in topological order, and for each layer's id when the search first met it."""
    nodes: list[Node] = []
    done: set[int] = set()
    found: dict[int, int] = {}
    for output in outputs:
        assert output.node is not None
        # A stack of its own: a model may be deeper than Python's recursion limit.
        stack = [(output.node, False)]
        while stack:
            node, inputs_done = stack.pop()
            if id(node) in done:
                continue
            if inputs_done:
                done.add(id(node))
                nodes.append(node)
                continue
            found.setdefault(id(node.layer), len(found))
            stack.append((node, True))
            stack.extend((t.node, False) for t in reversed(node.inputs) if t.node is not None)
    return nodes, found


def _sorted_layers(nodes: list[Node], found: dict[int, int]) -> list[Layer]:
    """Layers as Keras orders them: deepest (furthest from the outputs) first, then as found."""
    node_depth: dict[int, int] = {}
    depth_of: dict[int, int] = {}
    layers: dict[int, Layer] = {}
    for node in reversed(nodes):
        key = id(node.layer)
        depth = max(node_depth.get(id(node), 0), depth_of.get(key, 0))
        layers[key] = node.layer
        depth_of[key] = node_depth[id(node)] = depth
        for tensor in node.inputs:
            if tensor.node is not None:
                earlier = node_depth.get(id(tensor.node), 0)
                node_depth[id(tensor.node)] = max(depth + 1, earlier)
    return sorted(layers.values(), key=lambda layer: (-depth_of[id(layer)], found[id(layer)]))


def leading_axes(graph: Graph) -> int:
    """How many first axes of every input and output may be replaced by any number of axes.

    They are of free length, the same for all inputs, and no layer works along one. 0 where there
    are none.
    """
    most = graph.inputs[0].rank
    for node in graph.nodes:
        own = node.layer.row_axes()
        if own is None:
            return 0
        most = min(most, _shared_axes(node), *(tensor.rank - own for tensor in node.inputs))
    for place, axis in enumerate(graph.inputs[0].axes[:most]):
        shared = [tensor.axes[place : place + 1] == (axis,) for tensor in graph.inputs]
        if not isinstance(axis, Symbol) or not all(shared):
            return place
    return most


def _shared_axes(node: Node) -> int:
    """How many first axes all inputs of a node have alike; of other ranks, the batch alone."""
    first = node.inputs[0]
    if any(tensor.rank != first.rank for tensor in node.inputs):
        return 1
    shared = (len(set(axes)) == 1 for axes in zip(*(t.axes for t in node.inputs), strict=True))
    return sum(1 for _ in takewhile(bool, shared))
