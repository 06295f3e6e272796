"""Keras 3 models, read from their configuration: neither Keras nor its backend is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tvmlayers import layers
from tvmlayers.dtypes import HALF_DTYPES, MIXED
from tvmlayers.errors import ModelImportError, TvmLayersError
from tvmlayers.interop.building import Builder, Unsupported
from tvmlayers.interop.keras.stored import Described, Place, Weights, read_file, read_model
from tvmlayers.interop.keras.table import LAYERS, MODELS, dtype_of
from tvmlayers.layers.graph import SymbolicTensor

Tensor = SymbolicTensor | None

REGARD_MASKS = ("Maximum", "Minimum", "Multiply")
"""Merges that leave out what a mask hides, in Keras."""


def from_keras(model: object) -> layers.Model:
    """The Model that a Keras 3 model computes at inference, with its weights.

    model: a built Sequential or functional model on any backend, or the path of a .keras file,
        which is read without Keras (by h5py). Nested models and shared layers are taken apart.

    Layers keep their names, with those of nested models in front. ModelImportError names every
    layer and option that is not supported, a model that was never built, and a damaged file.
    """
    if isinstance(model, (str, Path)):
        described, weights = read_file(Path(model))
    else:
        described, weights = read_model(model)
    reading = _Reading(weights)
    try:
        if (kind := described["class_name"]) not in MODELS:
            raise ModelImportError(f"from_keras imports {' and '.join(MODELS)} models, not {kind}")
        inputs, outputs = reading.model(described)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, TvmLayersError):
            raise
        raise ModelImportError(f"this is no configuration of a Keras 3 model: {error!r}") from error
    return layers.Model(inputs, outputs, name=str(described["config"]["name"]).replace("/", "."))


class _Reading:
    """A configuration on its way to a model; None stands for a tensor that cannot be made."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.builder = Builder("Keras")
        self.made: dict[Place, layers.Layer] = {}

    def model(self, described: Described) -> tuple[list[SymbolicTensor], list[SymbolicTensor]]:
        """(inputs, outputs) of the outermost model."""
        first = [layer for layer in described["config"]["layers"] if _is_input(layer)]
        if not first:
            raise ModelImportError(f"the model {described['config']['name']!r} was never built")
        nodes = [layer.get("inbound_nodes", ()) for layer in described["config"]["layers"]]
        used = {name for name, *_ in _places_in(nodes)}
        given: dict[str, SymbolicTensor | None] = {}
        for config in (layer["config"] for layer in first):
            name = config["name"]
            given[name] = None
            with self.builder.input(name, is_used=name in used or len(first) == 1):
                given[name] = _input(config)
        places = [given[name] for name in _input_names(described)]
        outputs = self.run(described, (), places)
        self.builder.finish()
        inputs = [tensor for tensor in places if tensor is not None]
        made = [tensor for tensor in outputs if tensor is not None]
        if len(made) != len(outputs):
            raise ModelImportError("an output is a comparison, which no layer here computes")
        return inputs, made

    def run(self, described: Described, path: Place, given: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of a model, nested or not, on these inputs."""
        config = described["config"]
        if described["class_name"] == "Sequential":
            tensors = list(given)
            for layer in config["layers"]:
                if not _is_input(layer):
                    tensors = self.call(layer, path, tensors, {})
            return tensors
        known = {(n, 0, 0): t for n, t in zip(_input_names(described), given, strict=True)}
        waiting = [
            (layer, number, node)
            for layer in config["layers"]
            for number, node in enumerate(layer["inbound_nodes"])
        ]
        while waiting:
            later = []
            for layer, number, node in waiting:
                taken = list(_places_in(node["args"]))
                if all(place in known for place in taken):
                    tensors = [known[place] for place in taken]
                    outputs = self.call(layer, path, tensors, node["kwargs"])
                    for index, tensor in enumerate(outputs):
                        known[layer["name"], number, index] = tensor
                else:
                    later.append((layer, number, node))
            if len(later) == len(waiting):
                names = ", ".join(str(layer["name"]) for layer, *_ in later)
                raise ModelImportError(f"what {names} take comes from nowhere")
            waiting = later
        return [known[end] for end in _ends(config["output_layers"])]

    def call(
        self, described: Described, path: Place, given: list[Tensor], options: Described
    ) -> list[Tensor]:
        """What a layer, or a nested model, makes of tensors."""
        kind, config = described["class_name"], described["config"]
        own = (*path, config["name"])
        if kind in MODELS:
            return self.run(described, own, given)
        if kind == "NotEqual":  # the mask of mask_zero, which the Embedding carries itself
            return [None]
        tensors = [tensor for tensor in given if tensor is not None]
        with self.builder.part(f"{kind} {'.'.join(own)!r}"):
            make = LAYERS.get(kind)
            if make is None:
                raise Unsupported("no layer here computes it")
            if config.get("quantization_config") or config.get("lora_rank"):
                raise Unsupported("quantised and LoRA weights are not read")
            _need_options(kind, options, tensors)
            is_new = own not in self.made
            if is_new:
                self.made[own] = make(config)
                self.made[own].name = self.builder.name(".".join(own))
                self.made[own].auto_named = False
            layer = self.made[own]
            if len(tensors) == len(given):
                _need_dtype(layer, config, tensors)
                tensor = layer(tensors if layer.takes_list else tensors[0])
                if is_new:
                    layer.set_weights(self.weights.get(own, []))
                return [tensor]
        return [None]


def _need_dtype(layer: layers.Layer, config: Described, given: Sequence[SymbolicTensor]) -> None:
    """Unsupported where a layer without weights would cast its inputs."""
    wanted = dtype_of(config).removeprefix(MIXED)
    others = {tensor.dtype for tensor in given if tensor.node is not None} - {wanted}
    if not layer.has_weights and others and {wanted, *others} & set(HALF_DTYPES):
        raise Unsupported(f"it casts {', '.join(sorted(others))} to {wanted}, which no layer does")


def _is_input(layer: Described) -> bool:
    return bool(layer["class_name"] == "InputLayer")


def _input(config: Described) -> SymbolicTensor:
    """An Input. Of a float32 one, Keras's default, the first layer decides the dtype here too."""
    if config.get("sparse") or config.get("ragged"):
        raise ModelImportError(f"the input {config['name']!r} is sparse or ragged")
    dtype = config["dtype"] if config["dtype"] != "float32" else None
    return layers.Input(config["batch_shape"][1:], dtype=dtype, name=config["name"])


def _input_names(described: Described) -> list[str]:
    config = described["config"]
    if described["class_name"] == "Sequential":
        return [layer["config"]["name"] for layer in config["layers"] if _is_input(layer)]
    return [name for name, *_ in _ends(config["input_layers"])]


def _ends(listed: Any) -> list[tuple[str, int, int]]:
    """The places of inputs or outputs, which Keras writes as one, a list or a dictionary."""
    if isinstance(listed, Mapping):
        listed = list(listed.values())
    if len(listed) == 3 and isinstance(listed[0], str):
        listed = [listed]
    return [(name, node, index) for name, node, index in listed]


def _places_in(value: Any) -> Iterator[tuple[str, int, int]]:
    """The places of the tensors in the arguments of a call."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            name, node, index = value["config"]["keras_history"]
            yield name, node, index
            return
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _places_in(part)


def _need_options(kind: str, options: Described, tensors: Sequence[SymbolicTensor]) -> None:
    """Unsupported for arguments of a call that a layer here does not know."""
    if kind in REGARD_MASKS and any(tensor.mask_of for tensor in tensors):
        raise Unsupported("it leaves out what a mask hides, which no layer here does")
    for name, value in options.items():
        mask_is_ours = kind == "GlobalAveragePooling1D" and tensors and tensors[0].mask_of
        is_mask = name in ("mask", "previous_mask") and isinstance(value, Mapping)
        if is_mask and kind in ("GlobalAveragePooling1D", "Softmax") and not mask_is_ours:
            raise Unsupported("it has a mask that is not that of an Embedding before it")
        if list(_places_in(value)) and not is_mask:
            raise Unsupported(f"it is called with {name}=")
