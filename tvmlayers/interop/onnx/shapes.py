"""Rows of the table for operators that give the same numbers under another shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvmlayers import layers
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.onnx.calls import Call
from tvmlayers.layers.graph import SymbolicTensor


def concat(call: Call) -> SymbolicTensor:
    """Concatenate."""
    tensors = call.tensors()
    if len(tensors) == 1:
        return tensors[0]
    return call.layer(layers.Concatenate, call.get("axis", -1))(tensors)  # type: ignore[no-any-return]


def flatten(call: Call) -> SymbolicTensor:
    """Flatten of all axes but the batch."""
    if call.get("axis", 1) != 1:
        raise Unsupported("only axis=1 is there")
    return call.apply(layers.Flatten)


def reshape(call: Call) -> SymbolicTensor:
    """Reshape of all axes but the batch."""
    x, sizes = call.tensor(), _sizes(call, call.inputs[1])
    # Without a 0 among the sizes the attribute says nothing; PyTorch's exporter always sets it.
    if not sizes or (call.get("allowzero", 0) and 0 in sizes):
        raise Unsupported("only shapes that begin with the batch are there")
    sizes = [x.shape[i] if size == 0 and i else size for i, size in enumerate(sizes)]
    wanted = sizes[1:]
    # A first size of -1 is the batch where the others take up one sample.
    if any(size is None for size in wanted) or (sizes[0] or 0) > 0:
        raise Unsupported(f"it fixes the batch, or has a free axis: {sizes}")
    if sizes[0] == -1 and int(np.prod(wanted, dtype=int)) != x.elements:
        raise Unsupported(f"it moves the batch axis: {x.shape} into {sizes}")
    return call.apply(layers.Reshape, wanted)


def _sizes(call: Call, name: str) -> list[Any]:
    """The numbers of a shape; the batch, where it is worked out from Shape, as 0, "keep it"."""
    known, source = call.constant_of(name), call.call_of(name)
    if known is not None:
        return list(known.reshape(-1).tolist())
    if source is not None and source.kind == "Concat":
        return [size for part in source.inputs for size in _sizes(call, part)]
    while source is not None and source.kind in ("Cast", "Identity", "Squeeze", "Unsqueeze"):
        source = source.source(0)
    if source is not None and source.kind in ("Gather", "Slice"):
        shape = source.source(0)
        if shape is not None and shape.kind == "Shape" and not shape.get("start", 0):
            sizes = list(call.tensor_of(shape.inputs[0]).shape)
            picked = _picked(source, sizes)
            if call.tensor_of(shape.inputs[0]).axes[:1] == call.tensor().axes[:1]:
                # only the batch is free, and only as the first size
                return [0 if place == 0 else sizes[place] for place in picked]
    raise Unsupported("its shape is worked out from the inputs in a way that is not read")


def _picked(call: Call, sizes: list[Any]) -> list[int]:
    """The places that a Gather or a Slice of a shape picks."""
    every = np.arange(len(sizes))
    if call.kind == "Gather":
        return list(every[call.constant(1).reshape(-1)].tolist())
    if not call.has(2) or (call.has(4) and call.constant(4).reshape(-1).tolist() != [1]):
        raise Unsupported("its shape is worked out from the inputs in a way that is not read")
    begin, end = (int(call.constant(place).reshape(())) for place in (1, 2))
    return list(every[begin:end].tolist())


def squeeze(call: Call) -> SymbolicTensor:
    """Squeeze of axes after the batch."""
    x = call.tensor()
    gone = set(call.axes(x.rank))
    if not gone or 0 in gone or any(x.shape[axis] != 1 for axis in gone):
        raise Unsupported("only axes of length 1 after the batch can go")
    return call.apply(layers.Reshape, [s for i, s in enumerate(x.shape) if i and i not in gone])


def unsqueeze(call: Call) -> SymbolicTensor:
    """Unsqueeze after the batch."""
    x = call.tensor()
    given = call.get("axes", None)
    count = len(given) if given is not None else call.constant(1).size
    new = set(call.axes(x.rank + count))
    if 0 in new:
        raise Unsupported("the first axis is the batch")
    old = iter(x.shape[1:])
    sizes = [1 if i in new else next(old) for i in range(1, x.rank + count)]
    return call.apply(layers.Reshape, sizes)


def cast(call: Call) -> SymbolicTensor:
    """A cast that keeps every number."""
    x, after = call.tensor(), call.casts_to()
    is_index = x.dtype.startswith(("int", "uint")) and after.startswith(("int", "uint"))
    if x.dtype != after and not (is_index and np.can_cast(x.dtype, after)):
        raise Unsupported(f"no layer here casts {x.dtype} to {after}")
    return x
