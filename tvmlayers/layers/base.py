"""What all layers share: names, weights, and being called on symbolic tensors or on arrays."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvmlayers.dtypes import MIXED, can_be_cast, numpy_dtype
from tvmlayers.errors import ConfigError, DTypeError
from tvmlayers.layers import initializers
from tvmlayers.layers.checks import checked_seed, dtype_policy, float_dtype
from tvmlayers.layers.graph import Dim, Node, Shape, SymbolicTensor
from tvmlayers.layers.names import checked_name, snake_case
from tvmlayers.layers.weights import checked_weight, frozen, set_flat
from tvmlayers.numeric import sizes

if TYPE_CHECKING:
    from tvmlayers.layers.calibration import Calibration
    from tvmlayers.layers.model import Model

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class WeightSpec:
    """A weight that a built layer has: its shape and how it begins. dtype: "" for the layer's."""

    shape: tuple[int, ...]
    initializer: initializers.Initializer | Any
    zero_row: int | None = None
    dtype: str = ""

    def make(self, dtype: str, rng: np.random.Generator) -> Array:
        """A fresh read-only array."""
        values = initializers.initialise(self.initializer, self.shape, dtype, rng)
        if self.zero_row is not None:
            values[self.zero_row] = 0
        return frozen(values)


_NOT_COPIED = ("_compiled", "_compiling", "_making")


