"""Layers that bring the numbers of a sample, or of a feature, to one scale."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.layers import initializers
from tvmlayers.layers.base import Layer, WeightSpec
from tvmlayers.layers.checks import axis_in
from tvmlayers.layers.graph import Dim, Shape, SymbolicTensor
from tvmlayers.numeric import not_negative_real, whole_numbers


class RowNormalization(Layer):
    """What layers share that normalise each sample over its last axes.

    axis: the last axis, or a sequence of the last ones: (-2, -1).
    """

    keeps_time_axis = True
    flops_of_element: ClassVar[int]

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        *,
        dtype: object = "float32",
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype, input_shape=input_shape)
        given = whole_numbers(self.kind, "axis", axis)
        self.axis = given[0] if len(given) == 1 else tuple(sorted(given))
        self.lengths: tuple[int, ...] | None = None
        if self.input_shape:
            self.build((None, *self.input_shape))

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes as they were given, as a tuple."""
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)

    @property
    def width(self) -> int:
        """How many numbers are normalised together; the layer is built."""
        assert self.lengths is not None
        return prod(self.lengths)

    def build(self, input_shape: Sequence[int | None]) -> None:
        shape, count = tuple(input_shape), len(self.axes)
        resolved = sorted(axis_in(self.describe(), axis, len(shape)) for axis in self.axes)
        if resolved != list(range(len(shape) - count, len(shape))):
            raise ConfigError(
                f"{self.describe()} normalises over the last axes only, got axis={self.axis} for "
                f"an input of shape {shape}; use axis={-1 if count == 1 else (-2, -1)}"
            )
        sizes = shape[-count:]
        lengths = tuple(size for size in sizes if size)
        if len(lengths) != count:
            raise ShapeError(
                f"{self.describe()} expected fixed lengths of at least 1 on its last axes, "
                f"got an input of shape {shape}"
            )
        if self.lengths not in (None, lengths):
            raise ShapeError(
                f"{self.describe()} expected {self.lengths} on its last axes, got {lengths}"
            )
        self.lengths = lengths

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        self.build(inputs[0].shape)
        return inputs[0].axes

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        count = len(self.axes)
        return tuple((*(None,) * (len(s) - count), *s[-count:]) for s in shapes)

    def row_axes(self) -> int | None:
        return len(self.axes) if max(self.axes) < 0 else None

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """As many for each element as the formula has."""
        return output.elements * (self.flops_of_element + len(self.weight_specs()))

    def config(self) -> dict[str, Any]:
        return {"axis": list(self.axis) if isinstance(self.axis, tuple) else self.axis}


class LayerNormalization(RowNormalization):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, both over a sample's last axes.

    J. L. Ba, J. R. Kiros and G. E. Hinton, Layer Normalization, arXiv:1607.06450, 2016. The mean
    comes first and is corrected by that of what it leaves; the variance is that of the rest, the
    mean of its squares. A mean far from 0 costs no digits that way.

    center, scale: whether there are a beta and a gamma, of the lengths of the axes.
    """

    has_weights = True
    flops_of_element = 7

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: initializers.InitializerLike = "zeros",
        gamma_initializer: initializers.InitializerLike = "ones",
        *,
        dtype: object = "float32",
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        self.center, self.scale = bool(center), bool(scale)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        super().__init__(axis, dtype=dtype, name=name, input_shape=input_shape)
        self.epsilon = not_negative_real(self.kind, "epsilon", epsilon)

    def weight_specs(self) -> dict[str, WeightSpec]:
        if self.lengths is None:
            return {}
        specs = {}
        if self.scale:
            specs["gamma"] = WeightSpec(self.lengths, self.gamma_initializer)
        if self.center:
            specs["beta"] = WeightSpec(self.lengths, self.beta_initializer)
        return specs

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": initializers.to_config(self.beta_initializer),
            "gamma_initializer": initializers.to_config(self.gamma_initializer),
        }


class RMSNormalization(RowNormalization):
    """x / sqrt(mean(x^2) + epsilon) * scale, the mean over a sample's last axes.

    B. Zhang and R. Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019.
    """

    has_weights = True
    flops_of_element = 3

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-6,
        *,
        dtype: object = "float32",
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(axis, dtype=dtype, name=name, input_shape=input_shape)
        self.epsilon = not_negative_real(self.kind, "epsilon", epsilon)

    def weight_specs(self) -> dict[str, WeightSpec]:
        ones = initializers.get("ones")
        return {} if self.lengths is None else {"scale": WeightSpec(self.lengths, ones)}

    def config(self) -> dict[str, Any]:
        return {**super().config(), "epsilon": self.epsilon}


class UnitNormalization(RowNormalization):
    """x / sqrt(max(sum(x^2), epsilon)), the sum over a sample's last axes: vectors of length 1.

    epsilon: Keras's by default; PyTorch's `normalize` has the square of its eps, 1e-24.
    """

    flops_of_element = 3

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-12,
        *,
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(axis, name=name, input_shape=input_shape)
        self.epsilon = not_negative_real(self.kind, "epsilon", epsilon)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "epsilon": self.epsilon}
