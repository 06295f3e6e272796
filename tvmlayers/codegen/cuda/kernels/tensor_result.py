"""What becomes of the sums of a dense layer on tensor cores: bias, activation, stores.

Only float32 sums that are not finite are computed again: halves are no sums of others, and theirs
are what they are.
"""

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cuda.kernels.tensor_block import DTYPE, Block, local, store

_LARGEST = 3.4028234663852886e38


def finish(block: Block) -> None:
    """Bias, activation and stores."""
    dense = block.dense
    down, across = block.fragments
    vector = 2 if dense.n % 2 == 0 else 1
    again = local("again", 1, "int64") if dense.operand.products > 1 else None
    pair = local("results", 2, str(block.out.dtype))
    if again is not None:
        store(again, 0, emit.i64(0))
    with T.unroll(down) as i, T.unroll(across) as j, T.unroll(2) as half:
        row, column, at = block.element(i, j, half)
        with T.unroll(2) as v:
            value = emit.bound(block.sums[at + v])
            if again is not None:
                finite = tirx.abs(value) <= tirx.const(_LARGEST, DTYPE)
                marked = tirx.bitwise_or(again[0], emit.i64(1) << emit.i64(at + v))
                store(again, 0, tirx.Select(finite, again[0], marked))
            store(pair, v, block.stored(block.result(value, column + v)))
        for first in range(0, 2, vector):
            inside = tirx.all(row < block.m, column + first < dense.n)

            def write(row: Expr = row, column: Expr = column + first, first: int = first) -> None:
                with T.vectorized(vector) as v:
                    at = row * dense.n + emit.i64(column) + emit.i64(v)
                    store(block.out, at, pair[first + v])

            emit.when(inside, write)
    if again is not None:
        emit.when(again[0] != emit.i64(0), lambda: _sum_again(block, again))


def _sum_again(block: Block, again: Buffer) -> None:
    """The elements that `again` has a bit for, in a loop of its own that keeps no sums."""
    dense = block.dense
    across = block.fragments[1]
    total = local("total", 1)
    with T.serial(dense.pipeline.tile.sums) as e:
        fragment, half, v = (
            te.indexdiv(e, 4),
            te.indexdiv(te.indexmod(e, 4), 2),
            te.indexmod(e, 2),
        )
        row, column, _ = block.element(
            te.indexdiv(fragment, across), te.indexmod(fragment, across), half
        )
        column = emit.bound(column + v)
        wanted = tirx.bitwise_and(again[0] >> emit.i64(e), emit.i64(1)) != emit.i64(0)

        def compute(row: Expr = row, column: Expr = column) -> None:
            store(total, 0, tirx.const(0, DTYPE))
            with T.serial(dense.k) as s:
                x = block.x[row * dense.k + emit.i64(s)]
                w = block.w[emit.i64(s) * dense.padded[1] + emit.i64(column)]
                store(total, 0, total[0] + x * w)
            value = emit.bound(total[0])
            store(block.out, row * dense.n + emit.i64(column), block.result(value, column))

        emit.when(tirx.all(wanted, row < block.m, column < dense.n), compute)
