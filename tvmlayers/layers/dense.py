"""Dense: a matrix product on the last axis, with bias and activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvmlayers.errors import ShapeError
from tvmlayers.layers import activations, initializers
from tvmlayers.layers.activations import Activation
from tvmlayers.layers.base import WeightSpec
from tvmlayers.layers.graph import Dim, Shape, SymbolicTensor
from tvmlayers.layers.stored import StoredLayer
from tvmlayers.numeric import positive
from tvmlayers.quantization import COLUMNS


class Dense(StoredLayer):
    """Maps (*s, in_features) to (*s, units): activation(x @ kernel + bias).

    The products are summed in the layer's dtype, or as accurately: AMX and a GPU's tensor cores
    compute float32 by several products of shorter numbers (see the README).

    activation: a name, None for linear, or a callable on a tensor expression.
    input_dim: the number of input features; left out, the first input gives it.
    stored: how the kernel is kept, see `tvmlayers.quantize`; by default in the layer's dtype.
    """

    keeps_time_axis = True
    fits_any_shape = True
    form = COLUMNS
    has_groups = True
    main = "kernel"

    def __init__(
        self,
        units: int,
        activation: Activation | None = None,
        use_bias: bool = True,
        kernel_initializer: initializers.InitializerLike = "glorot_uniform",
        bias_initializer: initializers.InitializerLike = "zeros",
        *,
        input_dim: int | None = None,
        dtype: object = "float32",
        name: str | None = None,
        seed: int | None = None,
        input_shape: Sequence[int | None] | None = None,
        stored: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype, input_shape=input_shape, seed=seed, stored=stored)
        self.units = positive(self.kind, "units", units)
        self.activation = activations.canonical(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.input_dim = None if input_dim is None else positive(self.kind, "input_dim", input_dim)
        if self.input_shape:
            self.build((None, *self.input_shape))

    def build(self, input_shape: Sequence[int | None]) -> None:
        features = input_shape[-1] if len(input_shape) > 1 else None
        if features is None:
            raise ShapeError(
                f"{self.describe()} expected input of shape (batch, ..., features) with a fixed "
                f"number of features, got {tuple(input_shape)}"
            )
        if self.input_dim is None:
            self.input_dim = positive(self.kind, "input features", features)
        if self.input_dim != features:
            raise ShapeError(
                f"{self.describe()} expected {self.input_dim} input features, got {features}; "
                f"pass input_dim={features} or reshape the input"
            )

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        self.build(inputs[0].shape)
        return (*inputs[0].axes[:-1], self.units)

    def float_specs(self) -> dict[str, WeightSpec]:
        if self.input_dim is None:
            return {}
        specs = {"kernel": WeightSpec((self.input_dim, self.units), self.kernel_initializer)}
        if self.use_bias:
            specs["bias"] = WeightSpec((self.units,), self.bias_initializer)
        return specs

    def implied_input(self) -> tuple[Shape, bool] | None:
        if self.input_shape is not None:
            return super().implied_input()
        # (batch, features) is meant most often, but the layer takes any rank.
        return None if self.input_dim is None else ((None, self.input_dim), False)

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        return tuple((*(None,) * (len(shape) - 1), *shape[-1:]) for shape in shapes)

    def row_axes(self) -> int | None:
        return 1

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """2 per kernel element and vector, 1 per output element for bias and for activation."""
        assert self.input_dim is not None
        epilogue = self.use_bias + (self.activation != "linear")
        return output.elements * (2 * self.input_dim + epilogue)

    def config(self) -> dict[str, Any]:
        return {
            "units": self.units,
            "activation": activations.to_config(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.to_config(self.kernel_initializer),
            "bias_initializer": initializers.to_config(self.bias_initializer),
            "input_dim": self.input_dim,
        }
