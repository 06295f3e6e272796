"""Memory of the driver's own for the tensors of one call."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvmlayers.artifact.arena import address
from tvmlayers.runtime.cuda.arrays import DeviceArray, View
from tvmlayers.runtime.cuda.driver import Driver

ALIGNMENT = 16  # bytes: the widest load of a thread


class DriverMemory:
    """Memory of the driver's own for one call, in the order of one stream."""

    def __init__(self, driver: Driver, ordinal: int, stream: int) -> None:
        self.driver, self.ordinal, self.stream = driver, ordinal, stream

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> View:
        """Uninitialised memory; the driver waits for the GPU before it takes memory back."""
        return DeviceArray(shape, dtype, self.ordinal, self.driver, self.stream).view()

    def packed(self, given: View, dtype: np.dtype[Any], name: str) -> View:
        """The view itself where compiled code can take it, a copy where it is not aligned."""
        if given.dtype == dtype and given.address % ALIGNMENT == 0:
            return given
        if given.dtype == dtype:
            aligned = self.empty(given.shape, dtype)
            self.driver.copy(aligned.address, given.address, given.nbytes, self.stream)
            return aligned
        host = np.empty(given.shape, given.dtype)
        self.driver.download(address(host), given.address, given.nbytes, self.stream)
        self.driver.synchronize(self.stream)
        host = host.astype(dtype)
        made = self.empty(given.shape, dtype)
        self.driver.upload(made.address, address(host), host.nbytes, self.stream)
        self.driver.synchronize(self.stream)
        return made

    def result(self, made: View) -> Any:
        """The array that a result lies in."""
        return made.owner
