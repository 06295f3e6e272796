"""Dot products between vectors of the same sample: Dot and the pairwise interaction of DLRM."""

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.expr.expression import Expression, size
from tvmlayers.expr.reduction import lane_sums

# Keras's l2_normalize: x * rsqrt(max(sum(x^2), epsilon))
NORMALIZE_EPSILON = 1e-12


def dot(
    a_shape: tuple[int, int],
    b_shape: tuple[int, int],
    *,
    normalize: bool,
    contiguous: tuple[bool, bool],
    lanes: int,
    dtype: str,
) -> Expression:
    """Dot products of the rows of a (count, p, k) with those of b (count, q, k) -> (count, p, q).

    contiguous: whether k is the last axis of a, and of b; else it is the one before it.
    With `normalize` both rows are divided by their length first (cosine proximity).
    """
    count = size("count")
    (p, k), (q, _) = a_shape, b_shape
    a = te.placeholder((count, p, k) if contiguous[0] else (count, k, p), dtype, name="a")
    b = te.placeholder((count, q, k) if contiguous[1] else (count, k, q), dtype, name="b")

    def at_a(i: Expr, j: Expr, s: Expr) -> Expr:
        return a[i, j, s] if contiguous[0] else a[i, s, j]

    def at_b(i: Expr, j: Expr, s: Expr) -> Expr:
        return b[i, j, s] if contiguous[1] else b[i, s, j]

    dots = lane_sums(
        (count, p, q), k, lanes, lambda i, j, other, s: at_a(i, j, s) * at_b(i, other, s), "dots"
    )
    if not normalize:
        out = te.compute((count, p, q), dots, name="out")
        return Expression(tensors=(a, b, out), sizes=(count,))
    lengths_a = lane_sums(
        (count, p), k, lanes, lambda i, j, s: at_a(i, j, s) * at_a(i, j, s), "norm_a"
    )
    lengths_b = lane_sums(
        (count, q), k, lanes, lambda i, j, s: at_b(i, j, s) * at_b(i, j, s), "norm_b"
    )
    epsilon = tirx.const(NORMALIZE_EPSILON, dtype)

    def scaled(i: Expr, j: Expr, l: Expr) -> Expr:  # noqa: E741 - the field's i, j, l
        lengths = te.max(lengths_a(i, j), epsilon), te.max(lengths_b(i, l), epsilon)
        return dots(i, j, l) / (te.sqrt(lengths[0]) * te.sqrt(lengths[1]))

    out = te.compute((count, p, q), scaled, name="out")
    return Expression(tensors=(a, b, out), sizes=(count,))


def pairwise_dots(features: int, k: int, *, lanes: int, dtype: str) -> Expression:
    """Dot products of vector j of one sample with those before it: x (features, k) -> (j,).

    For j = 1, 2, ... in turn these are the strict lower triangle of the Gram matrix by rows:
    (1, 0), (2, 0), (2, 1), ... (Naumov et al. 2019, DLRM).
    """
    j = size("j")
    x = te.placeholder((features, k), dtype, name="x")
    dots = lane_sums((j,), k, lanes, lambda i, s: x[j, s] * x[i, s], "dots")
    out = te.compute((j,), dots, name="out")
    return Expression(tensors=(x, out), sizes=(j,))
