"""Kernels that go over rows one by one: softmax, pooling, dot products, element by element."""

from collections.abc import Sequence

from tvm import s_tir

from tvmlayers.spaces.choices import Choices
from tvmlayers.spaces.sums import cut_open_sum, cut_sum
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

SPACE = "rows"
VECTORS = (1, 2, 4)
GRAIN_KIB = (12, 24, 48, 96, 192, 384)
# A row of temporaries up to this size lives on the stack of the thread that works on it.
STACK_BYTES = 16 * 1024


def softmax_choices(workload: Workload, target: Target) -> Choices:
    """What a softmax over rows of n may decide.

    vectors: how many vectors of partial maxima and sums are in flight; grain_kib: the least KiB
    moved that are worth a thread.
    """
    lanes = target.lanes(workload["dtype"])
    most = max(1, workload["n"] // lanes)
    return {"vectors": [v for v in VECTORS if v <= most], "grain_kib": GRAIN_KIB}


def softmax_rows(sch: s_tir.Schedule, *, row_bytes: int) -> None:
    """Schedule `expr.softmax`: all stages of a row together, vectors along it."""
    out = sch.get_sblock("out")
    i, _, lane = sch.get_loops(out)
    sch.vectorize(lane)
    stages = [sch.get_sblock(name) for name in ("norm", "total", "part", "power")]
    stages += [sch.get_sblock(name) for name in ("top", "high", "near")]
    for stage in stages:
        sch.compute_at(stage, i, preserve_unit_loops=True)
    for name in ("norm", "total", "part", "top", "high"):
        sch.set_scope(sch.get_sblock(name), 0, "local")
    if row_bytes <= STACK_BYTES:
        for name in ("power", "near"):
            sch.set_scope(sch.get_sblock(name), 0, "local")
    for name in ("power", "near"):
        sch.vectorize(sch.get_loops(sch.get_sblock(name))[-1])
    for name in ("part", "high"):
        block = sch.get_sblock(name)
        *_, lane, step = sch.get_loops(block)
        sch.reorder(step, lane)
        sch.vectorize(lane)
        if name == "part":
            cut_sum(sch, step, int(sch.get(step).extent))
        sch.decompose_reduction(block, step)


def softmax_short(sch: s_tir.Schedule) -> None:
    """Schedule `expr.short_softmax`: a row at a time, in a vector from its first element on."""
    out = sch.get_sblock("out")
    i, column = sch.get_loops(out)
    for name in ("value", "norm", "total", "power", "top", "near"):
        block = sch.get_sblock(name)
        sch.compute_at(block, i, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
    sch.unroll(column)
    sch.unroll(sch.get_loops(sch.get_sblock("near"))[-1])
    for name in ("value", "power"):
        sch.vectorize(sch.get_loops(sch.get_sblock(name))[-1])


def softmax_columns(sch: s_tir.Schedule) -> None:
    """Schedule `expr.narrow_softmax`: a tile of rows at a time, their columns in vectors."""
    out = sch.get_sblock("out")
    t, *_ = sch.get_loops(out)
    for name in ("value", "norm", "total", "power", "top", "column"):
        block = sch.get_sblock(name)
        sch.compute_at(block, t, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
    for name in ("value", "norm", "power", "column"):
        sch.vectorize(sch.get_loops(sch.get_sblock(name))[-1])
    for name in ("total", "top"):
        block = sch.get_sblock(name)
        *_, lane, step = sch.get_loops(block)
        sch.reorder(step, lane)
        sch.vectorize(lane)
        sch.decompose_reduction(block, step)


def normalized_rows(
    sch: s_tir.Schedule, *, stages: Sequence[str], sums: Sequence[str], made_bytes: int
) -> None:
    """Schedule `expr.normalized`: all stages of a row together, vectors along it.

    stages: in order; sums: those of vectors of sums; made_bytes: of a row that is made of several
    tensors, 0 where there is none.
    """
    i, _, lane = sch.get_loops(sch.get_sblock("out"))
    sch.vectorize(lane)
    for name in reversed(stages):
        sch.compute_at(sch.get_sblock(name), i, preserve_unit_loops=True)
        sch.set_scope(sch.get_sblock(name), 0, "local")
    if made_bytes:
        made = sch.get_sblock("made")
        sch.compute_at(made, i, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(made)[-1])
        if made_bytes <= STACK_BYTES:
            sch.set_scope(made, 0, "local")
    for name in sums:
        block = sch.get_sblock(name)
        *_, which, lane, step = sch.get_loops(block)
        sch.reorder(step, which, lane)
        sch.unroll(which)
        sch.vectorize(lane)
        cut_sum(sch, step, int(sch.get(step).extent))
        sch.decompose_reduction(block, step)


def pooled_rows(sch: s_tir.Schedule, *, lanes: int, width: int, is_sum: bool) -> None:
    """Schedule `expr.pooling`: a row of sums, or maxima, at a time, time steps streamed past it."""
    out, acc = sch.get_sblock("out"), sch.get_sblock("acc")
    i, _ = sch.get_loops(out)
    for block in sch.get_producers(out):
        sch.compute_at(block, i, preserve_unit_loops=True)
        if width * 8 <= STACK_BYTES:
            sch.set_scope(block, 0, "local")
    *_, column, step = sch.get_loops(acc)
    sch.reorder(step, column)
    if width % lanes == 0:
        _, lane = sch.split(column, [None, lanes])
        sch.vectorize(lane)
    if is_sum:
        cut_open_sum(sch, step)
    sch.decompose_reduction(acc, step)


def dot_products(sch: s_tir.Schedule) -> None:
    """Schedule `expr.dot` and `expr.pairwise_dots`: each product in the lanes of one vector."""
    out = sch.get_sblock("out")
    innermost = sch.get_loops(out)[-1]
    for block in sch.get_producers(out):
        sch.compute_at(block, innermost, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
        *_, lane, step = sch.get_loops(block)
        sch.reorder(step, lane)
        sch.vectorize(lane)
        cut_sum(sch, step, int(sch.get(step).extent))
        sch.decompose_reduction(block, step)


def plain(sch: s_tir.Schedule) -> None:
    """Leave the loops as they are: LLVM vectorises a straight loop over elements by itself."""
    del sch
