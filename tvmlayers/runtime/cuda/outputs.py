"""The buffers on a GPU that a caller wants results in: the CPU's rules, and never a copy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tvmlayers.errors import ConfigError, DeviceError, DTypeError, ShapeError
from tvmlayers.runtime.cuda.arrays import DeviceArray, View, is_on_gpu, view_of
from tvmlayers.runtime.cuda.memory import ALIGNMENT
from tvmlayers.runtime.cuda.torch_tensors import torch_view
from tvmlayers.runtime.signature import Slot


def given_outputs(
    out: Any,
    slots: Sequence[Slot],
    shapes: Sequence[tuple[int, ...]],
    inputs: Sequence[View],
    ordinal: int,
    stream: int,
) -> list[View]:
    """The caller's `out` buffers, of any library, as compiled code may write to them.

    inputs: those that the call reads, on GPU `ordinal`; stream: what it goes on.
    """
    buffers = list(out) if isinstance(out, (list, tuple)) else [out]
    if len(buffers) != len(slots):
        raise ShapeError(f"out expected {len(slots)} buffers, got {len(buffers)}")
    views: list[View] = []
    for buffer, slot, shape in zip(buffers, slots, shapes, strict=True):
        view = _view(buffer, ordinal, stream)
        if view.ordinal != ordinal:
            raise DeviceError(
                f"out is on GPU {view.ordinal} and the inputs are on GPU {ordinal}; pass a buffer "
                "on theirs"
            )
        if view.dtype != slot.dtype:
            raise DTypeError(f"out expected {slot.dtype}, got {view.dtype}")
        if view.shape != shape:
            raise ShapeError(f"out expected shape {shape}, got {view.shape}")
        if view.nbytes and view.address % ALIGNMENT:
            raise ShapeError(
                f"out must start at a multiple of {ALIGNMENT} bytes; pass a fresh buffer"
            )
        if any(_overlap(view, other) for other in (*inputs, *views)):
            raise ConfigError("out overlaps an input or another output; pass a fresh buffer")
        views.append(view)
    for buffer in buffers:
        fill_on(buffer, stream)
    return views


def fill_on(buffer: Any, stream: int) -> None:
    """Note at an array of ours that what goes on the stream fills it from now on."""
    if isinstance(buffer, DeviceArray):
        buffer.ready_on(stream)  # what filled it before is done by then
        buffer.stream = stream


def refuse_gpu_outputs(out: Any) -> None:
    """DeviceError where `out`, for inputs on the host, is on a GPU."""
    for buffer in out if isinstance(out, (list, tuple)) else [out]:
        if is_on_gpu(buffer, "out"):
            raise DeviceError(
                "out is on a GPU and the inputs are on the host; pass buffers of the host, or put "
                "the inputs on the GPU"
            )


def _view(buffer: Any, ordinal: int, stream: int) -> View:
    if not is_on_gpu(buffer, "out"):
        if not hasattr(buffer, "__dlpack__") and not hasattr(buffer, "__array__"):
            raise DTypeError(f"out expected a tensor to write to, got {type(buffer).__name__}")
        raise DeviceError(
            f"out is on the host and the inputs are on GPU {ordinal}; pass a buffer on that GPU, "
            "or no out"
        )
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(buffer, torch.Tensor):
        return _torch_view(buffer)
    if isinstance(buffer, DeviceArray):
        return buffer.view()  # `fill_on` has the stream wait
    if getattr(buffer, "__cuda_array_interface__", {"data": (0, False)})["data"][1]:
        _refuse_writing()
    return view_of(buffer, "out", stream)


def _torch_view(buffer: Any) -> View:
    view = torch_view(buffer, "out")
    if buffer.requires_grad:
        _refuse_writing()
    # what torch_view had to copy would take the result in the tensor's stead
    if not buffer.is_contiguous() or buffer.is_neg() or buffer.is_conj():
        raise ShapeError(
            "out must be C-contiguous, with no negation or conjugation pending; pass a fresh buffer"
        )
    return view


def _refuse_writing() -> None:
    raise ConfigError("out is read-only or requires a gradient; pass a fresh buffer")


def _overlap(one: View, other: View) -> bool:
    """Whether two packed arrays have a byte in common."""
    return max(one.address, other.address) < min(
        one.address + one.nbytes, other.address + other.nbytes
    )
