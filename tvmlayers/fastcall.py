"""The shortest ways from packed tensors to results.

A small model runs for a few microseconds, so the Python around it counts in tens of
nanoseconds: everything that does not depend on the input is decided when a closure is made.
Compiled code checks its inputs itself; whatever it refuses goes the general way of the model,
`Compiled._call`, which either puts it right (a copy, a wider dtype) or says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from tvmlayers.signature import Entry, Slot
from tvmlayers.tensors import ALIGN_FROM, Array, Kind, empty

# fast(model, tensor) -> result; the model comes along so that closures do not keep it alive
FastCall = Callable[[Any, Any], Any]


def single_entries(entries: Sequence[Entry]) -> list[Entry]:
    """The entries of one input and one output; none unless the batch is their only free axis."""
    single = [entry for entry in entries if len(entry.inputs) == 1]
    forms = {(entry.inputs[0].shape, entry.outputs) for entry in single}
    return single if len(forms) == 1 and _is_batched(single[0]) else []


def _is_batched(entry: Entry) -> bool:
    if len(entry.outputs) != 1:
        return False
    shapes = entry.inputs[0].shape, entry.outputs[0].shape
    free = [dim for shape in shapes for dim in shape if isinstance(dim, str)]
    return len(free) == 2 and all(shape[:1] == (free[0],) for shape in shapes)


def numpy_call(entries: Sequence[Entry], arena: Any, threads: int) -> FastCall:
    """The call for one NumPy array, for the entries that `single_entries` gave."""
    functions = {entry.inputs[0].dtype: entry.function for entry in entries}
    output = entries[0].outputs[0]
    dtype, tail = output.dtype, tuple(int(dim) for dim in output.shape[1:])
    small = ALIGN_FROM // max(1, dtype.itemsize * prod(tail))  # rows that need no alignment
    empty_small = np.empty

    def call(model: Any, array: Array) -> Any:
        try:
            function = functions[array.dtype]
            rows = len(array)
        except (KeyError, TypeError):  # another dtype, or no axis at all
            return model._call((array,), {}, None)
        # carray: packed, aligned and writable (NumPy does not lend a read-only array)
        if not (rows and array.flags.carray):
            return model._call((array,), {}, None)
        result = (empty_small if rows < small else empty)((rows, *tail), dtype)
        try:
            status = function(array, result, arena, threads)
        except Exception:
            return model._call((array,), {}, None)
        return model._fail(status, array) if status else result

    return call


def foreign_call(inner: FastCall, to_array: Callable[[Any], Array], kind: Kind) -> FastCall:
    """As `inner`, for tensors of another library that lends its memory to NumPy."""

    def call(model: Any, tensor: Any) -> Any:
        try:
            array = to_array(tensor)
        except Exception:
            return model._call((tensor,), {}, None)
        return kind(inner(model, array))

    return call


class Plan:
    """The call for several NumPy arrays: one function for each combination of dtypes."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        """entries: those of one signature, alike but for their dtypes."""
        first = entries[0]
        self.functions = {
            tuple(slot.dtype for slot in entry.inputs): entry.function for entry in entries
        }
        self.ranks = [len(slot.shape) for slot in first.inputs]
        self.outputs = [(slot.dtype, _shape_rule(first, slot)) for slot in first.outputs]

    def run(self, arrays: list[Array], arena: Any, threads: int) -> list[Array] | None:
        """The outputs; None where something is not as planned, for the general way to see to."""
        function = self.functions.get(tuple([array.dtype for array in arrays]))
        if function is None or [array.ndim for array in arrays] != self.ranks:
            return None
        for array in arrays:
            if not (array.size and array.flags.carray):
                return None
        shapes = [array.shape for array in arrays]
        try:
            results = [empty(rule(shapes), dtype) for dtype, rule in self.outputs]
            status = function(*arrays, *results, arena, threads)
        except Exception:
            return None
        return None if status else results


def make_plans(entries: Sequence[Entry]) -> dict[tuple[str, ...], Plan]:
    """A plan for each signature whose entries differ in nothing but their dtypes."""
    by_names: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        by_names.setdefault(entry.names, []).append(entry)
    return {
        names: Plan(alike)
        for names, alike in by_names.items()
        if len({tuple(slot.shape for slot in entry.inputs) for entry in alike}) == 1
        and len({entry.outputs for entry in alike}) == 1
    }


def _shape_rule(entry: Entry, output: Slot) -> Callable[[list[tuple[int, ...]]], tuple[int, ...]]:
    """What gives the shape of `output` from the shapes of the inputs."""
    places = {
        dim: (position, axis)
        for position, slot in reversed(list(enumerate(entry.inputs)))
        for axis, dim in enumerate(slot.shape)
    }
    # A fixed axis is read from a shape of its own, put behind those of the inputs.
    fixed = tuple(dim for dim in output.shape if isinstance(dim, int))
    parts: list[tuple[int, int, int]] = []
    taken = 0
    for dim in output.shape:
        if isinstance(dim, int):
            parts.append((-1, taken, 0))
            taken += 1
        else:
            symbol, _, less = dim.partition("-")
            parts.append((*places[symbol], int(less or 0)))

    def rule(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
        known = [*shapes, fixed]
        return tuple([known[position][axis] - less for position, axis, less in parts])

    return rule
