"""Flatten: all axes but the batch in one."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tvmlayers.errors import ShapeError
from tvmlayers.layers.base import Layer
from tvmlayers.layers.graph import Dim, SymbolicTensor


class Flatten(Layer):
    """Maps (batch, *s) to (batch, prod(s)); (batch,) to (batch, 1)."""

    is_view = True

    def __init__(
        self, *, name: str | None = None, input_shape: Sequence[int | None] | None = None
    ) -> None:
        super().__init__(name=name, input_shape=input_shape)

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        sizes = fixed_sizes(self, inputs[0])
        return (inputs[0].axes[0], prod(sizes))


def fixed_sizes(layer: Layer, tensor: SymbolicTensor) -> tuple[int, ...]:
    """The lengths of all axes but the batch; ShapeError when one of them is free."""
    sizes = tuple(axis for axis in tensor.axes[1:] if isinstance(axis, int))
    if len(sizes) != tensor.rank - 1:
        raise ShapeError(
            f"{layer.describe()} expected fixed lengths after the batch axis, got {tensor.shape}; "
            "pass input_length to the Embedding, or a full shape to Input"
        )
    return sizes
