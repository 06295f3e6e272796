"""Measures on this machine's first GPU, in this process.

Blocks of calls are put on the stream one after the other and waited for together, so that a kernel
which takes longer than its launch is timed by itself. A kernel that ends with an error costs a
trial; where it takes the GPU's context along, the run stops after it, and goes on from its journal
when it is started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice

import numpy as np

from tvmlayers.artifact.arena import view
from tvmlayers.codegen.cuda.compiler import compile_cuda
from tvmlayers.codegen.cuda.toolchain import Toolchain, device_images
from tvmlayers.errors import (
    ConfigError,
    DeviceError,
    MissingDependencyError,
    TuneError,
    TvmLayersError,
)
from tvmlayers.runtime import diagnose
from tvmlayers.runtime.cuda import CudaCompiled, DeviceArray, Driver, to_device
from tvmlayers.runtime.cuda.memory import DriverMemory
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import CudaTarget
from tvmlayers.tune import inputs, timing
from tvmlayers.tune.cases import Case
from tvmlayers.tune.expected import Array, Expected
from tvmlayers.tune.fixture import WrongResult
from tvmlayers.tune.kernel import Builder
from tvmlayers.tune.measurer import OneByOne
from tvmlayers.tune.outcome import Outcome

# How a failure begins, by the error that it came from; others are the GPU's.
_FAILURES = ((WrongResult, "wrong result"), (ConfigError, "build failed"))


class Launches:
    """Calls of a kernel on the arguments of one turn of a rotation after the other."""

    def __init__(self, launches: Sequence[Callable[[], None]], driver: Driver) -> None:
        self.turns, self._driver = len(launches), driver
        self._next = cycle(launches)

    def seconds(self, calls: int) -> float:
        """Seconds of one call, on average over a block of `calls`."""
        block = list(islice(self._next, calls))
        with self._driver.context(0):
            self._driver.synchronize(0)
            begin = time.perf_counter_ns()
            for launch in block:
                launch()
            self._driver.synchronize(0)
            return (time.perf_counter_ns() - begin) * 1e-9 / calls


class GpuFixture:
    """One workload on the GPU, ready to time candidates against the reference."""

    def __init__(
        self,
        case: Case,
        target: CudaTarget,
        seed: int,
        reference: Decisions,
        toolchain: Toolchain,
        driver: Driver,
    ) -> None:
        self.workload, self.target = case.workload, target
        self._toolchain, self.driver = toolchain, driver
        self._builder = Builder(case.workload, target, 1, seed)
        self._weights: DeviceArray | None = None
        self.drawn = inputs.draw(case.workload, case.data, seed)
        self._given = [
            tuple(to_device(each, driver=driver) for each in arrays) for arrays in self.drawn
        ]
        compiled = self._compile(reference)
        self.expected = Expected(case.workload, self.host_weights(), self.drawn[0])
        self.reference = self._call(compiled)
        self.calls = timing.block_calls(self.reference)
        self.seconds, _ = timing.compare(self.reference, [], self.calls)

    def call(self, decisions: Decisions) -> Launches:
        """The kernel with these decisions; WrongResult where its results are."""
        return self._call(self._compile(decisions))

    def answers(self) -> bool:
        """Whether the GPU's context still works: some errors of a kernel end it."""
        try:
            with self.driver.context(0):
                self.driver.synchronize(0)
        except TvmLayersError:
            return False
        return True

    def _compile(self, decisions: Decisions) -> CudaCompiled:
        fixed = {self.workload.kind: decisions}
        selector = CudaSelector(self.target, use_records=False, fixed=fixed)
        builder = self._builder
        compiled = compile_cuda(
            builder.model, selector, self._toolchain, self.driver, builder.arena_of
        )
        compiled.deferred = True
        with self.driver.context(0):
            # A table can be as large as the memory: it lies there once.
            self._weights = compiled._resident(0, self._weights).weights
        return compiled

    def _call(self, compiled: CudaCompiled) -> Launches:
        memory = DriverMemory(self.driver, 0, 0)
        launches: list[Callable[[], None]] = []
        result: DeviceArray | None = None
        for arrays, there in zip(self.drawn, self._given, strict=True):
            names = tuple(compiled._by_name(arrays, {}))
            entry, sizes = diagnose.choose_entry(compiled._entries, names, list(arrays))
            if result is None:
                (shape,) = entry.output_shapes(sizes)
                self.result_shape = shape
                result = to_device(
                    np.full(shape, np.nan, entry.outputs[0].dtype), 0, 0, self.driver
                )
            given = [each.view() for each in there]
            with self.driver.context(0):
                launches.append(compiled._prepared(entry, sizes, given, [result.view()], memory))
        assert result is not None
        with self.driver.context(0):
            launches[0]()
        wrong = self.expected.difference(result.numpy())
        if wrong is not None:
            raise WrongResult(wrong)
        compiled.check()
        return Launches(launches, self.driver)

    def host_weights(self) -> dict[str, Array]:
        """ "kernel" and "bias" of a dense layer, the "table" of a lookup, nothing of a softmax."""
        if self.workload.kind in ("dense", "softmax"):
            return dict(self._builder.layer.weights)
        shape = self.workload["rows"], self.workload["width"]
        return {"table": view(self._builder.arena, 0, shape, self.workload["dtype"])}


