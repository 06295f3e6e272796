"""One node of an ONNX graph as the table of operators sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvmlayers import layers
from tvmlayers.errors import ModelImportError
from tvmlayers.interop.building import Builder, Unsupported
from tvmlayers.layers.graph import SymbolicTensor

Array = NDArray[Any]
Value: TypeAlias = SymbolicTensor | Array | None
"""What a name of the graph stands for: a tensor, a constant, or nothing after a problem."""

LARGEST = 2**40  # elements that an initialiser may claim


@dataclass(frozen=True)
class Call:
    """One node: its inputs' values, its attributes, and how its layers are made."""

    builder: Builder
    name: str
    values: list[Value]
    names: list[str]
    attributes: dict[str, Any]
    known: dict[str, tuple[str, list[Value]]]

    def tensor(self, place: int = 0) -> SymbolicTensor:
        value = self.values[place]
        if not isinstance(value, SymbolicTensor):
            raise Unsupported(f"its input {place} is a constant")
        return value

    def constant(self, place: int) -> Array:
        value = self.values[place] if place < len(self.values) else None
        if not isinstance(value, np.ndarray):
            raise Unsupported(f"its input {place} is not a constant")
        return value

    def get(self, attribute: str, default: Any) -> Any:
        return self.attributes.get(attribute, default)

    def apply(self, kind: Callable[..., layers.Layer], *args: Any) -> SymbolicTensor:
        """A layer without weights on the first input."""
        made: SymbolicTensor = self.layer(kind, *args)(self.tensor())
        return made

    def layer(self, kind: Callable[..., layers.Layer], *args: Any) -> layers.Layer:
        return self.builder.layer(object(), self.name, lambda name: kind(*args, name=name))

    def weighted(
        self, kind: str, make: Callable[[str], layers.Layer], *weights: Array
    ) -> layers.Layer:
        """The layer of these weights: initialisers that are used twice are one layer."""
        places = tuple((w.__array_interface__["data"][0], w.shape, w.strides) for w in weights)
        return self.builder.layer((kind, places), self.name, make, weights)


def array_of(tensor: Any) -> Array:
    """The numbers of an initialiser; ModelImportError where they are fewer than its shape says."""
    from onnx import TensorProto, numpy_helper

    if any(size < 0 for size in tensor.dims) or np.prod(tensor.dims, dtype=float) > LARGEST:
        raise ModelImportError(
            f"the initialiser {tensor.name!r} claims a shape {list(tensor.dims)}"
        )
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelImportError(
            f"the initialiser {tensor.name!r} is in another file: pass the path of the model"
        )
    try:
        array: Array = numpy_helper.to_array(tensor)
    except (TypeError, ValueError) as error:
        raise ModelImportError(f"the initialiser {tensor.name!r} is damaged: {error}") from error
    return array
