"""DLPack for memory of a GPU: other libraries' tensors in the order of a stream, and ours for them.

The exchange follows the array API standard, `__dlpack__(stream=...)`: a consumer names the stream
that it will read on, and the producer makes that one wait for what it has not finished.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmlayers.errors import DTypeError
from tvmlayers.foreign import is_refusal
from tvmlayers.runtime import ffi

if TYPE_CHECKING:
    from tvmlayers.runtime.cuda.arrays import DeviceArray

CUDA = 2  # kDLCUDA
LEGACY_DEFAULT = 1  # what the standard calls CUDA's stream 0
NO_ORDER = -1
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLDataTypeCode by NumPy's kind
_BFLOAT = 4


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", c_void_p))


_lent: dict[int, tuple[Any, ...]] = {}  # by address of what a consumer holds: what it lies in


@ctypes.CFUNCTYPE(None, c_void_p)  # type: ignore[untyped-decorator]
def _take_back(place: int) -> None:
    _lent.pop(place, None)


_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, (c_void_p, ctypes.c_char_p, c_void_p)


def read(value: Any, what: str, stream: int) -> Any:
    """A `tvm_ffi.Tensor` over a tensor of another library, ready for what goes on the stream.

    DTypeError where that library does not hand it out; what: what it is called in the error.
    """
    if isinstance(value, ffi.Tensor):
        return value
    try:
        return ffi.ffi.from_dlpack(value.__dlpack__(stream=stream or LEGACY_DEFAULT))
    except Exception as error:
        if not is_refusal(error):
            raise
        raise DTypeError(
            f"{what} ({type(value).__name__}) cannot be read through DLPack: {error}"
        ) from error


def lend(array: DeviceArray) -> Any:
    """A `tvm_ffi.Tensor` over an array of ours; it keeps the array alive."""
    count = len(array.shape)
    shape = (c_int64 * count)(*array.shape)
    # NULL strides, which mean packed, are not allowed from DLPack 1.2 on.
    steps = (c_int64 * count)(
        *(int(np.prod(array.shape[axis + 1 :], dtype=np.int64)) for axis in range(count))
    )
    code = _BFLOAT if array.dtype.name == "bfloat16" else _CODES[array.dtype.kind]
    bits = array.dtype.itemsize * 8
    seen = _Tensor(array.address, CUDA, array.ordinal, count, code, bits, 1, shape, steps, 0)
    managed = _Managed(seen, None, ctypes.cast(_take_back, c_void_p))
    place = ctypes.addressof(managed)
    _lent[place] = managed, shape, steps, array
    return ffi.ffi.from_dlpack(_capsule(place, b"dltensor", None))
