"""Arrays in a GPU's memory: the caller's seen without a copy, and plain ones of our own."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact.arena import address
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.errors import DeviceError, DTypeError, ShapeError, TvmLayersError
from tvmlayers.runtime.cuda import dlpack
from tvmlayers.runtime.cuda.dlpack import CUDA, LEGACY_DEFAULT, NO_ORDER
from tvmlayers.runtime.cuda.driver import Driver, default_driver
from tvmlayers.runtime.tensors import CPU

ON_GPU = (CUDA, 13)  # and kDLCUDAManaged, which moves to where it is read


@dataclass(frozen=True)
class View:
    """A packed array in a GPU's memory, and what keeps it alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ordinal: int
    owner: Any

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return int(prod(self.shape) * self.dtype.itemsize)


class DeviceArray:
    """A packed array in a GPU's memory that no other library owns.

    Given to a model it is taken as it lies, and results are of this kind too. Others read it
    without a copy by DLPack (torch.from_dlpack, cupy.from_dlpack, jax.dlpack.from_dlpack), which
    has their stream wait for `stream` where it is another one, or by `__cuda_array_interface__`
    (cupy.asarray, numba.cuda.as_cuda_array).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        ordinal: int = 0,
        driver: Driver | None = None,
        stream: int = 0,
    ) -> None:
        """Uninitialised memory on GPU number `ordinal`, which what goes on `stream` will fill."""
        self.shape, self.dtype, self.ordinal = tuple(shape), np.dtype(dtype), ordinal
        self.stream = stream
        self.driver = driver or default_driver()
        with self.driver.context(ordinal):
            self.address = self.driver.allocate(self.nbytes)
        freed = weakref.finalize(self, _free, self.driver, ordinal, self.address)
        freed.atexit = False  # the driver is gone by then, and the memory with it

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return int(prod(self.shape) * self.dtype.itemsize)

    def numpy(self, stream: int | None = None) -> NDArray[Any]:
        """A copy on the host, after all that is on the stream: its own, if left out."""
        result = np.empty(self.shape, self.dtype)
        stream = self.stream if stream is None else stream
        with self.driver.context(self.ordinal):
            self.driver.download(address(result), self.address, self.nbytes, stream)
            self.driver.synchronize(stream)
        return result

    def view(self) -> View:
        """The array as compiled code takes it."""
        return View(self.address, self.shape, self.dtype, self.ordinal, self)

    def ready_on(self, stream: int) -> None:
        """Have what comes next on the stream wait for what fills the array on its own."""
        if stream != self.stream:
            with self.driver.context(self.ordinal):
                self.driver.order(self.stream, stream)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype.kind == "V":  # bfloat16, which the interface cannot say
            raise AttributeError("__cuda_array_interface__ has no bfloat16; use DLPack")
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": self.stream or LEGACY_DEFAULT,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule over the same memory, by the array API standard.

        stream: the consumer's, 1 (CUDA's default one) if left out, -1 for no order at all.
        BufferError for another device or a copy.
        """
        if dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"this array is on {self.__dlpack_device__()}, asked was {dl_device}")
        if copy:
            raise BufferError("this array is lent, not copied; copy what you make of it")
        if stream == 0:
            raise ValueError("stream 0 says too little in DLPack; 1 is CUDA's default stream")
        reader = 0 if stream is None or stream == LEGACY_DEFAULT else stream
        if reader != NO_ORDER:
            self.ready_on(reader)
        return dlpack.lend(self).__dlpack__(max_version=max_version)


def _free(driver: Driver, ordinal: int, place: int) -> None:
    # Nothing raises: a context that an error ended takes its memory along.
    with suppress(TvmLayersError), driver.context(ordinal):
        driver.free(place)


def to_device(
    array: Any, ordinal: int = 0, stream: int = 0, driver: Driver | None = None
) -> DeviceArray:
    """A copy of an array of the host in a GPU's memory."""
    host = np.ascontiguousarray(array)
    made = DeviceArray(host.shape, host.dtype, ordinal, driver)
    with made.driver.context(ordinal):
        made.driver.upload(made.address, address(host), host.nbytes, stream)
        made.driver.synchronize(stream)  # the host's memory may change from here on
    return made


def is_on_gpu(value: Any, name: str) -> bool:
    """Whether a tensor lies in memory of an NVIDIA GPU, or else in that of the host.

    DeviceError for one that lies elsewhere.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if not value.is_cuda and value.device.type != "cpu":
            _refuse_device(name, repr(str(value.device)))
        return bool(value.is_cuda)
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
        return False
    kind = int(value.__dlpack_device__()[0])
    if kind not in (CPU, *ON_GPU):
        _refuse_device(name, f"of DLPack's type {kind}")
    return kind in ON_GPU


def as_kind_of(inputs: Iterable[Any], results: list[Any]) -> list[Any]:
    """Our arrays as those of the first library among the inputs that can be asked for its own."""
    for value in inputs:
        if not isinstance(value, DeviceArray) and hasattr(value, "__array_namespace__"):
            own = value.__array_namespace__().from_dlpack
            return [own(each) for each in results]
    return results


def _refuse_device(name: str, device: str) -> NoReturn:
    what = "out" if name == "out" else f"input {name!r}"
    raise DeviceError(
        f"{what} is on device {device}, and the model was compiled for NVIDIA GPUs; pass a tensor "
        "in the memory of the GPU or of the host"
    )


def view_of(value: Any, name: str, stream: int) -> View:
    """A packed tensor of a GPU, of any library with DLPack, as compiled code on a stream takes it.

    DTypeError for one that is not packed: libraries pack theirs in their own words.
    """
    if isinstance(value, DeviceArray):
        value.ready_on(stream)
        return value.view()
    tensor = dlpack.read(value, "out" if name == "out" else f"input {name!r}", stream)
    shape = tuple(int(size) for size in tensor.shape)
    dtype = numpy_dtype(str(tensor.dtype))
    packed = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    strides = [int(step) for step in tensor.strides]
    if prod(shape) and any(
        s != p for s, p, size in zip(strides, packed, shape, strict=True) if size > 1
    ):
        if name == "out":
            raise ShapeError("out must be C-contiguous; pass a fresh buffer")
        raise DTypeError(
            f"input {name!r} is not packed in the GPU's memory; pass a contiguous copy of it"
        )
    return View(tensor.data_ptr(), shape, dtype, int(tensor.device.index), (value, tensor))
