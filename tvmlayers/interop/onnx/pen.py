"""What writes an ONNX graph: nodes and constants, at one use of a layer after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tvmlayers.dtypes import numpy_dtype
from tvmlayers.interop.exporting import Row, Use
from tvmlayers.layers.base import Array
from tvmlayers.layers.names import free_name

OPSET = 20  # of October 2023, and what weights in fewer bits need beyond it


class Writer:
    """Nodes and initialisers. A value of the graph is its name."""

    def __init__(self, inputs: Sequence[str], layers: Sequence[str]) -> None:
        """The names of the model's inputs and layers."""
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.opset = OPSET
        self._values, self._names, self._kept = set(inputs), set(layers), set(layers)
        self._shared: dict[str, str] = {}

    def bound(self, row: Callable[[Pen], str]) -> Row[str]:
        """A row of the table that writes here."""
        return lambda use: row(Pen(self, use))

    def constant(self, name: str, array: Array) -> str:
        """An initialiser of that name, which is written once."""
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.array(array, order="C"), name)
            self._values.add(name)
        return name

    def shared(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """What a node of constants alone gives, which is written once."""
        if name not in self._shared:
            self._shared[name] = self.node(kind, inputs, name, **attributes)
        return self._shared[name]

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """What a node gives. The name is a layer's own at its first use only."""
        from onnx import helper

        label = name if name in self._kept else free_name(name, self._names)
        made = free_name(name, self._values)
        self._kept.discard(name)
        self._names.add(label)
        self._values.add(made)
        self.nodes.append(helper.make_node(kind, list(inputs), [made], name=label, **attributes))
        return made


class Pen:
    """A Writer at one use of a layer."""

    def __init__(self, writer: Writer, use: Use[str]) -> None:
        self._writer, self.use = writer, use
        self.layer, self.tensors, self.x = use.layer, use.tensors, use.first
        self.dtype = use.node.output.dtype

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """What an operator on the way to the result gives."""
        name = f"{self.layer.name}.{kind.lower()}"
        return self._writer.node(kind, inputs, name, **attributes)

    def end(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """What the operator gives that has the layer's name, by which an import calls the layer."""
        return self._writer.node(kind, inputs, self.layer.name, **attributes)

    def weight(self, name: str, array: Array | None = None) -> str:
        """A weight of the layer, or this form of it."""
        found = self.layer.weights[name] if array is None else array
        return self._writer.constant(f"{self.layer.name}/{name}", found)

    def made(
        self, kind: str, weight: str, *more: str, opset: int = OPSET, **attributes: Any
    ) -> str:
        """What an operator makes of weights of the layer, once for all of its uses.

        opset: the first that has it so.
        """
        self._writer.opset = max(self._writer.opset, opset)
        name = f"{weight}.{kind.lower()}"
        return self._writer.shared(kind, [weight, *more], name, **attributes)

    def number(self, value: float) -> str:
        """A scalar in the dtype of the result."""
        return self._writer.constant(
            f"{value!r}:{self.dtype}", np.array(value, numpy_dtype(self.dtype))
        )

    def ints(self, *values: int) -> str:
        """A vector of integers, as axes and shapes are."""
        name = f"[{', '.join(map(str, values))}]"
        return self._writer.constant(name, np.array(values, np.int64))

    def scalar(self, value: int, dtype: str) -> str:
        """An index."""
        return self._writer.constant(f"{value}:{dtype}", np.array(value, dtype))

    def holds(self, number: float) -> bool:
        """Whether an attribute holds a number as exactly as the layer's dtype does."""
        return self.dtype != "float64" or float(np.float32(number)) == number
