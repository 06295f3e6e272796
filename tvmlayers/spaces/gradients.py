"""Weight gradients: a register tile of sums over the batch, then the update as its epilogue."""

from tvm import s_tir

from tvmlayers.spaces.sums import cut_open_sum

_BLOCKS = (192, 16)  # samples that are summed by themselves, and such blocks


def gradient_tiles(sch: s_tir.Schedule, *, lanes: int, in_blocks: bool = False) -> None:
    """Schedule `expr.gradients`: accumulators in registers while the batch goes past them.

    in_blocks: the batch comes in blocks that are summed by themselves already.
    """
    out, acc = sch.get_sblock("out"), sch.get_sblock("acc")
    tile, row, column = sch.get_loops(out)
    sch.compute_at(acc, tile, preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")
    *_, acc_row, acc_column, step = sch.get_loops(acc)
    sch.reorder(step, acc_row, acc_column)
    for own_row, own_column in ((row, column), (acc_row, acc_column)):
        vector, lane = sch.split(own_column, [None, lanes])
        sch.unroll(own_row)
        sch.unroll(vector)
        sch.vectorize(lane)
    if not in_blocks:
        cut_open_sum(sch, step, _BLOCKS)
    sch.decompose_reduction(acc, step)
