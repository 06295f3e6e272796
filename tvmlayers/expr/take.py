"""Lookups: rows of a table by index, and the reduction of bags of them.

An index outside 0..rows-1 never becomes an address: what happens instead is the policy `oob`,
"raise" (row 0 is read and the kernel reports it), "clip" (the nearest row), "zero" (zeros),
"unchecked" (the caller promises that there is none).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Var

from tvmlayers.dtypes import wide
from tvmlayers.expr import math as m
from tvmlayers.expr.expression import CheckedRows, Expression, Place, size
from tvmlayers.expr.stored import as_float, float_in, table_as
from tvmlayers.quantization.rows import CODED, row_bytes

Reducer = Callable[..., Expr]


def is_outside(index: Expr, rows: int) -> Expr:
    """Whether an int64 index lies outside 0..rows-1."""
    return tirx.Cast("uint64", index) >= tirx.const(rows, "uint64")


def safe_row(index: Expr, rows: int, oob: str) -> Expr:
    """A row number that can be read without harm, int64."""
    index = tirx.Cast("int64", index)
    zero, last = tirx.const(0, "int64"), tirx.const(rows - 1, "int64")
    if oob == "unchecked":
        return index
    if oob == "clip":
        return te.max(te.min(index, last), zero)
    return m.select(is_outside(index, rows), zero, index)


def nearest_row(index: Expr, rows: int) -> Expr:
    """A row number for a prefetch, int64: the index itself wherever it names a row."""
    unsigned = tirx.Cast("uint64", tirx.Cast("int64", index))
    return tirx.Cast("int64", te.min(unsigned, tirx.const(rows - 1, "uint64")))


def take(
    rows: int,
    width: int,
    *,
    oob: str,
    index_dtype: str,
    dtype: str,
    select: Callable[[Expr, Expr, Expr], Expr] = m.select,
) -> Expression:
    """table[indices] for count indices: indices (count,), table (rows, width) -> (count, width).

    select: how zeros are put in the place of a row that is not there.
    """
    lookup = _Lookup(rows, width, oob, index_dtype, dtype, select)
    out = te.compute((lookup.count, width), lookup.value, name="out")
    return lookup.expression(out)


def take_vectors(
    rows: int,
    width: int,
    *,
    lanes: int,
    in_flight: int,
    oob: str,
    index_dtype: str,
    dtype: str,
    stored: str | None = None,
) -> Expression:
    """As `take`, in vectors of `lanes` columns and `in_flight` rows at a time.

    stored: how the table is kept, see `TableRows`.

    Where these do not divide the row or the number of rows, the last ones begin sooner and are
    copied twice. Sizes: count, at least in_flight; ahead; tiles = ceil(count / in_flight).
    """
    lookup = _Lookup(rows, width, oob, index_dtype, dtype, m.select, stored)
    tiles = size("tiles")

    def place(t: Expr, r: Expr) -> Expr:
        return t if in_flight == 1 else te.min(t * in_flight, lookup.count - in_flight) + r

    def column(v: Expr, lane: Expr) -> Expr:
        return lookup.kept.column(v, lane, lanes, width)

    out = te.compute(
        (tiles, -(-width // lanes), in_flight, lanes),
        lambda t, v, r, lane: lookup.value(place(t, r), column(v, lane)),
        name="out",
    )
    shape = (lookup.count, width)
    placed = Place(shape, lambda i: [place(i[0], i[2]), column(i[1], i[3])])
    return lookup.expression(out, tiles, places={"out": placed})


class TableRows:
    """A table as it is kept: in its dtype, in halves, or as codes with a scale and an offset.

    The rows of codes are those of `quantization.rows`; tail is the same memory from the first row's
    scale on, as kernels that read some columns of a row are given the table from there on.
    """

    def __init__(self, rows: int, width: int, dtype: str, stored: str | None) -> None:
        self.width, self.stored = width, stored or dtype
        self.coded = CODED.get(self.stored)
        is_kept_so = self.stored == dtype
        self.element = dtype if is_kept_so else table_as(self.stored)
        self.is_plain = is_kept_so
        self.halves_bytes = self.coded is not None and self.coded.codes_a_byte == 2
        shape = (rows, row_bytes(width, self.stored) if self.coded else width)
        self.table = te.placeholder(shape, self.element, name="table")
        tails = [te.placeholder(shape, self.element, name="tail")] if self.coded else []
        self.tensors = [self.table, *tails]

    def steps(self, row: te.Tensor) -> list[te.Tensor]:
        """Stages of the scale and the offset of each of the rows that `row` names, for bytes."""
        if self.coded is None:
            return []
        (tail,) = self.tensors[1:]
        dtype = np.dtype(self.coded.steps).name

        def stage(name: str, first: int) -> te.Tensor:
            return te.compute(row.shape, lambda *at: float_in(tail, row[at], first, dtype), name)

        return [stage("scale", 0), stage("offset", self.coded.tail_bytes // 2)]

    def column(self, vector: Expr, lane: Expr, lanes: int, columns: int) -> Expr:
        """The column that a lane of a vector holds, of the first `columns` of a row.

        Of codes two a byte, one vector has the low halves of some bytes and the next the high ones.
        """
        if self.halves_bytes:
            return ((vector // 2) * lanes + lane) * 2 + vector % 2
        return (
            te.min(vector * lanes, columns - lanes) if columns % lanes else vector * lanes
        ) + lane

    def number(self, row: Expr, column: Expr, steps: list[Expr]) -> Expr:
        """The number in a column of a row. steps: the row's scale and offset, for bytes."""
        if self.halves_bytes:
            shift = tirx.Cast("int32", (column % 2) * 4)
            code = (tirx.Cast("int32", self.table[row, column // 2]) >> shift) & 15
            number = tirx.Cast("float32", code)
        else:
            read = self.table[row, column]
            if self.is_plain:
                return read
            number = as_float(read, self.stored)
        if not steps:
            return number
        scale, offset = steps
        return number * scale + offset

    def columns_read(self, columns: int) -> int:
        """How many elements of a row are read, where so many columns are."""
        whole = int(self.table.shape[1])
        return whole if columns == self.width else columns


class _Lookup:
    """What both forms of a lookup read: indices, table, and the rows that are safe to read."""

    def __init__(
        self,
        rows: int,
        width: int,
        oob: str,
        index_dtype: str,
        dtype: str,
        select: Callable[[Expr, Expr, Expr], Expr],
        stored: str | None = None,
    ) -> None:
        self.rows, self.width, self.oob, self.select = rows, width, oob, select
        self.count, self.ahead = size("count"), size("ahead")
        self.indices = te.placeholder((self.ahead,), index_dtype, name="indices")
        self.kept = TableRows(rows, width, dtype, stored)
        self.row = te.compute(
            (self.count,), lambda i: safe_row(self.indices[i], rows, oob), name="row"
        )
        self.steps = self.kept.steps(self.row)

    def value(self, i: Expr, j: Expr) -> Expr:
        """Column j of what index i gives."""
        read = self.kept.number(self.row[i], j, [step[i] for step in self.steps])
        if self.oob != "zero":
            return read
        return self.select(is_outside(self.indices[i], self.rows), m.constant(0, read), read)

    def expression(self, out: te.Tensor, *sizes: Var, **more: Any) -> Expression:
        return Expression(
            tensors=(self.indices, *self.kept.tensors, out),
            sizes=(self.count, self.ahead, *sizes),
            checked=CheckedRows(
                "row",
                self.indices,
                self.ahead,
                self.kept.table,
                self.rows,
                self.kept.columns_read(self.width),
                flag=self.oob == "raise",
            ),
            **more,
        )


def bag(
    rows: int,
    width: int,
    *,
    lanes: int,
    mode: str,
    oob: str,
    padding_idx: int | None,
    empty_is_zero: bool,
    weighted: bool,
    index_dtype: str,
    dtype: str,
    columns: int | None = None,
    in_flight: int = 0,
    native_extremes: bool = False,
    stored: str | None = None,
) -> Expression:
    """One bag: the reduction of table[indices[:length]], (columns,), in vectors of `lanes` columns.

    columns: how many of a row's are reduced, from the first on; None for all. lanes is at most
    that; where it does not divide it the last vector begins at columns - lanes and holds some
    columns of its neighbour again.

    indices: (ahead,), of which the first `length` are the bag's; weights: (ahead,) when weighted;
    table: (rows, width). Modes "sum", "mean" (with weights: sum(w x) / sum(w)), "max", "min".
    A NaN among the rows of "max" and "min" stays. Entries equal to padding_idx do not count. Halves
    are reduced in float32.
    empty_is_zero: else a mean of nothing is 0 / 0. in_flight: so many rows of the table are read
    before they are reduced, in stages of their own, `row` and `fetched`; the last entry is read
    again in place of those past the end, which do not count. 0: each is read where it is reduced.
    native_extremes: the target has a maximum and a minimum that keep NaN; else they are made of
    comparisons. stored: how the table is kept, see `TableRows`.
    """
    length, ahead = size("length"), size("ahead")
    indices = te.placeholder((ahead,), index_dtype, name="indices")
    kept = TableRows(rows, width, dtype, stored)
    weights = te.placeholder((ahead,), dtype, name="weights")
    flight = max(in_flight, 1)
    shape = ((length + flight - 1) // flight, flight) if in_flight else (length,)

    def number(*at: Expr) -> Expr:
        """Which entry stands at a turn and a place in it."""
        return at[0] if flight == 1 else at[0] * flight + at[1]

    def read_at(*at: Expr) -> Expr:
        """The entry that is read there."""
        return number(*at) if flight == 1 else te.min(number(*at), length - 1)

    row = te.compute(shape, lambda *at: safe_row(indices[read_at(*at)], rows, oob), name="row")
    steps = kept.steps(row)
    names = ("entry", "place")
    entry = [te.reduce_axis((0, n), each) for n, each in zip(shape, names, strict=False)]
    computed = wide(dtype)
    zero = tirx.const(0, computed)

    def counts(i: Expr) -> Expr | None:
        """Whether entry i counts; None when every entry does."""
        if padding_idx is None:
            return None
        return tirx.Cast("int64", indices[i]) != tirx.const(padding_idx, "int64")

    columns = columns or width
    vectors = -(-columns // lanes)

    def column(v: Expr, lane: Expr) -> Expr:
        return kept.column(v, lane, lanes, columns)

    def fetch(*at: Expr) -> Expr:
        *place, v, lane = at
        entry_steps = [step[tuple(place)] for step in steps]
        return kept.number(row[tuple(place)], column(v, lane), entry_steps)

    if in_flight:
        fetched = te.compute((*shape, vectors, lanes), fetch, name="fetched")

    def value(*at: Expr) -> Expr:
        read = m.widened(fetched[at] if in_flight else fetch(*at))
        i = read_at(*at[:-2])
        if oob == "zero":
            read = m.select(is_outside(indices[i], rows), zero, read)
        if weighted:
            read = read * m.widened(weights[i])
        return read

    reduce, neutral = _REDUCERS[mode](computed, native_extremes)

    def masked(*at: Expr) -> Expr:
        condition, read = counts(read_at(*at[:-2])), value(*at)
        if condition is not None:
            read = m.select(condition, read, neutral)
        return read if flight == 1 else m.select(number(*at[:-2]) < length, read, neutral)

    acc = te.compute(
        (vectors, lanes), lambda v, lane: reduce(masked(*entry, v, lane), axis=entry), name="acc"
    )
    member = te.reduce_axis((0, length), "member")
    present: Expr = length
    if padding_idx is not None:
        present = te.compute(
            (1,),
            lambda _: te.sum(tirx.Cast("int64", counts(member)), axis=member),
            name="present",
        )[0]
    divisor = tirx.Cast(computed, present)
    if mode == "mean" and weighted:
        share = te.reduce_axis((0, length), "share")
        condition = counts(share)
        unit = m.widened(weights[share])
        unit = unit if condition is None else m.select(condition, unit, zero)
        divisor = te.compute((1,), lambda _: te.sum(unit, axis=share), name="weight")[0]

    def result(v: Expr, lane: Expr) -> Expr:
        total = acc[v, lane]
        if mode == "mean":
            total = total / divisor
        if mode == "sum" or not empty_is_zero:
            return total
        return m.select(present > 0, total, zero)

    out = te.compute(
        (vectors, lanes), lambda v, lane: m.narrowed(result(v, lane), dtype), name="out"
    )
    return Expression(
        tensors=(indices, *([weights] if weighted else []), *kept.tensors, out),
        sizes=(length, ahead),
        places={"out": Place((columns,), lambda i: [column(i[0], i[1])])},
        checked=CheckedRows(
            "row",
            indices,
            ahead,
            kept.table,
            rows,
            kept.columns_read(columns),
            flag=oob == "raise",
        ),
    )


def _summing(dtype: str, _native: bool) -> tuple[Reducer, Expr]:
    return te.sum, tirx.const(0, dtype)


def _largest(dtype: str, native: bool) -> tuple[Reducer, Expr]:
    lowest = tirx.const(float("-inf"), dtype)
    if native:
        return _native("llvm.maximum", lowest), lowest
    return te.comm_reducer(m.largest, lambda _: lowest, name="largest"), lowest


def _smallest(dtype: str, native: bool) -> tuple[Reducer, Expr]:
    highest = tirx.const(float("inf"), dtype)
    if native:
        return _native("llvm.minimum", highest), highest
    return te.comm_reducer(m.smallest, lambda _: highest, name="smallest"), highest


def _native(intrinsic: str, neutral: Expr) -> Reducer:
    """The reducer by an instruction of LLVM's for two of `neutral`'s dtype."""
    reducer: Reducer = te.comm_reducer(
        lambda a, b: tirx.call_llvm_pure_intrin(neutral.ty.dtype, intrinsic, a, b),
        lambda _: neutral,
        name=intrinsic.rpartition(".")[2],
    )
    return reducer


_REDUCERS = {"sum": _summing, "mean": _summing, "max": _largest, "min": _smallest}
