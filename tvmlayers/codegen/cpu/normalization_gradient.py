"""The backward pass of the normalisations of rows, and the update of weights of one axis.

Of y = x_hat * gamma + beta, x_hat = (x - mean) * r: with d = dy * gamma,
dx = r * (d - mean(d) - x_hat * mean(d * x_hat)); where no mean is taken off, none is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Buffer

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.backward import written_rows
from tvmlayers.codegen.cpu.columns import (
    each_lane,
    lanes_of,
    local,
    number,
    over_columns,
    parameters,
    put,
)
from tvmlayers.codegen.cpu.kernel import Functions, Kernel, core, elements
from tvmlayers.codegen.cpu.rows import Pointer, fixed
from tvmlayers.codegen.cpu.units import Units
from tvmlayers.expr.gradients import bias_gradient
from tvmlayers.expr.optimizers import Rule
from tvmlayers.expr.reduction import tree
from tvmlayers.spaces.gradients import gradient_tiles

_CHUNK = 64  # columns of a unit


@dataclass(frozen=True)
class RowScale:
    """How rows are normalised: whether their mean is taken off, or they become vectors of length 1;
    epsilon: what is added to the mean square, of the latter the least square of a length that
    counts. has_scale: whether there is a gamma."""

    width: int
    is_centred: bool
    is_unit: bool
    epsilon: float
    has_scale: bool


def normalization_gradient(
    name: str, spec: RowScale, lanes: int, dtype: str, row_axes: int
) -> Kernel:
    """`f(x, dy, [gamma, products], out, count)`; products: dy * x_hat, whose sum over the batch is
    the gradient of gamma."""
    width = spec.width

    def body() -> None:
        names = ["x", "dy", *(["gamma", "products"] if spec.has_scale else []), "out"]
        *views, count = parameters(**dict.fromkeys(names, f"*{dtype}"), count="int64")
        given: dict[str, Buffer] = dict(zip(names, views, strict=True))
        parts = [local(lanes, dtype) for _ in range(2)]
        zero, one, over = (number(v, dtype) for v in (0.0, 1.0, 1.0 / width))

        def sums(*terms: object) -> list[Expr]:
            """The sum over the row of each term, a function of the column."""
            for part in parts:
                each_lane(lanes, lambda lane, part=part: put(part, lane, zero))  # type: ignore[misc]

            def add(j: Expr, lane: Expr) -> None:
                for part, term in zip(parts, terms, strict=False):
                    put(part, lane, part[lane] + term(j))  # type: ignore[operator]

            over_columns(width, lanes, add)
            return [
                emit.bound(tree(lanes_of(part, lanes)))
                for part, _ in zip(parts, terms, strict=False)
            ]

        with emit.loop(emit.i64(0), count) as i:
            begin = emit.bound(i * emit.i64(width))
            x, dy = given["x"], given["dy"]
            mean: Expr = zero
            if spec.is_centred:
                (total,) = sums(lambda j: x[begin + j])
                mean = emit.bound(total * over)

            def rest(j: Expr) -> Expr:
                return x[begin + j] - mean if spec.is_centred else x[begin + j]

            (square,) = sums(lambda j: rest(j) * rest(j))
            epsilon = number(spec.epsilon, dtype)
            scaled = te.max(square, epsilon) if spec.is_unit else square * over + epsilon
            root = emit.bound(one / te.sqrt(scaled))

            def slope(j: Expr) -> Expr:
                d = dy[begin + j]
                return d * given["gamma"][j] if spec.has_scale else d

            product, total = sums(lambda j: slope(j) * rest(j), slope)
            back = product * root * root * (one if spec.is_unit else over)
            if spec.is_unit:
                back = tirx.Select(square > epsilon, back, zero)
            back = emit.bound(back)
            middle = emit.bound(total * over if spec.is_centred else zero)

            def column(j: Expr, _: Expr) -> None:
                if spec.has_scale:
                    put(given["products"], begin + j, dy[begin + j] * rest(j) * root)
                value = slope(j) - rest(j) * back
                put(given["out"], begin + j, root * (value - middle if spec.is_centred else value))

            over_columns(width, lanes, column)

    names = ["x", "dy", *(["gamma", "products"] if spec.has_scale else []), "out"]
    pointers = [Pointer(n, dtype, fixed(0 if n == "gamma" else width)) for n in names]
    return written_rows(
        name, body, pointers, lambda s: [elements(s[0][:row_axes])], ["count"], 4 * width
    )


def column_update(name: str, width: int, rule: Rule, lanes: int, dtype: str) -> Units:
    """`f(dy, w, states, numbers, n, unit, units)`: w (width,) follows the sum of dy (n, width)."""
    functions: Functions = {}
    whole, vectors, scalars = width // _CHUNK, width % _CHUNK // lanes * lanes, width % lanes
    schedule = {}
    for label, columns, own_lanes in (
        ("chunk", _CHUNK if whole else 0, lanes),
        ("vectors", vectors, lanes),
        ("scalars", scalars, 1),
    ):
        if columns:
            expression = bias_gradient(width=columns, dy_length=width, dtype=dtype)
            tiles = partial(gradient_tiles, lanes=own_lanes)
            made, function = core(f"{name}_{label}", expression, tiles, rule=rule)
            functions[made] = function
            schedule[label] = made
    names = ["w", *(f"state{i}" for i in range(rule.slots))]

    def body() -> None:
        kinds = dict.fromkeys(("dy", *names, "numbers"), f"*{dtype}")
        pointers = {each: emit.argument(each, kind) for each, kind in kinds.items()}
        n, unit, _ = (emit.argument(each, "int64") for each in ("n", "unit", "units"))

        def columns(label: str, first: Expr | int) -> None:
            if label in schedule:
                places = [emit.offset(pointers[each], first) for each in ("dy", *names)]
                emit.call(schedule[label], *places, pointers["numbers"], n, emit.i64(1))

        def last() -> None:
            columns("vectors", whole * _CHUNK)
            columns("scalars", whole * _CHUNK + vectors)

        chunk = partial(columns, "chunk", emit.bound(unit * emit.i64(_CHUNK)))
        emit.chain([(unit < emit.i64(whole), chunk), (None, last)])

    entry = GlobalVar(name)
    functions[entry] = emit.private(body)
    return Units(entry, functions, lambda _: emit.i64(whole + bool(vectors or scalars)))
