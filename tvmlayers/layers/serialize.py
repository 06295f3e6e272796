"""Models and weights as safetensors files: a JSON configuration and arrays, no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from tvmlayers.errors import ConfigError, TvmLayersError, WeightsError, unknown_name
from tvmlayers.files import saving
from tvmlayers.layers.base import Array, Layer
from tvmlayers.layers.graph import BATCH, SymbolicTensor
from tvmlayers.layers.input import Input
from tvmlayers.layers.model import Model
from tvmlayers.layers.sequential import Sequential
from tvmlayers.model_config import LayerConfig, ModelConfig
from tvmlayers.operations import OPERATIONS, operation_of
from tvmlayers.safetensors_file import chunks, read

LAYERS: dict[str, type[Layer]] = {name: row.layer_class for name, row in OPERATIONS.items()}
"""What a configuration may name."""

MODEL_KEY = "tvmlayers.model"


def model_config(model: Model) -> dict[str, Any]:
    """JSON-able: inputs, layers, and for each node the numbers of the tensors that it takes.

    Tensors are numbered: the inputs first, then the output of each node in turn.
    """
    config: dict[str, Any] = {"class": type(model).__name__, "name": model.name}
    if not model.is_built:
        return {**config, "layers": [_layer_config(layer) for layer in model.layers]}
    model.name_parts()
    tensors = [*model.inputs, *(node.output for node in model.nodes)]
    number = {id(tensor): place for place, tensor in enumerate(tensors)}
    return {
        **config,
        "inputs": [_input_config(tensor) for tensor in model.inputs],
        "layers": [_layer_config(layer) for layer in model.layers],
        "nodes": [
            {
                "layer": node.layer.name,
                "inputs": [number[id(tensor)] for tensor in node.inputs],
                "roles": list(node.roles),
            }
            for node in model.nodes
        ],
        "outputs": [number[id(tensor)] for tensor in model.outputs],
    }


def model_from_config(config: Mapping[str, Any]) -> Model:
    """The model that `model_config` described; ConfigError for anything else."""
    try:
        return _model(msgspec.convert(config, ModelConfig))
    except ConfigError:
        raise
    except (
        TvmLayersError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigError(f"this is no model configuration of tvmlayers: {error}") from error


def save_model(model: Model, path: str | Path) -> None:
    """Write configuration and weights; ConfigError where a layer cannot be described: it holds a
    Python callable, or is of a class of the user's own."""
    model.ready()
    for layer in model.layers:
        operation_of(layer)
        for argument, value in layer.config().items():
            if isinstance(value, dict) and "callable" in value:
                raise ConfigError(
                    f"{layer.name} cannot be saved: its {argument} is the Python callable "
                    f"{value['callable']!r}; use a named one, or save the compiled model"
                )
    _write(path, model.weights, {MODEL_KEY: json.dumps(model_config(model))})


def load_model(path: str | Path) -> Model:
    """The model that `Model.save` wrote, weights in place.

    ConfigError for a damaged or foreign file, WeightsError when weights and layers disagree.
    """
    try:
        arrays, metadata = read(path)
    except WeightsError as error:
        raise ConfigError(str(error)) from error
    if MODEL_KEY not in metadata:
        raise ConfigError(f"{path} holds no model configuration; was it written by model.save?")
    try:
        config = json.loads(metadata[MODEL_KEY])
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} holds a model configuration that is no JSON: {error}") from error
    model = model_from_config(config)
    _assign(model.layers, arrays, path)
    return model


def save_weights(layers: Sequence[Layer], path: str | Path) -> None:
    """Write the layers' weights, named "<layer>/<weight>"."""
    named = {
        f"{layer.name}/{name}": value for layer in layers for name, value in layer.weights.items()
    }
    _write(path, named, {})


def load_weights(layers: Sequence[Layer], path: str | Path) -> None:
    """Assign the weights of a file to the layers; all of them change, or none."""
    arrays, _ = read(path)
    _assign(layers, arrays, path)


def _layer_config(layer: Layer) -> dict[str, Any]:
    return {"class": layer.kind, "config": layer.get_config()}


def _input_config(tensor: SymbolicTensor) -> dict[str, Any]:
    batch = tensor.axes[0] is BATCH
    shape = list(tensor.shape[1:] if batch else tensor.shape)
    return {"name": tensor.name, "shape": shape, "dtype": tensor.dtype, "batch": batch}


def _model(config: ModelConfig) -> Model:
    layers = [_layer(described) for described in config.layers]
    if config.nodes is UNSET or config.inputs is UNSET or config.outputs is UNSET:
        if config.kind == "Model" or not (config.nodes is config.inputs is config.outputs):
            raise ConfigError("a model configuration has inputs, nodes and outputs, or none of it")
        return Sequential(layers, name=config.name)
    by_name = {layer.name: layer for layer in layers}
    if len(by_name) != len(layers):
        raise ConfigError("a model configuration names two layers alike")
    inputs = [Input(**msgspec.to_builtins(described)) for described in config.inputs]
    in_line = [node.inputs == [place] for place, node in enumerate(config.nodes)]
    if config.kind == "Sequential" and len(inputs) == 1 and all(in_line):
        line = [by_name[node.layer] for node in config.nodes]
        return Sequential([inputs[0], *line], name=config.name)
    tensors = list(inputs)
    for node in config.nodes:
        taken = tuple(tensors[place] for place in node.inputs)
        tensors.append(by_name[node.layer].replay(taken, tuple(node.roles)))
    return Model(inputs, [tensors[place] for place in config.outputs], name=config.name)


def _layer(described: LayerConfig) -> Layer:
    if described.kind not in LAYERS:
        raise unknown_name("layer class", described.kind, LAYERS)
    layer: Layer = LAYERS[described.kind].from_config(described.config)
    return layer


def _assign(layers: Sequence[Layer], arrays: Mapping[str, Array], path: str | Path) -> None:
    wanted = {f"{layer.name}/{name}" for layer in layers for name in layer.weight_specs()}
    missing, unexpected = sorted(wanted - set(arrays)), sorted(set(arrays) - wanted)
    if missing or unexpected:
        raise WeightsError(
            f"{path} does not fit these layers: missing {missing or 'nothing'}, "
            f"unexpected {unexpected or 'nothing'}"
        )
    chosen = [
        {name: arrays[f"{layer.name}/{name}"] for name in layer.weight_specs()} for layer in layers
    ]
    checked = [layer.check(weights) for layer, weights in zip(layers, chosen, strict=True)]
    for layer, weights in zip(layers, checked, strict=True):
        layer.assign(weights)


def _write(path: str | Path, arrays: dict[str, Array], metadata: dict[str, str]) -> None:
    """SaveError where the file cannot be written, ConfigError for names that no JSON holds."""
    # The widest first, as the library of that format does: each begins at a multiple of its size.
    placed = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    with saving(path) as file:
        for chunk in chunks(dict(placed), metadata):
            file.write(chunk)
