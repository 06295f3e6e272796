"""The packed weights of a model and their places in its arena."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.arena import allocate_arena, view

ALIGNMENT = 64


class ArenaPlan:
    """Packed arrays by name, each at a multiple of 64 bytes in one block of memory."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}
        self._layouts: dict[str, dict[str, Any] | None] = {}
        self.offsets: dict[str, int] = {}
        self.nbytes = 0

    def add(self, name: str, array: NDArray[Any], layout: dict[str, Any] | None = None) -> str:
        """Take `array` in under `name` unless it is there already; gives the name back."""
        if name not in self._arrays:
            self._arrays[name] = array
            self._layouts[name] = layout
            self.offsets[name] = self.nbytes
            self.nbytes += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        return name

    def dtype(self, name: str) -> str:
        """The dtype of a packed array."""
        return self._arrays[name].dtype.name

    def size(self, name: str) -> int:
        """The number of elements of a packed array."""
        return self._arrays[name].size

    def manifest(self) -> list[dict[str, Any]]:
        """The rows of the manifest's `weights`."""
        return [
            {
                "name": name,
                "shape": list(array.shape),
                "dtype": array.dtype.name,
                "offset": self.offsets[name],
                "layout": self._layouts[name],
            }
            for name, array in self._arrays.items()
        ]

    def fill(self) -> NDArray[np.uint8]:
        """The arena with all arrays in place; the packed copies are let go one by one."""
        arena = allocate_arena(max(self.nbytes, ALIGNMENT))
        for name in list(self._arrays):
            array = self._arrays.pop(name)
            view(arena, self.offsets[name], array.shape, array.dtype.name)[...] = array
        return arena
