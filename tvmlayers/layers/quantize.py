"""`quantize`: a model with its weights in fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvmlayers.errors import ConfigError, unknown_name
from tvmlayers.layers.base import Layer
from tvmlayers.layers.calibration import Limit, calibrated
from tvmlayers.layers.checks import one_of
from tvmlayers.layers.dense import Dense
from tvmlayers.layers.eager import model_of_layer
from tvmlayers.layers.embedding import Table
from tvmlayers.layers.model import Model
from tvmlayers.layers.stored import Quantized, StoredLayer, in_fewer_bits, layers_of
from tvmlayers.quantization import KINDS, Kind
from tvmlayers.quantization.kinds import ACTIVATIONS, GROUPS, USUAL_GROUPS


def quantize(
    model: Quantized,
    *,
    tables: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
    granularity: str | int | None = None,
    keep: Sequence[str] = (),
    calibrate: Any = None,
    max_error: float | None = None,
    metric: Callable[[Any], float] | None = None,
    max_drop: float | None = None,
) -> Quantized:
    """A copy of a model or layer that keeps weights in fewer bits; the model stays as it is.

    tables: how the tables of Embedding and EmbeddingBag are kept; weights: how the kernels of Dense
    are. Each is "float16", "bfloat16", "int8", "int4" or None for as they are. Tables as int8 and
    int4 have a scale and an offset for each row; biases stay float32. granularity: of int8 and int4
    kernels, a scale for each output column ("channel"), or for each 32, 64 or 128 steps of it; by
    default "channel" for int8 and 32 for int4. activations: what int8 and int4 kernels are
    multiplied with. None: inputs as exact as in float32; "int16" or "int8": each row of the input
    is rounded to so many bits in the call. keep: names of layers that stay as they are.

    calibrate: example inputs, an array, or a tuple or a dict of them for several inputs, on which
    the change of the outputs is measured. max_error: what an output may change by. metric: a
    function of the outputs whose value, better where larger, may fall by max_drop (0.01) at most.
    With a limit, tables= and weights= are the fewest bits: layers take more, up to all 32, until it
    holds. `calibration` of the copy says what was chosen, and what each layer changes.

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
    if not isinstance(model, (Model, Layer)):
        raise ConfigError(f"quantize expected a layer or a model, got {type(model).__name__}")
    parts = layers_of(model)
    _check_names(keep, parts)
    wanted = [_wanted(layer, kinds) for layer in parts]
    if not any(wanted):
        raise ConfigError(
            "there is nothing to quantise: tables= is for Embedding and EmbeddingBag, weights= for "
            f"Dense; got tables={tables!r}, weights={weights!r} for {', '.join(_kinds_of(parts))}"
        )
    fewer = [
        None if layer.name in keep else kind for layer, kind in zip(parts, wanted, strict=True)
    ]
    limit = Limit.of(max_error, metric, max_drop)
    if calibrate is None:
        if max_error is not None or metric is not None:
            raise ConfigError(
                "max_error= and metric= are measured on example inputs: give calibrate="
            )
        return in_fewer_bits(model, fewer)
    whole = model_of_layer(model, None) if isinstance(model, Layer) else model
    fewer, calibration = calibrated(whole, fewer, calibrate, limit)
    made = in_fewer_bits(model, fewer)
    errors = {choice.layer: choice.error for choice in calibration.choices}
    for layer in layers_of(made):
        if isinstance(layer, StoredLayer):
            layer.measured_error = errors.get(layer.name)
    made.calibration = calibration
    return made


def _kernel_kind(weights: str, granularity: str | int | None, activations: str | None) -> str:
    """The name of a kernel's kind, as `Kind` spells it."""
    if granularity is None:
        granularity = USUAL_GROUPS.get(weights)
    if granularity not in (None, "channel", *GROUPS) or isinstance(granularity, bool):
        raise ConfigError(
            'granularity is "channel", or 32, 64 or 128 steps of k for a scale; '
            f"got {granularity!r}"
        )
    group = granularity if isinstance(granularity, int) else 0
    taken = "" if activations is None else one_of("activations", activations, ACTIVATIONS)
    made = Kind(weights, group, taken).name
    return Kind.of(made).name


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
