"""GEMM on packed panels: a register tile of accumulators over the whole of K, then the epilogue.

Serves every CPU family: the register tile's rows and the panel's width come with the expression,
the number of lanes from the target.
"""

from tvm import s_tir

from tvmlayers.spaces.choices import PREFETCH, Decisions, choose

K_UNROLL = (1, 2, 4, 8)
PREFETCH_STEPS = (0, 4, 8, 16, 32, 64)  # steps of k


def gemm_tiles(
    sch: s_tir.Schedule, *, lanes: int, k: int, cheap_epilogue: bool, decisions: Decisions | None
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

    row, column, step = sch.get_loops(acc)[-3:]
    sch.reorder(step, row, column)
    unroll = choose(sch, "k_unroll", [u for u in K_UNROLL if k % u == 0], decisions)
    vector, lane = sch.split(column, [None, lanes])
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
    outer, inner = sch.split(step, [None, unroll])
    sch.unroll(inner)
    ahead = choose(sch, "prefetch_steps", PREFETCH_STEPS, decisions)
    sch.annotate(outer, PREFETCH, ahead)
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
