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
from tvmlayers.quantization import KINDS, Kind
from tvmlayers.quantization.kinds import ACTIVATIONS, GROUPS

_INT4_GROUP = 32  # a scale for a whole column leaves too little of four bits

Quantized = TypeVar("Quantized", Model, Layer)


def quantize(
    model: Quantized,
    *,
    tables: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
    granularity: str | int | None = None,
    keep: Sequence[str] = (),
) -> Quantized:
    """A copy of a model or layer that keeps weights in fewer bits; the model stays as it is.

    tables: how the tables of Embedding and EmbeddingBag are kept; weights: how the kernels of Dense
    are. Each is "float16", "bfloat16", "int8", "int4" or None for as they are. Tables as int8 and
    int4 have a scale and an offset for each row; biases stay float32. granularity: of int8 and int4
    kernels, a scale for each output column ("channel"), or for each 32, 64 or 128 steps of it; by
    default "channel" for int8 and 32 for int4. activations: what int8 and int4 kernels are
    multiplied with. None: inputs as exact as in float32; "int16" or "int8": each row of the input
    is rounded to so many bits in the call. keep: names of layers that stay as they are.

    Results are float32. WeightsError where a kind cannot hold a number, DTypeError for layers that
    are not float32, ConfigError where there is nothing to do or a layer is in fewer bits already.
    """
    if weights is not None:
        one_of("kind of stored weights", weights, KINDS)
        weights = _kernel_kind(weights, granularity, activations)
    elif granularity is not None or activations is not None:
        raise ConfigError(
            "granularity= and activations= are of the kernels of Dense: give weights="
        )
    if tables is not None:
        one_of("kind of stored weights", tables, KINDS)
    kinds = {Table: tables, Dense: weights}
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


def _kernel_kind(weights: str, granularity: str | int | None, activations: str | None) -> str:
    """The name of a kernel's kind, as `Kind` spells it."""
    if granularity is None and weights == "int4":
        granularity = _INT4_GROUP
    if granularity not in (None, "channel", *GROUPS) or isinstance(granularity, bool):
        raise ConfigError(
            'granularity is "channel", or 32, 64 or 128 steps of k for a scale; '
            f"got {granularity!r}"
        )
    group = granularity if isinstance(granularity, int) else 0
    taken = "" if activations is None else one_of("activations", activations, ACTIVATIONS)
    made = Kind(weights, group, taken).name
    return Kind.of(made).name


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
