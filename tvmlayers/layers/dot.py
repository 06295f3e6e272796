"""Dot: inner products between two tensors, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.layers.base import Layer
from tvmlayers.layers.checks import axis_in
from tvmlayers.layers.graph import Dim, SymbolicTensor, same_length
from tvmlayers.numeric import whole


class Dot(Layer):
    """Contracts one axis of each of two tensors of rank 2 or 3; the batch axis is kept.

    (batch, d) and (batch, d) give (batch, 1); (batch, i, d) and (batch, j, d) with axes=2 give
    (batch, i, j): the left axes, then the right ones.

    axes: an int for both, or one for each.
    normalize: L2-normalise along the contracted axes first: cosine similarity.
    """

    takes_list = True

    def __init__(
        self, axes: int | Sequence[int], normalize: bool = False, *, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        pair = tuple(axes) if isinstance(axes, list | tuple) else (axes, axes)
        if len(pair) != 2:
            raise ConfigError(f"Dot expected an axis or two of them, got {axes}")
        self.axes = (whole(self.kind, "axes", pair[0]), whole(self.kind, "axes", pair[1]))
        self.normalize = bool(normalize)

    def axes_of(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[int, int]:
        """The contracted axis of each input, counted from the front."""
        left, right = (
            axis_in(self.describe(), axis, tensor.rank)
            for axis, tensor in zip(self.axes, inputs, strict=True)
        )
        return left, right

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        if len(inputs) != 2 or any(tensor.rank not in (2, 3) for tensor in inputs):
            shapes = [tensor.shape for tensor in inputs]
            raise ShapeError(f"{self.describe()} expected two tensors of rank 2 or 3, got {shapes}")
        left, right = inputs
        at_left, at_right = self.axes_of(inputs)
        same_batch = same_length(left.axes[0], right.axes[0])
        if not same_batch or not same_length(left.axes[at_left], right.axes[at_right]):
            raise ShapeError(
                f"{self.describe()} expected one batch and equal lengths on axis {at_left} of "
                f"{left.dims} and axis {at_right} of {right.dims}"
            )
        kept_left = left.axes[1:at_left] + left.axes[at_left + 1 :]
        kept_right = right.axes[1:at_right] + right.axes[at_right + 1 :]
        return (left.axes[0], *((kept_left + kept_right) or (1,)))

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """2 per product; normalising adds 3 per input element."""
        length = inputs[0].axes[self.axes_of(inputs)[0]]
        products = 2 * output.elements * (length if isinstance(length, int) else 1)
        return products + 3 * self.normalize * sum(tensor.elements for tensor in inputs)

    def config(self) -> dict[str, Any]:
        return {"axes": list(self.axes), "normalize": self.normalize}
