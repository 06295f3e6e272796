"""The products of one stage of shared memory, as a warp's tensor cores take them.

Halves are multiplied as they are: products are exact, and tensor cores sum them in float32.

Float32 has its own accuracy. A tensor core multiplies tf32 numbers, which have 11 bits of float32's
24. Each operand is split into `big`, its nearest tf32 number, and `small`, the rest, of which the
instruction drops one bit at most: what is lost is one unit in float32's last place and has no
preferred sign. Summed are small*big, big*small and big*big; small*small is below 2^-22 of the
product. Tensor cores cut sums off instead of rounding them, which would add up along k: a sum of
tensor cores goes over 8 steps of k only, and those are added in float32.

An operand of Inf, or one that rounds to it, has a split that gives NaN. Elements that are not
finite at the end are computed again (`tensor_result`), as a plain sum in float32, so that an Inf, a
NaN or an overflow gives what it gives in float32. Operands below 2^-115 lose digits: their small
part does not fit tf32's smallest numbers.
"""

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cuda.kernels.tensor_block import (
    COLUMNS,
    DTYPE,
    ROWS,
    WORDS,
    Block,
    address,
    instruction,
    load_pair,
    local,
    store,
)


def multiply_stage(block: Block, stage: Expr) -> None:
    """sums += x W over the steps of k that a stage holds."""
    if block.dense.operand.products == 1:
        _halves(block, stage)
    else:
        _float32(block, stage)


def _halves(block: Block, stage: Expr) -> None:
    tile, pipeline, word = block.dense.pipeline.tile, block.dense.pipeline, block.dense.word
    down, across = block.fragments
    x, w = local("x_words", 4 * down, word), local("w_words", 2 * across, word)
    with T.unroll(pipeline.words // (WORDS * tile.slices)) as turn:
        # Lanes have four neighbouring steps of k each, in x and in w alike: any order will do.
        step = emit.bound((turn * tile.slices + block.slice) * WORDS + block.place * 2)
        with T.unroll(down) as i, T.unroll(2) as half:
            row = stage * tile.rows + block.warp_row + i * ROWS + half * 8 + block.group
            first, second = x[i * 4 + half], x[i * 4 + 2 + half]
            load_pair(first, second, block.xs[pipeline.x_at(row, step)])
        row = stage * pipeline.w_rows + (turn * tile.slices + block.slice) * 4 + block.place
        with T.unroll(across) as j:
            column = block.warp_column + j * COLUMNS + block.group
            load_pair(w[j * 2], w[j * 2 + 1], block.ws[pipeline.w_at(row, column * 2)])
        with T.unroll(down) as i, T.unroll(across) as j:
            total = block.sums[(i * across + j) * 4]
            name = f"mma_{block.dense.operand.name}"
            instruction(name, address(total), address(x[i * 4]), address(w[j * 2]))


def _float32(block: Block, stage: Expr) -> None:
    tile, pipeline = block.dense.pipeline.tile, block.dense.pipeline
    down, across = block.fragments
    x_big, x_small = (local(name, 4 * down) for name in ("x_big", "x_small"))
    w_big, w_small = (local(name, 2 * across) for name in ("w_big", "w_small"))
    pair, part = local("pair", 2), local("part", 4)
    with T.unroll(pipeline.words // (WORDS * tile.slices)) as turn:
        # Lanes have two neighbouring steps of k each, in x and in w alike: any order will do.
        step = emit.bound((turn * tile.slices + block.slice) * WORDS + block.place * 2)
        with T.unroll(down) as i, T.unroll(2) as half:
            row = stage * tile.rows + block.warp_row + i * ROWS + half * 8 + block.group
            with T.vectorized(2) as v:
                store(pair, v, block.xs[row * pipeline.x_stride + step + v])
            for v in range(2):
                _split(pair[v], x_big, x_small, i * 4 + v * 2 + half)
        with T.unroll(across) as j, T.unroll(2) as v:
            row = stage * pipeline.w_rows + step + v
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


def _split(value: Expr, big: Buffer, small: Buffer, at: Expr) -> None:
    """big + small = value, big with a tf32 number's bits, the nearest one."""
    given = emit.bound(value)
    bits = T.reinterpret("uint32", given) + tirx.const(0x1000, "uint32")
    nearest = tirx.bitwise_and(bits, tirx.const(0xFFFFE000, "uint32"))
    store(big, at, T.reinterpret(DTYPE, nearest))
    store(small, at, given - big[at])