class GpuMeasurer(OneByOne):
    """The measurer of this machine's first GPU; see `measurer.Measurer`."""

    def __init__(
        self, target: CudaTarget, toolchain: Toolchain = device_images, driver: Driver | None = None
    ) -> None:
        self._target, self._toolchain = target, toolchain
        self._driver = driver
        self._fixture: GpuFixture | None = None
        self._fatal: str | None = None  # what the GPU answered last

    def open(self, case: Case, seed: int, reference: Decisions) -> float:
        if case.data.cold:
            raise ConfigError("cold data is for CPUs: leave it out where a GPU is tuned")
        self.close()
        self._driver = self._driver or Driver()
        try:
            self._fixture = GpuFixture(
                case, self._target, seed, reference, self._toolchain, self._driver
            )
        except (WrongResult, DeviceError) as error:
            raise TuneError(
                f"the untuned kernel of {case.workload} cannot be measured: {error}"
            ) from error
        self._microseconds = 1e6 * self._fixture.seconds
        return self._microseconds

    def compare(self, finalists: Sequence[Decisions]) -> list[float]:
        fixture = self._opened
        try:
            calls = [fixture.call(decisions) for decisions in finalists]
            _, seconds = timing.compare(fixture.reference, calls, fixture.calls)
        except (WrongResult, TvmLayersError) as error:
            raise TuneError(f"the fastest candidates cannot be compared: {error}") from error
        return [1e6 * each for each in seconds]

    def limits(self, case: Case) -> dict[str, float] | None:
        """None: a GPU's limits are not measured here."""
        del case
        return None

    def close(self) -> None:
        self._fixture = None

    @property
    def _opened(self) -> GpuFixture:
        assert self._fixture is not None, "a workload is opened before it is tried"
        return self._fixture

    def _candidate(self, decisions: Decisions) -> Launches:
        """One candidate, ready to be timed; WrongResult where its results are."""
        return self._opened.call(decisions)

    def _trial(self, decisions: Decisions) -> Outcome:
        fixture, begin = self._opened, time.monotonic()
        if self._fatal is not None:
            raise TuneError(
                f"the GPU does not answer since a trial failed ({self._fatal}); all trials are "
                "kept, that one as failed: run the same command again to go on from them"
            )
        try:
            ratio = timing.ratio(fixture.reference, self._candidate(decisions), fixture.calls)
        except MissingDependencyError:  # no candidate can be built
            raise
        except (WrongResult, TvmLayersError) as error:
            kind = next((name for each, name in _FAILURES if isinstance(error, each)), "failed")
            if not fixture.answers():
                self._fatal = str(error)
            return Outcome(None, f"{kind}: {error}", time.monotonic() - begin)
        return Outcome(ratio * self._microseconds, None, time.monotonic() - begin)
