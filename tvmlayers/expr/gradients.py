"""Gradients of weights, as tiles of sums over the batch that an update takes the place of.

The result of each is named "out" and lies where the weight does: `codegen.private` puts an
optimiser's formula where a gradient would be stored. A long batch comes in blocks: `adding` sums
them up beside the weight, and `completed` is the rule that takes that sum with the last block.
"""

from __future__ import annotations

from tvm import te
from tvm.ir import Expr

from tvmlayers.expr.expression import Expression, Place, size
from tvmlayers.expr.optimizers import Elements, Rule


def weight_gradient(
    *, rows: int, width: int, stored: int, x_length: int, dy_length: int, dtype: str
) -> Expression:
    """x^T dy in tiles of `rows` features by `width` columns.

    x: (m, x_length) from the first feature on; dy: (m, dy_length) from the first column on;
    result: (tiles * rows, stored), of which `width` columns are made. Sizes: m samples, tiles.
    """
    m, tiles = size("m"), size("tiles")
    x = te.placeholder((m, x_length), dtype, name="x")
    dy = te.placeholder((m, dy_length), dtype, name="dy")
    sample = te.reduce_axis((0, m), "sample")
    acc = te.compute(
        (tiles, rows, width),
        lambda t, r, j: te.sum(x[sample, t * rows + r] * dy[sample, j], axis=sample),
        name="acc",
    )
    out = te.compute((tiles, rows, width), lambda t, r, j: acc[t, r, j], name="out")
    place = Place((tiles * rows, stored), lambda i: [i[0] * rows + i[1], i[2]])
    return Expression(tensors=(x, dy, out), sizes=(m, tiles), places={"out": place})


def bias_gradient(*, width: int, dy_length: int, dtype: str) -> Expression:
    """The sum of dy over the batch: dy (m, dy_length) from the first column on -> (1, width).

    tiles: 1, for it to be scheduled as `weight_gradient`.
    """
    m, tiles = size("m"), size("tiles")
    dy = te.placeholder((m, dy_length), dtype, name="dy")
    sample = te.reduce_axis((0, m), "sample")

    def total(t: Expr, r: Expr, j: Expr) -> Expr:
        return te.sum(dy[sample, j], axis=sample)

    acc = te.compute((tiles, 1, width), total, name="acc")
    out = te.compute((tiles, 1, width), lambda t, r, j: acc[t, r, j], name="out")
    place = Place((tiles, width), lambda i: [i[0], i[2]])
    return Expression(tensors=(dy, out), sizes=(m, tiles), places={"out": place})


def adding() -> Rule:
    """The gradient of a block of the batch is added to what lies there."""
    return Rule(0, 0, lambda rate, step: [], lambda *_: [], lambda numbers, w, g, new: w + g)


def collecting() -> Rule:
    """The gradient takes the place of what lies there."""
    return Rule(0, 0, lambda rate, step: [], lambda *_: [], lambda numbers, w, g, new: g)


def completed(rule: Rule) -> Rule:
    """`rule` for the last block; its first state is the sum of the blocks before."""

    def state(numbers: Elements, w: Expr, g: Expr, old: Elements) -> Elements:
        before, *others = old
        return rule.state(numbers, w, g + before, others)

    def weight(numbers: Elements, w: Expr, g: Expr, new: Elements) -> Expr:
        before, *others = new
        return rule.weight(numbers, w, g + before, others)

    return Rule(rule.slots + 1, rule.count, rule.numbers, state, weight, kept=1)
