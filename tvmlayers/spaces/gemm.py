"""GEMM on packed panels: a register tile of accumulators over the whole of K, then the epilogue.

Serves every CPU family: the register tile's rows and the panel's width come with the expression,
the number of lanes from the target.
"""

import math

from tvm import s_tir

from tvmlayers.spaces.choices import PREFETCH, STREAMS, Choices, Decisions, choose
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

SPACE = "gemm"
K_UNROLL = (1, 2, 4, 8)
PREFETCH_STEPS = (0, 4, 8, 16, 32, 64)  # steps of k
ROW_BLOCK = (16, 32, 64, 128, 256, 512, 1024, 4096)
GRAIN_KMACS = (24, 48, 96, 192, 384, 768)
BY_ROWS, BY_PANELS = "rows", "panels"

# Vectors of columns in a panel, by the number of vector registers of the target.
_PANEL_VECTORS = {16: 2, 32: 4}
_WIDE_ROWS = (1, 2, 3, 4, 6)
# A tile of a single vector of columns needs more rows to have enough sums in flight.
_NARROW_ROWS = (1, 2, 4, 8)
_DOT_ROWS = (1, 4)


def panel_width(dtype: str, target: Target) -> int:
    """Columns in a full panel: with the tallest tile, all the vector registers are in use."""
    return _PANEL_VECTORS[target.vector_registers] * target.lanes(dtype)


def gemm_choices(workload: Workload, target: Target) -> Choices:
    """What a dense layer may decide for m rows of k by n columns.

    tile_rows: rows of the register tile; streams: stretches of k summed side by side, for few rows;
    k_unroll; prefetch_steps: how many steps of k ahead the
    panel is asked for; row_block: rows that a thread goes over before it comes back to the first
    panel (the M block and, with tile_rows, the loop order); split: whether threads share the rows
    or the panels out; grain_kmacs: the least 1024 multiply-adds that are worth a thread.
    """
    m, k, n, dtype = (workload[name] for name in ("m", "k", "n", "dtype"))
    streams = stream_counts(m, k, n)
    # Every number of streams can be unrolled, as one decision does not know the other.
    steps = k // target.lanes(dtype) if n == 1 else math.gcd(*(k // s for s in streams))
    tiles = [r for r in tile_rows(n, dtype, target) if r <= m]
    split = [BY_ROWS] if panels(n, dtype, target) == 1 else [BY_ROWS, BY_PANELS]
    return {
        "tile_rows": tiles,
        "streams": streams,
        "k_unroll": [u for u in K_UNROLL if steps % u == 0],
        "prefetch_steps": [0] if n == 1 else PREFETCH_STEPS,
        "row_block": ROW_BLOCK,
        "split": split,
        "grain_kmacs": GRAIN_KMACS,
    }


def stream_counts(m: int, k: int, n: int) -> list[int]:
    """In how many stretches k may be read at a time: many only where few rows leave registers."""
    most = 1 if n == 1 or m > 4 else 2 if m > 2 else 4
    return [count for count in (1, 2, 4) if count <= min(most, k)]


def panels(n: int, dtype: str, target: Target) -> int:
    """Panels of a weight with n columns."""
    return -(-n // panel_width(dtype, target))


def tile_rows(n: int, dtype: str, target: Target) -> tuple[int, ...]:
    """The heights of register tile there are for n columns."""
    if n == 1:
        return _DOT_ROWS
    if n < panel_width(dtype, target):
        return tail_rows(n, dtype, target)
    return _WIDE_ROWS


def tail_rows(n: int, dtype: str, target: Target) -> tuple[int, ...]:
    """The heights of register tile there are for the columns that fill no panel."""
    if n == 1:
        return _DOT_ROWS
    left = n % panel_width(dtype, target)
    return _NARROW_ROWS if left <= target.lanes(dtype) else _WIDE_ROWS


def gemm_tiles(
    sch: s_tir.Schedule,
    *,
    lanes: int,
    k: int,
    streams: int,
    cheap_epilogue: bool,
    decisions: Decisions | None,
) -> None:
    """Schedule `expr.dense`: panels outside, row tiles inside, accumulators in registers.

    Choices: k_unroll; prefetch_steps, how far ahead the panel is asked for. The epilogue is
    unrolled into the registers when it is cheap; otherwise the tile is first copied out, so that a
    long activation is one small loop instead of 24 copies.
    """
    out = sch.get_sblock("out")
    acc = sch.get_sblock("acc")
    padded = len(sch.get_producers(out)) > 0 and sch.get(sch.get_producers(out)[0]).name_hint == (
        "epilogue"
    )
    epilogue = sch.get_producers(out)[0] if padded else out
    _, t, _, _ = sch.get_loops(epilogue)
    if padded:
        sch.reverse_compute_at(out, t, preserve_unit_loops=True)
        sch.set_scope(epilogue, 0, "local")
    if not cheap_epilogue:
        copy = sch.cache_read(epilogue, 0, "local")
        sch.compute_at(copy, t, preserve_unit_loops=True)
        _unroll_vectors(sch, copy, lanes, unroll=True)
    sch.compute_at(acc, t, preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")

    stream, row, column, step = sch.get_loops(acc)[-4:]
    sch.reorder(step, stream, row, column)
    stretch = k // streams
    unroll = choose(sch, "k_unroll", [u for u in K_UNROLL if stretch % u == 0], decisions)
    vector, lane = sch.split(column, [None, lanes])
    sch.unroll(stream)
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
    outer, inner = sch.split(step, [None, unroll])
    sch.unroll(inner)
    ahead = choose(sch, "prefetch_steps", PREFETCH_STEPS, decisions)
    sch.annotate(outer, PREFETCH, ahead)
    sch.annotate(outer, STREAMS, streams)
    _unroll_vectors(sch, epilogue, lanes, unroll=cheap_epilogue)
    if padded:
        for loop in sch.get_loops(out)[-2:]:
            sch.unroll(loop)
    sch.decompose_reduction(acc, outer)


def _unroll_vectors(
    sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, lanes: int, *, unroll: bool
) -> None:
    row, column = sch.get_loops(block)[-2:]
    vector, lane = sch.split(column, [None, lanes])
    if unroll:
        sch.unroll(row)
        sch.unroll(vector)
    sch.vectorize(lane)


def dot_tiles(sch: s_tir.Schedule, *, k: int, lanes: int, decisions: Decisions | None) -> None:
    """Schedule `expr.dot_rows`: one vector of partial sums for each row of the tile.

    Choice: k_unroll, in vectors.
    """
    out, total = sch.get_sblock("out"), sch.get_sblock("total")
    t, _ = sch.get_loops(out)
    sch.compute_at(total, t, preserve_unit_loops=True)
    sch.set_scope(total, 0, "local")
    if k < lanes:
        return
    acc = sch.get_sblock("acc")
    sch.compute_at(acc, t, preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")
    *_, row, lane, step = sch.get_loops(acc)
    sch.reorder(step, row, lane)
    sch.unroll(row)
    sch.vectorize(lane)
    sch.unroll(sch.get_loops(total)[-1])
    unroll = choose(sch, "k_unroll", [u for u in K_UNROLL if (k // lanes) % u == 0], decisions)
    outer, inner = sch.split(step, [None, unroll])
    sch.unroll(inner)
    sch.decompose_reduction(acc, outer)
