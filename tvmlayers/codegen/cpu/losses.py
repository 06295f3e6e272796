"""The losses as kernels: for each sample its loss, and the gradient of the output in the same pass.

`f(y_pred, y_true, sample_weight, numbers, gradient, loss, [flag], count)` where numbers are 1 over
the samples of the whole batch, and whether sample_weight counts (else 1 or 0). The flag is set for
a class that is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.columns import (
    each_lane,
    lanes_of,
    local,
    number,
    over_columns,
    parameters,
    put,
)
from tvmlayers.codegen.cpu.kernel import Functions, Kernel, elements
from tvmlayers.codegen.cpu.rows import Pointer, call_core, fixed, row_kernel
from tvmlayers.expr import math as m
from tvmlayers.expr.losses import Pointwise, pointwise
from tvmlayers.expr.reduction import tree
from tvmlayers.training import losses

LABELS = "int64"


@dataclass(frozen=True)
class _Row:
    """What the function has for one sample: views of all rows, where its row begins, the weight of
    its loss, and that over the batch's size."""

    prediction: Buffer
    truth: Buffer
    gradient: Buffer
    loss: Buffer
    flag: Buffer | None
    i: Expr
    weight: Expr
    scale: Expr


def loss_kernel(name: str, loss: losses.Loss, n: int, lanes: int, dtype: str) -> Kernel:
    """The kernel for outputs of n columns."""
    truth_dtype, truth_columns = (LABELS, 1) if loss.is_sparse else (dtype, n)
    pointers = [
        Pointer("y_pred", dtype, fixed(n)),
        Pointer("y_true", truth_dtype, fixed(truth_columns)),
        Pointer("sample_weight", dtype, fixed(1)),
        Pointer("numbers", dtype, fixed(0)),
        Pointer("gradient", dtype, fixed(n)),
        Pointer("loss", dtype, fixed(1)),
        *([Pointer("flag", "int32", fixed(0))] if loss.is_sparse else []),
    ]
    write = _writer(loss, n, lanes, dtype)

    def body() -> None:
        kinds = {p.name: f"*{p.dtype}" for p in pointers}
        *views, count = parameters(**kinds, count="int64")
        given = dict(zip(kinds, views, strict=True))
        prepare = write()
        with emit.loop(emit.i64(0), count) as i:
            numbers = given["numbers"]
            weight = local(1, dtype)
            put(weight, 0, number(1.0, dtype))
            weighted = numbers[emit.i64(1)] > number(0.5, dtype)
            emit.when(weighted, lambda: put(weight, 0, given["sample_weight"][i]))
            own = emit.bound(weight[emit.i64(0)])
            scale = emit.bound(own * numbers[emit.i64(0)])
            prepare(
                _Row(
                    given["y_pred"],
                    given["y_true"],
                    given["gradient"],
                    given["loss"],
                    given.get("flag"),
                    i,
                    own,
                    scale,
                )
            )

    made = GlobalVar(f"{name}_rows")
    functions: Functions = {made: emit.noinline(emit.private(body))}
    kernel = row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        4 * n * np.dtype(dtype).itemsize,
        call_core(made, pointers),
        lambda shapes: [elements(shapes[0][:1])],
        {},
    )
    kernel.checks = ({"kind": "label", "classes": n},) if loss.is_sparse else ()
    return kernel


Writer = Callable[[], Callable[[_Row], None]]
"""Writes what comes before the loop over rows, and gives what writes the work of one."""


def _writer(loss: losses.Loss, n: int, lanes: int, dtype: str) -> Writer:
    formula = pointwise(loss)
    if formula is not None:
        return partial(_mean, formula, n, lanes, dtype)
    if isinstance(loss, losses.CosineSimilarity):
        return partial(_cosine, n, lanes, dtype)
    assert isinstance(loss, losses.SparseCategoricalCrossentropy | losses.CategoricalCrossentropy)
    return partial(_cross_entropy, loss, n, lanes, dtype)


def _mean(formula: Pointwise, n: int, lanes: int, dtype: str) -> Callable[[_Row], None]:
    """The mean over the columns of a loss of each."""
    total = local(lanes, dtype)
    share = number(1.0 / n, dtype)

    def row(at: _Row) -> None:
        each_lane(lanes, lambda lane: put(total, lane, number(0.0, dtype)))
        scale = emit.bound(at.scale * share)

        def column(j: Expr, lane: Expr) -> None:
            place = at.i * emit.i64(n) + j
            y, p = at.truth[place], at.prediction[place]
            put(total, lane, total[lane] + formula.value(y, p))
            put(at.gradient, place, formula.derivative(y, p) * scale)

        over_columns(n, lanes, column)
        put(at.loss, at.i, tree(lanes_of(total, lanes if n >= lanes else 1)) * share * at.weight)

    return row


