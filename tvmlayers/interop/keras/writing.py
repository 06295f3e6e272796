"""`to_keras`: a model as a functional Keras 3 model, on the backend that Keras has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from tvmlayers.dtypes import is_half
from tvmlayers.errors import MissingDependencyError
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.exporting import Use, exported, need
from tvmlayers.layers import Model
from tvmlayers.layers.graph import BATCH
from tvmlayers.layers.names import free_name
from tvmlayers.layers.stored import in_floats


def to_keras(model: Model) -> Any:
    """The Keras model that computes what a model computes: see `Model.to_keras`."""
    try:
        import keras
    except ImportError as error:
        raise MissingDependencyError(
            "to_keras needs Keras 3 and one of its backends, which are not installed: "
            "pip install keras torch"
        ) from error
    model = in_floats(model.ready())
    made: dict[str, Any] = {}
    inputs = {
        id(t): keras.Input(t.shape[1:], dtype=t.dtype, name=t.name)
        for t in model.inputs
        if t.axes[0] is BATCH
    }
    outputs = exported(model, "Keras", inputs, _rows(keras.layers, made))
    written = keras.Model(list(inputs.values()), outputs, name=model.name)
    for layer in model.layers:
        if layer.has_weights:
            made[layer.name].set_weights([np.asarray(weight) for weight in layer.weights.values()])
    return written


Row: TypeAlias = Callable[[Use[Any]], Any]


def _rows(kinds: Any, made: dict[str, Any]) -> Mapping[str, Row]:
    """The rows of the table. kinds: `keras.layers`; made: the layers by name, each once."""
    names: set[str] = set()

    def named(wanted: str) -> str:
        """A name without dots, which Keras on PyTorch takes for those of nested modules."""
        name = free_name(wanted.replace(".", "_"), names)
        names.add(name)
        return name

    def layer(use: Use[Any], kind: str, **options: Any) -> Any:
        """The Keras layer of a layer of ours, which is made the first time."""
        found = made.get(use.name)
        if found is None:
            dtype = use.layer.dtype if use.layer.has_weights else use.node.output.dtype
            if is_half(dtype):
                raise Unsupported(f"{dtype} layers compute in another way there")
            if getattr(use.layer, "activation", "") == "gelu_tanh":
                raise Unsupported("the activation gelu_tanh has no name there")
            name = named(use.name)
            found = made[use.name] = getattr(kinds, kind)(name=name, dtype=dtype, **options)
        return found

    def merge(kind: str, *options: str) -> Callable[..., Any]:
        """The row of a layer of several tensors that has the same arguments there."""

        def row(use: Use[Any], given: Any = None) -> Any:
            found = layer(use, kind, **{o: getattr(use.layer, o) for o in options})
            return found(use.tensors if given is None else given)

        return row

    def plain(kind: str, *options: str) -> Row:
        """The row of a layer of one tensor."""
        row = merge(kind, *options)
        return lambda use: row(use, use.first)

    def embedding(use: Use[Any]) -> Any:
        need("oob", use.layer.oob, "raise", "unchecked")
        options = {o: getattr(use.layer, o) for o in ("input_dim", "output_dim", "mask_zero")}
        return layer(use, "Embedding", **options)(use.first)

    def bag(use: Use[Any]) -> Any:
        """EmbeddingBag of 2-D indices: an Embedding and a pooling over its steps."""
        own = use.layer
        need("oob", own.oob, "raise", "unchecked")
        need("mode", own.mode, "mean", "max")
        need("padding_idx", own.padding_idx, None)
        if len(use.tensors) > 1 or not use.given.shape[1]:
            raise Unsupported("only bags of a fixed number of indices have an equivalent there")
        table = layer(use, "Embedding", input_dim=own.input_dim, output_dim=own.output_dim)
        kind = "GlobalAveragePooling1D" if own.mode == "mean" else "GlobalMaxPooling1D"
        pooling = getattr(kinds, kind)(name=named(f"{use.name}_pooling"), dtype=own.dtype)
        return pooling(table(use.first))

    def unit(use: Use[Any]) -> Any:
        need("epsilon", use.layer.epsilon, 1e-12)
        return layer(use, "UnitNormalization", axis=list(use.layer.axes))(use.first)

    def unmasked(kind: str) -> Row:
        def row(use: Use[Any]) -> Any:
            if any(tensor.mask_of for tensor in use.node.inputs):
                raise Unsupported("Keras would leave out what a mask hides")
            return layer(use, kind)(use.tensors)

        return row

    def average(use: Use[Any]) -> Any:
        pooling = layer(use, "GlobalAveragePooling1D")
        return pooling(use.first) if use.mask is not None else _without_mask(pooling, use.first)

    def layer_norm(use: Use[Any]) -> Any:
        options = {o: getattr(use.layer, o) for o in ("epsilon", "center", "scale")}
        return layer(use, "LayerNormalization", axis=list(use.layer.axes), **options)(use.first)

    def rms_norm(use: Use[Any]) -> Any:
        axes = list(use.layer.axes)
        return layer(use, "RMSNormalization", axis=axes, epsilon=use.layer.epsilon)(use.first)

    return {
        "Activation": plain("Activation", "activation"),
        "Add": merge("Add"),
        "Average": merge("Average"),
        "BatchNormalization": plain(
            "BatchNormalization", "axis", "momentum", "epsilon", "center", "scale"
        ),
        "Concatenate": merge("Concatenate", "axis"),
        "Dense": plain("Dense", "units", "activation", "use_bias"),
        "Dot": merge("Dot", "axes", "normalize"),
        "Dropout": plain("Dropout", "rate"),
        "ELU": plain("ELU", "alpha"),
        "Embedding": embedding,
        "EmbeddingBag": bag,
        "Flatten": plain("Flatten"),
        "GlobalAveragePooling1D": average,
        "GlobalMaxPooling1D": plain("GlobalMaxPooling1D"),
        "LayerNormalization": layer_norm,
        "LeakyReLU": plain("LeakyReLU", "negative_slope"),
        "Maximum": unmasked("Maximum"),
        "Minimum": unmasked("Minimum"),
        "Multiply": unmasked("Multiply"),
        "PReLU": plain("PReLU", "shared_axes"),
        "RMSNormalization": rms_norm,
        "Rescaling": plain("Rescaling", "scale", "offset"),
        "Reshape": plain("Reshape", "target_shape"),
        "Subtract": merge("Subtract"),
        "UnitNormalization": unit,
    }


def _without_mask(layer: Any, x: Any) -> Any:
    """A layer of Keras's on a tensor whose mask, if Keras gave it one, our model has not."""
    mask = getattr(x, "_keras_mask", None)
    if mask is not None:
        raise Unsupported("Keras would leave out the steps of index 0, which this model does not")
    return layer(x)
