"""The dense layer, activation(x W + b), in tiles for hardware with many threads that share memory.

x: (m, k); w: (kp, np), W padded with zeros; b: (np,); result: (m, n). A tile of rows by columns is
one block of threads; each thread sums `thread_rows` by `thread_columns` of it, interleaved with
those of its neighbours so that threads side by side read words side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.dtypes import wide
from tvmlayers.expr import math
from tvmlayers.expr.expression import Expression, Place, size

MOST_INT32 = 2**31 - 1


@dataclass(frozen=True)
class BlockTile:
    """Rows and columns of a block of threads, and of one thread; lanes: columns side by side."""

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int
    lanes: int

    @property
    def grid(self) -> tuple[int, int]:
        """Threads along the rows and along the columns."""
        return self.rows // self.thread_rows, self.columns // self.thread_columns

    @property
    def threads(self) -> int:
        """Threads of a block."""
        along_rows, along_columns = self.grid
        return along_rows * along_columns


def tiled_gemm(
    k: int,
    n: int,
    *,
    padded: tuple[int, int],
    tile: BlockTile,
    vector: int,
    activation: Callable[[Expr], Expr],
    use_bias: bool,
    dtype: str,
) -> Expression:
    """activation(x W + b). padded: the rows and columns of w, whole tiles; vector: elements of a
    row of x that are read at a time, a divisor of k. Sizes: m rows, tiles = ceil(m / rows).

    Stages: `xs` and `ws`, what the block has of x and w; `xr` and `wr`, what a thread has of
    those; `acc`, its sums.
    """
    m, tiles = size("m"), size("tiles")
    kp, columns = padded
    x = te.placeholder((m, k), dtype, name="x")
    w = te.placeholder((kp, columns), dtype, name="w")
    b = te.placeholder((columns,), dtype, name="b")
    along_rows, along_columns = tile.grid
    groups = tile.thread_columns // tile.lanes
    zero = tirx.const(0, dtype)

    def given(i: Expr, s: Expr) -> Expr:
        inside = i < m
        if k < kp:
            # The same for all elements of a vector, so that it stays one.
            inside = tirx.all(inside, te.indexdiv(s, vector) < k // vector)
        return te.if_then_else(inside, x[i, s], zero)

    def row(t: Expr, ty: Expr, i: Expr) -> Expr:
        return t * tile.rows + i * along_rows + ty

    def column(p: Expr, tx: Expr, g: Expr, v: Expr) -> Expr:
        return p * tile.columns + (g * along_columns + tx) * tile.lanes + v

    xs = te.compute((tiles * tile.rows, kp), given, name="xs")
    ws = te.compute((kp, columns), lambda s, j: w[s, j], name="ws")
    blocks = columns // tile.columns
    xr = te.compute(
        (tiles, along_rows, tile.thread_rows, kp),
        lambda t, ty, i, s: xs[row(t, ty, i), s],
        name="xr",
    )
    wr = te.compute(
        (blocks, along_columns, kp, groups, tile.lanes),
        lambda p, tx, s, g, v: ws[s, column(p, tx, g, v)],
        name="wr",
    )
    axis = te.reduce_axis((0, kp), "k")
    shape = (tiles, blocks, along_rows, along_columns, tile.thread_rows, groups, tile.lanes)
    acc = te.compute(
        shape,
        lambda t, p, ty, tx, i, g, v: te.sum(xr[t, ty, i, axis] * wr[p, tx, axis, g, v], axis=axis),
        name="acc",
    )

    def result(t: Expr, p: Expr, ty: Expr, tx: Expr, i: Expr, g: Expr, v: Expr) -> Expr:
        value = acc[t, p, ty, tx, i, g, v]
        return math.bind(value + b[column(p, tx, g, v)] if use_bias else value, activation)

    out = te.compute(shape, result, name="out")
    place = Place((m, n), lambda at: [row(at[0], at[2], at[4]), column(at[1], at[3], at[5], at[6])])
    return Expression(
        tensors=(x, w, b, out) if use_bias else (x, w, out),
        sizes=(m, tiles),
        places={"out": place},
    )


def split_gemm(
    k: int,
    n: int,
    *,
    padded: tuple[int, int],
    rows: int,
    columns: int,
    slices: int,
    activation: Callable[[Expr], Expr],
    use_bias: bool,
    dtype: str,
    out_dtype: str,
    depth: int = 1,
) -> Expression:
    """activation(x W + b) for few rows: `slices` threads of a block share the k of a column out.

    A block has `rows` rows by `columns` columns. Sizes: m, tiles = ceil(m / rows). A row past the
    last is the last one again. Stages: `part`, the sums of a slice; `total`, those of all.

    depth: steps of k that lie side by side in w, (kp / depth, np, depth), and are a thread's own;
    above 1 there are stages `xr` and `wr`, what a thread reads of x and w for them.
    """
    m, tiles = size("m"), size("tiles")
    kp, all_columns = padded
    x = te.placeholder((m, k), dtype, name="x")
    packed = (kp, all_columns) if depth == 1 else (kp // depth, all_columns, depth)
    w = te.placeholder(packed, dtype, name="w")
    b = te.placeholder((all_columns,), dtype, name="b")
    blocks, zero = all_columns // columns, tirx.const(0, wide(dtype))
    steps = -(-k // (slices * depth))
    step, within = te.reduce_axis((0, steps), "step"), te.reduce_axis((0, depth), "within")
    piece = te.reduce_axis((0, slices), "piece")

    def row(t: Expr, i: Expr) -> Expr:
        return te.min(t * rows + i, m - 1)

    def counted(group: Expr) -> Expr:
        # The place of an element is computed in the type of its indices.
        return tirx.Cast("int64", group) if kp * all_columns > MOST_INT32 else group

    if depth > 1:
        # Past the end the last ones again, which then do not count.
        xr = te.compute(
            (tiles, rows, steps * slices, depth),
            lambda t, i, g, v: x[row(t, i), _inside(g, v, k, depth)],
            name="xr",
        )
        wr = te.compute(
            (blocks, columns, steps * slices, depth),
            lambda p, j, g, v: w[counted(te.min(g, kp // depth - 1)), p * columns + j, v],
            name="wr",
        )

    def term(t: Expr, p: Expr, j: Expr, s: Expr, i: Expr) -> Expr:
        group = step * slices + s
        if depth == 1:
            at, product = group, x[row(t, i), group] * w[counted(group), p * columns + j]
        else:
            at = group * depth + within
            product = math.widened(xr[t, i, group, within]) * math.widened(wr[p, j, group, within])
        return product if k % (slices * depth) == 0 else te.if_then_else(at < k, product, zero)

    axes = [step] if depth == 1 else [step, within]
    part = te.compute(
        (tiles, blocks, columns, slices, rows),
        lambda t, p, j, s, i: te.sum(term(t, p, j, s, i), axis=axes),
        name="part",
    )
    total = te.compute(
        (tiles, blocks, columns, rows),
        lambda t, p, j, i: te.sum(part[t, p, j, piece, i], axis=piece),
        name="total",
    )

    def result(t: Expr, p: Expr, i: Expr, j: Expr) -> Expr:
        value = total[t, p, j, i]
        value = value + math.widened(b[p * columns + j]) if use_bias else value
        return math.narrowed(math.bind(value, activation), out_dtype)

    out = te.compute((tiles, blocks, rows, columns), result, name="out")
    place = Place((m, n), lambda at: [at[0] * rows + at[2], at[1] * columns + at[3]])
    return Expression(
        tensors=(x, w, b, out) if use_bias else (x, w, out),
        sizes=(m, tiles),
        places={"out": place},
    )


def _inside(group: Expr, within: Expr, k: int, depth: int) -> Expr:
    """The step of k, or the last one past the end; of a whole group where k has whole ones."""
    if k % depth == 0:
        return te.min(group, k // depth - 1) * depth + within
    return te.min(group * depth + within, k - 1)
