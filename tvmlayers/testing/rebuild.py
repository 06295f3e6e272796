"""A model and its weights out of a compiled model alone: its manifest and its packed weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from tvmlayers.artifact.panels import unpack
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.errors import ConfigError
from tvmlayers.layers import Layer, Model, as_model
from tvmlayers.layers.base import WeightSpec
from tvmlayers.quantization.columns import pack_pairs
from tvmlayers.runtime.call import ModelCall
from tvmlayers.testing.bounds import Array

Weights = Mapping[str, Array]
"""Plain arrays in Keras's layout, named "<layer>/<weight>"."""


def model_of(compiled: ModelCall, model: Model | Layer | None = None) -> Model:
    """The model that was compiled, without its weights.

    model: the original, from which Python callables are taken, as no manifest holds them.
    ConfigError where there are some and no model is given.
    """
    config = compiled.manifest["model"]
    custom = {
        described["config"]["name"]: described["config"]["activation"]["callable"]
        for described in config["layers"]
        if isinstance(described["config"].get("activation"), dict)
    }
    if not custom:
        return Model.from_config(config)
    if model is None:
        layer, function = next(iter(custom.items()))
        raise ConfigError(
            f"layer {layer!r} has the Python callable {function!r} as its activation, which an "
            "artefact holds as machine code only; pass the model itself: verify(compiled, "
            "model=model)"
        )
    named = [
        {**described, "config": {**described["config"], "activation": "linear"}}
        if described["config"]["name"] in custom
        else described
        for described in config["layers"]
    ]
    rebuilt = Model.from_config({**config, "layers": named})
    originals = {layer.name: layer for layer in as_model(model).layers}
    for layer in rebuilt.layers:
        if layer.name in custom:
            activation = getattr(originals.get(layer.name), "activation", None)
            if not callable(activation):
                raise ConfigError(
                    f"model= is not the model that was compiled: it has no layer {layer.name!r} "
                    "whose activation is a Python callable"
                )
            layer.activation = activation  # type: ignore[attr-defined]
    return rebuilt


def weights_of(compiled: ModelCall, model: Model) -> Weights:
    """The weights of the rebuilt model, unpacked; tables are views of the compiled model's own."""
    packed = compiled.packed_weights()
    layouts = {row["name"]: row["layout"] for row in compiled.manifest["weights"]}
    return {
        f"{layer.name}/{name}": _plain(
            packed[f"{layer.name}/{name}"], spec, layouts[f"{layer.name}/{name}"]
        )
        for layer in model.layers
        for name, spec in layer.weight_specs().items()
    }


def _plain(packed: Array, spec: WeightSpec, layout: dict[str, Any] | None) -> Array:
    if layout is not None:
        plain = unpack(packed, layout)
        if spec.dtype == "uint8":  # codes of four bits
            return pack_pairs(plain)
        plain = plain.reshape(spec.shape)  # a scale for each column is packed as one group
    else:  # a bias is padded at its end
        plain = packed.reshape(-1)[: prod(spec.shape)].reshape(spec.shape)
    # Kernels read bfloat16 as its bits.
    return plain.view(numpy_dtype("bfloat16")) if spec.dtype == "bfloat16" else plain
