"""Gradients of bags that are no plain sums: a row for each index, and the weights of the indices.

A bag has `length` indices. y is its result, dy the gradient of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
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
from tvmlayers.codegen.cpu.kernel import Kernel, axis
from tvmlayers.codegen.cpu.rows import Pointer, Scalars, fixed
from tvmlayers.expr.reduction import tree
from tvmlayers.expr.take import is_outside, nearest_row


@dataclass(frozen=True)
class BagGradient:
    """rows, width: of the table; skipped: an index that is left out of every bag; oob: as of the
    layer; is_mean: sums are divided by the sum of the weights."""

    rows: int
    width: int
    lanes: int
    dtype: str
    index_dtype: str
    skipped: int | None
    oob: str
    is_mean: bool

    def counts(self, index: Expr) -> Expr:
        """Whether an int64 index is one of its bag."""
        if self.skipped is None:
            return tirx.const(True, "bool")
        return index != emit.i64(self.skipped)

    def entry(self, table: Buffer, index: Expr) -> Callable[[Expr], Expr]:
        """The columns of the row that an int64 index stands for."""
        begin = emit.bound(nearest_row(self._clipped(index), self.rows) * emit.i64(self.width))
        if self.oob != "zero":
            return lambda j: table[begin + j]
        outside = emit.bound(is_outside(index, self.rows))
        return lambda j: tirx.Select(outside, number(0.0, self.dtype), table[begin + j])

    def _clipped(self, index: Expr) -> Expr:
        # Below 0 the nearest row is the first one; `nearest_row` would take the last.
        return tirx.Select(index < emit.i64(0), emit.i64(0), index)

    def kernel(
        self, name: str, names: list[str], body: Callable[[], None], *, makes_rows: bool
    ) -> Kernel:
        """A kernel `f(names, out, count, length)` of bags; out: rows, or a number an index."""

        def indices(s: Scalars) -> Expr:
            return s["length"]

        def rows(s: Scalars) -> Expr:
            return s["length"] * emit.i64(self.width)

        steps = {
            "indices": Pointer("indices", self.index_dtype, indices),
            "weights": Pointer("weights", self.dtype, indices),
            "table": Pointer("table", self.dtype, fixed(0)),
            "y": Pointer("y", self.dtype, fixed(self.width)),
            "dy": Pointer("dy", self.dtype, fixed(self.width)),
        }
        pointers = [steps[each] for each in names]
        pointers.append(Pointer("out", self.dtype, rows if makes_rows else indices))
        return written_rows(
            name,
            body,
            pointers,
            lambda s: [axis(s[0][0]), axis(s[0][1])],
            ["count", "length"],
            4 * self.width,
        )

    def parameters(self, names: list[str]) -> list[Buffer]:
        kinds = dict.fromkeys([*names, "out"], f"*{self.dtype}")
        kinds["indices"] = f"*{self.index_dtype}"
        return parameters(**kinds, count="int64", length="int64")

    def over_sum(self, indices: Buffer, weights: Buffer, begin: Expr, length: Expr) -> Expr:
        """1, or 1 over the sum of the weights of the bag that begins there."""
        one, zero = number(1.0, self.dtype), number(0.0, self.dtype)
        if not self.is_mean:
            return one
        total = local(1, self.dtype)
        put(total, 0, zero)
        with emit.loop(emit.i64(0), length) as j:
            own = tirx.Select(self.counts(emit.i64(indices[begin + j])), weights[begin + j], zero)
            put(total, 0, total[emit.i64(0)] + own)
        return emit.bound(one / total[emit.i64(0)])


def weighted_rows(name: str, spec: BagGradient) -> Kernel:
    """`f(indices, weights, dy, out, count, length)`: dy w_j, over the sum of the w for a mean."""
    names = ["indices", "weights", "dy"]

    def body() -> None:
        indices, weights, dy, out, count, length = spec.parameters(names)
        with emit.loop(emit.i64(0), count) as i:
            first = emit.bound(i * length)
            over = spec.over_sum(indices, weights, first, length)
            begin = emit.bound(i * emit.i64(spec.width))
            with emit.loop(emit.i64(0), length) as j:
                factor = emit.bound(weights[first + j] * over)
                to = emit.bound((first + j) * emit.i64(spec.width))
                over_columns(
                    spec.width, spec.lanes, lambda k, _: put(out, to + k, dy[begin + k] * factor)
                )

    return spec.kernel(name, names, body, makes_rows=True)


def weight_gradient(name: str, spec: BagGradient) -> Kernel:
    """`f(indices, weights, table, y, dy, out, count, length)`: dy . row_j; of a mean
    dy . (row_j - y) over the sum of the weights. 0 where an index is left out."""
    names = ["indices", "weights", "table", "y", "dy"]

    def body() -> None:
        indices, weights, table, y, dy, out, count, length = spec.parameters(names)
        parts, zero = local(spec.lanes, spec.dtype), number(0.0, spec.dtype)
        with emit.loop(emit.i64(0), count) as i:
            first = emit.bound(i * length)
            over = spec.over_sum(indices, weights, first, length)
            begin = emit.bound(i * emit.i64(spec.width))
            with emit.loop(emit.i64(0), length) as j:
                index = emit.bound(emit.i64(indices[first + j]))
                entry = spec.entry(table, index)
                each_lane(spec.lanes, lambda lane: put(parts, lane, zero))

                def add(k: Expr, lane: Expr, entry: Callable[[Expr], Expr] = entry) -> None:
                    own = entry(k) - y[begin + k] if spec.is_mean else entry(k)
                    put(parts, lane, parts[lane] + dy[begin + k] * own)

                over_columns(spec.width, spec.lanes, add)
                made = tree(lanes_of(parts, spec.lanes)) * over
                put(out, first + j, tirx.Select(spec.counts(index), made, zero))

    return spec.kernel(name, names, body, makes_rows=False)


def extreme_rows(name: str, spec: BagGradient) -> Kernel:
    """`f(indices, table, y, dy, out, count, length)`: dy in the first row that is y in a column,
    as in PyTorch; 0 in the others."""
    names = ["indices", "table", "y", "dy"]

    def body() -> None:
        indices, table, y, dy, out, count, length = spec.parameters(names)
        left = local(-(-spec.width // spec.lanes) * spec.lanes, spec.dtype)
        zero = number(0.0, spec.dtype)
        with emit.loop(emit.i64(0), count) as i:
            begin = emit.bound(i * emit.i64(spec.width))
            over_columns(spec.width, spec.lanes, lambda k, _: put(left, k, dy[begin + k]))
            with emit.loop(emit.i64(0), length) as j:
                place = emit.bound(i * length + j)
                index = emit.bound(emit.i64(indices[place]))
                entry, counts = spec.entry(table, index), emit.bound(spec.counts(index))
                to = emit.bound(place * emit.i64(spec.width))

                def column(
                    k: Expr,
                    _: Expr,
                    entry: Callable[[Expr], Expr] = entry,
                    counts: Expr = counts,
                    to: Expr = to,
                ) -> None:
                    is_first = tirx.all(counts, entry(k) == y[begin + k])
                    put(out, to + k, tirx.Select(is_first, left[k], zero))
                    put(left, k, tirx.Select(is_first, zero, left[k]))

                over_columns(spec.width, spec.lanes, column)

    return spec.kernel(name, names, body, makes_rows=True)
