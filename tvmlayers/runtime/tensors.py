"""The caller's tensors: seen as NumPy arrays on the way in, made of his kind on the way out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact.arena import address
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.errors import ConfigError, DeviceError, DTypeError, ShapeError
from tvmlayers.foreign import is_refusal
from tvmlayers.runtime import ffi
from tvmlayers.runtime.results import empty
from tvmlayers.runtime.signature import Slot

Array = NDArray[Any]
Kind = Callable[[Array], Any]  # makes a tensor of the caller's kind from a fresh array

CPU = 1  # kDLCPU


def import_array(value: Any, name: str) -> tuple[Array, Kind | None]:
    """(array, kind): `value` as a NumPy array, without a copy where it holds a tensor.

    kind is None where the value has none: nested lists and scalars. Raises DeviceError for a
    tensor that is not in the CPU's memory and DTypeError for what NumPy has no dtype for.
    """
    if isinstance(value, np.ndarray):
        _refuse_mask(value, name)
        return np.asarray(value), identity
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(value, name), to_torch
    if isinstance(value, ffi.Tensor) or hasattr(value, "__dlpack__"):
        return _from_dlpack(value, name), _kind_of(value)
    try:
        return np.asarray(value), (identity if hasattr(value, "__array__") else None)
    except Exception as error:
        if not is_refusal(error):
            raise
        raise ShapeError(f"input {name!r} is no tensor and cannot become one: {error}") from error


def identity(array: Array) -> Array:
    return array


def _for_others(array: Array) -> Array:
    """For tensors that speak DLPack and do not say how another is made."""
    return array


def _refuse_mask(value: Array, name: str) -> None:
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(value, masked.MaskedArray):
        raise DTypeError(f"input {name!r} is a masked array; pass value.filled(...) instead")


def _from_torch(tensor: Any, name: str) -> Array:
    if tensor.device.type != "cpu":
        raise DeviceError(
            f"input {name!r} is on device {str(tensor.device)!r} and the model was compiled "
            "for the CPU; pass tensor.cpu()"
        )
    if tensor.is_nested:
        raise DTypeError(
            f"input {name!r} is a nested torch tensor, whose rows may differ in length; pass one "
            "plain tensor, as torch.nested.to_padded_tensor gives"
        )
    try:
        plain = tensor.detach().resolve_conj().resolve_neg()
        if str(tensor.dtype) == "torch.bfloat16":  # whose name NumPy does not take from torch
            bits: Array = plain.view(sys.modules["torch"].int16).numpy()
            return bits.view(numpy_dtype("bfloat16"))
        array: Array = plain.numpy()
    except Exception as error:
        if not is_refusal(error):
            raise
        raise DTypeError(
            f"input {name!r} is a torch tensor of {tensor.dtype}, {tensor.layout}, "
            "which has no plain array behind it; pass a strided tensor of an accepted dtype"
        ) from error
    return array


def to_torch(array: Array) -> Any:
    return in_torch(array.dtype)(array)


def in_torch(dtype: np.dtype[Any]) -> Kind:
    """What makes a torch tensor of an array of that dtype."""
    torch = sys.modules["torch"]
    if dtype.kind != "V":
        from_numpy: Kind = torch.from_numpy
        return from_numpy
    return lambda array: torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def _from_dlpack(value: Any, name: str) -> Array:
    if not hasattr(value, "__dlpack_device__"):
        raise DTypeError(
            f"input {name!r} ({type(value).__name__}) has __dlpack__ but no __dlpack_device__, "
            "which says where it lies; pass np.asarray(...) of it"
        )
    device = int(value.__dlpack_device__()[0])
    if device != CPU:
        raise DeviceError(
            f"input {name!r} is on DLPack device type {device} and the model was compiled for "
            "the CPU (type 1); copy it to the CPU first"
        )
    try:
        return np.from_dlpack(value)
    except Exception as error:
        if not is_refusal(error):
            raise
        if hasattr(value, "__array__"):
            return np.asarray(value)
        raise DTypeError(
            f"input {name!r} ({type(value).__name__}) cannot be read through DLPack: {error}"
        ) from error


def _kind_of(value: Any) -> Kind:
    """What makes a tensor of the kind of `value`, an object with `__dlpack__`."""
    if hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()
        # NumPy lends no bfloat16 by DLPack.
        return lambda array: (
            namespace.asarray(array) if array.dtype.kind == "V" else namespace.from_dlpack(array)
        )
    return ffi.from_array if isinstance(value, ffi.Tensor) else _for_others


def in_same_memory(result: Array, kind: Kind) -> Any:
    """`result` as a tensor of that kind, or itself where the library would make a copy."""
    made = kind(result)
    if kind in _CASTS or address(np.from_dlpack(made)) == address(result):
        return made
    return result


_CASTS: dict[Kind | None, str] = {
    None: "np.asarray(x, {!r})",  # of nested lists
    identity: ".astype({!r})",
    to_torch: ".to(torch.{})",
    ffi.from_array: "np.from_dlpack(x).astype({!r})",
    _for_others: "np.from_dlpack(x).astype({!r})",
}


def cast(kind: Kind | None, dtype: np.dtype[Any]) -> str:
    """How a user casts a tensor of that kind, as `import_array` gives it, to a dtype."""
    return _CASTS.get(kind, _CASTS[identity]).format(dtype.name)


def packing(kind: Kind | None) -> str:
    """How a user packs a tensor of that kind."""
    return ".contiguous()" if kind is to_torch else "np.ascontiguousarray(...)"


def lender_of(value: Any) -> tuple[Callable[[Any], Array], Kind] | None:
    """(to_array, kind) for tensors of the type of `value`, None where only `import_array` knows.

    to_array copies nothing and raises for a tensor that cannot be had so.
    """
    torch = sys.modules.get("torch")
    if torch is not None and type(value) is torch.Tensor:
        return torch.Tensor.numpy, to_torch
    if isinstance(value, ffi.Tensor):
        return np.from_dlpack, ffi.from_array
    return None


def type_list(array: Array, slot: Slot) -> Array:
    """What became of nested lists, in the dtype of `slot`: Python's numbers have none to keep."""
    if slot.is_integer:
        return array.astype(slot.dtype) if array.size == 0 else array
    if array.dtype.kind in "iuf":
        return array.astype(slot.dtype)
    raise DTypeError(f"input {slot.name!r} expected numbers, got a list of {array.dtype}")


