"""Updates of tables by the rows that indices name, duplicates added up in the order of the indices.

The gradient comes as rows, of which each serves `per` indices one after another: one for a lookup,
the length of the bag for a bag. Plain SGD adds each to its row as it comes; a unit has some of the
columns, so that sums are the same however many threads there are. Others need the whole gradient of
a row at once: the indices are sorted first, stably, and a unit has some of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from tvmlayers.codegen.cpu.units import Sizes, Units
from tvmlayers.codegen.private import prefetch_line
from tvmlayers.expr.optimizers import Rule
from tvmlayers.expr.reduction import tree
from tvmlayers.expr.take import is_outside, nearest_row

_AHEAD = 16  # indices ahead of which a row is asked for
_MOST_BITS = 11  # of a digit of the sort: its counts stay in the nearest cache
_ROWS_OF_UNIT = 256  # indices, or rows of a whole table, that make up a unit at least
_MOST_UNITS = 64
_PIECE = 2  # vectors of columns that a unit adds to


@dataclass(frozen=True)
class TableUpdate:
    """What is updated, and how.

    rows, width: of the table; index_dtype; skipped: an index whose row takes no gradient; oob: as
    of the layer; has_row_state: the last state is one number a row; every_row: rows that no
    index names are updated as well, with a gradient of zero.
    """

    rows: int
    width: int
    rule: Rule
    lanes: int
    dtype: str
    index_dtype: str
    skipped: int | None
    oob: str
    has_row_state: bool = False
    every_row: bool = False

    def is_skipped(self, index: Expr) -> Expr:
        """Whether an int64 index takes no gradient."""
        skips: list[Expr] = []
        if self.skipped is not None:
            skips.append(index == emit.i64(self.skipped))
        if self.oob == "zero":
            skips.append(is_outside(index, self.rows))
        return tirx.any(*skips) if skips else tirx.const(False, "bool")

    def row(self, index: Expr) -> Expr:
        """The row that an int64 index which is not skipped names."""
        return nearest_row(index, self.rows) if self.oob == "clip" else index


def scatter_units(name: str, spec: TableUpdate) -> Units:
    """`f(indices, gradient, table, numbers, count, per, unit, units)`: plain SGD, unsorted.

    count: rows of the gradient; a unit is some of the columns.
    """
    piece = _PIECE * spec.lanes
    whole, left = divmod(spec.width, piece)

    def body() -> None:
        floats = f"*{spec.dtype}"
        indices, gradient, table, numbers, count, per, unit, _ = parameters(
            indices=f"*{spec.index_dtype}",
            gradient=floats,
            table=floats,
            numbers=floats,
            count="int64",
            per="int64",
            unit="int64",
            units="int64",
        )
        shared = [emit.bound(numbers[emit.i64(i)]) for i in range(spec.rule.count)]
        first = emit.bound(unit * emit.i64(piece))
        last = count * per - emit.i64(1)

        def add(columns: int) -> None:
            with T.serial(emit.i64(0), count) as b, T.serial(emit.i64(0), per) as j:
                i = emit.bound(b * per + j)
                later = nearest_row(indices[te.min(i + emit.i64(_AHEAD), last)], spec.rows)
                there = table[later * emit.i64(spec.width) + first]
                T.evaluate(prefetch_line(there, write=True))
                index = emit.bound(emit.i64(indices[i]))

                def one_row() -> None:
                    start = emit.bound(spec.row(index) * emit.i64(spec.width) + first)
                    begin = emit.bound(b * emit.i64(spec.width) + first)

                    def column(k: Expr, _: Expr) -> None:
                        g, w = gradient[begin + k], table[start + k]
                        put(table, start + k, spec.rule.weight(shared, w, g, []))

                    over_columns(columns, spec.lanes, column)

                emit.when(tirx.Not(spec.is_skipped(index)), one_row)

        branches: list[tuple[Expr | None, Callable[[], None]]] = []
        if whole:
            branches.append((unit < emit.i64(whole) if left else None, lambda: add(piece)))
        if left:
            branches.append((None, lambda: add(left)))
        emit.chain(branches)

    entry = GlobalVar(name)
    functions = {entry: emit.noinline(emit.private(body))}
    return Units(entry, functions, lambda _: emit.i64(whole + bool(left)))


def sort_units(name: str, spec: TableUpdate) -> Units:
    """`f(indices, pairs, others, count, per, unit, units)`: rows and rows of the gradient, sorted.

    An int64 pair has the row of the table in its upper half and that of the gradient in its lower
    one. Skipped indices come last, as the row after the last one. One unit, by radix.
    """
    bits = max(1, spec.rows.bit_length())
    passes = -(-bits // _MOST_BITS)
    digit = -(-bits // passes)
    size = 1 << digit

    def body() -> None:
        indices, pairs, others, count, per, *_ = parameters(
            indices=f"*{spec.index_dtype}",
            pairs="*int64",
            others="*int64",
            count="int64",
            per="int64",
            unit="int64",
            units="int64",
        )
        buffers = [pairs, others]
        counts = local(size, "int64")

        def pair_of(b: Expr, i: Expr) -> Expr:
            index = emit.bound(emit.i64(indices[i]))
            row = tirx.Select(spec.is_skipped(index), emit.i64(spec.rows), spec.row(index))
            return emit.bound((row << emit.i64(32)) | b)

        def each_pair(source: Buffer | None, use: Callable[[Expr], None]) -> None:
            if source is None:
                with T.serial(emit.i64(0), count) as b, T.serial(emit.i64(0), per) as j:
                    use(pair_of(b, b * per + j))
                return
            with T.serial(emit.i64(0), count * per) as i:
                use(emit.bound(source[i]))

        for turn in range(passes):
            source = None if turn == 0 else buffers[(passes - turn) % 2]
            out = buffers[(passes - turn - 1) % 2]

            def place(pair: Expr, turn: int = turn) -> Expr:
                shifted = pair >> emit.i64(32 + turn * digit)
                return emit.bound(tirx.bitwise_and(shifted, emit.i64(size - 1)))

            def note(pair: Expr, place: Callable[[Expr], Expr] = place) -> None:
                at = place(pair)
                put(counts, at, counts[at] + emit.i64(1))

            def move(pair: Expr, place: Callable[[Expr], Expr] = place, out: Buffer = out) -> None:
                at = place(pair)
                to = emit.bound(counts[at])
                put(counts, at, to + emit.i64(1))
                put(out, to, pair)

            with T.serial(emit.i64(0), emit.i64(size)) as at:
                put(counts, at, emit.i64(0))
            each_pair(source, note)
            before = local(1, "int64")
            put(before, 0, emit.i64(0))
            with T.serial(emit.i64(0), emit.i64(size)) as at:
                own = emit.bound(counts[at])
                start = emit.bound(before[emit.i64(0)])
                put(counts, at, start)
                put(before, 0, start + own)
            each_pair(source, move)

    entry = GlobalVar(name)
    return Units(entry, {entry: emit.noinline(emit.private(body))}, lambda _: emit.i64(1))


def sorted_units(name: str, spec: TableUpdate) -> Units:
    """`f(pairs, gradient, table, states, numbers, total, unit, units)`: rows of a sorted table.

    total: how many pairs there are.
    """
    slots = [f"state{i}" for i in range(spec.rule.slots)]

    def body() -> None:
        floats = dict.fromkeys(("gradient", "table", *slots, "numbers"), f"*{spec.dtype}")
        sizes = dict.fromkeys(("total", "unit", "units"), "int64")
        pairs, gradient, *tables, numbers, total, unit, units = parameters(
            pairs="*int64", **floats, **sizes
        )
        row = _RowUpdate(spec, tables[0], tables[1:], numbers, pairs, gradient, total)
        at = local(1, "int64")

        def every_row() -> None:
            first, last = emit.task_bounds(unit, units, emit.i64(spec.rows))
            put(at, 0, _lower_bound(row, first, total))
            with T.serial(first, last) as number_of_row:
                row.update(number_of_row, at)

        if spec.every_row:
            every_row()
        else:
            _named_rows(row, unit, units, at, lambda own: row.update(own, at))

    def count(sizes: Sizes) -> Expr:
        return _units_of(emit.i64(spec.rows) if spec.every_row else sizes["total"])

    entry = GlobalVar(name)
    return Units(entry, {entry: emit.noinline(emit.private(body))}, count)


def row_squares(name: str, spec: TableUpdate) -> Units:
    """`f(pairs, gradient, squares, total, unit, units)`: squares[unit], float64, of the gradients
    of its rows, duplicates added up."""

    def body() -> None:
        pairs, gradient, squares, total, unit, units = parameters(
            pairs="*int64",
            gradient=f"*{spec.dtype}",
            squares="*float64",
            total="int64",
            unit="int64",
            units="int64",
        )
        row = _RowUpdate(spec, gradient, [], gradient, pairs, gradient, total)
        at, found = local(1, "int64"), local(1, "float64")
        put(found, 0, number(0.0, "float64"))

        def add(own: Expr) -> None:
            sums = row.summed(own, at)
            with T.serial(emit.i64(0), emit.i64(spec.width)) as j:
                value = emit.bound(tirx.Cast("float64", sums[j]))
                put(found, 0, found[emit.i64(0)] + value * value)

        _named_rows(row, unit, units, at, add)
        put(squares, unit, found[emit.i64(0)])

    entry = GlobalVar(name)
    functions = {entry: emit.noinline(emit.private(body))}
    return Units(entry, functions, lambda sizes: _units_of(sizes["total"]))


def _units_of(work: Expr) -> Expr:
    """In how many units so many indices or rows are gone over."""
    wanted = emit.quotient(work, emit.i64(_ROWS_OF_UNIT)) + emit.i64(1)
    return te.min(wanted, emit.i64(_MOST_UNITS))


def _named_rows(
    row: _RowUpdate, unit: Expr, units: Expr, at: Buffer, use: Callable[[Expr], None]
) -> None:
    """`use(row)` for the rows of a unit that indices name; it moves `at` past the row's pairs."""
    first, last = emit.task_bounds(unit, units, row.total)
    put(at, 0, first)
    here = at[emit.i64(0)]
    # A row whose first pair is another unit's is that one's.
    before = row.of(te.max(here - emit.i64(1), emit.i64(0)))
    with T.While(tirx.all(here > 0, here < last, row.of(here) == before)):
        put(at, 0, here + emit.i64(1))
    inside = tirx.all(here < last, row.of(here) < emit.i64(row.spec.rows))
    with T.While(inside):
        use(emit.kept(row.of(here)))


