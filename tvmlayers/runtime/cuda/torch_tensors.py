"""torch's CUDA tensors: seen where they lie, and memory from torch's own allocator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tvmlayers.dtypes import numpy_dtype
from tvmlayers.errors import DeviceMemoryError, DTypeError
from tvmlayers.runtime.cuda.arrays import View
from tvmlayers.runtime.cuda.driver import Driver
from tvmlayers.runtime.cuda.memory import ALIGNMENT


def torch_view(tensor: Any, name: str) -> View:
    """A torch CUDA tensor as compiled code sees it; what is not packed is packed on the GPU."""
    if str(tensor.layout) != "torch.strided":
        raise DTypeError(
            f"{_called(name)} is a torch tensor of {tensor.layout}, which has no plain array "
            "behind it; pass a strided tensor"
        )
    plain = tensor.detach().resolve_conj().resolve_neg()
    try:
        dtype = numpy_dtype(str(plain.dtype).removeprefix("torch."))
    except TypeError as error:
        raise DTypeError(
            f"{_called(name)} is a torch tensor of {tensor.dtype}, which no model takes yet"
        ) from error
    plain = made_by_torch(plain.contiguous)
    return View(plain.data_ptr(), tuple(plain.shape), dtype, plain.device.index, plain)


def _called(name: str) -> str:
    return "out" if name == "out" else f"input {name!r}"


def made_by_torch(make: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """`make(*given, **named)`, a tensor; DeviceMemoryError where the GPU has no room for it."""
    try:
        return make(*given, **named)
    except sys.modules["torch"].OutOfMemoryError as error:
        raise DeviceMemoryError(
            "the GPU has too little memory left for a tensor of the call; use smaller batches, or "
            f"free what else holds its memory ({error})"
        ) from error


class TorchMemory:
    """Memory of torch's caching allocator for one call; freed in the order of its stream."""

    def __init__(self, driver: Driver, ordinal: int, stream: int) -> None:
        self.driver, self.ordinal, self.stream = driver, ordinal, stream
        self.torch = sys.modules["torch"]

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> View:
        """Uninitialised memory, which another call may get once the stream is past this one."""
        device = self.torch.device("cuda", self.ordinal)
        kind = getattr(self.torch, dtype.name)
        made = made_by_torch(self.torch.empty, tuple(shape), dtype=kind, device=device)
        return View(made.data_ptr(), tuple(shape), dtype, self.ordinal, made)

    def packed(self, given: View, dtype: np.dtype[Any], name: str) -> View:
        """The view itself where compiled code can take it, else a copy on the GPU."""
        if given.dtype != dtype:
            tensor = made_by_torch(given.owner.to, getattr(self.torch, dtype.name))
        elif given.address % ALIGNMENT:
            tensor = made_by_torch(given.owner.clone)
        else:
            return given
        return View(tensor.data_ptr(), given.shape, dtype, self.ordinal, tensor)

    def result(self, made: View) -> Any:
        """The tensor that a result lies in."""
        return made.owner