def is_plain(array: Array) -> bool:
    """Whether compiled code can take `array` as it lies: packed, aligned, native byte order."""
    flags = array.flags
    return bool(flags.c_contiguous and flags.aligned and array.dtype.isnative)


def pack(array: Array, dtype: np.dtype[Any]) -> Array:
    """`array` as the compiled code takes it: of `dtype`, packed and aligned; copied if need be.

    A read-only array is lent under a writable name, as NumPy lends no read-only array through
    the DLPack that tvm_ffi asks for. Compiled code never writes to its inputs.
    """
    if array.size == 0:
        return empty(array.shape, dtype)
    if array.dtype != dtype or not is_plain(array):
        return np.array(array, dtype=dtype, order="C", copy=True, subok=False)
    return array if array.flags.writeable else np.asarray(_Lent(array)).view(dtype)


class _Lent:
    """The memory of a packed array, writable."""

    def __init__(self, array: Array) -> None:
        self.array = array  # keeps the memory alive
        self.__array_interface__ = {
            "version": 3,
            "data": (address(array), False),
            "shape": array.shape,
            "typestr": array.dtype.str,
        }


def prepare_outputs(
    out: Any, slots: Sequence[Slot], shapes: Sequence[tuple[int, ...]], inputs: Sequence[Array]
) -> list[Array]:
    """The caller's `out` buffers as arrays that compiled code may write to; fresh ones for None."""
    if out is None:
        return [empty(shape, slot.dtype) for shape, slot in zip(shapes, slots, strict=True)]
    buffers = list(out) if isinstance(out, (list, tuple)) else [out]
    if len(buffers) != len(slots):
        raise ShapeError(f"out expected {len(slots)} buffers, got {len(buffers)}")
    arrays: list[Array] = []
    for buffer, slot, shape in zip(buffers, slots, shapes, strict=True):
        array, kind = import_array(buffer, "out")
        if kind is None:
            raise DTypeError(f"out expected a tensor to write to, got {type(buffer).__name__}")
        if array.dtype != slot.dtype:
            raise DTypeError(f"out expected {slot.dtype}, got {array.dtype}")
        if array.shape != shape:
            raise ShapeError(f"out expected shape {shape}, got {array.shape}")
        if not is_plain(array):
            raise ShapeError("out must be C-contiguous and aligned; pass a fresh buffer")
        if not array.flags.writeable or getattr(buffer, "requires_grad", False):
            raise ConfigError("out is read-only or requires a gradient; pass a fresh buffer")
        if any(np.may_share_memory(array, other) for other in (*inputs, *arrays)):
            raise ConfigError("out overlaps an input or another output; pass a fresh buffer")
        arrays.append(array if array.size else empty(shape, slot.dtype))
    return arrays
