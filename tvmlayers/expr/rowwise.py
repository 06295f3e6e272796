"""Kernels over rows as plain sums and maxima, for hardware where threads share an element out.

The CPU's expressions of the same layers keep partial sums in the lanes of a vector; here how a sum
is cut up is the schedule's business.
"""

from collections.abc import Sequence

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.expr import math as m
from tvmlayers.expr.dot import NORMALIZE_EPSILON
from tvmlayers.expr.expression import Expression, Place, size


def softmax(n: int, *, log: bool, dtype: str) -> Expression:
    """softmax, or its logarithm, of each of `count` rows: x (count, n) -> (count, n)."""
    count = size("count")
    x = te.placeholder((count, n), dtype, name="x")
    highest, step = te.reduce_axis((0, n), "highest"), te.reduce_axis((0, n), "step")
    top = te.compute((count,), lambda i: te.max(x[i, highest], axis=highest), name="top")
    total = te.compute(
        (count,), lambda i: te.sum(m.exp(x[i, step] - top[i]), axis=step), name="total"
    )

    def value(i: Expr, j: Expr) -> Expr:
        above = x[i, j] - top[i]
        return above - m.log(total[i]) if log else m.exp(above) / total[i]

    out = te.compute((count, n), value, name="out")
    return Expression(tensors=(x, out), sizes=(count,))


def joined(widths: Sequence[int], dtype: str) -> Expression:
    """Rows side by side: x0 (count, widths[0]), x1, ... -> (count, sum of widths)."""
    count = size("count")
    parts = [te.placeholder((count, w), dtype, name=f"x{i}") for i, w in enumerate(widths)]

    def value(i: Expr, j: Expr) -> Expr:
        begin = sum(widths[:-1])
        read = parts[-1][i, j - begin]
        for part, width in zip(reversed(parts[:-1]), reversed(widths[:-1]), strict=True):
            begin -= width
            read = te.if_then_else(j < begin + width, part[i, j - begin], read)
        return read

    out = te.compute((count, sum(widths)), value, name="out")
    return Expression(tensors=(*parts, out), sizes=(count,))


def dots(
    a_shape: tuple[int, int],
    b_shape: tuple[int, int],
    *,
    normalize: bool,
    contiguous: tuple[bool, bool],
    dtype: str,
) -> tuple[Expression, list[str]]:
    """(expression, names of its sums) of `expr.dot.dot`: a (count, p, k), b (count, q, k)."""
    count = size("count")
    (p, k), (q, _) = a_shape, b_shape
    a = te.placeholder((count, p, k) if contiguous[0] else (count, k, p), dtype, name="a")
    b = te.placeholder((count, q, k) if contiguous[1] else (count, k, q), dtype, name="b")

    def at_a(i: Expr, j: Expr, s: Expr) -> Expr:
        return a[i, j, s] if contiguous[0] else a[i, s, j]

    def at_b(i: Expr, j: Expr, s: Expr) -> Expr:
        return b[i, j, s] if contiguous[1] else b[i, s, j]

    def total(name: str, shape: tuple[Expr | int, ...], term: object) -> te.Tensor:
        step = te.reduce_axis((0, k), f"{name}_step")
        return te.compute(shape, lambda *i: te.sum(term(*i, step), axis=step), name=name)  # type: ignore[operator]

    products = total("dots", (count, p, q), lambda i, j, l, s: at_a(i, j, s) * at_b(i, l, s))  # noqa: E741
    sums, value = ["dots"], lambda i, j, l: products[i, j, l]  # noqa: E741
    if normalize:
        # Of the same index space as the products, so that whoever has one has its lengths.
        lengths_a = total("norm_a", (count, p, q), lambda i, j, l, s: at_a(i, j, s) * at_a(i, j, s))  # noqa: E741
        lengths_b = total("norm_b", (count, p, q), lambda i, j, l, s: at_b(i, l, s) * at_b(i, l, s))  # noqa: E741
        epsilon = tirx.const(NORMALIZE_EPSILON, dtype)
        sums = ["dots", "norm_a", "norm_b"]

        def value(i: Expr, j: Expr, l: Expr) -> Expr:  # noqa: E741
            lengths = te.max(lengths_a[i, j, l], epsilon), te.max(lengths_b[i, j, l], epsilon)
            return products[i, j, l] / (te.sqrt(lengths[0]) * te.sqrt(lengths[1]))

    out = te.compute((count, p, q), value, name="out")
    return Expression(tensors=(a, b, out), sizes=(count,)), sums


def all_pairs(features: int, k: int, *, dtype: str) -> Expression:
    """Dot products of each vector of a sample with those before it: x (count, features, k) ->
    (count, features * (features - 1) / 2), the strict lower triangle of the Gram matrix by rows.
    """
    count, pairs = size("count"), features * (features - 1) // 2
    x = te.placeholder((count, features, k), dtype, name="x")
    step = te.reduce_axis((0, k), "step")
    products = te.compute(
        (count, features, features),
        lambda i, j, other: te.sum(x[i, j, step] * x[i, other, step], axis=step),
        name="dots",
    )
    out = te.compute(
        (count, features, features), lambda i, j, other: products[i, j, other], name="out"
    )

    def at(i: Sequence[Expr]) -> list[Expr]:
        sample, j, other = i
        place = te.indexdiv(j * (j - 1), 2) + other
        # Past the end for the other triangle: such a store is left out.
        return [sample, te.if_then_else(other < j, place, pairs)]

    return Expression(tensors=(x, out), sizes=(count,), places={"out": Place((count, pairs), at)})
