"""The body of a float32 dense layer on tensor cores: activation(x W + b) with float32's accuracy.

x: (m, k); w: (kp, np), W padded with zeros to whole tiles; b: (np,); result: (m, n).

A tensor core multiplies tf32 numbers, which have 11 bits of float32's 24. Each operand is split
into `big`, its nearest tf32 number, and `small`, the rest, of which the instruction drops one bit
at most: what is lost is one unit in float32's last place and has no preferred sign. Summed are
small*big, big*small and big*big; small*small is below 2^-22 of the product. Tensor cores cut sums
off instead of rounding them, which would add up along k: a sum of tensor cores goes over 8 steps of
k only, and those are added in float32.

An operand of Inf, or one that rounds to it, has a split that gives NaN. Elements that are not
finite at the end are computed again, as a plain sum in float32, so that an Inf, a NaN or an
overflow gives what it gives in float32. Operands below 2^-115 lose digits: their small part does
not fit tf32's smallest numbers.
"""

from collections.abc import Callable, Sequence

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Buffer, Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.build import emit
from tvmlayers.build.cuda.kernels.tensor_block import (
    COLUMNS,
    DTYPE,
    ROWS,
    STEPS,
    Block,
    TensorDense,
    address,
    barrier,
    copy_async,
    instruction,
    local,
    named,
    shared,
    store,
)
from tvmlayers.build.cuda.kernels.tensor_result import finish
from tvmlayers.targets.cuda import WARP


def put_tensor_gemm(dense: TensorDense, pointers: Sequence[Var], m: Expr) -> None:
    """Write the kernel here. pointers: x, w, b if there is one, result; m: rows of x."""
    tile = dense.pipeline.tile
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
            xs=shared("xs", dense.pipeline.stages * tile.rows * dense.pipeline.x_stride),
            ws=shared(
                "ws", dense.pipeline.stages * dense.pipeline.k_steps * dense.pipeline.w_stride
            ),
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
        _multiply_stage(block, te.indexmod(step, pipeline.stages))


def _copy(block: Block, stage: Expr, step: Expr) -> None:
    """Ask for the block's part of x and w at a step of k."""
    dense, pipeline = block.dense, block.dense.pipeline
    first = emit.bound(step * pipeline.k_steps)
    words = te.indexdiv(dense.pipeline.k_steps, dense.vector)

    def of_x(chunk: Expr) -> None:
        row, column = te.indexdiv(chunk, words), te.indexmod(chunk, words) * dense.vector
        at, source = emit.bound(first + column), emit.bound(block.first_row + emit.i64(row))
        inside = source < block.m
        if dense.k % pipeline.k_steps:
            inside = tirx.all(inside, at < dense.k)
        inside = emit.bound(inside)
        begin = tirx.Select(inside, source * dense.k + emit.i64(at), emit.i64(0))
        to = (stage * pipeline.tile.rows + row) * pipeline.x_stride + column
        size = 4 * dense.vector
        given = tirx.Select(inside, emit.i32(size), emit.i32(0))
        copy_async(size, block.xs[to], block.x[begin], given)

    def of_w(chunk: Expr) -> None:
        vectors = pipeline.tile.columns // 4
        row, column = te.indexdiv(chunk, vectors), te.indexmod(chunk, vectors) * 4
        begin = emit.i64(first + row) * dense.padded[1] + emit.i64(block.first_column + column)
        to = (stage * pipeline.k_steps + row) * pipeline.w_stride + column
        copy_async(16, block.ws[to], block.w[begin], emit.i32(16))

    _share_out(block, pipeline.tile.rows * pipeline.k_steps // dense.vector, of_x)
    _share_out(block, pipeline.k_steps * pipeline.tile.columns // 4, of_w)


def _share_out(block: Block, chunks: int, copy: Callable[[Expr], None]) -> None:
    """`copy` for all chunks, each by one thread of the block."""
    threads = block.dense.pipeline.tile.warps * WARP
    with T.unroll(-(-chunks // threads)) as turn:
        chunk = emit.bound(turn * threads + block.thread)
        if chunks % threads:
            emit.when(chunk < chunks, lambda: copy(chunk))
        else:
            copy(chunk)


def _multiply_stage(block: Block, stage: Expr) -> None:
    tile, pipeline = block.dense.pipeline.tile, block.dense.pipeline
    down, across = block.fragments
    x_big, x_small = (local(name, 4 * down) for name in ("x_big", "x_small"))
    w_big, w_small = (local(name, 2 * across) for name in ("w_big", "w_small"))
    pair, part = local("pair", 2), local("part", 4)
    with T.unroll(pipeline.k_steps // (STEPS * tile.slices)) as turn:
        # Lanes have two neighbouring steps of k each, in x and in w alike: any order will do.
        step = emit.bound((turn * tile.slices + block.slice) * STEPS + block.place * 2)
        with T.unroll(down) as i, T.unroll(2) as half:
            row = stage * tile.rows + block.warp_row + i * ROWS + half * 8 + block.group
            with T.vectorized(2) as v:
                store(pair, v, block.xs[row * pipeline.x_stride + step + v])
            for v in range(2):
                _split(pair[v], x_big, x_small, i * 4 + v * 2 + half)
        with T.unroll(across) as j, T.unroll(2) as v:
            row = stage * pipeline.k_steps + step + v
            column = block.warp_column + j * COLUMNS + block.group
            _split(block.ws[row * pipeline.w_stride + column], w_big, w_small, j * 2 + v)
        with T.unroll(down) as i, T.unroll(across) as j:
            with T.unroll(4) as e:
                store(part, e, tirx.const(0, DTYPE))
            for x, w in ((x_small, w_big), (x_big, w_small), (x_big, w_big)):
                instruction("mma_tf32", address(part[0]), address(x[i * 4]), address(w[j * 2]))
            with T.unroll(4) as e:
                at = (i * across + j) * 4 + e
                store(block.sums, at, block.sums[at] + part[e])


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


def _split(value: Expr, big: Buffer, small: Buffer, at: Expr) -> None:
    """big + small = value, big with a tf32 number's bits, the nearest one."""
    given = emit.bound(value)
    bits = T.reinterpret("uint32", given) + tirx.const(0x1000, "uint32")
    nearest = tirx.bitwise_and(bits, tirx.const(0xFFFFE000, "uint32"))
    store(big, at, T.reinterpret(DTYPE, nearest))
    store(small, at, given - big[at])
