"""The dense layer, activation(x W + b), on tiles of rows and packed panels of the weight.

x: (m, k); w: (panels, k, width), W cut into panels of `width` columns and padded with zeros;
b: (panels, width); result: (m, n). Where W is kept in fewer bits it is widened to float32 as it is
read, and scales, (panels, width), multiply the sums of an int8 W.

A tile is `rows` rows of x by one panel. When `rows` does not divide m the last tile starts at row
m - rows and computes some rows of its neighbour again, so no tile is ever partial; m must be at
least `rows`.
"""

from collections.abc import Callable

from tvm import te
from tvm.ir import Expr

from tvmlayers.expr.expression import Expression, Place, size
from tvmlayers.expr.math import bind
from tvmlayers.expr.reduction import lane_sums, tree
from tvmlayers.expr.stored import as_float, half_of, read_as


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
    stored: str | None = None,
    rows_of_pairs: int = 0,
) -> Expression:
    """activation(x W + b) over row tiles and panels that store `valid` columns each.

    n is the row length of the stored result; `valid` is below `width` only for a last panel.
    strips: into how many equal strips of columns a panel is cut; a tile is as wide as a strip.
    streams: into how many equal stretches k is cut, summed side by side: a panel is then read in
    as many places at once, which memory answers faster than one.
    k_block: a divisor of k: all tiles go over so many steps of a panel before any goes on, their
    sums kept meanwhile in a scratch (tiles, rows, columns of a strip); 0 for all of k at once.
    stored: how W is kept, where that is not dtype.
    rows_of_pairs: of a panel of a bfloat16 W whose elements are words of two steps of k, the first
    one the low half; 0 where an element is one.
    Sizes: m rows, tiles = ceil(m / rows), panels.
    """
    m, tiles, panels = size("m"), size("tiles"), size("panels")
    x = te.placeholder((m, k), dtype, name="x")
    kept = stored or dtype
    element = "uint32" if rows_of_pairs else read_as(kept)
    w = te.placeholder((panels, rows_of_pairs or k, width), element, name="w")
    by_column = _ByColumn((panels, width), dtype, kept, use_bias)
    stretch = (k_block or k) // streams
    if rows_of_pairs:
        stretch -= stretch % 2  # each begins with a whole pair
        assert k_block % 2 == 0
    axis = te.reduce_axis((0, stretch), "k")

    def row(t: Expr, r: Expr) -> Expr:
        return te.min(t * rows, m - rows) + r

    columns = width // strips

    def product(p: Expr, c: Expr, t: Expr, r: Expr, j: Expr, step: Expr | int) -> Expr:
        column = c * columns + j
        if rows_of_pairs:
            pair, place = te.indexdiv(step, 2), te.indexmod(step, 2)
            return x[row(t, r), step] * half_of(w[p, pair, column], place)
        return x[row(t, r), step] * as_float(w[p, step, column], kept)

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
        value = by_column.applied(total(p, c, t, r, j), p, c * columns + j)
        return bind(value, activation)

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
        tensors=(x, w, *by_column.tensors, *scratch, out),
        sizes=(m, tiles, panels),
        places={"out": result, "sums": Place((tiles, rows, columns), lambda i: list(i[2:]))},
    )


class _ByColumn:
    """What there is for each column of a W of this shape: the scale of its codes, its bias."""

    def __init__(
        self, shape: tuple[Expr | int, ...], dtype: str, kept: str, use_bias: bool
    ) -> None:
        has_scales = kept == "int8"
        self._scales = [te.placeholder(shape, dtype, name="scales")] if has_scales else []
        self._biases = [te.placeholder(shape, dtype, name="b")] if use_bias else []
        self.tensors = [*self._scales, *self._biases]

    def applied(self, total: Expr, *column: Expr | int) -> Expr:
        """The sum of a column's products, scaled and with its bias."""
        for scale in self._scales:
            total = total * scale[column]
        for bias in self._biases:
            total = total + bias[column]
        return total


def dot_rows(
    k: int,
    *,
    lanes: int,
    rows: int,
    activation: Callable[[Expr], Expr],
    use_bias: bool,
    dtype: str,
    stored: str | None = None,
) -> Expression:
    """activation(x w + b) for a single output column, summed in `lanes` partial sums a row.

    x: (m, k), w: (k,), b: (1,), result: (m, 1). Rows come in tiles, and stored is, as in `dense`.
    """
    m, tiles = size("m"), size("tiles")
    x = te.placeholder((m, k), dtype, name="x")
    kept = stored or dtype
    w = te.placeholder((k,), read_as(kept), name="w")
    by_column = _ByColumn((1,), dtype, kept, use_bias)

    def row(t: Expr, r: Expr) -> Expr:
        return te.min(t * rows, m - rows) + r

    def product(t: Expr, r: Expr, step: Expr | int) -> Expr:
        return x[row(t, r), step] * as_float(w[step], kept)

    dots = lane_sums((tiles, rows), k, lanes, product, "acc")
    total = te.compute((tiles, rows), dots, name="total")

    def result(t: Expr, r: Expr) -> Expr:
        return bind(by_column.applied(total[t, r], 0), activation)

    out = te.compute((tiles, rows), result, name="out")
    return Expression(
        tensors=(x, w, *by_column.tensors, out),
        sizes=(m, tiles),
        places={"out": Place((m,), lambda i: [row(i[0], i[1])])},
    )
