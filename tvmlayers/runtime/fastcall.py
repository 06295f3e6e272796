"""The shortest ways from packed tensors to results.

A small model runs for a few microseconds, so the Python around it counts in tens of
nanoseconds: everything that does not depend on the input is decided when a closure is made.
Compiled code checks its inputs itself; whatever it refuses goes the general way of the model,
`Compiled._call`, which either puts it right (a copy, a wider dtype) or says what is wrong.
What is no refusal, as the error of a signal handler, goes on to the caller of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from tvmlayers.foreign import is_interruption, is_refusal
from tvmlayers.runtime.folding import folded, leading_shape, unfolded
from tvmlayers.runtime.results import REUSE_FROM, empty, take
from tvmlayers.runtime.signature import Entry, Slot
from tvmlayers.runtime.tensors import Array, Kind, in_torch

# fast(model, tensor) -> result; the model comes along so that closures do not keep it alive
FastCall = Callable[[Any, Any], Any]
Shape = tuple[int, ...]
ShapeRule = Callable[[list[Shape]], Shape]


def single_entries(entries: Sequence[Entry]) -> list[Entry]:
    """The entries of one input and one output for each sample, where all agree on their shapes."""
    single = [entry for entry in entries if len(entry.inputs) == 1]
    forms = {(entry.inputs[0].shape, entry.outputs) for entry in single}
    return single if len(forms) == 1 and _is_batched(single[0]) else []


def _is_batched(entry: Entry) -> bool:
    """Whether the batch, first axis of the first input, is the only free axis of the one output."""
    if len(entry.outputs) != 1 or not entry.inputs[0].shape:
        return False
    batch, (first, *tail) = entry.inputs[0].shape[0], entry.outputs[0].shape
    return isinstance(batch, str) and first == batch and all(isinstance(dim, int) for dim in tail)


def numpy_call(entries: Sequence[Entry], arena: Any, threads: int) -> FastCall:
    """The call for one NumPy array, for the entries that `single_entries` gave."""
    functions = {entry.inputs[0].dtype: entry.function for entry in entries}
    output = entries[0].outputs[0]
    dtype, tail = output.dtype, tuple(int(dim) for dim in output.shape[1:])
    row_bytes = dtype.itemsize * prod(tail)
    small = REUSE_FROM // max(1, row_bytes)  # rows that need no reuse
    empty_small = np.empty

    def call(model: Any, array: Array) -> Any:
        try:
            function = functions[array.dtype]
            rows = len(array)
        except (KeyError, TypeError) as error:  # another dtype, or no axis at all
            return _unless_interrupted(error, model, (array,))
        # carray: packed, aligned and writable (NumPy does not lend a read-only array)
        if not (array.size and array.flags.carray):
            return model._call((array,), {}, None)
        shape = (rows, *tail)
        result = empty_small(shape, dtype) if rows < small else take(shape, dtype, rows * row_bytes)
        try:
            status = function(array, result, arena, threads)
        except Exception as error:
            return _where_refused(error, model, (array,))
        return model._fail(status, array) if status else result

    return call


def torch_call(entries: Sequence[Entry], arena: Any, threads: int, torch: Any) -> FastCall:
    """The call for one torch tensor, for the entries that `single_entries` gave."""
    functions = {getattr(torch, e.inputs[0].dtype.name): e.function for e in entries}
    output = entries[0].outputs[0]
    dtype, tail = output.dtype, tuple(int(dim) for dim in output.shape[1:])
    row_bytes = dtype.itemsize * prod(tail)
    small = REUSE_FROM // max(1, row_bytes)
    # torch.empty takes longer than NumPy's memory under another name
    empty_small, from_numpy = np.empty, in_torch(dtype)

    def call(model: Any, tensor: Any) -> Any:
        try:
            function = functions[tensor.dtype]
            rows = tensor.shape[0]
        except (KeyError, IndexError, RuntimeError) as error:  # or nested, without any shape
            return _unless_interrupted(error, model, (tensor,))
        # A tensor with a pending sign, or one that asks for gradients, is no plain memory.
        if not tensor.numel() or tensor.is_neg() or tensor.requires_grad:
            return model._call((tensor,), {}, None)
        shape = (rows, *tail)
        memory = empty_small(shape, dtype) if rows < small else take(shape, dtype, rows * row_bytes)
        result = from_numpy(memory)
        try:
            status = function(tensor, result, arena, threads)
        except Exception as error:
            return _where_refused(error, model, (tensor,))
        return model._fail(status, tensor.numpy()) if status else result

    return call


def of_rank(fast: FastCall, rank: int) -> FastCall:
    """As `fast` for tensors of that rank. A refusal takes longer than to look, and than a call."""

    def call(model: Any, tensor: Any) -> Any:
        return fast(model, tensor) if tensor.ndim == rank else model._call((tensor,), {}, None)

    return call


# fast(model, tensors) -> result, of several inputs in the order of the signature
FastCalls = Callable[[Any, "tuple[Any, ...]"], Any]


def batched_groups(entries: Sequence[Entry]) -> dict[tuple[str, ...], list[Entry]]:
    """By names of their inputs, entries of several inputs that make one output for each sample."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if len(entry.inputs) > 1 and _is_batched(entry):
            groups.setdefault(entry.names, []).append(entry)
    return {
        names: alike
        for names, alike in groups.items()
        if len({(entry.inputs[0].shape, entry.outputs) for entry in alike}) == 1
    }


