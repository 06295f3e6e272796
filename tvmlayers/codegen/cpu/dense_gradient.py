"""The update of a Dense: kernel and bias follow X^T dY in place, and W^T follows the kernel.

A unit is a block of the kernel's rows by one panel. The batch goes past it in blocks that the
nearest cache holds: their sums are kept beside the kernel, and those of the last one end in the
optimiser's formula, in registers. The unit then writes its block of W^T, which the gradient of the
layer's input is a product with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import te
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.artifact.panels import PanelLayout
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.columns import number, over_columns, put
from tvmlayers.codegen.cpu.kernel import Functions, core
from tvmlayers.codegen.cpu.transpose import transpose_block, transposing, with_transpose
from tvmlayers.codegen.cpu.units import Units
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.gradients import adding, bias_gradient, completed, weight_gradient
from tvmlayers.expr.optimizers import Rule
from tvmlayers.spaces.gradients import gradient_tiles

ROWS = 48  # of the kernel in a unit: whole tiles of either height, whole blocks to transpose
SAMPLES = 64  # in a block of the batch
_TALL, _LOW = 12, 6  # rows of a tile of one vector, and of one of more
_CHUNK = 64  # columns of a unit of a kernel that is one column, which lie side by side


@dataclass(frozen=True)
class DenseUpdate:
    """What is updated, and how.

    transposed: the layout of W^T, None where nobody reads it or where it is W's own memory;
    lanes: of a vector; is_padded: whether the columns of dY past the full panels come in a tensor
    of their own, (batch, tail_width), filled up with zeros; bias_rule: where it is another one.
    """

    layout: PanelLayout
    transposed: PanelLayout | None
    rule: Rule
    lanes: int
    use_bias: bool
    bias_rule: Rule | None = None

    @property
    def dtype(self) -> str:
        return self.layout.dtype

    @property
    def is_padded(self) -> bool:
        layout = self.layout
        return not layout.is_vector and layout.tail != (layout.tail_width if layout.tail else 0)

    def pointers(self) -> list[str]:
        """The names of the function's pointers, in order."""
        states = [f"w_state{i}" for i in range(self.rule.slots)]
        names = ["x", "dy", *(["dy_tail"] if self.is_padded else []), "w", *states]
        if self.use_bias:
            names += ["b", *(f"b_state{i}" for i in range(self.rule.slots))]
        return [*names, *(["w_transposed"] if self.transposed else []), "numbers"]


def dense_update(name: str, spec: DenseUpdate) -> Units:
    """`f(pointers of the spec, n, unit, units)`."""
    functions: Functions = {}
    write = _vector_units if spec.layout.is_vector else _panel_units
    work, count = write(name, spec, functions)

    def body() -> None:
        given = {each: emit.argument(each, f"*{spec.dtype}") for each in spec.pointers()}
        n, unit = emit.argument("n", "int64"), emit.argument("unit", "int64")
        emit.argument("units", "int64")
        work(given, n, unit)

    entry, function = GlobalVar(name), emit.private(body)
    if spec.transposed is not None:
        function = with_transpose(function, spec.dtype, spec.lanes)
    functions[entry] = function
    return Units(entry, functions, lambda _: emit.i64(count))


def _moved(given: dict[str, Var], which: str, slots: int, by: Expr | int) -> list[Expr]:
    """A weight and its states, moved on alike."""
    return [emit.offset(given[each], by) for each in (which, *_states(which, slots))]


def _states(which: str, slots: int) -> list[str]:
    return [f"{which}_state{i}" for i in range(slots)]


def _made(
    name: str,
    rule: Rule,
    functions: Functions,
    expression: Expression,
    lanes: int,
    *,
    in_blocks: bool = False,
) -> GlobalVar:
    schedule = partial(gradient_tiles, lanes=lanes, in_blocks=in_blocks)
    named, function = core(name, expression, schedule, rule=rule)
    functions[named] = function
    return named


