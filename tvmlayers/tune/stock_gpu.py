"""MetaSchedule's own CUDA schedules, built by our toolchain and measured on this machine's GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tvmlayers.codegen.cuda.fixed import FixedProgram, lower_fixed
from tvmlayers.codegen.cuda.toolchain import Toolchain, device_images
from tvmlayers.errors import ConfigError
from tvmlayers.runtime.cuda import DeviceArray, Driver, to_device
from tvmlayers.runtime.cuda.driver import images_for
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import CudaTarget
from tvmlayers.tune.cases import Case
from tvmlayers.tune.fixture import WrongResult
from tvmlayers.tune.gpu import GpuFixture, GpuMeasurer, Launches
from tvmlayers.tune.plain import plain_inputs
from tvmlayers.tune.stock import TriesModules


class StockGpuMeasurer(TriesModules, GpuMeasurer):
    """Tries modules where `GpuMeasurer` tries decisions."""

    def __init__(
        self, target: CudaTarget, toolchain: Toolchain = device_images, driver: Driver | None = None
    ) -> None:
        super().__init__(target, toolchain, driver)
        self._plain: PlainGpuStand | None = None

    def open(self, case: Case, seed: int, reference: Decisions) -> float:
        microseconds = super().open(case, seed, reference)
        self._plain = PlainGpuStand(self._opened)
        return microseconds

    def close(self) -> None:
        self._plain = None
        super().close()

    def _candidate(self, decisions: Decisions) -> Launches:
        assert self._plain is not None, "a workload is opened before it is tried"
        try:
            program = lower_fixed(self.module_of(decisions)["main"], self._target)
        except (RuntimeError, ValueError) as error:  # TVM's rules may go too far for its lowering
            raise ConfigError(str(error).strip().splitlines()[-1]) from error
        images = self._toolchain(program.source, program.kernels, self._target)
        return self._plain.call(program, images.binaries)


class PlainGpuStand:
    """The arguments of plain functions on the GPU; results are held to the same expectation."""

    def __init__(self, fixture: GpuFixture) -> None:
        self._fixture, self._driver = fixture, fixture.driver
        drawn = plain_inputs(fixture.workload, fixture.drawn)
        self._weights = [self._put(each) for each in fixture.host_weights().values()]
        self._turns = [[self._put(each) for each in arrays] for arrays in drawn]
        self._result = self._put(np.zeros(fixture.result_shape, fixture.workload["dtype"]))

    def _put(self, array: Any) -> DeviceArray:
        return to_device(array, driver=self._driver)

    def call(self, program: FixedProgram, images: dict[str, bytes]) -> Launches:
        """The program on this workload's inputs; WrongResult where its results are."""
        driver = self._driver
        scratch = [DeviceArray((size,), np.uint8, 0, driver) for size in program.scratch]
        with driver.context(0):
            image = images_for(images, self._fixture.target.capability, driver.capability(0))[0]
            handles = driver.load(image, [kernel.name for kernel in program.kernels])
            driver.fill(self._result.address, 0xFF, self._result.nbytes, 0)  # NaN
        turns = [
            self._launcher(program, handles, [*given, *self._weights, self._result, *scratch])
            for given in self._turns
        ]
        with driver.context(0):
            turns[0]()
        wrong = self._fixture.expected.difference(self._result.numpy())
        if wrong is not None:
            raise WrongResult(wrong)
        return Launches(turns, driver)

    def _launcher(
        self, program: FixedProgram, handles: Any, buffers: Sequence[DeviceArray]
    ) -> Callable[[], None]:
        """What launches all kernels once, their arguments made beforehand."""
        launches = [
            self._driver.launcher(
                handles[each.kernel],
                each.extents,
                each.shared,
                [buffers[place].address for place in each.buffers],
            )
            for each in program.launches
        ]

        def launch(_held: object = (handles, buffers)) -> None:
            for each in launches:
                each()

        return launch