class Layer:
    """One operation with its weights. On symbolic tensors it records, on arrays it computes.

    dtype: what a layer with weights computes in and gives: float32, float64, or a half, bfloat16 or
    float16, which is kept in 16 bits and computed with in float32, so that a result is rounded
    once. "mixed_bfloat16" and "mixed_float16", as in Keras: the weights are float32 and are rounded
    to the half for the computation. Inputs of float32 are rounded to a half where it is one, and
    halves are widened for float32.
    """

    takes_list: ClassVar[bool] = False
    """The tensors come as one list, as for `Concatenate`."""
    keeps_time_axis: ClassVar[bool] = False
    """The mask of the input also fits the output."""
    has_weights: ClassVar[bool] = False
    """The layer has a dtype of its own, which its input must share."""
    is_view: ClassVar[bool] = False
    """The output is the input's memory in another shape, or unchanged."""
    fits_any_shape: ClassVar[bool] = False
    """One kernel serves all shapes of inputs that the layer takes: its weights fix the rest."""
    trainable: bool = True
    """Whether a training step moves the layer's weights; set it to False to freeze them."""
    calibration: Calibration | None = None
    """What `tl.quantize` chose and measured on example inputs, where it made the layer so."""
    input_name: ClassVar[str | None] = None
    """What the input of the layer is called when the layer is compiled alone."""

    def __init__(
        self,
        *,
        name: str | None = None,
        dtype: object = "float32",
        input_shape: Sequence[int | None] | None = None,
        seed: int | None = None,
    ) -> None:
        self.kind = type(self).__name__
        self.auto_named = name is None
        self.stem = snake_case(self.kind)
        self.name = self.stem if name is None else checked_name(name)
        self.dtype, self.weight_dtype = dtype_policy(self.kind, dtype)
        self.input_shape = (
            None if input_shape is None else sizes(self.kind, "input_shape", input_shape)
        )
        self.seed = checked_seed(self.kind, seed)
        self.version = 0
        self._weights: dict[str, Array] | None = None
        self._begin_calls()

    def _begin_calls(self) -> None:
        self._compiled: dict[object, Any] = {}
        # One thread makes the weights, or compiles for a call; others wait for it.
        self._making, self._compiling = threading.RLock(), threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, and with weights, which every copy would draw anew."""
        state = {key: value for key, value in self.__dict__.items() if key not in _NOT_COPIED}
        return {**state, "_weights": self.weights or None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin_calls()
        if self._weights is not None:
            self._weights = {name: frozen(weight) for name, weight in self._weights.items()}

    # What a layer says of itself; most override some of these.

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        """The axes of the output; ShapeError when the inputs do not fit. Builds the layer."""
        return inputs[0].axes

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Fix what depends on the input's shape, batch axis first: a Dense's input features."""

    def weight_specs(self) -> dict[str, WeightSpec]:
        """The layer's weights in Keras's order; empty for a layer not yet built."""
        return {}

    def initial_weights(self, rng: np.random.Generator) -> dict[str, Array]:
        """Read-only arrays as `weight_specs` says, with which a layer begins."""
        specs = self.weight_specs().items()
        return {name: spec.make(self.weight_dtype, rng) for name, spec in specs}

    def config(self) -> dict[str, Any]:
        """The JSON-able arguments, without name and dtype, that make this layer again."""
        return {}

    def operands(self) -> dict[str, Array]:
        """What a kernel reads beside the inputs; its weights as they are, for most layers."""
        return dict(self.weights)

    def implied_input(self) -> tuple[Shape, bool] | None:
        """The input shape that the arguments alone give, and whether no other rank will do."""
        return None if self.input_shape is None else ((None, *self.input_shape), True)

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        """shapes with every axis freed that one compiled layer serves at any length."""
        return tuple((None, *shape[1:]) for shape in shapes)

    def row_axes(self) -> int | None:
        """How many last axes of its inputs the layer works along, where it leaves all others as
        they are, whatever their number; None where it needs to know which axis is the batch."""
        return None

    def example_dtype(self, dtype: str | None) -> str | None:
        """The dtype of an Input that takes arrays of this dtype; DTypeError when none can."""
        return None if dtype is None else float_dtype(self.describe(), dtype)

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """Floating point operations for one sample."""
        return 0

    def weight_bytes(self, inputs: tuple[SymbolicTensor, ...]) -> int:
        """Bytes of weights read for one sample."""
        return self.kept_bytes()

    def kept_bytes(self) -> int:
        """Bytes of all weights, as they are kept; 0 before the layer is built."""
        return sum(
            prod(spec.shape) * numpy_dtype(spec.dtype or self.dtype).itemsize
            for spec in self.weight_specs().values()
        )

    # Calls.

    def bind(
        self, args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        """The tensors of a call, and the role of each."""
        if named or len(args) != 1:
            wanted = "one list of tensors" if self.takes_list else "one tensor"
            got = [*("positional" for _ in args), *named]
            raise ConfigError(f"{self.describe()} is called with {wanted}, got {got}")
        if not self.takes_list:
            return args, (self.input_name or "input",)
        if not isinstance(args[0], list | tuple) or len(args[0]) < 2:
            raise ConfigError(f"{self.describe()} is called with a list of two or more tensors")
        return tuple(args[0]), tuple(f"input_{i}" for i in range(len(args[0])))

    def __call__(self, *args: Any, **named: Any) -> Any:
        tensors, roles = self.bind(args, named)
        symbolic = [isinstance(tensor, SymbolicTensor) for tensor in tensors]
        if all(symbolic):
            return self.record(tensors, roles)
        if any(symbolic):
            raise ConfigError(f"{self.describe()} got symbolic tensors and arrays in one call")
        from tvmlayers.layers.eager import call_layer

        return call_layer(self, tensors, roles)

    def replay(self, inputs: tuple[SymbolicTensor, ...], roles: tuple[str, ...]) -> SymbolicTensor:
        """The call that a Node recorded, on other inputs."""
        output: SymbolicTensor = self(list(inputs) if self.takes_list else inputs[0])
        return output

    def record(self, inputs: tuple[SymbolicTensor, ...], roles: tuple[str, ...]) -> SymbolicTensor:
        """The symbolic output of this layer on symbolic inputs."""
        dtype = self.output_dtype(inputs)
        node = Node(self, inputs, roles)
        output = node.output = SymbolicTensor(
            self.output_axes(inputs), dtype, self.name, node, self.output_mask(inputs)
        )
        return output

    def output_dtype(self, inputs: tuple[SymbolicTensor, ...]) -> str:
        """The dtype of the output; DTypeError when the inputs do not fit."""
        wanted = self.dtype if self.has_weights else inputs[0].settle_dtype("float32")
        for tensor in inputs:
            got = tensor.settle_dtype(self.weight_dtype if self.has_weights else wanted)
            float_dtype(self.describe(), got)
            if not (self.has_weights and can_be_cast(got, wanted)) and got != wanted:
                raise DTypeError(
                    f"{self.describe()} expected {wanted}, got {got} from {tensor.name!r}; "
                    f'make both with the same dtype="..."'
                )
        return wanted

    def output_mask(self, inputs: tuple[SymbolicTensor, ...]) -> SymbolicTensor | None:
        """The index tensor whose zeros are padding on the output's time axis, if any."""
        return inputs[0].mask_of if self.keeps_time_axis else None

    # Weights.

    @property
    def weights(self) -> dict[str, Array]:
        """Read-only arrays by name, in Keras's order and layout; made when first asked for."""
        if (known := self._weights) is not None:
            return known
        with self._making:
            if self._weights is None:
                if not self.weight_specs():
                    return {}
                self._weights = self.initial_weights(np.random.default_rng(self.seed))
            return self._weights

    def rounded_weights(self) -> dict[str, Array]:
        """The weights in the dtype that the layer computes with."""
        if self.weight_dtype == self.dtype:
            return self.weights
        wanted = numpy_dtype(self.dtype)
        with np.errstate(over="ignore"):
            return {name: weight.astype(wanted) for name, weight in self.weights.items()}

    def check(self, weights: Mapping[str, object]) -> dict[str, Array]:
        """Read-only copies of weights in the layer's dtype; WeightsError when one does not fit."""
        specs = self.weight_specs()
        return {
            name: checked_weight(self, name, specs[name], value) for name, value in weights.items()
        }

    def assign(self, checked: dict[str, Array]) -> None:
        """Put what `check` gave in place of all weights; compiled forms are let go."""
        with self._making:
            self._weights = checked
            self.version += 1
            self._compiled.clear()

    def get_weights(self) -> list[Array]:
        """Copies of the weights as a flat list in Keras's order; a Dense kernel is (in, out)."""
        return [weight.copy() for weight in self.weights.values()]

    def set_weights(self, weights: Sequence[object]) -> None:
        """Take a flat list in Keras's order; WeightsError when one does not fit."""
        set_flat([self], weights, self.describe())

    def save_weights(self, path: str | Path) -> None:
        """Write the weights as safetensors, named "<layer>/<weight>"."""
        from tvmlayers.layers.serialize import save_weights

        save_weights([self], path)

    def load_weights(self, path: str | Path) -> None:
        """Read what `save_weights` wrote; WeightsError when it does not fit."""
        from tvmlayers.layers.serialize import load_weights

        load_weights([self], path)

    def count_params(self) -> int:
        """How many numbers the weights hold; 0 before the layer is built."""
        return sum(prod(spec.shape) for spec in self.weight_specs().values())

    # Descriptions.

    def get_config(self) -> dict[str, Any]:
        """The JSON-able arguments that make this layer again, weights left out."""
        shared: dict[str, Any] = {"name": self.name}
        if self.has_weights:
            shared["dtype"] = self.dtype_policy
        if self.seed is not None:
            shared["seed"] = self.seed
        return {**self.config(), **shared}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """The layer that `get_config` described."""
        try:
            return cls(**config)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__} cannot be made from {config}: {error}") from error

    @property
    def dtype_policy(self) -> str:
        """The dtype as it was given: the name of Keras's policy where that is a mixed one."""
        return self.dtype if self.weight_dtype == self.dtype else f"{MIXED}{self.dtype}"

    def quantize(self, mode: str) -> None:
        """Keep the table or kernel as "int8", "int4", "float16" or "bfloat16" from now on.

        Keras's verb, in place; `tl.quantize` makes a copy and has more to choose. ConfigError where
        the layer has neither or is in fewer bits already, WeightsError where mode cannot hold a
        number; nothing changes then.
        """
        raise ConfigError(
            f"{self.describe()} keeps no weights in fewer bits; Dense, Embedding and EmbeddingBag "
            "do"
        )

    def describe(self) -> str:
        """How error messages call the layer: its class, and its name where the user gave one."""
        return self.kind if self.auto_named else f"{self.kind} {self.name!r}"

    def __repr__(self) -> str:
        listed = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{self.kind}({listed})"


def as_model(
    layer_or_model: Layer | Model,
    example: object = None,
    *,
    shapes: Sequence[Shape] | None = None,
) -> Model:
    """The built Model of a layer or a model, which is what gets compiled.

    example: an array-like, or a tuple of them when there are several inputs. Only its shape and
    float dtype are read; lengths that one compiled form can leave open are left open.
    shapes: the inputs' shapes instead, batch axis first, None where free.
    ConfigError when the shape of the input is not known.
    """
    from tvmlayers.layers.eager import example_specs, model_of_layer
    from tvmlayers.layers.model import Model

    examples = example if isinstance(example, tuple) else (example,)
    specs = None if example is None else example_specs(examples)
    if shapes is not None:
        specs = [(tuple(shape), None) for shape in shapes]
    if isinstance(layer_or_model, Model):
        return layer_or_model.ready(None if specs is None else [shape for shape, _ in specs])
    if isinstance(layer_or_model, Layer):
        return model_of_layer(layer_or_model, specs)
    raise ConfigError(
        f"expected a layer or a model of tvmlayers, got {type(layer_or_model).__name__}"
    )
