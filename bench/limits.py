"""The machine's limits, measured in the run that they are compared with.

A limit is the best of some tries: FMA peak, read and triad bandwidth by size of the data. Reading a
lookup's own rows, or a large weight, is timed in the rounds of its case. Bandwidths count the bytes
that a kernel names, not what the caches move besides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from bench import limit_kernels as kernels
from bench.models import MODELS
from bench.timing import Side
from bench.work import Array, BagWork, DenseWork, EmbeddingWork, ModelWork, Work
from tvmlayers.runtime.ffi import from_array
from tvmlayers.targets import MiB, Target, native
from tvmlayers.tune import limits as machine_limits

# The work of one try is fixed, at about a millisecond: a trial run to find it could be disturbed.
TRY_BYTES = 128 * MiB
MEMORY_BYTES = machine_limits.MOST_BYTES
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
        return self._best_of("FMA", dtype, machine_limits.flops(dtype, self.threads))

    def read(self, size: int) -> float:
        """Bytes/s of reading `size` bytes repeatedly."""
        size = _rounded(min(size, MEMORY_BYTES))
        return self._best_of("read", size, machine_limits.read("float32", self.threads, size))

    def triad(self, size: int) -> float:
        """Bytes/s of out = x + 3 * y, the three of `size` bytes together."""
        size = _rounded(min(size, MEMORY_BYTES))
        lanes = self._lanes()
        step_bytes = 3 * self.threads * machine_limits.READ_CHAINS * lanes * 4
        shape = self.threads, max(1, size // step_bytes), machine_limits.READ_CHAINS * lanes
        function = machine_limits.build(kernels.triad, lanes)
        x, y, out = (np.empty(shape, "float32") for _ in range(3))
        for array in (x, y, out):
            array[...] = 0  # touched: pages that were never written share one page of zeros
        moved = 3 * x.nbytes
        repeats = _repeats(moved)
        seconds = machine_limits.best_seconds(lambda: function(x, y, out, repeats, self.threads))
        return self._best_of("triad", size, moved * repeats / seconds)

    def beside(self, work: Work, weights: Sequence[Array]) -> list[Side]:
        """What no case can do without, as a side to be timed beside it: so it finds the caches as
        the case does, and the very `weights` too, of which one copy can be 20% slower than another.

        Reading the rows of a lookup, or a dense layer's weight where the L2 caches may not hold it
        and that is the most of the work; summed, not written. What is left to choose is chosen by a
        short trial. Other cases have no such side.
        """
        if isinstance(work, EmbeddingWork | BagWork):
            (table,) = weights
            sets = [ids for ids in _index_sets(work) if len(ids)]
            return [self._gather(table, sets)] if sets else []
        if not isinstance(work, DenseWork) or len(work.kernels) > 1:
            return []
        # Half of the caches is what a weight can count on: other data passes through them too.
        is_far = work.kernels[0].nbytes > self.l2_bytes // 2
        if not is_far or self.of(work).name != "read":
            return []
        weight = max(weights, key=lambda each: each.nbytes)
        data = np.ndarray((weight.nbytes,), np.uint8, weight.data)
        ways = machine_limits.readers(data, str(weight.dtype), self.threads)
        best = min(ways, key=lambda way: machine_limits.best_seconds(partial(way, 1)))
        return [Side("read", [partial(best, 1)])]

    def _gather(self, table: Array, sets: Sequence[Array]) -> Side:
        """Reading the rows of each set, at the number of threads and prefetch distance that are
        best."""
        dim, dtype = table.shape[1], str(table.dtype)
        lanes = self._lanes(dtype)
        function = machine_limits.build(kernels.gather, dim, lanes, dtype, str(sets[0].dtype))
        lanes, _, chains = kernels.row_vectors(dim, lanes)
        sums = from_array(np.zeros((self.threads, lanes * chains), dtype))
        rows, picked = from_array(table), [from_array(ids) for ids in sets]
        # Rows come slower than streams, and there are many ways to try.
        repeats = _repeats(8 * sum(map(len, sets)) * dim * table.itemsize)

        def rotate(ahead: int, threads: int) -> None:
            for _ in range(repeats):
                for ids in picked:
                    function(rows, ids, sums, ahead, threads)

        # A few rows are read sooner by one thread than it takes to wake a second.
        ways = product(PREFETCH_ROWS, sorted({1, self.threads}))
        best = min(ways, key=lambda way: machine_limits.best_seconds(partial(rotate, *way)))
        return Side("gather", [partial(function, rows, ids, sums, *best) for ids in picked])

    def of(self, work: Work, beside: float = 0.0) -> Limit:
        """What bounds a case from below: arithmetic, the bytes it must move, or its gathers.

        beside: the seconds that the side of `beside` took, if there is one.
        """
        if isinstance(work, DenseWork) and beside:
            return Limit(beside, "read")
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
        return self._lookup(work, beside)

    def summary(self, dtype: str) -> dict[str, float]:
        """The limits of the header, in GFLOP/s and GB/s."""
        found = {f"FMA {dtype} GFLOP/s": self.fma(dtype) / 1e9}
        for level, size in machine_limits.level_bytes(self.machine, self.threads).items():
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

    def _lookup(self, work: EmbeddingWork | BagWork, gathered: float) -> Limit:
        sets = _index_sets(work)
        row_bytes = work.table.itemsize * work.case.dim
        results = work.case.bags if isinstance(work, BagWork) else work.case.indices
        # A row that comes again within a call may come from the nearest cache.
        rows = sum(len(np.unique(ids)) for ids in sets) / len(sets)
        moved = (rows + results) * row_bytes
        held = (len(np.unique(np.concatenate(sets))) + results) * row_bytes
        gather = Limit(gathered, "gather")
        if isinstance(work, BagWork):
            stream = Limit(moved / self.read(held), "read")
        else:
            stream = Limit(moved / self.triad(held), "triad")
        return max(gather, stream, key=lambda limit: limit.seconds)

    def _lanes(self, dtype: str = "float32") -> int:
        return self.machine.lanes(dtype)


def _index_sets(work: EmbeddingWork | BagWork) -> list[Array]:
    """The row numbers that each call of a lookup reads."""
    return work.flat if isinstance(work, BagWork) else work.indices


def _rounded(size: int) -> int:
    """To three binary digits: so sizes share a measurement."""
    unit = 2 ** max(math.floor(math.log2(max(size, 1))) - 2, 0)
    return round(size / unit) * unit


def _repeats(size: int) -> int:
    return max(1, TRY_BYTES // size)
