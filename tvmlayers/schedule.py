"""The analytic choice: what a kernel's schedule decides when nothing was tuned.

As BLIS does, from the target's numbers alone: a register tile that fills the vector registers with
accumulators and leaves room for the operands, blocks that stay in the caches, and a thread only
where the work outweighs waking it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tvmlayers.spaces.lookup import run_lengths
from tvmlayers.targets import Target

SOURCE = "analytic"

# Vectors of columns in a tile and rows in a tile, by number of vector registers: rows * vectors
# accumulators, `vectors` registers for a row of the panel and at least one to broadcast into.
_REGISTER_TILES = {16: (2, 6), 32: (4, 6)}
# A tile of a single vector of columns needs more rows to have enough sums in flight.
_NARROW_ROWS = (1, 2, 4, 8)
_WIDE_ROWS = (1, 2, 3, 4, 6)
_DOT_ROWS = (1, 4)

# Least work that is worth a thread: multiply-adds of a GEMM, bytes of a lookup.
GEMM_GRAIN = 192 * 1024
ROW_GRAIN = 96 * 1024
PREFETCH_ROWS = 16
_K_UNROLL = 4
_PREFETCH_STEPS = 16  # of k: 4 KiB of a panel, one page ahead
# A weight that no cache holds is read once, at the memory's pace, and gains nothing from asking.
_STREAMED_BYTES = 64 << 20
# Up to this many rows the threads share the panels out, so that each reads its own part of W only.
_ROWS_BY_PANELS = 24


@dataclass(frozen=True)
class GemmPlan:
    """The decisions for one dense layer."""

    lanes: int
    width: int
    full_rows: tuple[int, ...]
    tail_rows: tuple[int, ...]
    row_block: int  # rows that one thread goes over before it comes back to the first panel
    grain: int
    most_rows_by_panels: int  # up to this many rows the panels are shared out, beyond it the rows
    k: int
    weight_bytes: int

    def decisions(self, rows: int) -> dict[str, int]:
        """The choices of `spaces.gemm.gemm_tiles` for a tile of `rows` rows."""
        unroll = _K_UNROLL
        while self.k % unroll:
            unroll //= 2
        streamed = rows <= 2 and self.weight_bytes > _STREAMED_BYTES
        return {"k_unroll": unroll, "prefetch_steps": 0 if streamed else _PREFETCH_STEPS}

    def dot_decisions(self) -> dict[str, int]:
        """The choices of `spaces.gemm.dot_tiles`."""
        unroll = _K_UNROLL
        while unroll > 1 and (self.k // self.lanes) % unroll:
            unroll //= 2
        return {"k_unroll": unroll}

    def dispatch(self, variants: Sequence[int]) -> list[tuple[int | None, int]]:
        """[(most rows, tile rows), ...]: which tile serves how many rows; the last has no bound.

        The tile that computes the fewest rows in all, counting the overlap of the last two tiles;
        the largest on a tie, and the largest always from where the overlap no longer matters.
        """
        largest = max(variants)
        steps: list[tuple[int | None, int]] = []
        for m in range(1, 8 * largest):
            fitting = [r for r in variants if r <= m]
            best = min(fitting, key=lambda r: (-(-m // r) * (r + _TILE_OVERHEAD), -r))
            if steps and steps[-1][1] == best:
                steps[-1] = (m, best)
            else:
                steps.append((m, best))
        if steps[-1][1] == largest:
            steps.pop()
        return [*steps, (None, largest)]


# What a tile costs beyond its rows, in rows: loading the panel's vectors and storing the result.
_TILE_OVERHEAD = 1.0


def gemm_plan(k: int, n: int, dtype: str, target: Target) -> GemmPlan:
    """The plan of a dense layer with a (k, n) weight."""
    lanes = target.lanes(dtype)
    vectors, most_rows = _REGISTER_TILES[target.vector_registers]
    itemsize = target.vector_bytes // lanes
    narrow = n % (vectors * lanes) <= lanes
    if n == 1:
        tail_rows: tuple[int, ...] = _DOT_ROWS
    else:
        tail_rows = _NARROW_ROWS if narrow else tuple(r for r in _WIDE_ROWS if r <= most_rows)
    return GemmPlan(
        lanes=lanes,
        width=vectors * lanes,
        full_rows=tuple(r for r in _WIDE_ROWS if r <= most_rows),
        tail_rows=tail_rows,
        row_block=max(64, 2 * target.l2 // (k * itemsize)),
        grain=GEMM_GRAIN,
        most_rows_by_panels=_ROWS_BY_PANELS,
        k=k,
        weight_bytes=k * n * itemsize,
    )


def lookup_decisions(vectors: int) -> dict[str, int]:
    """The choices of `spaces.lookup` for rows of so many vectors: the longest run there is."""
    return {"unrolled_vectors": max(run_lengths(max(vectors, 1)))}


def bag_lanes(width: int, lanes: int) -> int:
    """Columns in a vector of a bag's row: a register, or the largest power of two that fits."""
    while lanes > width:
        lanes //= 2
    return lanes
