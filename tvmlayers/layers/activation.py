"""Activation: a function of each element, or of the last axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvmlayers.errors import ShapeError
from tvmlayers.layers import activations
from tvmlayers.layers.base import Layer
from tvmlayers.layers.graph import Dim, Shape, SymbolicTensor


class Activation(Layer):
    """Maps (batch, *s) to the same shape. activation: a name, or a callable as Dense takes it."""

    keeps_time_axis = True

    def __init__(
        self,
        activation: activations.Activation,
        *,
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(name=name, input_shape=input_shape)
        self.activation = activations.canonical(activation)

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        if self.activation in activations.OVER_LAST_AXIS and inputs[0].rank < 2:
            raise ShapeError(
                f"{self.describe()} ({self.activation}) expected (batch, ..., classes), "
                f"got {inputs[0].shape}"
            )
        return inputs[0].axes

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        return tuple((*(None,) * (len(shape) - 1), *shape[-1:]) for shape in shapes)

    def row_axes(self) -> int | None:
        return 1 if self.activation in activations.OVER_LAST_AXIS else 0

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """1 per element, whatever the function."""
        return output.elements if self.activation != "linear" else 0

    def config(self) -> dict[str, Any]:
        return {"activation": activations.to_config(self.activation)}
