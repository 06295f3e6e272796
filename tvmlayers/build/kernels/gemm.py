"""The dense layer as a kernel: variants by number of rows, and who does which rows or panels.

One artefact serves every batch size: a few register tiles are compiled, and the function here picks
among them from the number of rows that come.
"""

from collections.abc import Callable, Sequence

from tvm import te
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.build import emit
from tvmlayers.build.kernels.kernel import Functions, core
from tvmlayers.expr.dense import dense, dot_rows
from tvmlayers.pack import PanelLayout
from tvmlayers.schedule import GemmPlan
from tvmlayers.spaces.gemm import dot_tiles, gemm_tiles

Activation = Callable[[Expr], Expr]


def gemm_functions(
    name: str,
    plan: GemmPlan,
    layout: PanelLayout,
    *,
    activation: Activation,
    cheap: bool,
    use_bias: bool,
    row_softmax: GlobalVar | None,
) -> tuple[GlobalVar, Functions]:
    """The driver `f(x, w, [b], out, m, threads)` of one dense layer and all that it calls."""
    functions: Functions = {}
    parts = _cores(name, plan, layout, activation, cheap, use_bias, functions)
    rows = GlobalVar(f"{name}_rows")
    functions[rows] = _rows_function(plan, layout, parts, use_bias)
    driver = GlobalVar(name)
    functions[driver] = _driver(plan, layout, rows, use_bias, row_softmax)
    return driver, functions


# The cores of one panel width, by tile rows, and which panels they serve.
_Part = tuple[int, int, int, dict[int, GlobalVar]]  # first panel, panels, width, cores


def _cores(
    name: str,
    plan: GemmPlan,
    layout: PanelLayout,
    activation: Activation,
    cheap: bool,
    use_bias: bool,
    functions: Functions,
) -> list[_Part]:
    def variant(label: str, rows: int, width: int, valid: int) -> GlobalVar:
        if layout.is_vector:
            expression = dot_rows(
                layout.k,
                lanes=plan.lanes,
                rows=rows,
                activation=activation,
                use_bias=use_bias,
                dtype=layout.dtype,
            )
        else:
            expression = dense(
                layout.k,
                layout.n,
                rows=rows,
                width=width,
                valid=valid,
                activation=activation,
                use_bias=use_bias,
                dtype=layout.dtype,
            )

        def schedule(sch: object) -> None:
            if layout.is_vector:
                dot_tiles(sch, k=layout.k, lanes=plan.lanes, decisions=plan.dot_decisions())
            else:
                gemm_tiles(
                    sch,
                    lanes=plan.lanes,
                    k=layout.k,
                    cheap_epilogue=cheap,
                    decisions=plan.decisions(rows),
                )

        made, function = core(f"{name}_{label}{rows}", expression, schedule)
        functions[made] = function
        return made

    parts: list[_Part] = []
    if layout.full_panels:
        cores = {r: variant("full", r, layout.width, layout.width) for r in plan.full_rows}
        parts.append((0, layout.full_panels, layout.width, cores))
    if layout.tail:
        cores = {r: variant("tail", r, layout.tail_width, layout.tail) for r in plan.tail_rows}
        parts.append((layout.full_panels, 1, layout.tail_width, cores))
    return parts


