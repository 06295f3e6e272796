"""Kernels of the backward pass of layers that join or contract vectors."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx.script.builder import ir as T

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
from tvmlayers.codegen.cpu.kernel import Kernel, axis, elements
from tvmlayers.codegen.cpu.rows import Pointer, fixed
from tvmlayers.expr.dot import NORMALIZE_EPSILON
from tvmlayers.expr.reduction import tree


def part_of_columns(
    name: str, total: int, first: int, width: int, lanes: int, dtype: str, row_axes: int
) -> Kernel:
    """Columns first.. of a gradient (count, total): those of one tensor of a concatenation.

    row_axes: how many axes of it make up the rows.
    """

    def body() -> None:
        x, out, count = parameters(x=f"*{dtype}", out=f"*{dtype}", count="int64")
        with emit.loop(emit.i64(0), count) as i:
            begin = emit.bound(i * emit.i64(total) + emit.i64(first))
            to = emit.bound(i * emit.i64(width))
            over_columns(width, lanes, lambda j, _: put(out, to + j, x[begin + j]))

    pointers = [Pointer("x", dtype, fixed(total)), Pointer("out", dtype, fixed(width))]
    return written_rows(
        name, body, pointers, lambda s: [elements(s[0][:row_axes])], ["count"], 2 * width
    )


def into_columns(name: str, total: int, first: int, width: int, lanes: int, dtype: str) -> Kernel:
    """Rows (count, width) as columns first.. of out (count, total), which others fill besides."""

    def body() -> None:
        x, out, count = parameters(x=f"*{dtype}", out=f"*{dtype}", count="int64")
        with emit.loop(emit.i64(0), count) as i:
            begin = emit.bound(i * emit.i64(width))
            to = emit.bound(i * emit.i64(total) + emit.i64(first))
            over_columns(width, lanes, lambda j, _: put(out, to + j, x[begin + j]))

    pointers = [Pointer("x", dtype, fixed(width)), Pointer("out", dtype, fixed(total))]
    return written_rows(name, body, pointers, lambda s: [axis(s[0][0])], ["count"], 2 * width)


def rows_of_bags(
    name: str, width: int, lanes: int, dtype: str, *, index_dtype: str, skipped: int | None
) -> Kernel:
    """The gradient of each bag (count, width) once for every index of it, 0 for skipped ones.

    `f(indices, dy, out, count, length)`; out (count, length, width).
    """

    def body() -> None:
        indices, dy, out, count, length = parameters(
            indices=f"*{index_dtype}",
            dy=f"*{dtype}",
            out=f"*{dtype}",
            count="int64",
            length="int64",
        )
        zero, one = number(0.0, dtype), number(1.0, dtype)
        with emit.loop(emit.i64(0), count) as i, emit.loop(emit.i64(0), length) as j:
            place = emit.bound(i * length + j)
            factor: Expr = one
            if skipped is not None:
                is_skipped = emit.i64(indices[place]) == emit.i64(skipped)
                factor = emit.bound(tirx.Select(is_skipped, zero, one))
            begin, to = emit.bound(i * emit.i64(width)), emit.bound(place * emit.i64(width))
            over_columns(width, lanes, lambda k, _: put(out, to + k, dy[begin + k] * factor))

    pointers = [
        Pointer("indices", index_dtype, lambda s: s["length"]),
        Pointer("dy", dtype, fixed(width)),
        Pointer("out", dtype, lambda s: s["length"] * emit.i64(width)),
    ]
    names = ["count", "length"]
    return written_rows(
        name, body, pointers, lambda s: [axis(s[0][0]), axis(s[0][1])], names, 2 * width
    )


def interaction_gradient(name: str, features: int, width: int, lanes: int, dtype: str) -> Kernel:
    """Of the dot products of pairs of vectors: dx_i = sum over j of dy_ij x_j.

    `f(x, dy, out, count)`: x and out (count, features, width), dy (count, pairs).
    """
    pairs = features * (features - 1) // 2

    def pair(i: int, j: int) -> int:
        high, low = max(i, j), min(i, j)
        return high * (high - 1) // 2 + low

    def body() -> None:
        floats = dict.fromkeys(("x", "dy", "out"), f"*{dtype}")
        x, dy, out, count = parameters(**floats, count="int64")
        with emit.loop(emit.i64(0), count) as row:
            begin = emit.bound(row * emit.i64(features * width))
            given = emit.bound(row * emit.i64(pairs))
            for i in range(features):
                others = [j for j in range(features) if j != i]

                def column(k: Expr, _: Expr, i: int = i, others: list[int] = others) -> None:
                    terms = [
                        dy[given + emit.i64(pair(i, j))] * x[begin + emit.i64(j * width) + k]
                        for j in others
                    ]
                    put(out, begin + emit.i64(i * width) + k, tree(terms))

                over_columns(width, lanes, column)

    pointers = [
        Pointer("x", dtype, fixed(features * width)),
        Pointer("dy", dtype, fixed(pairs)),
        Pointer("out", dtype, fixed(features * width)),
    ]
    cost = 2 * features * width
    return written_rows(name, body, pointers, lambda s: [axis(s[0][0])], ["count"], cost)


def dot_gradient(name: str, width: int, lanes: int, dtype: str, *, normalize: bool) -> Kernel:
    """Of y = a.b: da = dy b; of the cosine dy (b / (|a| |b|) - a y / |a|^2).

    `f(a, b, dy, out, count)`, vectors of `width` numbers. A square of a length below that of
    Keras's epsilon counts as that, and is a constant.
    """

    def body() -> None:
        floats = dict.fromkeys(("a", "b", "dy", "out"), f"*{dtype}")
        a, b, dy, out, count = parameters(**floats, count="int64")
        names = ("product", "a", "b")
        sums = {each: local(lanes, dtype) for each in names}
        least, one, zero = (number(v, dtype) for v in (NORMALIZE_EPSILON, 1.0, 0.0))
        with emit.loop(emit.i64(0), count) as i:
            begin = emit.bound(i * emit.i64(width))
            if not normalize:
                over_columns(width, lanes, lambda j, _: put(out, begin + j, dy[i] * b[begin + j]))
                return
            for each in sums.values():
                each_lane(lanes, lambda lane, each=each: put(each, lane, zero))  # type: ignore[misc]

            def add(j: Expr, lane: Expr) -> None:
                left, right = a[begin + j], b[begin + j]
                terms = (left * right, left * left, right * right)
                for each, term in zip(names, terms, strict=True):
                    put(sums[each], lane, sums[each][lane] + term)

            over_columns(width, lanes, add)
            product, left, right = (emit.bound(tree(lanes_of(sums[e], lanes))) for e in names)
            over_a, over_b = (
                emit.bound(one / te.sqrt(te.max(square, least))) for square in (left, right)
            )
            towards = emit.bound(dy[i] * over_a * over_b)
            back = tirx.Select(left > least, product * over_a * over_a, zero)
            back = emit.bound(towards * back)

            def column(j: Expr, _: Expr) -> None:
                put(out, begin + j, b[begin + j] * towards - a[begin + j] * back)

            over_columns(width, lanes, column)

    pointers = [
        Pointer("a", dtype, fixed(width)),
        Pointer("b", dtype, fixed(width)),
        Pointer("dy", dtype, fixed(1)),
        Pointer("out", dtype, fixed(width)),
    ]
    return written_rows(name, body, pointers, lambda s: [axis(s[0][0])], ["count"], 3 * width)


@dataclass(frozen=True)
class DotOperand:
    """A tensor of `count` vectors of `length` for each sample: (batch, count, length), or where it
    is not contiguous (batch, length, count)."""

    count: int
    length: int
    is_contiguous: bool

    def at(self, begin: Expr, vector: Expr, element: Expr) -> Expr:
        """Where an element of a vector lies."""
        if self.is_contiguous:
            return begin + vector * emit.i64(self.length) + element
        return begin + element * emit.i64(self.count) + vector


def dot_of_matrices_gradient(
    name: str, own: DotOperand, other: DotOperand, dtype: str, *, is_left: bool, normalize: bool
) -> Kernel:
    """The gradient of one operand of a Dot whose results are (batch, left vectors, right vectors).

    `f(own, other, y, dy, out, count)`, y the results; see `dot_gradient` for the formula.
    """

    def body() -> None:
        floats = dict.fromkeys(("own", "other", "y", "dy", "out"), f"*{dtype}")
        a, b, y, dy, out, count = parameters(**floats, count="int64")
        least, one, zero = (number(v, dtype) for v in (NORMALIZE_EPSILON, 1.0, 0.0))
        squares = [local(each.count, dtype) for each in (own, other)]
        steps = emit.i64(own.length)
        with emit.loop(emit.i64(0), count) as i:
            begin = emit.bound(i * emit.i64(own.count * own.length))
            at_other = emit.bound(i * emit.i64(other.count * other.length))
            results = emit.bound(i * emit.i64(own.count * other.count))
            if normalize:
                pairs = ((own, a, begin), (other, b, at_other))
                for square, (of, x, start) in zip(squares, pairs, strict=True):
                    with T.serial(emit.i64(0), emit.i64(of.count)) as v:
                        put(square, v, zero)
                        with T.serial(emit.i64(0), steps) as s:
                            element = emit.bound(x[of.at(start, v, s)])
                            put(square, v, square[v] + element * element)
            with T.serial(emit.i64(0), emit.i64(own.count)) as v:
                with T.serial(emit.i64(0), steps) as s:
                    put(out, own.at(begin, v, s), zero)
                with T.serial(emit.i64(0), emit.i64(other.count)) as w:
                    place = v * emit.i64(other.count) + w
                    place = place if is_left else w * emit.i64(own.count) + v
                    slope = emit.bound(dy[results + place])
                    towards, back = slope, zero
                    if normalize:
                        mine, theirs = squares[0][v], squares[1][w]
                        over = one / (te.sqrt(te.max(mine, least)) * te.sqrt(te.max(theirs, least)))
                        towards = emit.bound(slope * over)
                        share = slope * y[results + place] / te.max(mine, least)
                        back = emit.bound(tirx.Select(mine > least, share, zero))
                    with T.serial(emit.i64(0), steps) as s:
                        at = emit.bound(own.at(begin, v, s))
                        value = towards * b[other.at(at_other, w, s)]
                        value = value - back * a[at] if normalize else value
                        put(out, at, out[at] + value)

    pointers = [
        Pointer("own", dtype, fixed(own.count * own.length)),
        Pointer("other", dtype, fixed(other.count * other.length)),
        Pointer("y", dtype, fixed(own.count * other.count)),
        Pointer("dy", dtype, fixed(own.count * other.count)),
        Pointer("out", dtype, fixed(own.count * own.length)),
    ]
    cost = 2 * own.count * own.length * other.count
    return written_rows(name, body, pointers, lambda s: [axis(s[0][0])], ["count"], cost)
