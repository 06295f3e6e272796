"""`quantize`: a model with its weights in fewer bits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

from tvmlayers.errors import ConfigError, unknown_name
from tvmlayers.layers.base import Layer
from tvmlayers.layers.checks import one_of
from tvmlayers.layers.dense import Dense
from tvmlayers.layers.embedding import Table
from tvmlayers.layers.model import Model
from tvmlayers.layers.stored import StoredLayer
from tvmlayers.quantization import KINDS

Quantized = TypeVar("Quantized", Model, Layer)


def quantize(
    model: Quantized,
    *,
    tables: str | None = None,
    weights: str | None = None,
    keep: Sequence[str] = (),
) -> Quantized:
    """A copy of a model or layer that keeps weights in fewer bits; the model stays as it is.

    tables: how the tables of Embedding and EmbeddingBag are kept; weights: how the kernels of Dense
    are. Each is "float16", "bfloat16", "int8" or None for as they are. Tables as int8 have a scale
    and an offset for each row, kernels a scale for each output column; biases stay float32.
    keep: names of layers that stay as they are.

    All layers compute in float32 as before: numbers are widened as they are read. WeightsError
    where a kind cannot hold a number, DTypeError for layers that are not float32, ConfigError where
    there is nothing to do or a layer is in fewer bits already.
    """
    kinds = {Table: tables, Dense: weights}
    for kind in kinds.values():
        if kind is not None:
            one_of("kind of stored weights", kind, KINDS)
    parts = _layers_of(model)
    _check_names(keep, parts)
    wanted = [_wanted(layer, kinds) for layer in parts]
    if not any(wanted):
        raise ConfigError(
            "there is nothing to quantise: tables= is for Embedding and EmbeddingBag, weights= for "
            f"Dense; got tables={tables!r}, weights={weights!r} for {', '.join(_kinds_of(parts))}"
        )
    # Weights are read-only: those that stay are shared.
    shared = {id(array): array for layer in parts for array in layer.weights.values()}
    made = copy.deepcopy(model, shared)
    for layer, kind in zip(_layers_of(made), wanted, strict=True):
        if kind is not None and layer.name not in keep:
            assert isinstance(layer, StoredLayer)
            layer.keep_as(kind)
    return made


def _layers_of(model: Model | Layer) -> list[Layer]:
    if isinstance(model, Model):
        return model.ready().layers
    if isinstance(model, Layer):
        return [model]
    raise ConfigError(f"quantize expected a layer or a model, got {type(model).__name__}")


def _wanted(layer: Layer, kinds: dict[type[StoredLayer], str | None]) -> str | None:
    return next((kind for cls, kind in kinds.items() if isinstance(layer, cls)), None)


def _check_names(keep: Sequence[str], layers: Sequence[Layer]) -> None:
    if isinstance(keep, str):
        raise ConfigError(f"keep is a list of layers' names, got {keep!r}; write keep=[{keep!r}]")
    names = [layer.name for layer in layers]
    for name in keep:
        if name not in names:
            raise unknown_name("layer", name, names)


def _kinds_of(layers: Sequence[Layer]) -> list[str]:
    return list(dict.fromkeys(layer.kind for layer in layers)) or ["no layers"]
