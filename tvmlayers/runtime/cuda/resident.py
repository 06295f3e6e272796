"""What a model keeps on one GPU: its weights, its kernels, the flags of its checks, scratch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact.arena import address
from tvmlayers.errors import TargetError
from tvmlayers.runtime.cuda.arrays import DeviceArray, View
from tvmlayers.runtime.cuda.driver import Driver, images_for
from tvmlayers.runtime.cuda.held import Held
from tvmlayers.runtime.cuda.torch_tensors import TorchMemory

_PER_THREAD_DEFAULT = 2  # a stream that is another one in every thread


class Resident:
    """Made at the first call on a GPU, inside its context."""

    def __init__(
        self,
        driver: Driver,
        ordinal: int,
        manifest: Mapping[str, Any],
        images: Mapping[str, bytes],
        weights: NDArray[np.uint8] | DeviceArray,
    ) -> None:
        """weights: the packed ones, of the host, or on this GPU already."""
        self.driver, self.ordinal = driver, ordinal
        self.kernels: Any = _load(driver, ordinal, manifest, images)
        if isinstance(weights, DeviceArray):
            self.weights = weights
        else:
            self.weights = DeviceArray(weights.shape, np.uint8, ordinal, driver)
            driver.upload(self.weights.address, address(weights), weights.nbytes, 0)
        self.flags = DeviceArray((max(len(manifest["checks"]), 1),), np.int32, ordinal, driver)
        driver.zero(self.flags.address, self.flags.nbytes, 0)
        driver.synchronize(0)  # other streams use them too
        self.held = Held(driver, ordinal)
        self._scratch: dict[tuple[int, int], DeviceArray] = {}

    def take_weights(self, weights: NDArray[np.uint8]) -> None:
        """Overwrite the weights, after the calls that are on their way; in the GPU's context."""
        self.driver.synchronize_all()  # they may have gone on any stream
        self.driver.upload(self.weights.address, address(weights), weights.nbytes, 0)
        self.driver.synchronize(0)

    def scratch(self, memory: Any, needed: int) -> View:
        """Scratch for one call. The driver's own is kept for the stream: to free it would wait."""
        if isinstance(memory, TorchMemory):
            return memory.empty((needed,), np.dtype("uint8"))
        thread = threading.get_ident() if memory.stream == _PER_THREAD_DEFAULT else 0
        kept = self._scratch.get((memory.stream, thread))
        if kept is None or kept.nbytes < needed:
            kept = DeviceArray((needed + needed // 2,), np.uint8, self.ordinal, self.driver)
            self._scratch[memory.stream, thread] = kept
        return kept.view()

    def take_flags(self, stream: int) -> NDArray[Any] | None:
        """The flags that kernels of this call raised, put down again; None where all went well."""
        found = self.flags.numpy(stream)
        if not found.any():
            return None
        self.driver.zero(self.flags.address, self.flags.nbytes, stream)
        self.driver.synchronize(stream)  # a call on another stream may raise them next
        return found


def _load(
    driver: Driver, ordinal: int, manifest: Mapping[str, Any], images: Mapping[str, bytes]
) -> Any:
    """The handles of the kernels in the current context."""
    arch = tuple(manifest["target"]["capability"])
    refused = None
    for image in images_for(images, arch, driver.capability(ordinal)):
        try:
            return driver.load(image, manifest["cuda"]["kernels"])
        except TargetError as error:
            refused = refused or error
    raise TargetError(f"{refused}; {manifest['cuda']['compiler']} compiled this one") from refused
