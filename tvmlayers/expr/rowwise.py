"""Kernels over rows as plain sums and maxima, for hardware where threads share an element out.

The CPU's expressions of the same layers keep partial sums in the lanes of a vector; here how a sum
is cut up is the schedule's business. Halves are widened to float32 when they are read, and what
comes out is rounded once.
"""

from collections.abc import Sequence

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.dtypes import wide
from tvmlayers.expr import math as m
from tvmlayers.expr.dot import NORMALIZE_EPSILON
from tvmlayers.expr.expression import Expression, Place, size


def softmax(n: int, *, log: bool, dtype: str, out_dtype: str | None = None) -> Expression:
    """softmax, or its logarithm, of each of `count` rows: x (count, n) -> (count, n).

    out_dtype: of the result, where it is not that of x.
    """
    count = size("count")
    x = te.placeholder((count, n), dtype, name="x")
    highest, step = te.reduce_axis((0, n), "highest"), te.reduce_axis((0, n), "step")

    def at(i: Expr, j: Expr) -> Expr:
        return m.widened(x[i, j])

    top = te.compute((count,), lambda i: te.max(at(i, highest), axis=highest), name="top")
    total = te.compute(
        (count,), lambda i: te.sum(m.exp(at(i, step) - top[i]), axis=step), name="total"
    )

    def value(i: Expr, j: Expr) -> Expr:
        above = at(i, j) - top[i]
        result = above - m.log(total[i]) if log else m.exp(above) / total[i]
        return m.narrowed(result, out_dtype or dtype)

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
        return m.widened(a[i, j, s] if contiguous[0] else a[i, s, j])

    def at_b(i: Expr, j: Expr, s: Expr) -> Expr:
        return m.widened(b[i, j, s] if contiguous[1] else b[i, s, j])

    def total(name: str, shape: tuple[Expr | int, ...], term: object) -> te.Tensor:
        step = te.reduce_axis((0, k), f"{name}_step")
        return te.compute(shape, lambda *i: te.sum(term(*i, step), axis=step), name=name)  # type: ignore[operator]

    products = total("dots", (count, p, q), lambda i, j, l, s: at_a(i, j, s) * at_b(i, l, s))  # noqa: E741
    sums = ["dots"]

    def value(i: Expr, j: Expr, l: Expr) -> Expr:  # noqa: E741
        if not normalize:
            return products[i, j, l]
        lengths = te.max(lengths_a[i, j, l], epsilon), te.max(lengths_b[i, j, l], epsilon)
        return products[i, j, l] / (te.sqrt(lengths[0]) * te.sqrt(lengths[1]))

    if normalize:
        # Of the same index space as the products, so that one operand gives the lengths of both.
        lengths_a = total("norm_a", (count, p, q), lambda i, j, l, s: at_a(i, j, s) * at_a(i, j, s))  # noqa: E741
        lengths_b = total("norm_b", (count, p, q), lambda i, j, l, s: at_b(i, l, s) * at_b(i, l, s))  # noqa: E741
        epsilon = tirx.const(NORMALIZE_EPSILON, wide(dtype))
        sums = ["dots", "norm_a", "norm_b"]

    out = te.compute((count, p, q), lambda *i: m.narrowed(value(*i), dtype), name="out")
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
        lambda i, j, other: te.sum(
            m.widened(x[i, j, step]) * m.widened(x[i, other, step]), axis=step
        ),
        name="dots",
    )
    out = te.compute(
        (count, features, features),
        lambda i, j, other: m.narrowed(products[i, j, other], dtype),
        name="out",
    )

    def at(i: Sequence[Expr]) -> list[Expr]:
        sample, j, other = i
        place = te.indexdiv(j * (j - 1), 2) + other
        # Past the end for the other triangle: such a store is left out.
        return [sample, te.if_then_else(other < j, place, pairs)]

    return Expression(tensors=(x, out), sizes=(count,), places={"out": Place((count, pairs), at)})
