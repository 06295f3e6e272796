"""Chooses the entry point that a call means, and says what is wrong where none fits.

All of this runs beside the fast path of a call: for inputs of an unusual kind, and to turn a
refusal by compiled code into an error that helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from tvmlayers.errors import DTypeError, IndexOutOfRangeError, OffsetsError, ShapeError
from tvmlayers.runtime.signature import LAST_STATUS_BIT, Entry, Slot, extent, shape_text
from tvmlayers.runtime.tensors import Array, Kind, cast, identity

Sizes = dict[str, int]


def choose_entry(
    entries: Sequence[Entry],
    names: tuple[str, ...],
    arrays: Sequence[Array],
    kinds: Sequence[Kind | None] = (),
) -> tuple[Entry, Sizes]:
    """(entry, sizes of its symbols) for inputs called `names`; `arrays` are in that order.

    kinds: those of the caller's tensors, whose words the errors use; NumPy's where not given.
    """
    candidates = [entry for entry in entries if entry.names == names]
    candidates = _fitting_ranks(candidates, arrays)
    entry = _fitting_dtypes(candidates, arrays, kinds)
    return entry, bind_sizes(entry, arrays)


def _fitting_ranks(entries: list[Entry], arrays: Sequence[Array]) -> list[Entry]:
    fitting = [
        entry
        for entry in entries
        if all(len(s.shape) == a.ndim for s, a in zip(entry.inputs, arrays, strict=True))
    ]
    if fitting:
        return fitting
    for position, array in enumerate(arrays):
        slots = {entry.inputs[position].shape: entry.inputs[position] for entry in entries}
        if array.ndim not in {len(shape) for shape in slots}:
            _refuse_rank(list(slots.values()), array)
    shapes = ", ".join(f"{n!r} {a.shape}" for n, a in zip(entries[0].names, arrays, strict=True))
    raise ShapeError(f"no compiled entry point takes inputs of these ranks together: {shapes}")


def _refuse_rank(slots: list[Slot], array: Array) -> NoReturn:
    slot = slots[0]
    expected = " or ".join(f"{len(each.shape)} axes {each.text()}" for each in slots)
    advice = ""
    if array.ndim == len(slot.shape) - 1:
        advice = "; add the batch axis with x[None]"
    elif array.ndim == len(slot.shape) + 1:
        advice = "; drop an axis, or reshape the input"
    if slot.kind == "index" and len(slot.shape) == 2 and array.ndim == 1:
        advice += ", or pass offsets where the layer is a bag"
    raise ShapeError(
        f"input {slot.name!r} expected {expected}, got {array.ndim} {array.shape}{advice}"
    )


def _fitting_dtypes(
    entries: list[Entry], arrays: Sequence[Array], kinds: Sequence[Kind | None]
) -> Entry:
    """The entry whose dtypes hold the arrays' dtypes, the narrowest if there are several."""
    by_width = sorted(entries, key=lambda entry: sum(s.dtype.itemsize for s in entry.inputs))
    for entry in by_width:
        if all(_holds(s, a.dtype) for s, a in zip(entry.inputs, arrays, strict=True)):
            return entry
    for position, array in enumerate(arrays):
        slots = [entry.inputs[position] for entry in by_width]
        if not any(_holds(slot, array.dtype) for slot in slots):
            _refuse_dtype(slots, array.dtype, kinds[position] if kinds else identity)
    dtypes = ", ".join(f"{n!r} {a.dtype}" for n, a in zip(entries[0].names, arrays, strict=True))
    raise DTypeError(f"no compiled entry point takes these dtypes together: {dtypes}")


def _holds(slot: Slot, dtype: np.dtype[Any]) -> bool:
    if slot.is_integer:
        return dtype.kind in "iu" and np.can_cast(dtype, slot.dtype, "safe")
    return dtype.newbyteorder("=") == slot.dtype


def _refuse_dtype(slots: list[Slot], dtype: np.dtype[Any], kind: Kind | None) -> NoReturn:
    slot = slots[0]
    if slot.is_integer:
        raise DTypeError(
            f"input {slot.name!r} expected integers (int8 to int64, uint8 to uint32), got "
            f"{dtype}; cast with {cast(kind, np.dtype('int64'))} once every value is known to be "
            "a whole number"
        )
    expected = " or ".join(dict.fromkeys(str(each.dtype) for each in slots))
    raise DTypeError(
        f"input {slot.name!r} expected {expected}, got {dtype}; cast with "
        f"{cast(kind, slot.dtype)}, or compile the model for that dtype"
    )


