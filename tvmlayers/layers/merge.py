"""Layers that make one tensor of several, element by element."""

from __future__ import annotations

from typing import ClassVar

from tvmlayers.errors import ShapeError
from tvmlayers.layers.base import Layer
from tvmlayers.layers.graph import Dim, SymbolicTensor, same_length


class Merge(Layer):
    """Maps a list of two or more tensors to one, element by element.

    Axes of length 1 are broadcast. A tensor of fewer axes than the others gets some of length 1
    after its batch axis, as in Keras: (batch, d) and (batch, s, d) give (batch, s, d).
    """

    takes_list = True
    keeps_time_axis = True
    takes: ClassVar[int | None] = None
    """How many tensors the layer takes; None for any number of them."""

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        if self.takes not in (None, len(inputs)):
            raise ShapeError(f"{self.describe()} expected {self.takes} tensors, got {len(inputs)}")
        rank = max(tensor.rank for tensor in inputs)
        if any(tensor.rank == 0 for tensor in inputs):
            raise self._no_fit(inputs, "a batch axis")
        padded = [aligned(tensor.axes, rank) for tensor in inputs]
        by_place = enumerate(zip(*padded, strict=True))
        return tuple(self._joined(inputs, place, axes) for place, axes in by_place)

    def _joined(self, inputs: tuple[SymbolicTensor, ...], place: int, axes: tuple[Dim, ...]) -> Dim:
        """The length of one axis of the result."""
        wide = [axis for axis in axes if axis != 1 or place == 0]
        if not wide:
            return 1
        first = wide[0]
        if not all(same_length(first, axis) for axis in wide):
            raise self._no_fit(inputs, f"equal lengths, or 1, on axis {place}")
        if len(wide) < len(axes) and not isinstance(first, int):
            raise self._no_fit(inputs, f"a fixed length on axis {place}, where others have 1")
        return first

    def _no_fit(self, inputs: tuple[SymbolicTensor, ...], expected: str) -> ShapeError:
        shapes = " and ".join(f"({', '.join(map(str, tensor.dims))})" for tensor in inputs)
        return ShapeError(f"{self.describe()} expected {expected}, got {shapes}")

    def output_mask(self, inputs: tuple[SymbolicTensor, ...]) -> SymbolicTensor | None:
        """The mask that the inputs share; those without one do not count."""
        masks = {id(tensor.mask_of): tensor.mask_of for tensor in inputs if tensor.mask_of}
        return next(iter(masks.values())) if len(masks) == 1 else None

    def row_axes(self) -> int | None:
        return 0

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """1 for each element and each tensor after the first."""
        return output.elements * (len(inputs) - 1)


def aligned(axes: tuple[Dim, ...], rank: int) -> tuple[Dim, ...]:
    """axes with as many of length 1 after the first as make up the rank."""
    return (*axes[:1], *(1,) * (rank - len(axes)), *axes[1:])


class Add(Merge):
    """The sum of the tensors: ((x0 + x1) + x2) + ..."""


class Subtract(Merge):
    """The first of two tensors less the second: x0 - x1."""

    takes = 2


class Multiply(Merge):
    """The product of the tensors: ((x0 * x1) * x2) * ..."""


class Average(Merge):
    """The sum of the tensors, see `Add`, divided by their number."""

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """1 for each element and each tensor."""
        return output.elements * len(inputs)


class Maximum(Merge):
    """The largest element of the tensors; NaN where one of them is NaN, as in PyTorch."""


class Minimum(Merge):
    """The smallest element of the tensors; NaN where one of them is NaN, as in PyTorch."""
