"""A workload where it is measured: the reference, its inputs, and what should result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from tvmlayers.artifact.arena import allocate_arena, view
from tvmlayers.runtime import ffi
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import Target
from tvmlayers.tune import inputs, timing
from tvmlayers.tune.data import Data
from tvmlayers.tune.expected import Array, Expected
from tvmlayers.tune.kernel import Builder, Kernel
from tvmlayers.workload import Workload


class WrongResult(Exception):
    """A kernel computes something else than NumPy."""


class Device(Protocol):
    """Where kernels run."""

    def put(self, array: Array) -> Any:
        """The array as the device's kernels take it."""

    def get(self, tensor: Any) -> Array:
        """The values of what `put` gave."""

    def set(self, tensor: Any, array: Array) -> None:
        """Give what `put` gave other values."""

    def load(self, kernel: Kernel) -> Callable[..., int]:
        """The entry point of a kernel, to be called there."""

    def timed(self, function: Callable[..., int], turns: Sequence[tuple[Any, ...]]) -> timing.Timed:
        """The function on the arguments of each turn."""


class Here:
    """This process."""

    def __init__(self) -> None:
        self._arrays: dict[int, Array] = {}

    def put(self, array: Array) -> Any:
        tensor = ffi.from_array(array)
        self._arrays[id(tensor)] = array
        return tensor

    def get(self, tensor: Any) -> Array:
        return self._arrays[id(tensor)]

    def set(self, tensor: Any, array: Array) -> None:
        self._arrays[id(tensor)][...] = array

    def load(self, kernel: Kernel) -> Callable[..., int]:
        return kernel.function

    def timed(self, function: Callable[..., int], turns: Sequence[tuple[Any, ...]]) -> timing.Timed:
        return timing.Call(function, turns)


class Fixture:
    """One workload, ready to time candidates against the reference that is kept here."""

    def __init__(
        self,
        workload: Workload,
        target: Target,
        threads: int,
        data: Data,
        seed: int,
        reference: Decisions,
        device: Device,
    ) -> None:
        self.workload, self.threads, self._device = workload, threads, device
        self.builder = Builder(workload, target, threads, seed)
        kernel = self.builder.build(reference)
        drawn = inputs.draw(workload, data, seed)
        self.expected = Expected(workload, self.weights(), drawn[0])
        self._turns, self._result = self._rotation(kernel, drawn, data)
        self.reference = self.call(kernel)
        self.calls = timing.block_calls(self.reference)
        self.seconds, _ = timing.compare(self.reference, [], self.calls)

    def call(self, kernel: Kernel) -> timing.Timed:
        """The kernel on this workload's inputs; WrongResult where its results are."""
        function = self._device.load(kernel)
        self._device.set(self._result, self._blank)
        status = function(*self._turns[0])
        if status:
            raise WrongResult(f"status {status} for valid inputs")
        wrong = self.expected.difference(self._device.get(self._result))
        if wrong is not None:
            raise WrongResult(wrong)
        return self._device.timed(function, self._turns)

    def _rotation(
        self, kernel: Kernel, drawn: list[tuple[Array, ...]], data: Data
    ) -> tuple[list[tuple[Any, ...]], Any]:
        """The arguments of each turn, and the result that the first one writes."""
        arena = self.builder.arena
        arenas = [arena]
        if data.cold and self.workload.kind == "dense":
            for _ in range(inputs.copies(arena.nbytes) - 1):
                arenas.append(allocate_arena(arena.nbytes))
                arenas[-1][:] = arena
        shape, dtype = kernel.output_shape, self.workload["dtype"]
        if self.workload.kind == "bag":
            shape = (len(drawn[0][1]), shape[1])
        put = self._device.put
        self._blank = np.full(shape, np.nan, dtype)
        results = [put(self._blank.copy()) for _ in (drawn if data.cold else drawn[:1])]
        given = [tuple(map(put, arrays)) for arrays in drawn]
        places = [put(each) for each in arenas]
        turns = [
            (
                *given[turn % len(given)],
                results[turn % len(results)],
                places[turn % len(places)],
                self.threads,
            )
            for turn in range(max(len(given), len(places)))
        ]
        return turns, results[0]

    @property
    def result_shape(self) -> tuple[int, int]:
        """(rows, columns) of the result."""
        return int(np.prod(self._blank.shape[:-1])), self._blank.shape[-1]

    def weights(self) -> dict[str, Array]:
        """ "kernel" and "bias" of a dense layer, the "table" of a lookup, nothing of a softmax."""
        if self.workload.kind in ("dense", "softmax"):
            return dict(self.builder.layer.weights)
        shape = self.workload["rows"], self.workload["width"]
        return {"table": view(self.builder.arena, 0, shape, self.workload["dtype"])}
