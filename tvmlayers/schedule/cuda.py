"""Which way a GPU's kernels are made: a tuned record of the workload, else the analytic choice.

The analytic choice fills the multiprocessors: the largest tile whose blocks are enough for all of
them, and k shared out among the threads of a block where there are few rows. Float32 goes to tensor
cores, which take three products for one, where they are more than three times as fast; halves
always, but for a row or two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tvmlayers import records as stored
from tvmlayers.dtypes import is_half
from tvmlayers.expr.gemm import BlockTile
from tvmlayers.records import Record
from tvmlayers.schedule.nearest import exact, nearest
from tvmlayers.schedule.select import ANALYTIC, GIVEN, Regime
from tvmlayers.spaces import cuda_gemm, cuda_rows
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.cuda_tensor_gemm import (
    OPERANDS,
    TensorTile,
    depth_of,
    pipeline,
    tensor_tiles,
)
from tvmlayers.targets import CudaTarget
from tvmlayers.workload import Workload

# Sizes of batch that are looked up by themselves, beside those of records; those between take what
# the next smaller has.
_BATCHES = (1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097, 16384)
_SPLIT_MOST_ROWS = 16
_TENSOR_LEAST_ROWS = 33
# Of halves, for which there are tiles of 16 rows.
_HALF_MOST_SPLIT_ROWS = 2
# From so much of k on, small tiles share it out among their warps, which then read less.
_LONG_K = 512
_Tile = TypeVar("_Tile", BlockTile, TensorTile)


@dataclass(frozen=True)
class CudaSelector:
    """Chooses decisions for the kernels of one model on one GPU.

    use_records, fixed: as for `schedule.Selector`.
    """

    target: CudaTarget
    use_records: bool = True
    fixed: Mapping[str, Decisions] = field(default_factory=dict)
    _loaded: dict[str, tuple[Record, ...]] = field(default_factory=dict, repr=False)

    def decide(self, workload: Workload) -> Regime:
        """The decisions for one workload: a record's, a near one's, or the analytic."""
        if workload.kind in self.fixed:
            return Regime(None, self.fixed[workload.kind], GIVEN)
        records = self._records(workload.kind)
        found = exact(workload, self.target, records)
        if found is not None:
            return Regime(None, found[1], "record", found[0])
        found = nearest(workload, self.target, records, few_rows=_SPLIT_MOST_ROWS)
        if found is not None:
            return Regime(None, found[1], f"nearest {found[0].workload}", found[0])
        return Regime(None, analytic(workload, self.target), ANALYTIC)

    def decide_once(self, workload: Workload) -> Regime:
        """The decisions for all sizes of batch of a kernel that is made once: those of its record
        with the largest one, else those for `workload` itself."""
        return self.decide(workload.at(max(self._own_batches(workload), default=workload.batch)))

    def _own_batches(self, workload: Workload) -> set[int]:
        records = self._records(workload.kind)
        own = (each.workload for each in records if each.workload.at(1) == workload.at(1))
        return {each.batch for each in own}

    def _records(self, kind: str) -> tuple[Record, ...]:
        if not self.use_records:
            return ()
        # The files are looked at once a model, however many lookups it makes.
        if kind not in self._loaded:
            self._loaded[kind] = stored.load(self.target.name, kind)
        return self._loaded[kind]

    def regimes(self, workload: Workload) -> list[Regime]:
        """The decisions for every size of batch, ranges in rising order; the last has no end."""
        made: list[Regime] = []
        batches = sorted({*_BATCHES, *self._own_batches(workload)})
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            most = None if following is None else following - 1
            chosen = self.decide(workload.at(batch))
            regime = Regime(most, chosen.decisions, chosen.source, chosen.record)
            if made and (made[-1].decisions, made[-1].source) == (regime.decisions, regime.source):
                made[-1] = regime
            else:
                made.append(regime)
        return made


def analytic(workload: Workload, target: CudaTarget) -> Decisions:
    """The decisions of `spaces.choices_of(workload, target)` by the model above."""
    return _ANALYTIC[workload.kind](workload, target)


def _dense(workload: Workload, target: CudaTarget) -> Decisions:
    m, k, n, dtype = (workload[name] for name in ("m", "k", "n", "dtype"))
    steps = 16 if k >= 16 else 8
    operand, half = OPERANDS.get(dtype), is_half(dtype)
    if m <= (_HALF_MOST_SPLIT_ROWS if half else _SPLIT_MOST_ROWS):
        fitting = cuda_gemm.split_tiles(n, target)
        rows = max(r for r, _, _ in fitting if r <= max(m, 1))
        # A slice of k is worth its share of the sum at the end from 16 steps on.
        slices = [s for r, _, s in fitting if r == rows]
        least = 16 * depth_of(dtype)
        shared_out = max((s for s in slices if s * least <= k), default=min(slices))
        steps = min(cuda_gemm.k_steps(dtype)) if half else steps
        return {"tile": f"{cuda_gemm.SPLIT}:{rows}x{shared_out}", "k_steps": steps, "stages": 1}
    columns = cuda_gemm.padded_columns(n)
    if half or (
        operand is not None
        and k >= operand.least_k
        and m >= _TENSOR_LEAST_ROWS
        and target.tf32_rate > operand.products * target.float32_rate
    ):
        wanted: Decisions = {"k_steps": steps, "stages": 3}
        if half:  # which take half the room
            wanted = {"k_steps": OPERANDS[dtype].steps[1], "stages": 4}
        return _on_tensor_cores(workload, columns, wanted, target)
    made = sorted(cuda_gemm.tiles(n, dtype, target), key=lambda t: -t.rows * t.columns)
    chosen = _filling(made, m, columns, target)
    return {"tile": cuda_gemm.tile_name(chosen), "k_steps": steps, "stages": 1}


def _on_tensor_cores(
    workload: Workload, columns: int, wanted: Decisions, target: CudaTarget
) -> Decisions:
    """The tile that fills the GPU, with as much of the pipeline `wanted` as there is room for."""
    m, k = workload["m"], workload["k"]
    share = k >= _LONG_K
    found = tensor_tiles(columns, k, workload["dtype"])
    found.sort(key=lambda t: (-t.rows * t.columns, share == (t.slices == 1)))
    # A tile that is taller than the batch multiplies rows of nothing.
    least = min(t.rows for t in found)
    low = [t for t in found if t.rows < 2 * m or t.rows == least]
    tile = _filling(low, m, columns, target)
    held = pipeline(tile, wanted, target)
    return {"tile": tile.name, "k_steps": held.k_steps, "stages": held.stages}


def _filling(tiles: Sequence[_Tile], m: int, columns: int, target: CudaTarget) -> _Tile:
    """The first of `tiles`, largest first, with a block for every multiprocessor, or the smallest.

    Of several of one size it is the first.
    """
    for tile in tiles:
        if -(-m // tile.rows) * (columns // tile.columns) >= target.multiprocessors:
            return tile
    return next(t for t in tiles if t.rows * t.columns == tiles[-1].rows * tiles[-1].columns)


def _lookup(workload: Workload, target: CudaTarget) -> Decisions:
    return {"rows_in_flight": 4 if workload.batch >= 4096 else 1, "threads": 256}


def _bag(_workload: Workload, _target: CudaTarget) -> Decisions:
    # How long bags are is not known: of a short one the last row is read again, from the cache.
    return {"rows_in_flight": 4, "threads": 256}


def _softmax(workload: Workload, target: CudaTarget) -> Decisions:
    return {"threads": max(t for t in cuda_rows.ROW_THREADS if t <= max(32, workload["n"] // 4))}


_ANALYTIC: dict[str, Callable[[Workload, CudaTarget], Decisions]] = {
    "dense": _dense,
    "embedding": _lookup,
    "bag": _bag,
    "softmax": _softmax,
}
