"""The dense layer, activation(x W + b), on tiles of rows and packed panels of the weight.

x: (m, k); w: (panels, k, width), W cut into panels of `width` columns and padded with zeros;
b: (panels, width); result: (m, n). A tile is `rows` rows of x by one panel. When `rows` does not
divide m the last tile starts at row m - rows and computes some rows of its neighbour again, so no
tile is ever partial; m must be at least `rows`.
"""

from collections.abc import Callable

from tvm import te
from tvm.ir import Expr

from tvmlayers.expr.expression import Expression, Place, size
from tvmlayers.expr.math import bind
from tvmlayers.expr.reduction import lane_sums, tree


def dense(
    k: int,
    n: int,
    *,
    rows: int,
    width: int,
    valid: int,
    strips: int = 1,
    streams: int = 1,
    k_block: int = 0,
    activation: Callable[[Expr], Expr],
    use_bias: bool,
    dtype: str,
) -> Expression:
    """activation(x W + b) over row tiles and panels that store `valid` columns each.

    n is the row length of the stored result; `valid` is below `width` only for a last panel.
    strips: into how many equal strips of columns a panel is cut; a tile is as wide as a strip.
    streams: into how many equal stretches k is cut, summed side by side: a panel is then read in
    as many places at once, which memory answers faster than one.
    k_block: a divisor of k: all tiles go over so many steps of a panel before any goes on, their
    sums kept meanwhile in a scratch (tiles, rows, columns of a strip); 0 for all of k at once.
    Sizes: m rows, tiles = ceil(m / rows), panels.
    """
    m, tiles, panels = size("m"), size("tiles"), size("panels")
    x = te.placeholder((m, k), dtype, name="x")
    w = te.placeholder((panels, k, width), dtype, name="w")
    b = te.placeholder((panels, width), dtype, name="b")
    stretch = (k_block or k) // streams
    axis = te.reduce_axis((0, stretch), "k")

    def row(t: Expr, r: Expr) -> Expr:
        return te.min(t * rows, m - rows) + r

    columns = width // strips

    def product(p: Expr, c: Expr, t: Expr, r: Expr, j: Expr, step: Expr | int) -> Expr:
        return x[row(t, r), step] * w[p, step, c * columns + j]

    def stretch_sum(p: Expr, c: Expr, t: Expr, r: Expr, j: Expr, begin: Expr) -> Expr:
        return te.sum(product(p, c, t, r, j, begin + axis), axis=axis)

    scratch: list[te.Tensor] = []
    if k_block:
        assert streams == 1, "blocks of k are read in one place"
        block = te.reduce_axis((0, k // k_block), "o")
        acc = te.compute(
            (panels, strips, k // k_block, tiles, rows, columns),
            lambda p, c, o, t, r, j: stretch_sum(p, c, t, r, j, o * k_block),
            name="acc",
        )
        sums = te.compute(
            (panels, strips, tiles, rows, columns),
            lambda p, c, t, r, j: te.sum(acc[p, c, block, t, r, j], axis=block),
            name="sums",
        )
        scratch.append(sums)
    else:
        acc = te.compute(
            (panels, strips, tiles, streams, rows, columns),
            lambda p, c, t, s, r, j: stretch_sum(p, c, t, r, j, s * stretch),
            name="acc",
        )

    def total(p: Expr, c: Expr, t: Expr, r: Expr, j: Expr) -> Expr:
        if k_block:
            return sums[p, c, t, r, j]
        terms = [acc[p, c, t, s, r, j] for s in range(streams)]
        terms += [product(p, c, t, r, j, step) for step in range(streams * stretch, k)]
        return tree(terms)

    def epilogue(p: Expr, c: Expr, t: Expr, r: Expr, j: Expr) -> Expr:
        value = total(p, c, t, r, j)
        return bind(value + b[p, c * columns + j] if use_bias else value, activation)

    if valid == width:
        out = te.compute((panels, strips, tiles, rows, columns), epilogue, name="out")
    else:
        assert strips == 1, "a panel that is not full is one strip"
        whole = te.compute((panels, strips, tiles, rows, columns), epilogue, name="epilogue")
        out = te.compute(
            (panels, strips, tiles, rows, valid),
            lambda p, c, t, r, j: whole[p, c, t, r, j],
            name="out",
        )
    result = Place((m, n), lambda i: [row(i[2], i[3]), i[0] * width + i[1] * columns + i[4]])
    return Expression(
        tensors=(x, w, *([b] if use_bias else []), *scratch, out),
        sizes=(m, tiles, panels),
        places={"out": result, "sums": Place((tiles, rows, columns), lambda i: list(i[2:]))},
    )


def dot_rows(
    k: int, *, lanes: int, rows: int, activation: Callable[[Expr], Expr], use_bias: bool, dtype: str
) -> Expression:
    """activation(x w + b) for a single output column, summed in `lanes` partial sums a row.

    x: (m, k), w: (k,), b: (1,), result: (m, 1). Rows come in tiles as in `dense`.
    """
    m, tiles = size("m"), size("tiles")
    x = te.placeholder((m, k), dtype, name="x")
    w = te.placeholder((k,), dtype, name="w")
    b = te.placeholder((1,), dtype, name="b")

    def row(t: Expr, r: Expr) -> Expr:
        return te.min(t * rows, m - rows) + r

    dots = lane_sums((tiles, rows), k, lanes, lambda t, r, s: x[row(t, r), s] * w[s], "acc")

    total = te.compute((tiles, rows), dots, name="total")

    def result(t: Expr, r: Expr) -> Expr:
        value = total[t, r]
        return bind(value + b[0] if use_bias else value, activation)

    out = te.compute((tiles, rows), result, name="out")
    return Expression(
        tensors=(x, w, b, out) if use_bias else (x, w, out),
        sizes=(m, tiles),
        places={"out": Place((m,), lambda i: [row(i[0], i[1])])},
    )
