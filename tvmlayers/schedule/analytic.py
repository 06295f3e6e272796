"""The analytic choice: what a kernel's schedule decides when nothing was tuned.

As BLIS does, from the target's numbers alone: a register tile that fills the vector registers with
accumulators and leaves room for the operands, blocks that stay in the caches, and a thread only
where the work outweighs waking it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tvmlayers.spaces import gemm, lookup
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

# Least work that is worth a thread: 1024 multiply-adds of a GEMM, KiB that a row kernel moves.
GRAIN_KMACS = 192
GRAIN_KIB = 96
PREFETCH_ROWS = 16
_K_UNROLL = 4
_PREFETCH_STEPS = 16  # of k: 4 KiB of a panel, one page ahead
_STREAM_PREFETCH_STEPS = 4
_STREAMED_ROWS = 2
# Up to this many rows the threads share the panels out, so that each reads its own part of W only.
_ROWS_BY_PANELS = 24
# What a tile costs beyond its rows, in rows: loading the panel's vectors and storing the result.
_TILE_OVERHEAD = 1.0


def analytic(workload: Workload, target: Target) -> Decisions:
    """The decisions of `spaces.choices_of(workload, target)` by the model above."""
    return _ANALYTIC[workload.kind](workload, target)


def tile_rows(m: int, heights: Sequence[int]) -> int:
    """The height that computes the fewest rows in all, counting the overlap of the last two tiles.

    The tallest on a tie, and the tallest always from where the overlap no longer matters.
    """
    tallest = max(heights)
    if m >= 8 * tallest:
        return tallest
    fitting = [r for r in heights if r <= m]
    return min(fitting, key=lambda r: (-(-m // r) * (r + _TILE_OVERHEAD), -r))


def _dense(workload: Workload, target: Target) -> Decisions:
    m, k, n, dtype = (workload[name] for name in ("m", "k", "n", "dtype"))
    rows = tile_rows(m, gemm.tile_rows(n, dtype, target))
    itemsize = np.dtype(dtype).itemsize
    # Few rows are bound by reading W: two places at a time, a short way ahead. What stays in the
    # second-level cache comes as fast without being asked for.
    streamed = rows <= _STREAMED_ROWS and n > 1
    choices = gemm.gemm_choices(workload, target)
    streams = min(2, k) if streamed else 1
    is_cached = streamed and k * n * itemsize <= target.l2 // 2
    ahead = _STREAM_PREFETCH_STEPS if streamed else _PREFETCH_STEPS
    unroll = 1 if streamed else _K_UNROLL
    blocked = max(64, 2 * target.l2 // (k * itemsize))
    by_panels = m <= _ROWS_BY_PANELS and gemm.panels(n, dtype, target) > 1
    return {
        "tile_rows": rows,
        "streams": streams,
        "k_unroll": max(u for u in gemm.K_UNROLL if u <= unroll and u in choices["k_unroll"]),
        "prefetch_steps": 0 if n == 1 or is_cached else ahead,
        "row_block": max(r for r in gemm.ROW_BLOCK if r <= blocked),
        "split": gemm.BY_PANELS if by_panels else gemm.BY_ROWS,
        "grain_kmacs": GRAIN_KMACS,
    }


def _lookup(workload: Workload, target: Target) -> Decisions:
    return {
        "unrolled_vectors": max(lookup.run_lengths(lookup.row_vectors(workload, target))),
        "prefetch_rows": PREFETCH_ROWS,
        "grain_kib": GRAIN_KIB,
    }


def _softmax(_workload: Workload, _target: Target) -> Decisions:
    return {"vectors": 1, "grain_kib": GRAIN_KIB}


_ANALYTIC: dict[str, Callable[[Workload, Target], Decisions]] = {
    "dense": _dense,
    "embedding": _lookup,
    "bag": _lookup,
    "softmax": _softmax,
}
