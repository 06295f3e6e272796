"""The machine's limits, measured in the run that they are compared with.

A limit is the best of some tries: FMA peak, read and triad bandwidth by size of the data, and row
gathers over a case's own table and indices. Bandwidths count the bytes that a kernel names, not
what the caches move besides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import product
from typing import Any

import numpy as np

from bench import limit_kernels as kernels
from bench.models import MODELS
from bench.work import Array, BagWork, DenseWork, EmbeddingWork, ModelWork, Work
from tvmlayers.targets import MiB, Target, native, to_tvm

TRIES = 7
# The work of one try is fixed, at about a millisecond: a trial run to find it could be disturbed.
TRY_ROUNDS = 1 << 19
TRY_BYTES = 128 * MiB
MEMORY_BYTES = 1024 * MiB
# Between tries: where the threads had met on one core, they are placed anew.
TRY_PAUSE_SECONDS = 0.002
PREFETCH_ROWS = (0, 8, 16, 32, 64)


@dataclass(frozen=True)
class Limit:
    """The least seconds that one call of a case can take here, and what sets them."""

    seconds: float
    name: str


class Limits:
    """Measures on `threads` threads when asked; a rate is the best that this run has seen."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.machine: Target = native()
        self._best: dict[tuple[str, Any], float] = {}

    @property
    def l2_bytes(self) -> int:
        """The L2 caches of all the threads together."""
        return self.machine.l2 * self.threads

    def fma(self, dtype: str) -> float:
        """FLOP/s of independent FMAs in registers."""
        function, factor, sums = self._fma_kernel(dtype)
        lanes = len(factor)
        flops = 2 * kernels.FMA_CHAINS * lanes * self.threads
        found = flops / _seconds(
            lambda rounds: function(factor, sums, rounds, self.threads), TRY_ROUNDS
        )
        return self._best_of("FMA", dtype, found)

    def read(self, size: int) -> float:
        """Bytes/s of reading `size` bytes over and over, prefetching or not."""
        steps = self._steps(size // kernels.READ_STREAMS)
        data = self._zeros(kernels.READ_STREAMS * steps)
        data = data.reshape(self.threads, kernels.READ_STREAMS, steps, -1)
        seconds = min(
            self._read_seconds(data, prefetch, ahead)
            for prefetch, ahead in ((False, 0), (True, 2), (True, 4))
        )
        return self._best_of("read", steps, data.nbytes / seconds)

    def _read_seconds(self, data: Array, prefetch: bool, ahead: int) -> float:
        function = _build(kernels.read, self._lanes(), prefetch)
        return _seconds(
            lambda repeats: function(data, self._sums, ahead, repeats, self.threads),
            _repeats(data.nbytes),
        )

    def triad(self, size: int) -> float:
        """Bytes/s of out = x + 3 * y, the three of `size` bytes together."""
        steps = self._steps(size // 3)
        function = _build(kernels.triad, self._lanes())
        x, y, out = (self._zeros(steps) for _ in range(3))
        moved = 3 * x.nbytes
        seconds = _seconds(
            lambda repeats: function(x, y, out, repeats, self.threads), _repeats(moved)
        )
        return self._best_of("triad", steps, moved / seconds)

    def gather(self, table: Array, index_sets: list[Array]) -> float:
        """Seconds of reading the rows of one set of indices, at the best prefetch distance."""
        dim, dtype = table.shape[1], str(table.dtype)
        sets = [ids for ids in index_sets if len(ids)]
        if not sets:
            return 0.0
        function = _build(kernels.gather, dim, self._lanes(dtype), dtype, str(sets[0].dtype))
        sums = np.zeros((kernels.MAX_THREADS, self._gather_width(dim, dtype)), dtype)

        def rotate(repeats: int, ahead: int, threads: int) -> None:
            for _ in range(repeats):
                for ids in sets:
                    function(table, ids, sums, ahead, threads)

        # A few rows are read sooner by one thread than it takes to wake a second.
        ways = product(PREFETCH_ROWS, sorted({1, self.threads}))
        # Rows come slower than streams, and there are many ways to try.
        repeats = _repeats(8 * sum(map(len, sets)) * dim * table.itemsize)
        return min(
            _seconds(partial(rotate, ahead=ahead, threads=threads), repeats)
            for ahead, threads in ways
        ) / len(sets)

    def of(self, work: Work) -> Limit:
        """What bounds a case from below: arithmetic, the bytes it must move, or its gathers."""
        if isinstance(work, DenseWork):
            kernel = work.kernels[0]
            moved = work.x.nbytes + kernel.nbytes + work.bias.nbytes
            moved += work.case.m * work.case.n * kernel.itemsize
            held = moved + (len(work.kernels) - 1) * kernel.nbytes
            return self._roofline(work.case.flops, moved, held, str(kernel.dtype))
        if isinstance(work, ModelWork):
            spec = MODELS[work.case.name]
            dense = {name: w for name, w in work.weights.items() if "embeddings" not in name}
            moved = sum(w.nbytes for w in dense.values()) + spec.row_bytes * work.case.batch
            dtype = str(next(iter(work.weights.values())).dtype)
            return self._roofline(spec.flops * work.case.batch, moved, moved, dtype)
        return self._lookup(work)

    def summary(self, dtype: str) -> dict[str, float]:
        """The limits of the header, in GFLOP/s and GB/s."""
        levels = {"L2": self.l2_bytes // 2, "L3": 16 * self.l2_bytes, "memory": MEMORY_BYTES}
        found = {f"FMA {dtype} GFLOP/s": self.fma(dtype) / 1e9}
        for level, size in levels.items():
            found[f"read {level} GB/s"] = self.read(size) / 1e9
            found[f"triad {level} GB/s"] = self.triad(size) / 1e9
        return found

    def _best_of(self, what: str, size: Any, rate: float) -> float:
        # One measurement may meet another process; a later one of the same size makes up for it.
        self._best[what, size] = max(rate, self._best.get((what, size), 0.0))
        return self._best[what, size]

    def _roofline(self, flops: int, moved: int, held: int, dtype: str) -> Limit:
        arithmetic = Limit(flops / self.fma(dtype), "FMA")
        memory = Limit(moved / self.read(held), "read")
        return max(arithmetic, memory, key=lambda limit: limit.seconds)

    def _lookup(self, work: EmbeddingWork | BagWork) -> Limit:
        sets = work.flat if isinstance(work, BagWork) else work.indices
        row_bytes = work.table.itemsize * work.case.dim
        results = work.case.bags if isinstance(work, BagWork) else work.case.indices
        moved = (work.case.lookups + results) * row_bytes
        held = (len(np.unique(np.concatenate(sets))) + results) * row_bytes
        gather = Limit(self.gather(work.table, sets), "gather")
        copy = Limit(moved / self.triad(held), "triad")
        return max(gather, copy, key=lambda limit: limit.seconds)

    def _lanes(self, dtype: str = "float32") -> int:
        return self.machine.lanes(dtype)

    def _gather_width(self, dim: int, dtype: str) -> int:
        lanes, _, chains = kernels.row_vectors(dim, self._lanes(dtype))
        return lanes * chains

    @cache  # noqa: B019 - one Limits lives as long as the run
    def _fma_kernel(self, dtype: str) -> tuple[Callable[..., Any], Array, Array]:
        lanes = self._lanes(dtype)
        sums = np.zeros((kernels.MAX_THREADS, kernels.FMA_CHAINS * lanes), dtype)
        return _build(kernels.fma_chains, lanes, dtype), np.full(lanes, 0.5, dtype), sums

    @cached_property
    def _sums(self) -> Array:
        width = kernels.READ_CHAINS * self._lanes()
        return np.zeros((kernels.MAX_THREADS, width), "float32")

    def _steps(self, size: int) -> int:
        """Steps of a thread's share of an array, to three binary digits: so sizes share them."""
        step_bytes = kernels.READ_CHAINS * self._lanes() * 4 * self.threads
        steps = max(min(size, MEMORY_BYTES) / step_bytes, 4)
        unit = 2 ** max(math.floor(math.log2(steps)) - 2, 0)
        return round(steps / unit) * unit

    def _zeros(self, steps: int) -> Array:
        array = np.empty((self.threads, steps, kernels.READ_CHAINS * self._lanes()), "float32")
        array[...] = 0  # touched: pages that were never written share one page of zeros
        return array


@cache
def _build(kernel: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    import tvm

    module = tvm.IRModule({"kernel": kernel(*arguments)})
    built: Callable[..., Any] = tvm.compile(module, target=to_tvm(native()))["kernel"]
    return built


def _seconds(run: Callable[[int], Any], repeats: int) -> float:
    """Seconds of one repeat, the best of TRIES."""
    run(1)
    return min(_time(run, repeats) for _ in range(TRIES)) / repeats


def _time(run: Callable[[int], Any], repeats: int) -> float:
    time.sleep(TRY_PAUSE_SECONDS)
    begin = time.perf_counter()
    run(repeats)
    return time.perf_counter() - begin


def _repeats(size: int) -> int:
    return max(1, TRY_BYTES // size)
