"""Layers and models called on arrays: compiled for this machine at the first call.

The one place where a layer asks for the compiler, and only when arrays come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tvmlayers.dtypes import FLOAT_DTYPES
from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.layers.base import Layer
from tvmlayers.layers.checks import dtype_name
from tvmlayers.layers.graph import Shape
from tvmlayers.layers.input import Input
from tvmlayers.layers.names import naming

if TYPE_CHECKING:
    from tvmlayers.layers.model import Model

Spec: TypeAlias = tuple[Shape, str | None]
"""The shape of an array, and its dtype: None for a list, which has none."""

INDEX_ROLES = ("indices", "offsets")
NAMED_ROLES = ("offsets", "per_sample_weights")


def example_specs(arrays: Sequence[Any]) -> list[Spec]:
    """The Spec of each array-like."""
    specs: list[Spec] = []
    for array in arrays:
        shaped = _shaped(array)
        dtype = dtype_name(shaped.dtype) if _has_dtype(array) else None
        specs.append((tuple(int(size) for size in shaped.shape), dtype))
    return specs


def free_specs(layer: Layer, specs: list[Spec]) -> list[Spec]:
    """specs with what one compiled form of the layer serves left open.

    Where the layer leaves the leading axes alone, one is added to inputs without: compiled code
    takes any number of them.
    """
    shapes = tuple(shape for shape, _ in specs)
    if all(len(shape) == layer.row_axes() for shape in shapes):
        shapes = tuple((1, *shape) for shape in shapes)
    if () in shapes:
        raise ShapeError(f"{layer.describe()} expected rank 1 or more, got a scalar; pass [value]")
    dtypes = (layer.example_dtype(dtype) for _, dtype in specs)
    return list(zip(layer.free_input(shapes), dtypes, strict=True))


def model_of_layer(layer: Layer, specs: list[Spec] | None) -> Model:
    """A Model of this layer alone, its axes as free as the layer lets them be."""
    from tvmlayers.layers.model import Model

    if specs is None:
        implied = layer.implied_input()
        if implied is None:
            raise ConfigError(
                f"the input shape of {layer.describe()} is not known: pass an example input, "
                "or give the layer input_shape="
            )
        specs = [(implied[0], None)]
    inputs = [
        Input(batch_shape=(None, *shape[1:]), dtype=dtype, name=layer.input_name)
        for shape, dtype in free_specs(layer, specs)
    ]
    return Model(inputs, layer(inputs if layer.takes_list else inputs[0]), name=layer.name)


def call_layer(layer: Layer, tensors: tuple[Any, ...], roles: tuple[str, ...]) -> Any:
    """What the layer makes of the arrays, in the caller's kind of array."""
    # A bag's offsets and sample weights are further ways into the model of its indices.
    specs = example_specs(tensors if layer.takes_list else tensors[:1])
    key = (layer.version, *free_specs(layer, specs))
    compiled = layer._compiled.get(key)
    if compiled is None:
        with layer._compiling:
            compiled = layer._compiled.get(key)
            if compiled is None:
                compiled = layer._compiled[key] = _compile(model_of_layer(layer, specs))
    positional, named = [], {}
    for tensor, role in zip(tensors, roles, strict=True):
        array = as_array(tensor, "int64" if role in INDEX_ROLES else layer.weight_dtype)
        if role in NAMED_ROLES:
            named[role] = array
        else:
            positional.append(array)
    return compiled(*positional, **named)


def call_model(model: Model, tensors: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What the model makes of the arrays, in the caller's kind of array."""
    specs = example_specs(tensors)
    with model._compiling:  # inputs of another rank may build the model anew
        model.settle([shape for shape, _ in specs] or None)
        graph = model.graph
        key = (graph, tuple(layer.version for layer in graph.layers))
        if model._compiled is None or model._compiled[0] != key:
            compiled = _compile(model)
            with naming:
                model.name_parts()
                names = [tensor.name for tensor in graph.inputs]
            model._compiled = (key, compiled, names)
        _, compiled, names = model._compiled
    dtypes = {name: tensor.dtype for name, tensor in zip(names, graph.inputs, strict=True)}
    # Arrays beyond the graph's inputs are the offsets of a bag, which may also come by name.
    wanted = [*dtypes.values(), *("int64" for _ in tensors)]
    arrays = [as_array(tensor, dtype) for tensor, dtype in zip(tensors, wanted, strict=False)]
    dtypes.update(dict.fromkeys(INDEX_ROLES, "int64"))
    value_dtype = graph.outputs[0].dtype
    by_name = {
        name: as_array(value, dtypes.get(name, value_dtype)) for name, value in named.items()
    }
    return compiled(*arrays, **by_name)


def as_array(value: object, dtype: str) -> Any:
    """value as something compiled code takes. A list has no dtype of its own: it gets this one."""
    if _has_dtype(value):
        return value
    array = _shaped(value)
    to_float = dtype in FLOAT_DTYPES and array.dtype.kind in "iuf"
    return array.astype(dtype) if to_float or not array.size else array


def _compile(model: Model) -> Callable[..., Any]:
    from tvmlayers.codegen import compile

    compiled: Callable[..., Any] = compile(model, target="native")
    return compiled


def _has_dtype(value: object) -> bool:
    return hasattr(value, "__dlpack__") or (hasattr(value, "shape") and hasattr(value, "dtype"))


def _shaped(value: Any) -> Any:
    """value itself when it has shape and dtype, else as NumPy: lists, numbers, DLPack tensors."""
    if type(value) is np.ndarray:
        return value
    is_nested = getattr(value, "is_nested", False)  # a torch tensor without a shape
    if not is_nested and hasattr(value, "shape") and hasattr(value, "dtype"):
        return value
    from tvmlayers.runtime.tensors import import_array

    return import_array(value, "input")[0]
