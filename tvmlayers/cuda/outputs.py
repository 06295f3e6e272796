"""The buffers on a GPU that a caller gives for results: written where they lie, or refused."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tvmlayers.cuda.arrays import DeviceArray, View, is_on_gpu, view_of
from tvmlayers.cuda.memory import ALIGNMENT
from tvmlayers.cuda.torch_tensors import torch_view
from tvmlayers.errors import ConfigError, DeviceError, DTypeError, ShapeError
from tvmlayers.signature import Entry


def given_outputs(
    out: Any,
    entry: Entry,
    shapes: Sequence[tuple[int, ...]],
    ordinal: int,
    inputs: Sequence[View],
) -> list[View]:
    """The caller's buffers as compiled code takes them; an error where they do not fit.

    The rules are those of `tensors.prepare_outputs` on the host.
    """
    buffers = list(out) if isinstance(out, (list, tuple)) else [out]
    if len(buffers) != len(shapes):
        raise ShapeError(f"out expected {len(shapes)} buffers, got {len(buffers)}")
    made: list[View] = []
    for buffer, slot, shape in zip(buffers, entry.outputs, shapes, strict=True):
        each = _view(buffer, ordinal)
        if each.ordinal != ordinal:
            raise DeviceError(
                f"out lies on GPU {each.ordinal} and the inputs on GPU {ordinal}; put them on one"
            )
        if each.dtype != slot.dtype:
            raise DTypeError(f"out expected {slot.dtype}, got {each.dtype}")
        if each.shape != shape:
            raise ShapeError(f"out expected shape {shape}, got {each.shape}")
        if each.address % ALIGNMENT:
            raise ConfigError(f"out must start at a multiple of {ALIGNMENT} bytes; pass a new one")
        if any(_overlap(each, other) for other in (*inputs, *made)):
            raise ConfigError("out overlaps an input or another output; pass a fresh buffer")
        made.append(each)
    return made


def refuse_on_gpu(out: Any) -> None:
    """DeviceError where a buffer lies on a GPU; for calls whose inputs lie on the host."""
    buffers = list(out) if isinstance(out, (list, tuple)) else [out]
    if any(is_on_gpu(each) for each in buffers):
        raise DeviceError("out lies on a GPU and the inputs on the host; put them on one device")


def _view(buffer: Any, ordinal: int) -> View:
    """The buffer's own memory, never a copy of it."""
    torch = sys.modules.get("torch")
    is_torch = torch is not None and isinstance(buffer, torch.Tensor)
    if not (isinstance(buffer, DeviceArray) or hasattr(buffer, "__dlpack__")):
        raise DTypeError(f"out expected a tensor to write to, got {type(buffer).__name__}")
    if not is_on_gpu(buffer):
        raise DeviceError(
            f"out lies on the host and the inputs on GPU {ordinal}; put them on one device"
        )
    if not is_torch:
        return view_of(buffer, "out")
    if buffer.requires_grad:
        raise ConfigError("out is read-only or requires a gradient; pass a fresh buffer")
    if not buffer.is_contiguous() or buffer.is_neg() or buffer.is_conj():
        raise ShapeError("out must be C-contiguous and aligned; pass a fresh buffer")
    return torch_view(buffer, "out")


def _overlap(a: View, b: View) -> bool:
    return a.address < b.address + b.nbytes and b.address < a.address + a.nbytes
