"""The graph as the table of operators sees it: calls, the calls before them, and constants."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tvmlayers import layers
from tvmlayers.interop.building import Builder, Unsupported
from tvmlayers.interop.codes import Array, Held
from tvmlayers.layers.graph import SymbolicTensor


class Later(Exception):
    """A row needs a tensor that is not there yet: the reader makes it and asks the row again."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Failed(Exception):
    """A tensor is not there because of a problem that is noted already."""


@dataclass(frozen=True)
class Graph:
    """Nodes by what they give, constants by name, and the tensors that are made so far.

    tensors: None for one that cannot be made; sums: the inputs of each Add; readers: how many nodes
    take each; masked: the tables whose rows of index 0 a mean leaves out; kernels: those that
    come in fewer bits, as `held` made them.
    """

    builder: Builder
    nodes: Mapping[str, Any]
    constants: Mapping[str, Array]
    tensors: Mapping[str, SymbolicTensor | None]
    sums: Mapping[str, tuple[str, str]]
    readers: Mapping[str, int]
    masked: set[str] = field(default_factory=set)
    kernels: dict[Hashable, Held] = field(default_factory=dict)

    def held(self, key: Hashable, make: Callable[[], Held]) -> Held:
        """(kind, arrays) of a weight that comes in fewer bits, made once for each key."""
        if key not in self.kernels:
            self.kernels[key] = make()
        return self.kernels[key]


def dtype_of(number: int) -> str:
    """The name of a dtype that ONNX gives a number; Unsupported for another number."""
    from onnx.helper import tensor_dtype_to_np_dtype

    try:
        return str(tensor_dtype_to_np_dtype(number).name)
    except KeyError as error:
        raise Unsupported(f"there is no dtype of the number {number}") from error


class Call:
    """One node: its inputs, its attributes, and how its layers are made.

    A row asks for all tensors that it takes before it makes a layer: it may be asked again.
    """

    def __init__(self, graph: Graph, node: Any) -> None:
        self.graph, self.node = graph, node
        self.kind: str = node.op_type if node.domain in ("", "ai.onnx") else node.domain
        self.inputs: Sequence[str] = node.input

    @property
    def name(self) -> str:
        """What the layer is called that the node becomes."""
        return str(self.node.name or self.node.output[0])

    @cached_property
    def attributes(self) -> dict[str, Any]:
        from onnx.helper import get_attribute_value

        return {a.name: get_attribute_value(a) for a in self.node.attribute}

    def get(self, attribute: str, default: Any) -> Any:
        return self.attributes.get(attribute, default)

    def number(self, attribute: str, default: float, dtype: str) -> float:
        """A float attribute. Of a layer that is no float64, the shortest number that rounds to it:
        0.1 for the float32 nearest to 0.1."""
        value = self.attributes.get(attribute, default)
        return float(value) if dtype == "float64" else float(str(np.float32(value)))

    def casts_to(self) -> str:
        """The dtype of what a Cast gives."""
        return dtype_of(self.get("to", 0))

    def has(self, place: int) -> bool:
        """Whether an input, which may be left out, is there."""
        return place < len(self.inputs) and bool(self.inputs[place])

    def source(self, place: int) -> Call | None:
        """The call that makes an input."""
        return self.call_of(self.inputs[place]) if self.has(place) else None

    def call_of(self, name: str) -> Call | None:
        """The call that makes a tensor; None for constants and inputs of the model."""
        node = self.graph.nodes.get(name)
        is_first = node is not None and node.output[0] == name
        return Call(self.graph, node) if is_first and name not in self.graph.constants else None

    def constant_of(self, name: str) -> Array | None:
        return self.graph.constants.get(name)

    def is_constant(self, place: int) -> bool:
        return self.has(place) and self.inputs[place] in self.graph.constants

    def constant(self, place: int) -> Array:
        """A constant input; Unsupported where it is none."""
        value = self.graph.constants.get(self.inputs[place]) if self.has(place) else None
        if value is None:
            raise Unsupported(f"its input {place} is not a constant")
        return value

    def tensor(self, place: int = 0) -> SymbolicTensor:
        """A tensor input; Unsupported where it is a constant."""
        if not self.has(place) or self.is_constant(place):
            raise Unsupported(f"its input {place} is a constant")
        return self.tensor_of(self.inputs[place])

    def tensor_of(self, name: str) -> SymbolicTensor:
        """The tensor of that name, made before if need be."""
        if name not in self.graph.tensors:
            raise Later(name)
        found = self.graph.tensors[name]
        if found is None:
            raise Failed
        return found

    def tensors(self) -> list[SymbolicTensor]:
        return [self.tensor(place) for place in range(len(self.inputs))]

    def axes(self, rank: int) -> tuple[int, ...]:
        """The axes of a reduction and the like, an attribute of old and an input of new opsets."""
        given = self.get("axes", None)
        if given is None and self.has(1):
            given = self.constant(1).reshape(-1).tolist()
        return tuple(sorted(axis % rank for axis in given or ()))

    def apply(self, kind: Callable[..., layers.Layer], *args: Any) -> SymbolicTensor:
        """A layer without weights on the first input."""
        x = self.tensor()
        made: SymbolicTensor = self.layer(kind, *args)(x)
        return made

    def layer(self, kind: Callable[..., layers.Layer], *args: Any) -> layers.Layer:
        """A layer without weights."""
        return self.graph.builder.layer(object(), self.name, lambda name: kind(*args, name=name))

    def weighted(
        self, kind: str, make: Callable[[str], layers.Layer], *weights: Array
    ) -> layers.Layer:
        """The layer of these weights: initialisers that are used twice are one layer."""
        places = tuple((w.__array_interface__["data"][0], w.shape, w.strides) for w in weights)
        return self.graph.builder.layer((kind, places), self.name, make, weights)
