"""New weights for machine code that is there already: checked, and packed into a fresh arena.

Weights go by the names "<layer>/<weight>" and have the shapes that `layer.get_weights()` gives.
NumPy alone packs them, in the layouts that the manifest describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact.arena import allocate_arena, view
from tvmlayers.artifact.panels import pack
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.errors import WeightsError
from tvmlayers.foreign import is_refusal

Array = NDArray[Any]
Shape = tuple[int, ...]
MOST_NAMED = 8  # weights in one message
CODES = ("int8", "uint8")  # codes of other numbers: no float is converted to one


def views(manifest: Mapping[str, Any], arena: NDArray[np.uint8]) -> dict[str, Array]:
    """The packed weights by name, not copied."""
    return {row["name"]: _view(row, arena) for row in manifest["weights"]}


def plain_shapes(manifest: Mapping[str, Any]) -> dict[str, Shape]:
    """The shape of each weight before it was packed, in the order of `model.get_weights()`."""
    layers = [layer["config"].get("name") for layer in manifest["model"]["layers"]]
    place = {name: number for number, name in reversed(list(enumerate(layers)))}
    rows = {row["name"]: row for row in manifest["weights"]}
    ordered = sorted(rows, key=lambda name: place.get(_layer(name), len(place)))
    return {name: _plain_shape(name, rows) for name in ordered}


def packed(
    manifest: Mapping[str, Any], weights: Mapping[str, object] | Sequence[object]
) -> NDArray[np.uint8]:
    """A new arena that holds `weights`: by name, or all of them in the order of `plain_shapes`.

    WeightsError where one is missing, unknown, or has another shape or no numbers, and for a model
    with weights in fewer bits: what its report says of their errors would not hold for others.
    """
    for layer in manifest["model"]["layers"]:
        if "stored" in layer["config"]:
            raise WeightsError(
                f"layer {layer['config'].get('name')!r} keeps its weights as "
                f"{layer['config']['stored']}, and such a model takes no others: quantise the "
                "model with the new weights, and compile it again"
            )
    shapes = plain_shapes(manifest)
    rows = {row["name"]: row for row in manifest["weights"]}
    given = _by_name(weights, shapes)
    plain = {
        name: as_numbers(f"weight {name!r}", given[name], shapes[name], rows[name]["dtype"])
        for name in shapes
    }
    arena = allocate_arena(manifest["arena_bytes"])
    for name, array in plain.items():
        _write(array, _view(rows[name], arena), rows[name].get("layout"))
    return arena


def as_numbers(where: str, value: object, shape: Shape, dtype: str) -> Array:
    """`value` as an array of a dtype, which may be the caller's own memory.

    where: how an error calls it. WeightsError where it has another shape or no real numbers.
    """
    try:
        array = to_numpy(value)
    except Exception as error:
        if not is_refusal(error):
            raise
        raise WeightsError(f"{where} expected an array of shape {shape}: {error}") from error
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise WeightsError(f"{where} expected {dtype} numbers, got {array.dtype}")
    if dtype in CODES and array.dtype != dtype:
        raise WeightsError(
            f"{where} expected {dtype}, as tvmlayers.quantize makes it, got {array.dtype}; "
            "quantise a model with float weights instead"
        )
    if array.shape != shape:
        hint = ""
        if array.ndim == 2 and array.shape == shape[::-1]:
            hint = "; this looks like torch's (out, in) layout: transpose it, weight.T"
        raise WeightsError(f"{where} expected shape {shape}, got {array.shape}{hint}")
    with np.errstate(over="ignore"):  # a float64 past float32's range becomes inf, as in torch
        return array.astype(numpy_dtype(dtype), copy=False)


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


def _by_name(
    weights: Mapping[str, object] | Sequence[object], shapes: Mapping[str, Shape]
) -> Mapping[str, object]:
    if not isinstance(weights, Mapping):
        values = list(weights)
        if len(values) != len(shapes):
            listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise WeightsError(
                f"this model expected {len(shapes)} weights ({listed}), got {len(values)}"
            )
        return dict(zip(shapes, values, strict=True))
    missing = [name for name in shapes if name not in weights]
    unknown = [str(name) for name in weights if name not in shapes]
    if missing or unknown:
        raise WeightsError(
            f"the weights do not fit this model: missing {_listed(missing)}; unknown "
            f"{_listed(unknown)}; it has {_listed(list(shapes))}"
        )
    return weights


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + more


def _layer(name: str) -> str:
    return name.rpartition("/")[0]


def _plain_shape(name: str, rows: Mapping[str, Mapping[str, Any]]) -> Shape:
    layout = rows[name].get("layout")
    if layout is not None:
        return layout["k"], layout["n"]
    kernel = rows.get(f"{_layer(name)}/kernel", {}).get("layout")
    if name.endswith("/bias") and kernel is not None:  # a bias is padded as its kernel is
        return (kernel["n"],)
    return tuple(rows[name]["shape"])


def _view(row: Mapping[str, Any], arena: NDArray[np.uint8]) -> Array:
    return view(arena, row["offset"], tuple(row["shape"]), row["dtype"])


def _write(plain: Array, place: Array, layout: Mapping[str, Any] | None) -> None:
    """Put a plain weight into zeroed memory in its layout."""
    if layout is not None:
        pack(plain, layout, place)
    elif plain.shape == place.shape:
        place[...] = plain
    else:
        place[: plain.shape[0]] = plain
