"""An entry point for tensors of known shapes on one GPU, ready but for their addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from tvmlayers.errors import TvmLayersError
from tvmlayers.runtime.cuda.resident import Resident
from tvmlayers.runtime.signature import Entry


class Plan:
    """What launches all kernels of an entry; one thread at a time."""

    def __init__(
        self,
        entry: Entry,
        row: Mapping[str, Any],
        sizes: Mapping[str, int],
        resident: Resident,
        kernels: Sequence[str],
    ) -> None:
        """row: the entry in the manifest; kernels: the names of all, for errors."""
        self.entry, self.driver, self.resident = entry, resident.driver, resident
        self.shapes = entry.output_shapes(sizes)
        self.is_checked = bool(row["checks"])
        self._device = self.driver.device(resident.kernels, 0)
        self._place = ctypes.addressof(self._device)
        self._sizes = [sizes[name] for name in row["sizes"]]
        self._tail = resident.weights.address, resident.flags.address
        self._kernels = kernels
        self.scratch: int | None = None
        if row["device_scratch"]:  # asked with no room it answers how much it needs, as -bytes
            nowhere = [0] * (len(entry.inputs) + len(entry.outputs))
            function = entry.function
            self.scratch = -function(*self._sizes, *nowhere, *self._tail, 0, -1, self._place)

    def launch(self, addresses: Sequence[int], stream: int, scratch: int = 0) -> None:
        """Launch on inputs and outputs at these addresses.

        scratch: the address of as many bytes as `self.scratch` says.
        """
        device = self._device
        device.stream, device.error = stream, 0
        room = () if self.scratch is None else (scratch, self.scratch)
        self.entry.function(*self._sizes, *addresses, *self._tail, *room, self._place)
        if device.error:
            kernel = self._kernels[device.kernel]
            if device.error < 0:
                raise TvmLayersError(f"the batch is too large for the grid of kernel {kernel}")
            self.driver.fail(device.error, f"launching {kernel}")
