"""Model: a graph of layers between inputs and outputs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.layers.base import Array, Layer
from tvmlayers.layers.graph import (
    BATCH,
    Graph,
    Node,
    Shape,
    Symbol,
    SymbolicTensor,
    flat,
    graph_of,
    unflat,
)
from tvmlayers.layers.names import checked_name, free_name, naming, snake_case, unique_names
from tvmlayers.layers.stored import fewer_bits
from tvmlayers.layers.verbs import Verbs
from tvmlayers.layers.weights import set_flat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tvmlayers.layers.calibration import Calibration


_NOT_COPIED = ("_compiled", "_compiling", "_trainer")


class Model(Verbs):
    """What lies between symbolic inputs and outputs, each one tensor or a list of them.

    Called on symbolic tensors it repeats its layers there, with the same weights; called on
    arrays it compiles for this machine at the first call.
    """

    _graph: Graph | None
    calibration: Calibration | None = None
    """What `tl.quantize` chose and measured on example inputs, where it made the model so."""

    def __init__(
        self,
        inputs: SymbolicTensor | Sequence[SymbolicTensor],
        outputs: SymbolicTensor | Sequence[SymbolicTensor],
        name: str | None = None,
    ) -> None:
        self._begin(name)
        self._graph = graph_of(_listed(inputs), _listed(outputs))
        self.name_parts()

    def _begin(self, name: str | None) -> None:
        self.name = snake_case(type(self).__name__) if name is None else checked_name(name)
        self._graph = None
        self._compiled: tuple[object, Callable[..., Any], list[str]] | None = None
        self._trainer = None
        self._compiling = threading.RLock()  # one thread compiles for a call, others wait

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled."""
        state = {key: value for key, value in self.__dict__.items() if key not in _NOT_COPIED}
        return {**state, "_graph": None if self._graph is None else flat(self._graph)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin(state["name"])
        self.__dict__.update(state)
        if state["_graph"] is not None:
            self._graph = unflat(state["_graph"])
            self.name_parts()

    @property
    def graph(self) -> Graph:
        """The model's graph; ConfigError for a Sequential whose input shape is not known yet."""
        if self._graph is None:
            raise ConfigError(
                f"the input shape of {self.name!r} is not known: begin with tl.Input(shape=...), "
                "call build(input_shape), or call the model on an example"
            )
        return self._graph

    @property
    def is_built(self) -> bool:
        return self._graph is not None

    @property
    def inputs(self) -> list[SymbolicTensor]:
        return self.graph.inputs

    @property
    def outputs(self) -> list[SymbolicTensor]:
        return self.graph.outputs

    @property
    def nodes(self) -> list[Node]:
        """The uses of layers, each after those that it depends on."""
        return self.graph.nodes

    @property
    def layers(self) -> list[Layer]:
        """The layers, each once, in the order in which Keras lists them."""
        return self.graph.layers

    @property
    def input_shape(self) -> Any:
        return _single([tensor.shape for tensor in self.inputs])

    @property
    def output_shape(self) -> Any:
        return _single([tensor.shape for tensor in self.outputs])

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Nothing: a functional model is built when it is made. A Sequential overrides this."""

    def settle(self, shapes: Sequence[Shape] | None = None) -> None:
        """Build the model for inputs of these shapes where it is not built, or only by a guess."""

    def ready(self, shapes: Sequence[Shape] | None = None) -> Model:
        """This model, built and with unique names. shapes: those of example inputs."""
        self.settle(shapes)
        self.name_parts()
        return self

    def name_parts(self) -> None:
        """Give layers, inputs, free axes and tensors names that are unique in this model.

        A layer that two models share has the name that the model asked last gave it.
        """
        graph = self.graph
        with naming:
            unique_names(graph.layers)
            unique_names(graph.inputs)
            _name_symbols(tensor for tensor in graph.inputs)
            taken: set[str] = {layer.name for layer in graph.layers}
            first: set[int] = set()
            for node in graph.nodes:
                node.output.name = node.layer.name
                if id(node.layer) in first:
                    node.output.name = free_name(node.layer.name, taken)
                    taken.add(node.output.name)
                first.add(id(node.layer))

    def __call__(self, *args: Any, **named: Any) -> Any:
        tensors = args
        if len(args) == 1 and isinstance(args[0], list | tuple) and self._spreads(args[0]):
            tensors = tuple(args[0])
        symbolic = [isinstance(tensor, SymbolicTensor) for tensor in tensors]
        if symbolic and all(symbolic) and not named:
            return _single(self.replay(list(tensors)))
        if any(symbolic):
            raise ConfigError(f"{self.name!r} got symbolic tensors and arrays in one call")
        from tvmlayers.layers.eager import call_model

        return call_model(self, tensors, named)

    def _spreads(self, listed: Sequence[Any]) -> bool:
        """Whether a list in a call holds the inputs, and is not itself one nested-list tensor."""
        if any(isinstance(tensor, SymbolicTensor) for tensor in listed):
            return True
        return self._graph is not None and len(self._graph.inputs) == len(listed) > 1

    def replay(self, tensors: Sequence[SymbolicTensor]) -> list[SymbolicTensor]:
        """The outputs of the same layers on other inputs."""
        if len(tensors) != len(self.inputs):
            raise ConfigError(
                f"{self.name!r} expected {len(self.inputs)} inputs, got {len(tensors)}"
            )
        given: dict[int, SymbolicTensor] = {}
        for wanted, tensor in zip(self.inputs, tensors, strict=True):
            if not fits(wanted.shape, tensor.shape):
                raise ShapeError(
                    f"{self.name!r} expected {wanted.shape} for input {wanted.name!r}, "
                    f"got {tensor.shape}"
                )
            tensor.settle_dtype(wanted.dtype)
            given[id(wanted)] = tensor
        for node in self.nodes:
            inputs = tuple(given[id(tensor)] for tensor in node.inputs)
            given[id(node.output)] = node.layer.replay(inputs, node.roles)
        return [given[id(tensor)] for tensor in self.outputs]

    @property
    def weights(self) -> dict[str, Array]:
        """Read-only arrays named "<layer>/<weight>", in Keras's order."""
        with naming:
            self.name_parts()
            return {
                f"{layer.name}/{name}": weight
                for layer in self.layers
                for name, weight in layer.weights.items()
            }

    def get_weights(self) -> list[Array]:
        """Copies of all weights as a flat list in Keras's order."""
        return [weight for layer in self.layers for weight in layer.get_weights()]

    def set_weights(self, weights: Sequence[object]) -> None:
        """Take a flat list in Keras's order; WeightsError when one does not fit."""
        set_flat(self.layers, weights, self.name)

    def quantize(self, mode: str) -> None:
        """Keep all tables and kernels as "int8", "int4", "float16" or "bfloat16" from now on.

        Keras's verb, in place; `tl.quantize` makes a copy and has more to choose. ConfigError where
        no layer keeps weights in fewer bits, else as `tl.quantize`; nothing changes then.
        """
        from tvmlayers.layers.quantize import quantize

        fewer = quantize(self, tables=mode, weights=mode)
        for layer, other in zip(self.layers, fewer.layers, strict=True):
            if fewer_bits(other):
                layer.quantize(mode)

    def save_weights(self, path: str | Path) -> None:
        """Write the weights as safetensors, named "<layer>/<weight>"."""
        from tvmlayers.layers.serialize import save_weights

        with naming:
            self.name_parts()
            save_weights(self.layers, path)

    def load_weights(self, path: str | Path) -> None:
        """Read what `save_weights` or `save` wrote; WeightsError when it does not fit."""
        from tvmlayers.layers.serialize import load_weights

        with naming:
            self.name_parts()
            load_weights(self.layers, path)

    def save(self, path: str | Path) -> None:
        """Write configuration and weights in one safetensors file; see `load_model`."""
        from tvmlayers.layers.serialize import save_model

        with naming:
            save_model(self, path)

    def to_torch(self) -> Any:
        """The PyTorch module, a `torch.fx.GraphModule` in eval mode, that computes the same.

        Weights are copied bit by bit into PyTorch's own modules, which have the layers' names in
        the state dict; a layer that is used twice is one module. Weights in fewer bits become the
        float32 numbers that they stand for, each rounded once. `torch.export` and `tl.from_torch`
        read it. ModelExportError names every layer and option that PyTorch has no
        equivalent of; MissingDependencyError without PyTorch.
        """
        from tvmlayers.interop.torch.writing import to_torch

        return to_torch(self)

    def to_onnx(self, path: str | Path) -> None:
        """Write an ONNX file, of opset 20 and standard operators, that computes the same.

        Free axes stay free. Weights are copied bit by bit, under their names here; those in fewer
        bits stay codes with scales, of opset 21 where they are int4 or have scales for groups. A
        node has its layer's name, and `tl.from_onnx` reads the file. ModelExportError names every
        layer and option that ONNX has no equivalent of; SaveError where the file cannot be written;
        MissingDependencyError without the package onnx.
        """
        from tvmlayers.interop.onnx.writing import to_onnx

        to_onnx(self, path)

    def to_keras(self) -> Any:
        """The functional Keras 3 model, on whatever backend Keras has, that computes the same.

        Layers keep their names, but for dots, and their weights bit by bit; a layer that is used
        twice is one layer. Weights in fewer bits become the float32 numbers that they stand for,
        each rounded once. ModelExportError names every layer and option that Keras does not have;
        MissingDependencyError without Keras.
        """
        from tvmlayers.interop.keras.writing import to_keras

        return to_keras(self)

    def count_params(self) -> int:
        """How many numbers the weights hold; a shared layer counts once."""
        return sum(layer.count_params() for layer in self.layers)

    def summary(self, print_fn: Callable[[str], object] | None = None) -> str:
        """A table of the layers with shapes, parameters, FLOPs and bytes; printed as well."""
        from tvmlayers.layers.summary import summary

        with naming:
            return summary(self, print_fn)

    def get_config(self) -> dict[str, Any]:
        """The JSON-able layers and wiring that make this model again, weights left out."""
        from tvmlayers.layers.serialize import model_config

        with naming:
            return model_config(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Model:
        """The model that `get_config` described, with fresh weights; else ConfigError."""
        from tvmlayers.layers.serialize import model_from_config

        return model_from_config(config)

    def __repr__(self) -> str:
        built = "not built" if self._graph is None else f"{self.input_shape} -> {self.output_shape}"
        return f"<{type(self).__name__} {self.name!r} {built}>"


def fits(wanted: Shape, got: Shape) -> bool:
    """Whether a tensor of shape got may stand where wanted was; free axes take any length."""
    return len(wanted) == len(got) and all(
        w is None or w == g for w, g in zip(wanted, got, strict=True)
    )


def _listed(tensors: SymbolicTensor | Sequence[SymbolicTensor]) -> list[SymbolicTensor]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]  # type: ignore[list-item]


def _single(things: list[Any]) -> Any:
    return things[0] if len(things) == 1 else things


def _name_symbols(tensors: Iterable[SymbolicTensor]) -> None:
    named = [BATCH]
    for tensor in tensors:
        for axis in tensor.axes:
            if isinstance(axis, Symbol) and axis not in named:
                axis.name = f"n{len(named)}"
                named.append(axis)
