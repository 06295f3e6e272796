"""Plain functions, as MetaSchedule schedules them, on the inputs of an open workload."""

from __future__ import annotations

import numpy as np
import tvm
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvmlayers import targets
from tvmlayers.artifact.arena import allocate_arena
from tvmlayers.runtime import ffi
from tvmlayers.targets import Target
from tvmlayers.tune import inputs, timing
from tvmlayers.tune.data import Data
from tvmlayers.tune.expected import Array
from tvmlayers.tune.fixture import Fixture, WrongResult
from tvmlayers.tune.plain import plain_inputs


class PlainFixture:
    """The arguments of plain functions; results are held against the same expectation."""

    def __init__(self, fixture: Fixture, target: Target, data: Data, seed: int) -> None:
        self._fixture, self._target = fixture, targets.to_tvm(target)
        workload = fixture.workload
        drawn = plain_inputs(workload, inputs.draw(workload, data, seed))
        weights = [ffi.from_array(_aligned(each)) for each in fixture.weights().values()]
        rows, width = fixture.result_shape
        self._result = _aligned(np.zeros((rows, width), workload["dtype"]))
        out = ffi.from_array(self._result)
        self._turns = [
            (*(ffi.from_array(_aligned(each)) for each in arrays), *weights, out)
            for arrays in drawn
        ]

    def ratio(self, module: str) -> float:
        """Time of the function in a module's JSON, in times of the workload's reference."""
        scheduled = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(
            tvm.ir.load_json(module)
        )
        function = tvm.compile(scheduled, target=self._target)["main"]
        self._result.fill(np.nan)
        function(*self._turns[0])
        wrong = self._fixture.expected.difference(self._result)
        if wrong is not None:
            raise WrongResult(wrong)
        candidate = timing.Call(function, self._turns)
        return timing.ratio(self._fixture.reference, candidate, self._fixture.calls)


def _aligned(array: Array) -> Array:
    """The array at a multiple of 64 bytes, as these functions take it to be."""
    if array.ctypes.data % 64 == 0 and array.flags.writeable:
        return array
    place = allocate_arena(max(array.nbytes, 64))[: array.nbytes]
    copy = place.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
