"""GEMM on CUDA cores: tiles in shared memory, sums in registers; and one for few rows."""

from __future__ import annotations

from tvm import s_tir

from tvmlayers.dtypes import is_half
from tvmlayers.expr.gemm import BlockTile
from tvmlayers.spaces.choices import Choices, Decisions, choose
from tvmlayers.spaces.cuda_tensor_gemm import OPERANDS, STAGES, tensor_tiles
from tvmlayers.targets import CudaTarget
from tvmlayers.workload import Workload

SPACE = "cuda_gemm"
K_STEPS = (8, 16, 32)
SLICES = (4, 8, 16, 32)
SPLIT_ROWS = (1, 2, 4, 8)
SPLIT = "split"  # the kind of tile that shares k out
# Rows and columns of a block, rows and columns of a thread.
_TILES = (
    (128, 128, 8, 8),
    (128, 64, 8, 4),
    (64, 64, 4, 4),
    (64, 32, 4, 4),
    (32, 32, 2, 4),
    (64, 16, 4, 4),
)


def padded_columns(n: int) -> int:
    """Columns of a packed weight: whole tiles, without much that is zero."""
    for least, unit in ((512, 128), (48, 64), (17, 32)):
        if n >= least:
            return -(-n // unit) * unit
    return 16


def tile_name(tile: BlockTile) -> str:
    """As a decision says it, such as "128x64:8x4"."""
    return f"{tile.rows}x{tile.columns}:{tile.thread_rows}x{tile.thread_columns}"


def tiles(n: int, dtype: str, target: CudaTarget) -> list[BlockTile]:
    """The tiles in shared memory that there are for n columns; none of halves, all of which
    tensor cores take."""
    if is_half(dtype):
        return []
    lanes, columns = target.lanes(dtype), padded_columns(n)
    return [
        BlockTile(*sizes, lanes)
        for sizes in _TILES
        if columns % sizes[1] == 0 and sizes[3] % lanes == 0 and sizes[2] * sizes[3] * lanes <= 256
    ]


def split_tiles(n: int, target: CudaTarget) -> list[tuple[int, int, int]]:
    """(rows, columns, slices) of the blocks that share k out."""
    columns = min(target_columns(n), 32)
    return [
        (rows, columns, slices)
        for rows in SPLIT_ROWS
        for slices in SLICES
        if columns * slices <= target.threads_per_block // 2 and columns * slices >= 64
    ]


def target_columns(n: int) -> int:
    """Columns of the weight that a block of the split kernel can be a part of."""
    return padded_columns(n)


def gemm_choices(workload: Workload, target: CudaTarget) -> Choices:
    """What a dense layer may decide.

    tile: of a block of threads, in shared memory or, as "split:ROWSxSLICES", with k shared out or,
    as "tf32:ROWSxCOLUMNS:ROWSxCOLUMNS/SLICES" ("f16:", "bf16:"), on tensor cores, of a block and of
    its warps, with k shared out among so many of them;
    k_steps: of k that are in shared memory at a time;
    stages: of so many steps that tensor cores have in shared memory, all but one on their way;
    the other kernels have one.
    """
    k, n, dtype = workload["k"], workload["n"], workload["dtype"]
    named = [tile.name for tile in tensor_tiles(padded_columns(n), k, dtype)]
    named += [tile_name(tile) for tile in tiles(n, dtype, target)]
    named += [f"{SPLIT}:{rows}x{slices}" for rows, _, slices in split_tiles(n, target)]
    return {"tile": named, "k_steps": k_steps(dtype), "stages": STAGES}


def k_steps(dtype: str) -> tuple[int, ...]:
    """Steps of k that can be in shared memory at a time."""
    return OPERANDS[dtype].steps if dtype in OPERANDS else K_STEPS


def block_tile(decisions: Decisions, n: int, dtype: str, target: CudaTarget) -> BlockTile | None:
    """The tile in shared memory that `decisions` name; None where they share k out."""
    name = str(decisions["tile"])
    return next((tile for tile in tiles(n, dtype, target) if tile_name(tile) == name), None)


def split_tile(decisions: Decisions, n: int) -> tuple[int, int, int]:
    """(rows, columns, slices) of the split kernel that `decisions` name."""
    rows, slices = str(decisions["tile"]).removeprefix(f"{SPLIT}:").split("x")
    return int(rows), min(target_columns(n), 32), int(slices)


def gemm_blocks(
    sch: s_tir.Schedule, *, tile: BlockTile, vector: int, decisions: Decisions | None
) -> None:
    """Schedule `expr.gemm.tiled_gemm`. Choice: k_steps.

    vector: elements of x that are read at a time.
    """
    out, acc, xs, ws, xr, wr = (
        sch.get_sblock(name) for name in ("out", "acc", "xs", "ws", "xr", "wr")
    )
    t, p, ty, tx, *inner = sch.get_loops(out)
    for loop, axis in ((t, "blockIdx.x"), (p, "blockIdx.y"), (ty, "threadIdx.y")):
        sch.bind(loop, axis)
    sch.bind(tx, "threadIdx.x")
    for loop in inner:
        sch.unroll(loop)
    sch.compute_at(acc, tx, preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")
    *_, i, g, v, k = sch.get_loops(acc)
    steps = choose(sch, "k_steps", K_STEPS, decisions)
    outer, k = sch.split(k, [None, steps])
    middle, k = sch.split(k, [None, tile.lanes])
    sch.reorder(outer, middle, k, i, g, v)
    for loop in (k, i, g, v):
        sch.unroll(loop)
    sch.compute_at(xr, middle, preserve_unit_loops=True)
    sch.compute_at(wr, k, preserve_unit_loops=True)
    for block in (xr, wr):
        sch.set_scope(block, 0, "local")
        *_, row, lane = sch.get_loops(block)
        sch.unroll(row)
        sch.vectorize(lane)
    for block, lanes in ((xs, vector), (ws, tile.lanes)):
        sch.set_scope(block, 0, "shared")  # first: what threads share is then known to be theirs
        sch.compute_at(block, outer, preserve_unit_loops=True)
        _share_out(sch, block, tile, lanes)
    # Rows of x that threads read at once begin in other banks.
    sch.storage_align(xs, 0, axis=-2, factor=32, offset=tile.lanes)
    sch.decompose_reduction(acc, outer)


def _share_out(
    sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, tile: BlockTile, lanes: int
) -> None:
    """The threads of a block copy what all of them need, `lanes` elements each at a time."""
    rows, columns = tile.grid
    both = sch.fuse(*sch.get_loops(block)[-2:])
    turn, ty, tx, lane = sch.split(both, [None, rows, columns, lanes])
    if lanes > 1:  # words one by one would take too many registers for their addresses
        sch.unroll(turn)
    sch.bind(ty, "threadIdx.y")
    sch.bind(tx, "threadIdx.x")
    sch.vectorize(lane)


def split_blocks(sch: s_tir.Schedule, *, slices: int, depth: int = 1, vector: int = 1) -> None:
    """Schedule `expr.gemm.split_gemm`: a thread for each column and slice of k.

    depth: as there; vector: elements of x that are read at a time, `depth` or 1.
    """
    out, total, part = (sch.get_sblock(name) for name in ("out", "total", "part"))
    t, p, i, j = sch.get_loops(out)
    sch.bind(t, "blockIdx.x")
    sch.bind(p, "blockIdx.y")
    sch.reorder(j, i)
    _, i = sch.split(i, [None, slices])
    sch.bind(j, "threadIdx.x")
    sch.bind(i, "threadIdx.y")
    sch.compute_at(total, i, preserve_unit_loops=True)
    sch.set_scope(total, 0, "local")
    sch.set_scope(part, 0, "shared")
    sch.compute_at(part, p, preserve_unit_loops=True)
    copy = sch.cache_write(part, 0, "local")
    *_, column, piece, row = sch.get_loops(copy)
    sch.bind(column, "threadIdx.x")
    sch.bind(piece, "threadIdx.y")
    sch.unroll(row)
    sch.compute_at(part, piece, preserve_unit_loops=True)
    if depth == 1:
        *_, row, step = sch.get_loops(part)
        sch.reorder(step, row)
    else:
        *_, row, step, within = sch.get_loops(part)
        sch.reorder(step, within, row)
        sch.unroll(within)
        for name, is_vector in (("wr", True), ("xr", vector == depth)):
            block = sch.get_sblock(name)
            sch.set_scope(block, 0, "local")
            sch.compute_at(block, step, preserve_unit_loops=True)
            *_, outer, lane = sch.get_loops(block)
            (sch.vectorize if is_vector else sch.unroll)(lane)
            if name == "xr":
                sch.unroll(outer)
    sch.unroll(row)
    sch.decompose_reduction(part, step)