def _cross_entropy(
    loss: losses.SparseCategoricalCrossentropy | losses.CategoricalCrossentropy,
    n: int,
    lanes: int,
    dtype: str,
) -> Callable[[_Row], None]:
    """log(sum of exp(z)) * sum of t - sum of t z, t the targets: and softmax(z) * sum of t - t."""
    padded = -(-n // lanes) * lanes
    logits, powers = local(padded, dtype), local(padded, dtype)
    parts = {each: local(lanes, dtype) for each in ("high", "power", "target", "product")}
    least, zero = number(float("-inf"), dtype), number(0.0, dtype)
    if padded > n:
        with T.serial(emit.i64(n), emit.i64(padded)) as j:
            put(logits, j, least)
    smoothing = loss.label_smoothing
    kept, share = number(1.0 - smoothing, dtype), number(smoothing / n, dtype)

    def row(at: _Row) -> None:
        begin = emit.bound(at.i * emit.i64(n))
        over_columns(n, lanes, lambda j, _: put(logits, j, at.prediction[begin + j]))
        for each, value in zip(parts.values(), (least, zero, zero, zero), strict=True):
            each_lane(lanes, lambda lane, each=each, value=value: put(each, lane, value))  # type: ignore[misc]
        high, power = parts["high"], parts["power"]
        over_columns(padded, lanes, lambda j, lane: put(high, lane, te.max(high[lane], logits[j])))
        top = emit.bound(tree(lanes_of(high, lanes), te.max))

        def exponential(j: Expr, lane: Expr) -> None:
            put(powers, j, m.exp(logits[j] - top))
            put(power, lane, power[lane] + powers[j])

        over_columns(padded, lanes, exponential)
        total = emit.bound(tree(lanes_of(power, lanes)))
        normal = emit.bound(m.log(total) + top)
        finish = _sparse if loss.is_sparse else _dense
        finish(at, begin, total, normal)

    def sums(begin: Expr, target: Callable[[Expr], Expr] | None) -> tuple[Expr, Expr]:
        """(sum of the targets, sum of targets times logits); of logits alone without targets."""

        def add(j: Expr, lane: Expr) -> None:
            t = number(1.0, dtype) if target is None else target(j)
            put(parts["target"], lane, parts["target"][lane] + t)
            put(parts["product"], lane, parts["product"][lane] + t * logits[j])

        over_columns(n, lanes, add)
        found = [tree(lanes_of(parts[each], lanes)) for each in ("target", "product")]
        return emit.bound(found[0]), emit.bound(found[1])

    def _sparse(at: _Row, begin: Expr, total: Expr, normal: Expr) -> None:
        label = emit.bound(at.truth[at.i])
        wrong = emit.bound(tirx.any(label < emit.i64(0), label >= emit.i64(n)))
        assert at.flag is not None
        flag = at.flag
        emit.when(wrong, lambda: put(flag, 0, tirx.const(1, "int32")))
        safe = emit.bound(tirx.Select(wrong, emit.i64(0), label))
        if smoothing:
            _, every = sums(begin, None)
            put(at.loss, at.i, (normal - kept * logits[safe] - share * every) * at.weight)
        else:
            put(at.loss, at.i, (normal - logits[safe]) * at.weight)
        factor = emit.bound(at.scale / total)

        def column(j: Expr, _: Expr) -> None:
            value = powers[j] * factor
            put(at.gradient, begin + j, value - share * at.scale if smoothing else value)

        over_columns(n, lanes, column)
        place = begin + safe
        put(at.gradient, place, at.gradient[place] - kept * at.scale)

    def _dense(at: _Row, begin: Expr, total: Expr, normal: Expr) -> None:
        def target(j: Expr) -> Expr:
            t = at.truth[begin + j]
            return t * kept + share if smoothing else t

        every, product = sums(begin, target)
        put(at.loss, at.i, (normal * every - product) * at.weight)
        factor = emit.bound(at.scale * every / total)
        over_columns(
            n,
            lanes,
            lambda j, _: put(at.gradient, begin + j, powers[j] * factor - target(j) * at.scale),
        )

    return row


_LEAST_SQUARE = 1e-12


def _cosine(n: int, lanes: int, dtype: str) -> Callable[[_Row], None]:
    """-y.p / (|y| |p|), and -(y / |y| - p (y.p) / (|y| |p|^2)) / |p|."""
    names = ("product", "truth", "prediction")
    sums = {each: local(lanes, dtype) for each in names}

    def row(at: _Row) -> None:
        begin = emit.bound(at.i * emit.i64(n))
        for each in sums.values():
            each_lane(lanes, lambda lane, each=each: put(each, lane, number(0.0, dtype)))  # type: ignore[misc]

        def add(j: Expr, lane: Expr) -> None:
            y, p = at.truth[begin + j], at.prediction[begin + j]
            for each, term in zip(names, (y * p, y * y, p * p), strict=True):
                put(sums[each], lane, sums[each][lane] + term)

        over_columns(n, lanes, add)
        product, y_square, p_square = (emit.bound(tree(lanes_of(sums[e], lanes))) for e in names)
        least, one = number(_LEAST_SQUARE, dtype), number(1.0, dtype)
        over_y, over_p = (
            emit.bound(one / te.sqrt(te.max(square, least))) for square in (y_square, p_square)
        )
        cosine = emit.bound(product * over_y * over_p)
        put(at.loss, at.i, -cosine * at.weight)
        # A length below the least is a constant, whose derivative is 0.
        own = tirx.Select(p_square > least, cosine * over_p * over_p, number(0.0, dtype))
        towards, back = emit.bound(at.scale * over_y * over_p), emit.bound(at.scale * own)

        def column(j: Expr, _: Expr) -> None:
            place = begin + j
            put(at.gradient, place, at.prediction[place] * back - at.truth[place] * towards)

        over_columns(n, lanes, column)

    return row