def numpy_calls(entries: Sequence[Entry], arena: Any, threads: int) -> FastCalls:
    """The call for several NumPy arrays, for one of the groups that `batched_groups` gave."""
    functions = {tuple([slot.dtype for slot in e.inputs]): e.function for e in entries}
    output = entries[0].outputs[0]
    dtype, tail = output.dtype, tuple(int(dim) for dim in output.shape[1:])
    ndarray = np.ndarray

    def call(model: Any, arrays: tuple[Any, ...]) -> Any:
        for array in arrays:
            if type(array) is not ndarray or not (array.size and array.flags.carray):
                return model._call(arrays, {}, None)
        try:
            function = functions[tuple([array.dtype for array in arrays])]
            rows = len(arrays[0])
        except (KeyError, TypeError) as error:  # other dtypes, or no axis at all
            return _unless_interrupted(error, model, arrays)
        result = empty((rows, *tail), dtype)
        try:
            status = function(*arrays, result, arena, threads)
        except Exception as error:
            return _where_refused(error, model, arrays)
        return model._call(arrays, {}, None) if status else result

    return call


def torch_calls(entries: Sequence[Entry], arena: Any, threads: int, torch: Any) -> FastCalls:
    """The call for several torch tensors, for one of the groups that `batched_groups` gave."""
    functions = {
        tuple([getattr(torch, slot.dtype.name) for slot in e.inputs]): e.function for e in entries
    }
    output = entries[0].outputs[0]
    dtype, tail = output.dtype, tuple(int(dim) for dim in output.shape[1:])
    tensor_type, from_numpy = torch.Tensor, in_torch(dtype)

    def call(model: Any, given: tuple[Any, ...]) -> Any:
        for tensor in given:
            if (
                type(tensor) is not tensor_type
                or not tensor.numel()
                or tensor.is_neg()
                or tensor.requires_grad
            ):
                return model._call(given, {}, None)
        try:
            function = functions[tuple([tensor.dtype for tensor in given])]
            rows = given[0].shape[0]
        except (KeyError, IndexError, RuntimeError) as error:  # or nested, without any shape
            return _unless_interrupted(error, model, given)
        result = from_numpy(empty((rows, *tail), dtype))
        try:
            status = function(*given, result, arena, threads)
        except Exception as error:
            return _where_refused(error, model, given)
        return model._call(given, {}, None) if status else result

    return call


