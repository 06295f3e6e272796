"""Kernels over rows on a GPU: softmax, pooling, dot products, element by element."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir

from tvmlayers.spaces.choices import Choices, Decisions, choose
from tvmlayers.targets import CudaTarget
from tvmlayers.workload import Workload

SPACE = "cuda_rows"
ROW_THREADS = (32, 64, 128, 256, 512)
THREADS = 256
WARPS = 4  # of a block whose warps have a row each


def softmax_choices(workload: Workload, target: CudaTarget) -> Choices:
    """What a softmax over rows of n may decide: threads, how many have a row."""
    return {"threads": ROW_THREADS}


def softmax_rows(sch: s_tir.Schedule, *, decisions: Decisions | None) -> None:
    """Schedule `expr.rowwise.softmax`. Choice: threads of a row; of a warp's width, several rows
    share a block."""
    out = sch.get_sblock("out")
    i, j = sch.get_loops(out)
    threads = choose(sch, "threads", ROW_THREADS, decisions)
    block = _bind_row(sch, i, int(sch.get(threads)) == 32)
    _, lane = sch.split(j, [None, threads])
    sch.bind(lane, "threadIdx.x")
    for name in ("total", "top"):
        stage = sch.get_sblock(name)
        sch.set_scope(stage, 0, "local")
        sch.compute_at(stage, block, preserve_unit_loops=True)
        *_, step = sch.get_loops(stage)
        _, lane = sch.split(step, [None, threads])
        sch.bind(lane, "threadIdx.x")


def _bind_row(
    sch: s_tir.Schedule, row: s_tir.schedule.LoopRV, several: bool
) -> s_tir.schedule.LoopRV:
    """The loop inside of which a row's work lies: a block each, or a warp each."""
    if not several:
        sch.bind(row, "blockIdx.x")
        return row
    block, warp = sch.split(row, [None, WARPS])
    sch.bind(block, "blockIdx.x")
    sch.bind(warp, "threadIdx.y")
    return warp


def normalized_rows(
    sch: s_tir.Schedule, *, stages: Sequence[str], sums: Sequence[str], n: int, is_made: bool
) -> None:
    """Schedule `expr.normalized` with one lane: a warp has a row of few columns, a block others.

    stages, sums: as of `spaces.rows.normalized_rows`; is_made: rows are made of several tensors.
    """
    threads = min(THREADS, 32 * max(1, n // 256))
    # Numbers of a row are made where they are used: what is kept of them would share the memory
    # that a block's sum lies in, for all threads.
    for name in (*(["made"] if is_made else []), *(each for each in stages if each not in sums)):
        sch.compute_inline(sch.get_sblock(name))
    i, j, _ = sch.get_loops(sch.get_sblock("out"))
    row = _bind_row(sch, i, threads == 32)
    _, lane = sch.split(j, [None, threads])
    sch.bind(lane, "threadIdx.x")
    for name in reversed(sums):
        stage = sch.get_sblock(name)
        sch.set_scope(stage, 0, "local")
        sch.compute_at(stage, row, preserve_unit_loops=True)
        *_, step = sch.get_loops(stage)
        _, lane = sch.split(step, [None, threads])
        sch.bind(lane, "threadIdx.x")


def spread(sch: s_tir.Schedule, *, name: str = "out", each: int = 4) -> None:
    """Schedule stage `name`, any order of elements: `each` for a thread, strided by the block."""
    out = sch.get_sblock(name)
    both = sch.fuse(*sch.get_loops(out))
    block, turn, thread = sch.split(both, [None, each, THREADS])
    sch.bind(block, "blockIdx.x")
    sch.unroll(turn)
    sch.bind(thread, "threadIdx.x")


def own_sums(sch: s_tir.Schedule, sums: Sequence[str]) -> None:
    """Schedule an expression whose threads have an element of `out` each, and its sums."""
    spread(sch, each=1)
    thread = sch.get_loops(sch.get_sblock("out"))[-1]
    for name in sums:
        stage = sch.get_sblock(name)
        sch.set_scope(stage, 0, "local")
        sch.compute_at(stage, thread, preserve_unit_loops=True)


def column_sums(sch: s_tir.Schedule, sums: Sequence[str], *, width: int) -> None:
    """Schedule an expression over rows of `width` columns whose threads have a column each.

    Its sums may have no terms at all, and are 0 then.
    """
    along = 1
    while along < width and along < THREADS:
        along *= 2
    i, j = sch.get_loops(sch.get_sblock("out"))
    block, ty = sch.split(i, [None, THREADS // along])
    turn, tx = sch.split(j, [None, along])
    sch.reorder(block, turn, ty, tx)
    sch.bind(block, "blockIdx.x")
    sch.bind(turn, "blockIdx.y")
    sch.bind(ty, "threadIdx.y")
    sch.bind(tx, "threadIdx.x")
    for name in sums:
        stage = sch.get_sblock(name)
        sch.set_scope(stage, 0, "local")
        sch.compute_at(stage, tx, preserve_unit_loops=True)
        sch.decompose_reduction(stage, sch.get_loops(stage)[-1])


def warp_sums(sch: s_tir.Schedule, sums: Sequence[str], *, alone: bool) -> None:
    """Schedule an expression whose warps have an element of `out` each: lanes share its sums.

    alone: a sample has one element, and warps of a block have samples side by side.
    """
    i, j, other = sch.get_loops(sch.get_sblock("out"))
    if alone:
        block, warp = sch.split(i, [None, WARPS])
        sch.bind(block, "blockIdx.x")
        sch.reorder(block, j, other, warp)
    else:
        sch.bind(i, "blockIdx.x")
        sch.bind(j, "blockIdx.y")
        _, warp = sch.split(other, [None, WARPS])
    sch.bind(warp, "threadIdx.y")
    for name in sums:
        stage = sch.get_sblock(name)
        sch.set_scope(stage, 0, "local")
        sch.compute_at(stage, warp, preserve_unit_loops=True)
        *_, step = sch.get_loops(stage)
        _, step = sch.split(step, [None, 32])
        sch.bind(step, "threadIdx.x")