def bind_sizes(entry: Entry, arrays: Sequence[Array]) -> Sizes:
    """The length of each symbol; ShapeError where an axis does not fit."""
    sizes: Sizes = {}
    owners: dict[str, str] = {}
    for slot, array in zip(entry.inputs, arrays, strict=True):
        for axis, (dim, got) in enumerate(zip(slot.shape, array.shape, strict=True)):
            if isinstance(dim, str) and dim not in sizes and "-" not in dim:
                sizes[dim], owners[dim] = got, f"axis {axis} of input {slot.name!r}"
            elif extent(dim, sizes) != got:
                _refuse_size(slot, axis, array, extent(dim, sizes), owners.get(str(dim)))
    for output in entry.outputs:
        for dim in output.shape:
            if extent(dim, sizes) < 0:
                raise OffsetsError(
                    "offsets that include the last one hold at least one element, got none; "
                    "pass [0] for no bags"
                )
    return sizes


def _refuse_size(slot: Slot, axis: int, array: Array, expected: int, owner: str | None) -> NoReturn:
    got = array.shape[axis]
    where = f"input {slot.name!r}"
    if owner is not None:
        raise ShapeError(
            f"{where} has {got} on axis {axis} where {owner} has {expected}; "
            f"both must be the same (expected {slot.text()}, got {array.shape})"
        )
    if slot.kind == "index" and axis == 1:
        raise ShapeError(
            f"{where} expects sequences of length {expected}, got {got} (shape {array.shape}); "
            f"pad or cut each sequence to {expected}, or compile without input_length"
        )
    if axis == len(slot.shape) - 1:
        raise ShapeError(
            f"{where} expects {expected} features on its last axis, got {got} (shape "
            f"{array.shape}); pass an array of shape {slot.text()}, or build the model for {got}"
        )
    raise ShapeError(
        f"{where} expects {expected} on axis {axis}, got {got}: expected shape "
        f"{shape_text(slot.shape)}, got {array.shape}"
    )


def raise_for_status(
    status: int, checks: Sequence[Mapping[str, Any]], entry: Entry, arrays: Sequence[Array]
) -> NoReturn:
    """Raise for the first check that failed, bit i of `status` being `checks[i]`."""
    failed = [c for i, c in enumerate(checks) if status >> min(i, LAST_STATUS_BIT) & 1]
    # The last bit is shared by many checks; all but the one that failed find nothing.
    for check in sorted(failed, key=lambda check: not _fails(check, arrays)):
        if check["kind"] == "offsets":
            _raise_offsets(check, arrays)
        _raise_index(check, entry.inputs[check["input"]].name, arrays)
    raise IndexOutOfRangeError(f"compiled code reported status {status}, which no check explains")


def check_input(check: Mapping[str, Any], entry: Entry, arrays: Sequence[Array]) -> None:
    """Raise where `arrays` fail a check, before any call."""
    if _fails(check, arrays):
        raise_for_status(1, [check], entry, arrays)


def _fails(check: Mapping[str, Any], arrays: Sequence[Array]) -> bool:
    array = arrays[check["input"]]
    if check["kind"] == "offsets":
        end = arrays[check.get("indices_input", 0)].shape[0]
        within = bool(((array >= 0) & (array <= end)).all())
        return not within or bool((array[1:] < array[:-1]).any() or (array[:1] != 0).any())
    return bool(((array < 0) | (array >= check["rows"])).any())


def _raise_index(check: Mapping[str, Any], name: str, arrays: Sequence[Array]) -> NoReturn:
    layer, rows = check["layer"], check["rows"]
    array = arrays[check["input"]]
    bad = (array < 0) | (array >= rows)
    advice = f"outside the vocabulary of layer {layer!r} (input_dim={rows}, valid 0..{rows - 1})"
    if not bad.any():
        raise IndexOutOfRangeError(
            f"an index of input {name!r} was {advice}, and is no longer: "
            "another thread changed the input during the call"
        )
    place = np.unravel_index(int(np.argmax(bad)), array.shape)
    position = ", ".join(str(int(at)) for at in place)
    position = f"({position})" if len(place) > 1 else position
    raise IndexOutOfRangeError(
        f"index {array[place]} at position {position} of input {name!r} is {advice}; correct "
        "it, or choose what it gives with oob='clip', 'zero' or 'unchecked'"
    )


def _raise_offsets(check: Mapping[str, Any], arrays: Sequence[Array]) -> NoReturn:
    layer = check["layer"]
    offsets = arrays[check["input"]]
    end = arrays[check.get("indices_input", 0)].shape[0]
    decreasing = offsets[1:] < offsets[:-1]
    if offsets.size and offsets[0] != 0:
        problem = f"begin at {offsets[0]}; they must begin at 0"
    elif decreasing.any():
        at = int(np.argmax(decreasing)) + 1
        problem = f"decrease from {offsets[at - 1]} to {offsets[at]} at position {at}"
    elif offsets.size and offsets[-1] > end:
        at = int(np.argmax(offsets > end))
        problem = f"run past the end: {offsets[at]} at position {at}, with {end} indices"
    elif check.get("include_last_offset") and offsets.size and offsets[-1] != end:
        problem = (
            f"end at {offsets[-1]} with {end} indices; the last one must be the number of "
            "indices where include_last_offset=True"
        )
    else:
        problem = f"do not fit the {end} indices"
    raise OffsetsError(f"the offsets of layer {layer!r} {problem}")
