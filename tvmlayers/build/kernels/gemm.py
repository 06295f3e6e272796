"""The dense layer as a kernel: variants of the register tile, and who does which rows or panels.

One artefact serves every batch size: a few register tiles are compiled, and the function here picks
among them, and how the work is shared out, from the number of rows that come.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.build import emit
from tvmlayers.build.kernels.kernel import Functions, core
from tvmlayers.expr.dense import dense, dot_rows
from tvmlayers.pack import PanelLayout
from tvmlayers.schedule import Regime, by_choice
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.gemm import BY_PANELS, dot_tiles, gemm_tiles

Activation = Callable[[Expr], Expr]


@dataclass(frozen=True)
class GemmSpec:
    """What is computed for one dense layer, and how its decisions differ by the number of rows.

    lanes: of a vector; tail_heights: the register tiles of the panel that is not full; cheap:
    whether the activation is short enough to be unrolled into the tile.
    """

    layout: PanelLayout
    lanes: int
    tail_heights: Sequence[int]
    regimes: Sequence[Regime]
    activation: Activation
    cheap: bool
    use_bias: bool

    def variants(self) -> list[Decisions]:
        """The different ways to make the tiles, each compiled once."""
        made: list[Decisions] = []
        for regime in self.regimes:
            if _tile(regime.decisions) not in made:
                made.append(_tile(regime.decisions))
        return made

    def variant_by_rows(self) -> list[tuple[int | None, int]]:
        """[(most rows, place in `variants`), ...]."""
        variants = self.variants()
        return [(r.most, variants.index(_tile(r.decisions))) for r in self.regimes]


_TILE = ("tile_rows", "streams", "k_unroll", "prefetch_steps")


def _tile(decisions: Decisions) -> Decisions:
    """Those of the decisions that make other machine code."""
    return {name: decisions[name] for name in _TILE}


def gemm_functions(
    name: str, spec: GemmSpec, row_softmax: GlobalVar | None
) -> tuple[GlobalVar, Functions]:
    """The driver `f(x, w, [b], out, m, threads)` of one dense layer and all that it calls."""
    functions: Functions = {}
    parts = _parts(name, spec, functions)
    rows = GlobalVar(f"{name}_rows")
    functions[rows] = _rows_function(spec, parts)
    driver = GlobalVar(name)
    functions[driver] = _driver(spec, rows, row_softmax)
    return driver, functions


@dataclass(frozen=True)
class _Part:
    """The panels of one width; cores: by variant, the height of its tile and its function."""

    first: int
    panels: int
    width: int
    cores: list[tuple[int, GlobalVar]]


def _parts(name: str, spec: GemmSpec, functions: Functions) -> list[_Part]:
    layout = spec.layout
    made: dict[tuple[object, ...], tuple[int, GlobalVar]] = {}

    def one(label: str, decisions: Decisions, rows: int, width: int, valid: int) -> GlobalVar:
        if layout.is_vector:
            expression = dot_rows(
                layout.k,
                lanes=spec.lanes,
                rows=rows,
                activation=spec.activation,
                use_bias=spec.use_bias,
                dtype=layout.dtype,
            )
        else:
            expression = dense(
                layout.k,
                layout.n,
                rows=rows,
                width=width,
                valid=valid,
                streams=int(decisions["streams"]),
                activation=spec.activation,
                use_bias=spec.use_bias,
                dtype=layout.dtype,
            )

        def schedule(sch: object) -> None:
            if layout.is_vector:
                dot_tiles(sch, k=layout.k, lanes=spec.lanes, decisions=decisions)
            else:
                gemm_tiles(
                    sch,
                    lanes=spec.lanes,
                    k=layout.k,
                    streams=int(decisions["streams"]),
                    cheap_epilogue=spec.cheap,
                    decisions=decisions,
                )

        core_name, function = core(f"{name}_{label}{rows}_{len(made)}", expression, schedule)
        functions[core_name] = function
        return core_name

    def cores(
        label: str, heights: Sequence[int] | None, width: int, valid: int
    ) -> list[tuple[int, GlobalVar]]:
        found = []
        for decisions in spec.variants():
            rows = int(decisions["tile_rows"])
            if heights is not None:
                rows = max(height for height in heights if height <= rows)
            key = (label, rows, *(decisions[name] for name in _TILE[1:]))
            if key not in made:
                made[key] = rows, one(label, decisions, rows, width, valid)
            found.append(made[key])
        return found

    parts = []
    if layout.full_panels:
        full = cores("full", None, layout.width, layout.width)
        parts.append(_Part(0, layout.full_panels, layout.width, full))
    if layout.tail:
        tail = cores("tail", spec.tail_heights, layout.tail_width, layout.tail)
        parts.append(_Part(layout.full_panels, 1, layout.tail_width, tail))
    return parts


def _rows_function(spec: GemmSpec, parts: Sequence[_Part]) -> PrimFunc:
    """`f(x, w, [b], out, m, first, last, variant)`: m rows by panels first..last-1, on this thread.

    m is at least the height of the variant's tile.
    """
    layout = spec.layout

    def body() -> None:
        x, w, b, out = _tensors(layout.dtype, spec.use_bias)
        m = emit.argument("m", "int64")
        first = emit.argument("first", "int64")
        last = emit.argument("last", "int64")
        variant = emit.argument("variant", "int64")

        def run(part: _Part, place: int) -> Callable[[], None]:
            rows, function = part.cores[place]
            start = te.max(first, emit.i64(part.first)) - emit.i64(part.first)
            count = te.min(last, emit.i64(part.first + part.panels)) - emit.i64(part.first) - start
            tiles = emit.ceil_div(m, rows)
            columns = emit.i64(part.first * layout.width) + start * part.width

            def write() -> None:
                before = emit.i64(part.first * layout.width * layout.k)
                pointers = [x, emit.offset(w, before + start * part.width * layout.k)]
                if b is not None:
                    pointers.append(emit.offset(b, columns))
                pointers.append(emit.offset(out, columns))
                sizes = [m, tiles] if layout.is_vector else [m, tiles, count]
                emit.call(function, *pointers, *sizes)

            def only_if_any() -> None:
                emit.chain([(count > emit.i64(0), write), (None, lambda: None)])

            return write if len(parts) == 1 else only_if_any

        for part in parts:
            places = list(range(len(part.cores)))
            emit.chain(
                [
                    (None if place == places[-1] else variant <= emit.i64(place), run(part, place))
                    for place in places
                ]
            )

    return emit.private(body)


def _driver(spec: GemmSpec, rows: GlobalVar, row_softmax: GlobalVar | None) -> PrimFunc:
    """Shares m rows by all panels out, by rows or by panels, as the decisions for m say.

    Each task goes over its rows in blocks that stay in the second-level cache.
    """
    layout = spec.layout
    panels = layout.full_panels + (1 if layout.tail else 0)

    def body() -> None:
        x, w, b, out = _tensors(layout.dtype, spec.use_bias)
        m = emit.argument("m", "int64")
        threads = emit.argument("threads", "int32")
        weights = [w] if b is None else [w, b]

        def decided(name: str) -> Expr:
            return emit.by_bound(m, by_choice(spec.regimes, name))

        variant = emit.by_bound(m, spec.variant_by_rows())
        row_block = decided("row_block")

        def block(row: Expr, count: Expr, first: Expr, last: Expr) -> None:
            emit.call(
                rows,
                emit.offset(x, row * emit.i64(layout.k)),
                *weights,
                emit.offset(out, row * emit.i64(layout.n)),
                count,
                first,
                last,
                variant,
            )

        def normalise(row: Expr, count: Expr) -> None:
            if row_softmax is not None:
                place = emit.offset(out, row * emit.i64(layout.n))
                emit.call(row_softmax, place, place, count)

        def blocks(row: Expr, count: Expr, first: Expr, last: Expr) -> None:
            pieces = te.indexdiv(count + row_block - emit.i64(1), row_block)
            with T.serial(0, pieces) as i:
                begin, end = emit.task_bounds(i, pieces, count)
                block(row + begin, end - begin, first, last)

        zero, every = emit.i64(0), emit.i64(panels)
        grain = decided("grain_kmacs") * emit.i64(1024)
        useful = te.indexdiv(m * emit.i64(layout.k * layout.n), grain)
        workers = te.min(emit.i64(threads), useful)
        # Every task has a whole tile at least.
        tasks_of_rows = te.min(workers, te.indexdiv(m, decided("tile_rows")))

        def serial() -> None:
            blocks(zero, m, zero, every)
            normalise(zero, m)

        def by_rows() -> None:
            with T.parallel(0, emit.i32(tasks_of_rows)) as i:
                begin, end = emit.task_bounds(i, tasks_of_rows, m)
                blocks(begin, end - begin, zero, every)
                normalise(begin, end - begin)

        def by_panels() -> None:
            tasks = te.min(workers, every)
            with T.parallel(0, emit.i32(tasks)) as i:
                first, last = emit.task_bounds(i, tasks, every)
                blocks(zero, m, first, last)
            normalise(zero, m)

        shares_panels = emit.by_bound(m, _flags(spec.regimes, "split", BY_PANELS))
        emit.chain(
            [
                (m == zero, lambda: None),
                (workers <= emit.i64(1), serial),
                *([(shares_panels > zero, by_panels)] if panels > 1 else []),
                (tasks_of_rows <= emit.i64(1), serial),
                (None, by_rows),
            ]
        )

    return emit.private(body)


def _flags(regimes: Sequence[Regime], name: str, value: object) -> list[tuple[int | None, int]]:
    return [(most, int(chosen == value)) for most, chosen in by_choice(regimes, name)]


def _tensors(dtype: str, use_bias: bool) -> tuple[Var, Var, Var | None, Var]:
    x, w = emit.argument("x", f"*{dtype}"), emit.argument("w", f"*{dtype}")
    b = emit.argument("b", f"*{dtype}") if use_bias else None
    return x, w, b, emit.argument("out", f"*{dtype}")