def _rows_function(
    plan: GemmPlan, layout: PanelLayout, parts: Sequence[_Part], use_bias: bool
) -> PrimFunc:
    """`f(x, w, [b], out, m, first_panel, last_panel)`: m rows by some panels, on this thread."""

    def body() -> None:
        x, w, b, out = _tensors(layout.dtype, use_bias)
        m = emit.argument("m", "int64")
        first = emit.argument("first", "int64")
        last = emit.argument("last", "int64")

        def run(part: _Part, rows: int) -> Callable[[], None]:
            begin, panels, width, cores = part
            start = te.max(first, emit.i64(begin)) - emit.i64(begin)
            count = te.min(last, emit.i64(begin + panels)) - emit.i64(begin) - start
            tiles = emit.ceil_div(m, rows)

            def write() -> None:
                pointers = [
                    x,
                    emit.offset(
                        w, emit.i64(begin * layout.width * layout.k) + start * width * layout.k
                    ),
                ]
                if b is not None:
                    pointers.append(emit.offset(b, emit.i64(begin * layout.width) + start * width))
                pointers.append(emit.offset(out, emit.i64(begin * layout.width) + start * width))
                sizes = [m, tiles] if layout.is_vector else [m, tiles, count]
                emit.call(cores[rows], *pointers, *sizes)

            def only_if_any() -> None:
                emit.chain([(count > emit.i64(0), write), (None, lambda: None)])

            return write if len(parts) == 1 else only_if_any

        for part in parts:
            emit.chain(
                [
                    (None if bound is None else m <= emit.i64(bound), run(part, rows))
                    for bound, rows in plan.dispatch(tuple(part[3]))
                ]
            )

    return emit.private(body)


def _driver(
    plan: GemmPlan,
    layout: PanelLayout,
    rows: GlobalVar,
    use_bias: bool,
    row_softmax: GlobalVar | None,
) -> PrimFunc:
    """Shares m rows by all panels out: by rows when rows outnumber columns, else by panels.

    Each task goes over its rows in blocks that stay in the second-level cache.
    """
    panels = layout.full_panels + (1 if layout.tail else 0)

    def body() -> None:
        x, w, b, out = _tensors(layout.dtype, use_bias)
        m = emit.argument("m", "int64")
        threads = emit.argument("threads", "int32")
        weights = [w] if b is None else [w, b]

        def block(row: Expr, count: Expr, first: Expr, last: Expr) -> None:
            emit.call(
                rows,
                emit.offset(x, row * emit.i64(layout.k)),
                *weights,
                emit.offset(out, row * emit.i64(layout.n)),
                count,
                first,
                last,
            )

        def normalise(row: Expr, count: Expr) -> None:
            if row_softmax is not None:
                place = emit.offset(out, row * emit.i64(layout.n))
                emit.call(row_softmax, place, place, count)

        def blocks(row: Expr, count: Expr, first: Expr, last: Expr) -> None:
            pieces = emit.ceil_div(count, plan.row_block)
            with T.serial(0, pieces) as i:
                begin, end = emit.task_bounds(i, pieces, count)
                block(row + begin, end - begin, first, last)

        zero, every = emit.i64(0), emit.i64(panels)
        useful = te.indexdiv(m * emit.i64(layout.k * layout.n), emit.i64(plan.grain))
        workers = te.min(emit.i64(threads), useful)

        def serial() -> None:
            blocks(zero, m, zero, every)
            normalise(zero, m)

        def by_rows() -> None:
            with T.parallel(0, emit.i32(workers)) as i:
                begin, end = emit.task_bounds(i, workers, m)
                blocks(begin, end - begin, zero, every)
                normalise(begin, end - begin)

        def by_panels() -> None:
            tasks = te.min(workers, every)
            with T.parallel(0, emit.i32(tasks)) as i:
                first, last = emit.task_bounds(i, tasks, every)
                blocks(zero, m, first, last)
            normalise(zero, m)

        emit.chain(
            [
                (m == zero, lambda: None),
                (workers <= emit.i64(1), serial),
                *([(m <= emit.i64(plan.most_rows_by_panels), by_panels)] if panels > 1 else []),
                *([(m < workers, serial)]),
                (None, by_rows),
            ]
        )

    return emit.private(body)


def _tensors(dtype: str, use_bias: bool) -> tuple[Var, Var, Var | None, Var]:
    x, w = emit.argument("x", f"*{dtype}"), emit.argument("w", f"*{dtype}")
    b = emit.argument("b", f"*{dtype}") if use_bias else None
    return x, w, b, emit.argument("out", f"*{dtype}")
