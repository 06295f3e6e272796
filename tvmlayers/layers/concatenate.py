"""Concatenate: tensors joined along one axis."""

from __future__ import annotations

from typing import Any

from tvmlayers.errors import ShapeError
from tvmlayers.layers.base import Layer
from tvmlayers.layers.checks import axis_in
from tvmlayers.layers.graph import Dim, SymbolicTensor, same_length
from tvmlayers.numeric import whole


class Concatenate(Layer):
    """Maps a list of tensors, alike but for one axis, to one tensor. The batch axis is not it."""

    takes_list = True

    def __init__(self, axis: int = -1, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.axis = whole(self.kind, "axis", axis)

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        first = inputs[0]
        if any(tensor.rank != first.rank for tensor in inputs):
            raise ShapeError(f"{self.describe()} expected equal ranks, got {_shapes(inputs)}")
        axis = axis_in(self.describe(), self.axis, first.rank)
        for place, wanted in enumerate(first.axes):
            if place == axis:
                continue
            if not all(same_length(wanted, tensor.axes[place]) for tensor in inputs):
                raise ShapeError(
                    f"{self.describe()} expected equal lengths on axis {place}, "
                    f"got {_shapes(inputs)}"
                )
        joined = [size for tensor in inputs if isinstance(size := tensor.axes[axis], int)]
        if len(joined) != len(inputs):
            raise ShapeError(
                f"{self.describe()} expected fixed lengths on axis {axis}, got {_shapes(inputs)}"
            )
        return (*first.axes[:axis], sum(joined), *first.axes[axis + 1 :])

    def row_axes(self) -> int | None:
        return -self.axis if self.axis < 0 else None

    def config(self) -> dict[str, Any]:
        return {"axis": self.axis}


def _shapes(inputs: tuple[SymbolicTensor, ...]) -> str:
    return " and ".join(f"({', '.join(map(str, tensor.dims))})" for tensor in inputs)
