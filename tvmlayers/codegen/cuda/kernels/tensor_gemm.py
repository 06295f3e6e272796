"""The body of a dense layer on tensor cores: activation(x W + b), summed in float32.

x: (m, k); w: (kp / depth, np, depth), W padded with zeros to whole tiles, `depth` steps of k side
by side; b: (np,); result: (m, n). Operands are halves, or float32 as `tensor_stage` splits it.
"""

from collections.abc import Callable, Sequence

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cuda.kernels.tensor_block import (
    DTYPE,
    Block,
    TensorDense,
    barrier,
    copy_async,
    copy_half,
    instruction,
    local,
    named,
    shared,
    store,
)
from tvmlayers.codegen.cuda.kernels.tensor_result import finish
from tvmlayers.codegen.cuda.kernels.tensor_stage import multiply_stage
from tvmlayers.targets.cuda import WARP

WORD = 4  # bytes


def put_tensor_gemm(dense: TensorDense, pointers: Sequence[Var], m: Expr) -> None:
    """Write the kernel here. pointers: x, w, b if there is one, result; m: rows of x."""
    stages, tile = dense.pipeline, dense.pipeline.tile
    names = ("x", "w", "b", "out") if dense.use_bias else ("x", "w", "out")
    views = [named(*each) for each in zip(names, map(emit.view, pointers), strict=True)]
    along_columns = tile.grid[1]
    with (
        T.thread_binding(emit.ceil_div(m, tile.rows), "blockIdx.x") as t,
        T.thread_binding(dense.padded[1] // tile.columns, "blockIdx.y") as p,
        T.thread_binding(tile.warps, "threadIdx.y") as warp,
        T.thread_binding(WARP, "threadIdx.x") as lane,
    ):
        of_slice = tile.warps // tile.slices
        within = te.indexmod(warp, of_slice)
        block = Block(
            dense=dense,
            x=views[0],
            w=views[1],
            b=views[2] if dense.use_bias else None,
            out=views[-1],
            m=m,
            first_row=emit.i64(t) * tile.rows,
            first_column=p * tile.columns,
            thread=warp * WARP + lane,
            slice=te.indexdiv(warp, of_slice),
            warp_row=te.indexdiv(within, along_columns) * tile.warp_rows,
            warp_column=te.indexmod(within, along_columns) * tile.warp_columns,
            group=te.indexdiv(lane, 4),
            place=te.indexmod(lane, 4),
            xs=shared("xs", stages.stages * tile.rows * stages.x_stride, dense.word),
            ws=shared("ws", stages.stages * stages.w_rows * stages.w_stride, dense.word),
            sums=local("sums", tile.sums),
        )
        _multiply(block)
        if tile.slices == 1:
            finish(block)
        else:
            _join(block)
            emit.when(block.slice == 0, lambda: finish(block))


def _multiply(block: Block) -> None:
    """sums = x W: a stage is multiplied while the following ones are on their way."""
    pipeline = block.dense.pipeline
    ahead = pipeline.stages - 1
    steps = -(-block.dense.k // pipeline.k_steps)
    with T.unroll(pipeline.tile.sums) as i:
        store(block.sums, i, tirx.const(0, DTYPE))
    for step in range(ahead):
        if step < steps:
            _copy(block, emit.i32(step), emit.i32(step))
        instruction("commit")
    with T.serial(steps) as step:
        instruction(f"wait_{ahead - 1}")
        # All have what they copied, and none still reads the stage that is filled next.
        barrier()
        following = emit.bound(step + ahead)
        emit.when(
            following < steps,
            lambda: _copy(block, te.indexmod(following, pipeline.stages), following),
        )
        instruction("commit")  # an empty one too: waits count them
        multiply_stage(block, te.indexmod(step, pipeline.stages))


def _copy(block: Block, stage: Expr, step: Expr) -> None:
    """Ask for the block's part of x and w at a step of k."""
    dense, pipeline, operand = block.dense, block.dense.pipeline, block.dense.operand
    first = emit.bound(step * pipeline.k_steps)
    vectors = te.indexdiv(pipeline.k_steps, dense.vector)

    def of_x(chunk: Expr) -> None:
        row, column = te.indexdiv(chunk, vectors), te.indexmod(chunk, vectors) * dense.vector
        at, source = emit.bound(first + column), emit.bound(block.first_row + emit.i64(row))
        inside = source < block.m
        if dense.k % pipeline.k_steps:
            inside = tirx.all(inside, at < dense.k)
        inside = emit.bound(inside)
        begin = tirx.Select(inside, source * dense.k + emit.i64(at), emit.i64(0))
        word, place = te.indexdiv(column, operand.in_word), te.indexmod(column, operand.in_word)
        to = block.xs[pipeline.x_at(stage * pipeline.tile.rows + row, word)]
        size = WORD * dense.vector // operand.in_word
        given = tirx.Select(inside, emit.i32(size), emit.i32(0))
        if size < WORD:
            copy_half(to, place, block.x[begin], given)
        else:
            copy_async(size, to, block.x[begin], given)

    row_words = pipeline.tile.columns * pipeline.w_words

    def of_w(chunk: Expr) -> None:
        row = te.indexdiv(chunk, row_words // 4)
        word = te.indexmod(chunk, row_words // 4) * 4
        column = block.first_column * operand.depth + word * operand.in_word
        whole = dense.padded[1] * operand.depth
        begin = emit.i64(step * pipeline.w_rows + row) * whole + emit.i64(column)
        to = block.ws[pipeline.w_at(stage * pipeline.w_rows + row, word)]
        copy_async(16, to, block.w[begin], emit.i32(16))

    _share_out(block, pipeline.tile.rows * pipeline.k_steps // dense.vector, of_x)
    _share_out(block, pipeline.w_rows * row_words // 4, of_w)


def _share_out(block: Block, chunks: int, copy: Callable[[Expr], None]) -> None:
    """`copy` for all chunks, each by one thread of the block."""
    threads = block.dense.pipeline.tile.warps * WARP
    with T.unroll(-(-chunks // threads)) as turn:
        chunk = emit.bound(turn * threads + block.thread)
        if chunks % threads:
            emit.when(chunk < chunks, lambda: copy(chunk))
        else:
            copy(chunk)


def _join(block: Block) -> None:
    """The first slice's sums, with those of the others added."""
    tile = block.dense.pipeline.tile
    threads = tile.warps // tile.slices * WARP
    handed = shared("handed", (tile.slices - 1) * tile.sums * threads)
    sender = te.indexmod(block.thread, threads)

    def hand_over() -> None:
        with T.unroll(tile.sums) as e:
            store(handed, ((block.slice - 1) * tile.sums + e) * threads + sender, block.sums[e])

    def add() -> None:
        with T.unroll(tile.slices - 1) as other, T.unroll(tile.sums) as e:
            taken = handed[(other * tile.sums + e) * threads + sender]
            store(block.sums, e, block.sums[e] + taken)

    barrier()  # the room may be that of stages which others still read
    emit.when(block.slice > 0, hand_over)
    barrier()
    emit.when(block.slice == 0, add)
