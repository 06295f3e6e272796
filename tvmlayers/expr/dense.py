"""The dense layer, activation(x W + b), on tiles of rows and packed panels of the weight.

x: (m, k); w: (panels, k, width), W cut into panels of `width` columns and padded with zeros;
b: (panels, width); result: (m, n). A tile is `rows` rows of x by one panel. When `rows` does not
divide m the last tile starts at row m - rows and computes some rows of its neighbour again, so no
tile is ever partial; m must be at least `rows`.
"""

from collections.abc import Callable

from tvm import te
from tvm.ir import Expr

from tvmlayers.expr.expression import Expression, size
from tvmlayers.expr.math import bind
from tvmlayers.expr.reduction import lane_sums, tree_sum


def dense(
    k: int,
    n: int,
    *,
    rows: int,
    width: int,
    valid: int,
    streams: int,
    activation: Callable[[Expr], Expr],
    use_bias: bool,
    dtype: str,
) -> Expression:
    """activation(x W + b) over row tiles and panels that store `valid` columns each.

    n is the row length of the stored result; `valid` is below `width` only for a last panel.
    streams: into how many equal stretches k is cut, summed side by side: a panel is then read in
    as many places at once, which memory answers faster than one.
    Sizes: m rows, tiles = ceil(m / rows), panels.
    """
    m, tiles, panels = size("m"), size("tiles"), size("panels")
    x = te.placeholder((m, k), dtype, name="x")
    w = te.placeholder((panels, k, width), dtype, name="w")
    b = te.placeholder((panels, width), dtype, name="b")
    stretch = k // streams
    axis = te.reduce_axis((0, stretch), "k")

    def row(t: Expr, r: Expr) -> Expr:
        return te.min(t * rows, m - rows) + r

    def product(p: Expr, t: Expr, r: Expr, j: Expr, step: Expr | int) -> Expr:
        return x[row(t, r), step] * w[p, step, j]

    acc = te.compute(
        (panels, tiles, streams, rows, width),
        lambda p, t, s, r, j: te.sum(product(p, t, r, j, s * stretch + axis), axis=axis),
        name="acc",
    )

    def epilogue(p: Expr, t: Expr, r: Expr, j: Expr) -> Expr:
        terms = [acc[p, t, s, r, j] for s in range(streams)]
        terms += [product(p, t, r, j, step) for step in range(streams * stretch, k)]
        value = tree_sum(terms)
        return bind(value + b[p, j] if use_bias else value, activation)

    if valid == width:
        out = te.compute((panels, tiles, rows, width), epilogue, name="out")
    else:
        whole = te.compute((panels, tiles, rows, width), epilogue, name="epilogue")
        out = te.compute(
            (panels, tiles, rows, valid), lambda p, t, r, j: whole[p, t, r, j], name="out"
        )
    return Expression(
        tensors=(x, w, b, out) if use_bias else (x, w, out),
        sizes=(m, tiles, panels),
        store_shape=(m, n),
        store_map=lambda i: [row(i[1], i[2]), i[0] * width + i[3]],
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
        store_shape=(m,),
        store_map=lambda i: [row(i[0], i[1])],
    )
