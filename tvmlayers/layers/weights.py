"""Weights as arrays: what may be assigned to a layer, and how it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvmlayers.errors import WeightsError
from tvmlayers.foreign import is_refusal

if TYPE_CHECKING:
    from tvmlayers.layers.base import Layer

Array: TypeAlias = NDArray[Any]


def frozen(values: Array) -> Array:
    """values as C-contiguous and read-only: a compiled layer would not notice a change."""
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values


def to_numpy(value: Any) -> Array:
    """Any array-like as NumPy: torch tensors with a gradient, a pending sign or on a GPU, and what
    speaks DLPack alone included."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        if str(value.dtype) == "torch.bfloat16":  # NumPy takes none from torch
            value = value.float()
    elif hasattr(value, "__dlpack_device__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    return np.asarray(value)


def checked_weight(layer: Layer, name: str, shape: tuple[int, ...], value: object) -> Array:
    """A read-only copy of value in the layer's dtype; WeightsError when it does not fit."""
    where = f"{layer.describe()} weight {name!r}"
    try:
        array = to_numpy(value)
    except Exception as error:
        if not is_refusal(error):
            raise
        raise WeightsError(f"{where} expected an array of shape {shape}: {error}") from error
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise WeightsError(f"{where} expected {layer.dtype} numbers, got {array.dtype}")
    if array.shape != shape:
        hint = ""
        if array.ndim == 2 and array.shape == shape[::-1]:
            hint = "; this looks like torch's (out, in) layout: transpose it, weight.T"
        raise WeightsError(f"{where} expected shape {shape}, got {array.shape}{hint}")
    with np.errstate(over="ignore"):  # a float64 past float32's range becomes inf, as in torch
        return frozen(np.array(array, dtype=layer.dtype, order="C", copy=True))


def set_flat(layers: Sequence[Layer], weights: Sequence[object], owner: str) -> None:
    """Deal a flat list out to the layers, in order; all of them change, or none."""
    slots = [(layer, name, spec) for layer in layers for name, spec in layer.weight_specs().items()]
    values = list(weights)
    if len(values) != len(slots):
        listed = ", ".join(f"{layer.name}/{name} {spec.shape}" for layer, name, spec in slots)
        missing = any(layer.has_weights and not layer.weight_specs() for layer in layers)
        unbuilt = "; build it first, or give input_dim" if missing else ""
        raise WeightsError(
            f"{owner} expected {len(slots)} weights ({listed}), got {len(values)}{unbuilt}"
        )
    checked: dict[int, tuple[Layer, dict[str, Array]]] = {}
    for (layer, name, _), value in zip(slots, values, strict=True):
        _, kept = checked.setdefault(id(layer), (layer, {}))
        kept.update(layer.check({name: value}))
    for layer, kept in checked.values():
        layer.assign(kept)