def _panel_units(name: str, spec: DenseUpdate, functions: Functions):  # type: ignore[no-untyped-def]
    layout, lanes = spec.layout, spec.lanes
    k, n = layout.k, layout.n
    panels, blocks = layout.full_panels + bool(layout.tail), -(-k // ROWS)
    slots = spec.rule.slots

    def part(label: str, width: int, dy_length: int):  # type: ignore[no-untyped-def]
        """What goes over the units of panels of one width."""
        height = _TALL if width == lanes else _LOW
        rest = k % ROWS % height
        sizes = {"width": width, "stored": width, "x_length": k, "dy_length": dy_length}
        made: dict[tuple[int, bool], GlobalVar] = {}
        for rows in {height if k >= height else 0, rest} - {0}:
            expression = weight_gradient(rows=rows, **sizes, dtype=spec.dtype)
            for is_last, rule in ((False, adding()), (True, completed(spec.rule))):
                made[rows, is_last] = _made(
                    f"{name}_{label}{rows}_{'last' if is_last else 'more'}",
                    rule,
                    functions,
                    expression,
                    lanes,
                    in_blocks=True,
                )
        if spec.use_bias:
            expression = bias_gradient(width=width, dy_length=dy_length, dtype=spec.dtype)
            bias = _made(
                f"{name}_{label}_bias", spec.bias_rule or spec.rule, functions, expression, lanes
            )

        def dy_of(given: dict[str, Var]) -> Var:
            return given["dy_tail" if label == "tail" and spec.is_padded else "dy"]

        def at_column(panel: Expr) -> Expr:
            """Where in a row of dY the panel's columns begin."""
            in_own = label == "tail" and spec.is_padded
            return emit.i64(0) if in_own else panel * emit.i64(layout.width)

        def work(given: dict[str, Var], m: Expr, panel: Expr, block: Expr) -> None:
            first = emit.bound(block * emit.i64(ROWS))
            start = emit.bound(panel * emit.i64(layout.width * k))
            whole = emit.i64(ROWS // height)
            last_tiles = emit.i64((k % ROWS or ROWS) // height)
            last = block >= emit.i64(blocks - 1)
            tiles = emit.either(last, last_tiles, whole)

            sums = emit.on_stack(ROWS * width, spec.dtype)
            cleared, zero = emit.view(sums), number(0.0, spec.dtype)
            over_columns(ROWS * width, lanes, lambda j, _: put(cleared, j, zero))
            samples = emit.kept(te.max(emit.ceil_div(m, SAMPLES), emit.i64(1)))

            def rows_from(row: Expr, rows: int, count: Expr, batch: Expr, is_last: bool) -> None:
                begin, end = emit.task_bounds(batch, samples, m)
                begin = emit.bound(begin)
                x = emit.offset(given["x"], begin * emit.i64(k) + row)
                slope = emit.offset(dy_of(given), at_column(panel) + begin * emit.i64(dy_length))
                own = emit.offset(sums, (row - first) * emit.i64(width))
                arguments = [own, given["numbers"]]
                if is_last:
                    weight, *states = _moved(given, "w", slots, start + row * emit.i64(width))
                    arguments = [weight, own, *states, given["numbers"]]
                emit.call(made[rows, is_last], x, slope, *arguments, end - begin, count)

            def over_rows(batch: Expr, is_last: bool) -> None:
                if height <= k:
                    some = tiles > emit.i64(0)
                    emit.when(some, lambda: rows_from(first, height, tiles, batch, is_last))
                if rest:
                    row = emit.i64(k - rest)
                    emit.when(last, lambda: rows_from(row, rest, emit.i64(1), batch, is_last))

            one = emit.i64(1)
            with emit.loop(emit.i64(0), samples - one) as batch:
                over_rows(batch, False)
            over_rows(samples - one, True)
            dy = emit.offset(dy_of(given), at_column(panel))
            if spec.use_bias:

                def add_up() -> None:
                    places = _moved(given, "b", slots, panel * emit.i64(layout.width))
                    emit.call(bias, dy, *places, given["numbers"], m, emit.i64(1))

                emit.when(block < emit.i64(1), add_up)
            if spec.transposed is not None:
                _transpose(spec, given, panel, first, width, label == "tail")

        return work

    full = part("full", layout.width, n) if layout.full_panels else None
    tail_length = layout.tail_width if spec.is_padded else n
    tail = part("tail", layout.tail_width, tail_length) if layout.tail else None

    def work(given: dict[str, Var], m: Expr, unit: Expr) -> None:
        block = emit.bound(emit.quotient(unit, emit.i64(panels)))
        panel = emit.bound(unit - block * emit.i64(panels))
        branches = []
        if full is not None:
            in_full = None if tail is None else panel < emit.i64(layout.full_panels)
            branches.append((in_full, partial(full, given, m, panel, block)))
        if tail is not None:
            at = emit.i64(layout.full_panels)
            branches.append((None, partial(tail, given, m, at, block)))
        emit.chain(branches)

    return work, panels * blocks


def _transpose(
    spec: DenseUpdate, given: dict[str, Var], panel: Expr, first: Expr, width: int, is_tail: bool
) -> None:
    """Rows first.. of one panel, a unit's, written to their place in W^T."""
    layout, other = spec.layout, spec.transposed
    assert other is not None
    lanes, k, n = spec.lanes, layout.k, layout.n
    w, out = emit.view(given["w"]), emit.view(given["w_transposed"])
    start = emit.bound(panel * emit.i64(layout.width * k))
    column = emit.bound(panel * emit.i64(layout.width))
    split = other.full_panels * other.width

    def place(row: Expr) -> tuple[Expr, Expr]:
        """Where row `row` of W begins as a column of W^T, and how far its elements are apart."""
        inside = emit.quotient(row, emit.i64(other.width))
        in_full = inside * emit.i64(other.width * n) + (row - inside * emit.i64(other.width))
        if not other.tail:
            return emit.bound(in_full), emit.i64(other.width)
        in_tail = emit.i64(split * n) + (row - emit.i64(split))
        is_full = row < emit.i64(split)
        step = emit.either(is_full, emit.i64(other.width), emit.i64(other.tail_width))
        return emit.either(is_full, in_full, in_tail), step

    def one_by_one(row: Expr, columns: int) -> None:
        begin, step = place(row)
        with T.serial(emit.i64(0), emit.i64(columns)) as j:
            put(out, begin + (column + j) * step, w[start + row * emit.i64(width) + j])

    whole_rows, valid = k // lanes * lanes, layout.tail if is_tail else width
    whole_columns = valid // lanes * lanes

    def square(row: Expr) -> None:
        begin, step = place(row)
        with T.serial(emit.i64(0), emit.i64(whole_columns // lanes)) as block:
            j = emit.bound(block * emit.i64(lanes))
            transpose_block(
                emit.offset(given["w"], start + row * emit.i64(width) + j),
                emit.i64(width),
                emit.offset(given["w_transposed"], begin + (column + j) * step),
                step,
                transposing(spec.dtype, lanes),
            )
        if valid > whole_columns:
            columns = T.serial(emit.i64(whole_columns), emit.i64(valid))
            with T.serial(emit.i64(0), emit.i64(lanes)) as i, columns as j:
                at = start + (row + i) * emit.i64(width) + j
                put(out, begin + i + (column + j) * step, w[at])

    with T.serial(emit.i64(0), emit.i64(ROWS // lanes)) as block:
        row = emit.bound(first + block * emit.i64(lanes))
        emit.when(row < emit.i64(whole_rows), lambda: square(row))
    if whole_rows < k:

        def left() -> None:
            with T.serial(emit.i64(whole_rows), emit.i64(k)) as row:
                one_by_one(emit.bound(row), valid)

        emit.when(first + emit.i64(ROWS) >= emit.i64(k), left)


def _vector_units(name: str, spec: DenseUpdate, functions: Functions):  # type: ignore[no-untyped-def]
    """Of a single column: X^T dY with X's columns side by side, as if it were dY."""
    k, lanes, slots = spec.layout.k, spec.lanes, spec.rule.slots
    whole, vectors, scalars = k // _CHUNK, k % _CHUNK // lanes * lanes, k % lanes

    def part(label: str, width: int, own_lanes: int) -> GlobalVar | None:
        if not width:
            return None
        sizes = {"rows": 1, "width": width, "stored": width, "x_length": 1, "dy_length": k}
        expression = weight_gradient(**sizes, dtype=spec.dtype)
        return _made(f"{name}_{label}", spec.rule, functions, expression, own_lanes)

    parts = (
        part("chunk", _CHUNK if whole else 0, lanes),
        part("vectors", vectors, lanes),
        part("scalars", scalars, 1),
    )
    if spec.use_bias:
        expression = bias_gradient(width=1, dy_length=1, dtype=spec.dtype)
        bias = _made(f"{name}_bias", spec.bias_rule or spec.rule, functions, expression, 1)

    def work(given: dict[str, Var], m: Expr, unit: Expr) -> None:
        def columns(made: GlobalVar | None, first: Expr | int) -> None:
            if made is not None:
                x, places = emit.offset(given["x"], first), _moved(given, "w", slots, first)
                one = emit.i64(1)
                emit.call(made, given["dy"], x, *places, given["numbers"], m, one)

        def last() -> None:
            columns(parts[1], whole * _CHUNK)
            columns(parts[2], whole * _CHUNK + vectors)
            if spec.use_bias:
                places = _moved(given, "b", slots, 0)
                emit.call(bias, given["dy"], *places, given["numbers"], m, emit.i64(1))

        chunk = partial(columns, parts[0], emit.bound(unit * emit.i64(_CHUNK)))
        emit.chain([(unit < emit.i64(whole), chunk), (None, last)])

    return work, whole + 1
