"""The packed weights of a model and their places in its arena."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact.arena import ALIGNMENT as ALIGNMENT
from tvmlayers.artifact.arena import allocate_arena, view
from tvmlayers.dtypes import numpy_dtype


@dataclass(frozen=True)
class Packed:
    """A weight as it will lie in the arena.

    write: puts it into zeroed memory of that shape; layout: what `panels` says of it.
    """

    shape: tuple[int, ...]
    dtype: str
    write: Callable[[NDArray[Any]], object]
    layout: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes it takes up."""
        return self.size * numpy_dtype(self.dtype).itemsize


class ArenaPlan:
    """Weights by name, each at a multiple of ALIGNMENT in one block of memory.

    Nothing is packed before the block is there: a weight exists once more, packed, and never twice.
    """

    def __init__(self) -> None:
        self._weights: dict[str, Packed] = {}
        self.offsets: dict[str, int] = {}
        self.nbytes = 0

    def add(self, name: str, weight: Packed) -> str:
        """Take `weight` in under `name` unless it is there already; gives the name back."""
        if name not in self._weights:
            self._weights[name] = weight
            self.offsets[name] = self.nbytes
            self.nbytes += -(-weight.nbytes // ALIGNMENT) * ALIGNMENT
        return name

    def add_as_is(self, name: str, array: NDArray[Any]) -> str:
        """Take in an array that needs no packing."""

        def copy(out: NDArray[Any]) -> None:
            out[...] = array

        return self.add(name, Packed(array.shape, array.dtype.name, copy))

    def dtype(self, name: str) -> str:
        """The dtype of a packed weight."""
        return self._weights[name].dtype

    def size(self, name: str) -> int:
        """The number of elements of a packed weight."""
        return self._weights[name].size

    def manifest(self) -> list[dict[str, Any]]:
        """The rows of the manifest's `weights`."""
        return [
            {
                "name": name,
                "shape": list(weight.shape),
                "dtype": weight.dtype,
                "offset": self.offsets[name],
                "layout": weight.layout,
            }
            for name, weight in self._weights.items()
        ]

    @property
    def arena_bytes(self) -> int:
        """The size of the block, which is never empty."""
        return max(self.nbytes, ALIGNMENT)

    def fill(self) -> NDArray[np.uint8]:
        """The arena with all weights in place."""
        arena = allocate_arena(self.arena_bytes)
        for name, weight in self._weights.items():
            weight.write(view(arena, self.offsets[name], weight.shape, weight.dtype))
        return arena
