"""The dense layer, activation(x W + b), on tiles of rows and packed panels of the weight.

x: (m, k); w: (panels, k, width), W cut into panels of `width` columns and padded with zeros;
b: (panels, width); result: (m, n). Where W is kept in fewer bits it is widened to float32 as it is
read (see `KernelAs`), and scales, (panels, width), multiply the sums of codes; scales by groups of
steps, (panels, groups, width), multiply the numbers themselves.

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
from tvmlayers.expr.stored import KernelAs

UNPACKED_STEPS = 32


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
    kept: KernelAs,
) -> Expression:
    """activation(x W + b) over row tiles and panels that store `valid` columns each.

    n is the row length of the stored result; `valid` is below `width` only for a last panel.
    strips: into how many equal strips of columns a panel is cut; a tile is as wide as a strip.
    streams: into how many equal stretches k is cut, summed side by side: a panel is then read in
    as many places at once, which memory answers faster than one.
    k_block: a divisor of k: all tiles go over so many steps of a panel before any goes on, their
    sums kept meanwhile in a scratch (tiles, rows, columns of a strip); 0 for all of k at once.
    kept: how W is.
    Sizes: m rows, tiles = ceil(m / rows), panels.
    """
    m, tiles, panels = size("m"), size("tiles"), size("panels")
    x = te.placeholder((m, k), dtype, name="x")
    w = te.placeholder((panels, kept.rows, width), kept.dtype, name="w")
    by_column = _ByColumn((panels,), width, dtype, kept, use_bias)
    stretch = (k_block or k) // streams
    if kept.rows_of_pairs:
        stretch -= stretch % 2  # each begins with a whole pair
        assert k_block % 2 == 0
    axis = te.reduce_axis((0, stretch), "k")

    def row(t: Expr, r: Expr) -> Expr:
        return te.min(t * rows, m - rows) + r

    columns = width // strips

    def product(p: Expr, c: Expr, t: Expr, r: Expr, j: Expr, step: Expr | int) -> Expr:
        return x[row(t, r), step] * kept.number(w, by_column.scales, p, step, c * columns + j)

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
        depth=2 if kept.rows_of_pairs else kept.depth,
    )


class _ByColumn:
    """What there is for each column of a W: the scales of its codes, its bias."""

    def __init__(
        self,
        panels: tuple[Expr, ...],
        width: int,
        dtype: str,
        kept: KernelAs,
        use_bias: bool,
    ) -> None:
        groups = (kept.groups,) if kept.groups else ()
        self._kept = kept
        self.scales = (
            te.placeholder((*panels, *groups, width), dtype, name="scales")
            if kept.has_scales
            else None
        )
        self._biases = [te.placeholder((*panels, width), dtype, name="b")] if use_bias else []
        scales = [] if self.scales is None else [self.scales]
        self.tensors = [*scales, *self._biases]

    def applied(self, total: Expr, *column: Expr | int) -> Expr:
        """The sum of a column's products, scaled and with its bias."""
        if self._kept.has_column_scales and self.scales is not None:
            total = total * self.scales[column]
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
    kept: KernelAs,
) -> Expression:
    """activation(x w + b) for a single output column, summed in `lanes` partial sums a row.

    x: (m, k), w: (k, 1), b: (1,), result: (m, 1). Rows come in tiles, and kept is, as in `dense`.
    """
    m, tiles = size("m"), size("tiles")
    x = te.placeholder((m, k), dtype, name="x")
    w = te.placeholder((k, 1), kept.dtype, name="w")
    by_column = _ByColumn((), 1, dtype, kept, use_bias)

    def row(t: Expr, r: Expr) -> Expr:
        return te.min(t * rows, m - rows) + r

    def product(t: Expr, r: Expr, step: Expr | int) -> Expr:
        return x[row(t, r), step] * kept.number(w, by_column.scales, step, 0)

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


def unpacked(kept: KernelAs, width: int) -> Expression:
    """A panel of W, from 32 * start steps of k on, as float32: all but the scales of whole columns.

    Sizes: start; count, of rows of elements. The result is (count * depth, width).
    """
    start, count = size("start"), size("count")
    w = te.placeholder((kept.rows, width), kept.dtype, name="w")
    scales = te.placeholder((max(kept.groups, 1), width), "float32", name="scales")

    def number(row: Expr, step: Expr, column: Expr) -> Expr:
        at = (start * (UNPACKED_STEPS // kept.depth) + row) * kept.depth + step
        return kept.number(w, scales, at, column)

    out = te.compute((count, kept.depth, width), number, name="out")
    return Expression(tensors=(w, *([scales] if kept.groups else []), out), sizes=(start, count))
