"""The mean, or the largest, over the steps of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

from tvmlayers.errors import ShapeError
from tvmlayers.layers.base import Layer
from tvmlayers.layers.graph import Dim, Shape, SymbolicTensor


class GlobalPooling1D(Layer):
    """Maps (batch, steps, features) to (batch, features)."""

    def __init__(
        self, *, name: str | None = None, input_shape: Sequence[int | None] | None = None
    ) -> None:
        super().__init__(name=name, input_shape=input_shape)

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        axes = inputs[0].axes
        if len(axes) != 3:
            raise ShapeError(
                f"{self.describe()} expected (batch, steps, features), got {inputs[0].shape}"
            )
        return (axes[0], axes[2])

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        return tuple((None, None, *shape[2:]) for shape in shapes)

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """One operation per input element, and one per output element."""
        return inputs[0].elements + output.elements


class GlobalAveragePooling1D(GlobalPooling1D):
    """Maps (batch, steps, features) to (batch, features): the mean of each feature.

    After an Embedding with mask_zero=True the steps whose index is 0 are left out of the mean,
    as in Keras. The mask is `node.inputs[0].mask_of`.
    """


class GlobalMaxPooling1D(GlobalPooling1D):
    """Maps (batch, steps, features) to (batch, features): the largest of each feature.

    NaN where a step has one, as in PyTorch, and minus infinity where there are no steps. A mask is
    not regarded, as in Keras.
    """
