"""BatchNormalization: by the statistics of training, which a training step follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tvmlayers.errors import ShapeError
from tvmlayers.layers import initializers
from tvmlayers.layers.base import Array, Layer, WeightSpec
from tvmlayers.layers.checks import axis_in
from tvmlayers.layers.graph import Dim, Shape, SymbolicTensor
from tvmlayers.numeric import not_negative_real, positive, real, whole


class BatchNormalization(Layer):
    """(x - moving_mean) / sqrt(moving_variance + epsilon) * gamma + beta for each feature.

    S. Ioffe and C. Szegedy, Batch Normalization, ICML 2015. Beside a linear Dense nothing of it is
    left when a model is compiled: see `codegen.fold`. A training step normalises by the batch.

    axis: that of the features; any but the batch. momentum: how much of a moving average stays in a
    training step: average = average * momentum + that of the batch * (1 - momentum).
    center, scale: whether there are a beta and a gamma.
    """

    keeps_time_axis = True
    has_weights = True

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: initializers.InitializerLike = "zeros",
        gamma_initializer: initializers.InitializerLike = "ones",
        moving_mean_initializer: initializers.InitializerLike = "zeros",
        moving_variance_initializer: initializers.InitializerLike = "ones",
        *,
        dtype: object = "float32",
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype, input_shape=input_shape)
        self.axis = whole(self.kind, "axis", axis)
        self.momentum = real(self.kind, "momentum", momentum)
        self.epsilon = not_negative_real(self.kind, "epsilon", epsilon)
        self.center, self.scale = bool(center), bool(scale)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.features: int | None = None
        self.axes_after = 0  # the axis of the features
        if self.input_shape:
            self.build((None, *self.input_shape))

    def build(self, input_shape: Sequence[int | None]) -> None:
        axis = axis_in(self.describe(), self.axis, len(input_shape))
        features, after = input_shape[axis], len(input_shape) - 1 - axis
        if features is None:
            raise ShapeError(
                f"{self.describe()} expected a fixed number of features on axis {axis}, "
                f"got an input of shape {tuple(input_shape)}"
            )
        if self.features is not None and (features, after) != (self.features, self.axes_after):
            raise ShapeError(
                f"{self.describe()} expected {self.features} features and {self.axes_after} axes "
                f"after theirs, got {features} on axis {axis} of {tuple(input_shape)}"
            )
        self.features = positive(self.kind, "features", features)
        self.axes_after = after

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        self.build(inputs[0].shape)
        return inputs[0].axes

    def weight_specs(self) -> dict[str, WeightSpec]:
        if self.features is None:
            return {}
        wanted = {
            **({"gamma": self.gamma_initializer} if self.scale else {}),
            **({"beta": self.beta_initializer} if self.center else {}),
            "moving_mean": self.moving_mean_initializer,
            "moving_variance": self.moving_variance_initializer,
        }
        return {name: WeightSpec((self.features,), made) for name, made in wanted.items()}

    def factor(self) -> Array:
        """gamma / sqrt(moving_variance + epsilon), float64."""
        with np.errstate(all="ignore"):  # of a variance that is none, NaN
            weights = self.rounded_weights()
            variance = weights["moving_variance"].astype(np.float64) + self.epsilon
            gamma = weights["gamma"].astype(np.float64) if self.scale else 1.0
            return np.asarray(gamma / np.sqrt(variance))

    def operands(self) -> dict[str, Array]:
        """The mean, the factor, rounded once, and the beta; of as many axes as theirs and after."""
        weights = self.rounded_weights()
        taken = {"moving_mean": weights["moving_mean"], "factor": self.factor()}
        if self.center:
            taken["beta"] = weights["beta"]
        ones = (1,) * self.axes_after
        return {name: array.reshape(-1, *ones) for name, array in taken.items()}

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        if self.axis != -1:
            return super().free_input(shapes)
        return tuple((*(None,) * (len(shape) - 1), *shape[-1:]) for shape in shapes)

    def row_axes(self) -> int | None:
        return -self.axis if self.axis < 0 else None

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """2 for each element, and 1 for its beta."""
        return output.elements * (2 + self.center)

    def config(self) -> dict[str, Any]:
        made = ("beta", "gamma", "moving_mean", "moving_variance")
        names = [f"{name}_initializer" for name in made]
        return {
            **{key: getattr(self, key) for key in ("axis", "momentum", "epsilon")},
            "center": self.center,
            "scale": self.scale,
            **{name: initializers.to_config(getattr(self, name)) for name in names},
        }
