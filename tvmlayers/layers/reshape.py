"""Reshape: the same elements under another shape."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.layers.base import Layer
from tvmlayers.layers.flatten import fixed_sizes
from tvmlayers.layers.graph import Dim, SymbolicTensor
from tvmlayers.numeric import sizes, whole


class Reshape(Layer):
    """Maps (batch, *s) to (batch, *target_shape); one -1 in target_shape takes what is left."""

    is_view = True

    def __init__(
        self,
        target_shape: Sequence[int],
        *,
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(name=name, input_shape=input_shape)
        self.target_shape = tuple(
            whole(self.kind, "target_shape", size)
            for size in sizes(self.kind, "target_shape", target_shape)
        )
        if any(size < 1 and size != -1 for size in self.target_shape):
            raise ConfigError(f"Reshape expected sizes of at least 1, or -1, got {target_shape}")
        if self.target_shape.count(-1) > 1:
            raise ConfigError(f"Reshape can work out one -1 only, got {target_shape}")

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        elements = prod(fixed_sizes(self, inputs[0]))
        known = prod(size for size in self.target_shape if size != -1)
        fits = elements % known == 0 if -1 in self.target_shape else elements == known
        if not fits:
            raise ShapeError(
                f"{self.describe()} cannot put the {elements} elements of {inputs[0].shape} "
                f"into (batch, {', '.join(map(str, self.target_shape))})"
            )
        left = elements // known
        return (inputs[0].axes[0], *(left if size == -1 else size for size in self.target_shape))

    def config(self) -> dict[str, Any]:
        return {"target_shape": list(self.target_shape)}
