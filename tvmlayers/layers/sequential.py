"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.layers.base import Layer
from tvmlayers.layers.embedding import Table
from tvmlayers.layers.graph import Shape, SymbolicTensor, graph_of
from tvmlayers.layers.input import Input
from tvmlayers.layers.model import Model

Part: TypeAlias = Layer | Model


class Sequential(Model):
    """A chain of layers; each takes the output of the one before.

    The input's shape comes from a leading `Input`, from the first layer's arguments
    (`input_length`, `input_dim`, `input_shape`), from `build`, or from the first call.
    """

    def __init__(
        self, layers: Sequence[Part | SymbolicTensor] | None = None, name: str | None = None
    ) -> None:
        self._begin(name)
        self.parts: list[Part] = []
        self._input: SymbolicTensor | None = None
        self._open = True  # another input shape may still be taken
        for layer in layers or ():
            self._append(layer)
        self._build_from_arguments()

    def add(self, layer: Part | SymbolicTensor) -> None:
        """Put one more layer at the end; an `Input` may only come first."""
        self._append(layer)
        self._build_from_arguments()

    def _takes_rank_of(self, shape: Shape) -> bool:
        if self._graph is None:
            return False
        # A bag stands in the graph with its 2-D indices, also when it is called with offsets.
        first = self.parts[0]
        free = first.free_input((shape,))[0] if isinstance(first, Layer) else shape
        return self._graph.inputs[0].rank == len(free)

    def _append(self, layer: object) -> None:
        if isinstance(layer, SymbolicTensor):
            if self.parts or self._input is not None or layer.node is not None:
                raise ConfigError("only the first element of a Sequential can be an Input")
            self._input = layer
            return
        if not isinstance(layer, Layer | Model):
            raise ConfigError(
                f"Sequential expected layers, got {type(layer).__name__}; "
                "use tl.Activation for a function"
            )
        self.parts.append(layer)

    @property
    def layers(self) -> list[Layer]:
        """The layers in order; also of a Sequential that is not built."""
        if self._graph is not None:
            return self._graph.layers
        return [layer for part in self.parts for layer in _layers_of(part)]

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Fix the input's shape; ShapeError when the layers refuse it.

        input_shape: batch axis first, whose length does not matter: any batch is served.
        """
        if input_shape is None:
            _ = self.graph
            return
        shape = tuple(input_shape)
        given = Input(batch_shape=(None, *shape[1:]) if shape else (), dtype=self._input_dtype())
        self._chain(given)
        self._input, self._open = given, False

    def settle(self, shapes: Sequence[Shape] | None = None) -> None:
        if shapes and self.parts and self._open and not self._takes_rank_of(shapes[0]):
            self._build_from_example(shapes)

    def replay(self, tensors: Sequence[SymbolicTensor]) -> list[SymbolicTensor]:
        if not self._open:
            return super().replay(tensors)
        if len(tensors) != 1:
            raise ConfigError(f"{self.name!r} expected 1 input, got {len(tensors)}")
        output = self._run(tensors[0])
        if self._graph is None:
            self._chain(Input(batch_shape=(None, *tensors[0].shape[1:]), dtype=tensors[0].dtype))
        return [output]

    def _build_from_arguments(self) -> None:
        """Build where an Input or the first layer gives the shape; else wait for more."""
        self._graph = None
        if not self.parts:
            return
        if self._input is not None:
            self._open = False
            if (dtype := self._input_dtype()) is not None:
                self._input.settle_dtype(dtype)
            self._chain(self._input)
            return
        implied = _implied_input(self.parts[0])
        if implied is None:
            return
        shape, certain = implied
        if certain:
            self._chain(Input(batch_shape=shape, dtype=self._input_dtype()))
            self._open = False
            return
        # The shape is a guess (an Embedding takes any): where it fails, the first call decides.
        with suppress(ShapeError):
            self._chain(Input(batch_shape=shape, dtype=self._input_dtype()))

    def _build_from_example(self, shapes: Sequence[Shape]) -> None:
        """Build with the example's axes as free as the layers let them be."""
        if len(shapes) != 1 and not isinstance(self.parts[0], Table):
            raise ConfigError(f"{self.name!r} expected 1 input, got {len(shapes)}")
        exact = (None, *shapes[0][1:])
        if not shapes[0]:
            raise ShapeError(f"{self.name!r} expected rank 1 or more, got a scalar; pass [value]")
        first = self.parts[0]
        if isinstance(first, Layer):
            with suppress(ShapeError):
                (free,) = first.free_input((exact,))
                self._chain(Input(batch_shape=free, dtype=self._input_dtype()))
                return
        self._chain(Input(batch_shape=exact, dtype=self._input_dtype()))

    def _chain(self, tensor: SymbolicTensor) -> None:
        self._graph = graph_of([tensor], [self._run(tensor)])
        self.name_parts()

    def _run(self, tensor: SymbolicTensor) -> SymbolicTensor:
        for part in self.parts:
            tensor = part(tensor)
        return tensor

    def _input_dtype(self) -> str | None:
        """That of the first layer with weights: a Flatten before a float64 Dense is float64."""
        weighted = [layer for part in self.parts for layer in _layers_of(part) if layer.has_weights]
        if not weighted or isinstance(weighted[0], Table):
            return None
        return weighted[0].weight_dtype


def _implied_input(part: Part) -> tuple[Shape, bool] | None:
    if isinstance(part, Layer):
        return part.implied_input()
    return (part.inputs[0].shape, True) if part.is_built else None


def _layers_of(part: Part) -> list[Layer]:
    return part.layers if isinstance(part, Model) else [part]
