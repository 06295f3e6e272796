"""Weights as arrays: what may be assigned to a layer, and how it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact.weights import as_numbers
from tvmlayers.errors import WeightsError

if TYPE_CHECKING:
    from tvmlayers.layers.base import Layer, WeightSpec

Array: TypeAlias = NDArray[Any]


def frozen(values: Array) -> Array:
    """values as C-contiguous and read-only: a compiled layer would not notice a change."""
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values


def checked_weight(layer: Layer, name: str, spec: WeightSpec, value: object) -> Array:
    """A read-only copy of value in the weight's dtype; WeightsError when it does not fit."""
    where = f"{layer.describe()} weight {name!r}"
    array = as_numbers(where, value, spec.shape, spec.dtype or layer.weight_dtype)
    return frozen(np.array(array, order="C", copy=True))


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