def _lower_bound(row: _RowUpdate, first: Expr, total: Expr) -> Expr:
    """The place of the first pair of row `first` or of one after it."""
    ends = local(2, "int64")
    put(ends, 0, emit.i64(0))
    put(ends, 1, total)
    low, high = ends[emit.i64(0)], ends[emit.i64(1)]
    with T.While(low < high):
        middle = emit.kept((low + high) >> emit.i64(1))
        before = row.of(middle) < first
        emit.chain(
            [
                (before, lambda: put(ends, 0, middle + emit.i64(1))),
                (None, lambda: put(ends, 1, middle)),
            ]
        )
    return low


@dataclass(frozen=True)
class _RowUpdate:
    """Writes the update of one row of a table."""

    spec: TableUpdate
    table: Buffer
    states: list[Buffer]
    numbers: Buffer
    pairs: Buffer
    gradient: Buffer
    total: Expr

    def of(self, place: Expr) -> Expr:
        """The row of the pair at a place before the end, of the last one from there on."""
        return self.pairs[te.min(place, te.max(self.total - emit.i64(1), emit.i64(0)))] >> 32

    def summed(self, row: Expr, at: Buffer) -> Buffer:
        """The sum of the gradients of the row's pairs, from `at` on; that moves past them."""
        spec, here = self.spec, at[emit.i64(0)]
        sums = local(-(-spec.width // spec.lanes) * spec.lanes, spec.dtype)
        zero = number(0.0, spec.dtype)
        over_columns(spec.width, spec.lanes, lambda j, _: put(sums, j, zero))
        with T.While(tirx.all(here < self.total, self.of(here) == row)):
            source = tirx.bitwise_and(self.pairs[here], emit.i64((1 << 32) - 1))
            begin = emit.kept(source * emit.i64(spec.width))
            over_columns(
                spec.width,
                spec.lanes,
                lambda j, _: put(sums, j, sums[j] + self.gradient[begin + j]),
            )
            put(at, 0, here + emit.i64(1))
        return sums

    def update(self, row: Expr, at: Buffer) -> None:
        """The row follows the gradients of its pairs; see `summed`."""
        spec, sums = self.spec, self.summed(row, at)
        shared = [emit.bound(self.numbers[emit.i64(i)]) for i in range(spec.rule.count)]
        start = emit.bound(row * emit.i64(spec.width))
        if spec.has_row_state:
            self._with_row_state(row, start, sums, shared)
        else:
            self._by_element(start, sums, shared)

    def _by_element(self, start: Expr, sums: Buffer, shared: list[Expr]) -> None:
        rule = self.spec.rule

        def column(j: Expr, _: Expr) -> None:
            place = start + j
            old = [state[place] for state in self.states]
            moved = rule.state(shared, self.table[place], sums[j], old)
            for state, value in zip(self.states, moved, strict=True):
                put(state, place, value)
            put(self.table, place, rule.weight(shared, self.table[place], sums[j], old))

        over_columns(self.spec.width, self.spec.lanes, column)

    def _with_row_state(self, row: Expr, start: Expr, sums: Buffer, shared: list[Expr]) -> None:
        """The last state follows the mean of the squares over the row."""
        spec = self.spec
        parts = local(spec.lanes, spec.dtype)
        each_lane(spec.lanes, lambda lane: put(parts, lane, number(0.0, spec.dtype)))
        over_columns(
            spec.width,
            spec.lanes,
            lambda j, lane: put(parts, lane, parts[lane] + sums[j] * sums[j]),
        )
        mean = tree(lanes_of(parts, spec.lanes)) / number(float(spec.width), spec.dtype)
        *by_element, of_row = self.states
        assert spec.rule.of_row is not None
        put(of_row, row, spec.rule.of_row(of_row[row], mean))
        new = emit.bound(of_row[row])

        def column(j: Expr, _: Expr) -> None:
            place = start + j
            states = [*(state[place] for state in by_element), new]
            moved = spec.rule.state(shared, self.table[place], sums[j], states)
            for state, value in zip(by_element, moved[:-1], strict=True):
                put(state, place, value)
            put(self.table, place, spec.rule.weight(shared, self.table[place], sums[j], states))

        over_columns(spec.width, spec.lanes, column)
