"""Functions of each element with numbers of their own: slopes, scales and offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tvmlayers.artifact.weights import to_numpy
from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.layers import initializers
from tvmlayers.layers.base import Array, Layer, WeightSpec
from tvmlayers.layers.checks import axis_in
from tvmlayers.layers.graph import Dim, Shape, SymbolicTensor
from tvmlayers.numeric import real, whole_numbers


class Elementwise(Layer):
    """Maps (batch, *s) to the same shape."""

    keeps_time_axis = True

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        return tuple((None,) * len(shape) for shape in shapes)

    def row_axes(self) -> int | None:
        return 0

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """1 per element, whatever the function."""
        return output.elements


class LeakyReLU(Elementwise):
    """x where positive, else negative_slope * x."""

    def __init__(
        self,
        negative_slope: float = 0.3,
        *,
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(name=name, input_shape=input_shape)
        self.negative_slope = real(self.kind, "negative_slope", negative_slope)

    def config(self) -> dict[str, Any]:
        return {"negative_slope": self.negative_slope}


class ELU(Elementwise):
    """x where positive, else alpha * (exp(x) - 1)."""

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(name=name, input_shape=input_shape)
        self.alpha = real(self.kind, "alpha", alpha)

    def config(self) -> dict[str, Any]:
        return {"alpha": self.alpha}


class PReLU(Elementwise):
    """x where positive, else alpha * x: one alpha for each element of a sample.

    K. He, X. Zhang, S. Ren and J. Sun, Delving Deep into Rectifiers, ICCV 2015.

    shared_axes: axes, from 1 on, along which there is one alpha for all; only these may be free.
    """

    has_weights = True

    def __init__(
        self,
        alpha_initializer: initializers.InitializerLike = "zeros",
        shared_axes: int | Sequence[int] | None = None,
        *,
        dtype: object = "float32",
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype, input_shape=input_shape)
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.shared_axes = (
            None
            if shared_axes is None
            else list(whole_numbers(self.kind, "shared_axes", shared_axes))
        )
        self.alpha_shape: tuple[int, ...] | None = None
        if self.input_shape:
            self.build((None, *self.input_shape))

    def build(self, input_shape: Sequence[int | None]) -> None:
        rank = len(input_shape)
        shared = {axis_in(self.describe(), axis, rank) for axis in self.shared_axes or ()}
        sizes = [1 if axis in shared else input_shape[axis] for axis in range(1, rank)]
        shape = tuple(size for size in sizes if size)
        if len(shape) != len(sizes):
            raise ShapeError(
                f"{self.describe()} expected fixed lengths on all axes that share no alpha, got "
                f"an input of shape {tuple(input_shape)}; name the others in shared_axes"
            )
        if self.alpha_shape not in (None, shape):
            raise ShapeError(
                f"{self.describe()} has an alpha of shape {self.alpha_shape}, and an input of "
                f"shape {tuple(input_shape)} needs {shape}"
            )
        self.alpha_shape = shape

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        self.build(inputs[0].shape)
        return inputs[0].axes

    def weight_specs(self) -> dict[str, WeightSpec]:
        if self.alpha_shape is None:
            return {}
        return {"alpha": WeightSpec(self.alpha_shape, self.alpha_initializer)}

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        def freed(shape: Shape) -> Shape:
            rank = len(shape)
            shared = {axis_in(self.describe(), axis, rank) for axis in self.shared_axes or ()}
            return tuple(None if i == 0 or i in shared else n for i, n in enumerate(shape))

        return tuple(freed(shape) for shape in shapes)

    def row_axes(self) -> int | None:
        shape = self.alpha_shape or ()
        return next((len(shape) - i for i, size in enumerate(shape) if size != 1), 0)

    def config(self) -> dict[str, Any]:
        return {
            "alpha_initializer": initializers.to_config(self.alpha_initializer),
            "shared_axes": self.shared_axes,
        }


class Rescaling(Elementwise):
    """x * scale + offset. scale, offset: a number, or an array that fits the last axes."""

    def __init__(
        self,
        scale: Any,
        offset: Any = 0.0,
        *,
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(name=name, input_shape=input_shape)
        self.scale, self.offset = self._numbers("scale", scale), self._numbers("offset", offset)

    def _numbers(self, argument: str, value: Any) -> float | Array:
        """value as a float, or as an array of float64."""
        try:
            array = np.asarray(to_numpy(value))
            if array.ndim and array.size and array.dtype.kind in "fiu":
                return array.astype(np.float64)
        except ValueError:  # a list of lists of several lengths
            array = np.asarray(None)
        if array.ndim == 0 and array.dtype.kind in "fiu":
            return float(array)
        raise ConfigError(
            f"{self.kind} expected a number or an array of numbers for {argument}, got {value!r}"
        )

    def operands(self) -> dict[str, Array]:
        """The arrays; numbers are a part of the code."""
        given = {"scale": self.scale, "offset": self.offset}
        return {name: value for name, value in given.items() if isinstance(value, np.ndarray)}

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        axes = inputs[0].axes
        for name, array in self.operands().items():
            own = axes[max(1, len(axes) - array.ndim) :]
            if len(own) != array.ndim or any(
                n not in (1, axis) for axis, n in zip(own, array.shape, strict=True)
            ):
                raise ShapeError(
                    f"{self.describe()} has a {name} of shape {array.shape}, which does not fit "
                    f"the last axes of {inputs[0].shape}"
                )
        return axes

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        kept = self.row_axes() or 0
        return tuple((*(None,) * (len(s) - kept), *s[len(s) - kept :]) for s in shapes)

    def row_axes(self) -> int | None:
        return max((array.ndim for array in self.operands().values()), default=0)

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """2 per element."""
        return 2 * output.elements

    def config(self) -> dict[str, Any]:
        given = {"scale": self.scale, "offset": self.offset}
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in given.items()
        }