def foreign_call(inner: FastCall, to_array: Callable[[Any], Array], kind: Kind) -> FastCall:
    """As `inner`, for tensors of another library that lends its memory to NumPy."""

    def call(model: Any, tensor: Any) -> Any:
        try:
            array = to_array(tensor)
        except Exception as error:
            if not is_refusal(error):
                raise
            return model._call((tensor,), {}, None)
        return kind(inner(model, array))

    return call


def _where_refused(error: Exception, model: Any, inputs: tuple[Any, ...]) -> Any:
    """The general way, where the error says that an input was not taken."""
    if not is_refusal(error):
        raise error
    return model._call_refused(inputs)


def _unless_interrupted(error: Exception, model: Any, inputs: tuple[Any, ...]) -> Any:
    """The general way, where the error is what a look at the inputs came to."""
    if is_interruption(error):
        raise error
    return model._call(inputs, {}, None)


# run(arrays, out or None, arena, threads) -> outputs, or None for the general way to see to
Plan = Callable[[list[Array], "Array | None", Any, int], "list[Array] | None"]


def make_plan(entries: Sequence[Entry], leading: int) -> Plan:
    """The call for several NumPy arrays: one function for each combination of dtypes.

    entries: those of one signature, alike but for their dtypes; leading: how many leading axes
    others may stand for.
    """
    functions = {tuple(slot.dtype for slot in entry.inputs): entry.function for entry in entries}
    find = functions.get
    slots = entries[0].inputs
    ranks = [len(slot.shape) for slot in slots]
    outputs = [(slot.dtype, _shape_rule(entries[0], slot)) for slot in entries[0].outputs]

    def run(arrays: list[Array], out: Array | None, arena: Any, threads: int) -> list[Array] | None:
        function = find(tuple([array.dtype for array in arrays]))
        if function is None:
            return None
        for array in arrays:
            if not (array.size and array.flags.carray):
                return None
        shapes = [array.shape for array in arrays]
        lead = None
        if list(map(len, shapes)) != ranks:
            if not leading or out is not None:
                return None
            lead = leading_shape(arrays, slots, leading) or ()
            shapes = [folded(shape, lead, leading) for shape in shapes]
            arrays = [array.reshape(shape) for array, shape in zip(arrays, shapes, strict=True)]
        if out is None:
            results = [empty(rule(shapes), dtype) for dtype, rule in outputs]
        elif _is_fit(out, *outputs[0], shapes, arrays):
            results = [out]
        else:
            return None
        try:
            status = function(*arrays, *results, arena, threads)
        except Exception as error:
            if not is_refusal(error):
                raise
            return None
        if status:
            return None
        if lead is not None:
            results = [made.reshape(unfolded(made.shape, lead, leading)) for made in results]
        return results

    return run


def _is_fit(
    out: Array, dtype: Any, rule: ShapeRule, shapes: list[Shape], arrays: list[Array]
) -> bool:
    """Whether compiled code may write the one output to `out`."""
    return (
        out.dtype == dtype
        and out.shape == rule(shapes)
        and bool(out.size and out.flags.carray)
        and not any(np.may_share_memory(out, array) for array in arrays)
    )


def make_plans(entries: Sequence[Entry], leading: int) -> dict[tuple[str, ...], Plan]:
    """A plan for each signature whose entries differ in nothing but their dtypes."""
    by_names: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        by_names.setdefault(entry.names, []).append(entry)
    return {
        names: make_plan(alike, leading)
        for names, alike in by_names.items()
        if len({tuple(slot.shape for slot in entry.inputs) for entry in alike}) == 1
        and len({entry.outputs for entry in alike}) == 1
    }


def _shape_rule(entry: Entry, output: Slot) -> ShapeRule:
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

    def rule(shapes: list[Shape]) -> Shape:
        known = [*shapes, fixed]
        return tuple([known[position][axis] - less for position, axis, less in parts])

    return rule
