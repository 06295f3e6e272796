"""DotInteraction: the inner products of all pairs of feature vectors, as DLRM has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.layers.base import Layer
from tvmlayers.layers.concatenate import Concatenate
from tvmlayers.layers.graph import Dim, SymbolicTensor
from tvmlayers.layers.reshape import Reshape


class DotInteraction(Layer):
    """Maps F vectors (batch, F, d) to their dot products (batch, F * (F - 1) / 2).

    The strict lower triangle, row by row: (1, 0), (2, 0), (2, 1), (3, 0), ... On a list of F
    symbolic tensors (batch, d) it first joins them (Concatenate, then Reshape), as TFRS does.
    """

    def __init__(
        self, *, name: str | None = None, input_shape: Sequence[int | None] | None = None
    ) -> None:
        super().__init__(name=name, input_shape=input_shape)

    def __call__(self, *args: Any, **named: Any) -> Any:
        features = args[0] if len(args) == 1 else None
        if not isinstance(features, list | tuple) or not hasattr(features[0], "shape"):
            return super().__call__(*args, **named)
        if not all(isinstance(feature, SymbolicTensor) for feature in features):
            raise ConfigError(
                f"{self.describe()} on arrays expected one of shape (batch, features, d); "
                "stack the features, np.stack(features, axis=1)"
            )
        shapes = {feature.shape for feature in features}
        if len(features) < 2 or len(shapes) != 1 or len(shape := shapes.pop()) != 2:
            raise ShapeError(
                f"{self.describe()} expected two or more vectors of one shape (batch, d), "
                f"got {[feature.shape for feature in features]}"
            )
        if shape[1] is None:
            raise ConfigError(f"{self.describe()} expected vectors of a fixed length")
        joined = Concatenate()(list(features))
        return super().__call__(Reshape((len(features), shape[1]))(joined))

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        axes = inputs[0].axes
        if len(axes) != 3 or not isinstance(axes[1], int) or axes[1] < 2:
            raise ShapeError(
                f"{self.describe()} expected (batch, features, d) with two features or more, "
                f"got {inputs[0].shape}"
            )
        return (axes[0], axes[1] * (axes[1] - 1) // 2)

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        length = inputs[0].axes[2]
        return 2 * output.elements * (length if isinstance(length, int) else 1)
