"""Who does what of a dense layer: rows or panels shared out, and gone over in blocks."""

from collections.abc import Sequence

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T

from tvmlayers.build import emit
from tvmlayers.build.kernels.gemm import GemmSpec, row_block_of, rows_function
from tvmlayers.build.kernels.kernel import Functions, tensor_arguments
from tvmlayers.schedule import Regime, by_choice
from tvmlayers.spaces.gemm import BY_PANELS, Tile


def gemm_functions(
    name: str, spec: GemmSpec, row_softmax: GlobalVar | None
) -> tuple[GlobalVar, Functions]:
    """The driver `f(x, w, [b], out, m, threads)` of one dense layer and all that it calls."""
    functions: Functions = {}
    rows = rows_function(name, spec, functions)
    driver = GlobalVar(name)
    functions[driver] = _driver(spec, rows, row_softmax)
    return driver, functions


def _driver(spec: GemmSpec, rows: GlobalVar, row_softmax: GlobalVar | None) -> PrimFunc:
    """Shares m rows by all panels out, by rows or by panels, as the decisions for m say.

    Each task goes over its rows in blocks that stay in the second-level cache. Every task and every
    block has a whole tile of rows at least.
    """
    layout = spec.layout
    panels = layout.full_panels + (1 if layout.tail else 0)

    def body() -> None:
        x, w, b, out = tensor_arguments(layout.dtype, spec.use_bias)
        m = emit.argument("m", "int64")
        threads = emit.argument("threads", "int32")
        weights = [w] if b is None else [w, b]

        def decided(name: str) -> Expr:
            return emit.by_bound(m, by_choice(spec.regimes, name))

        variant = emit.by_bound(m, spec.variant_by_rows())
        bounds = [(regime.most, row_block_of(regime.decisions)) for regime in spec.regimes]
        row_block = emit.by_bound(m, bounds)
        heights = [(regime.most, Tile.of(regime.decisions).rows) for regime in spec.regimes]
        height = emit.by_bound(m, heights)

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
            pieces = te.max(te.min(pieces, te.indexdiv(count, height)), emit.i64(1))
            with T.serial(0, pieces) as i:
                begin, end = emit.task_bounds(i, pieces, count)
                block(row + begin, end - begin, first, last)

        zero, every = emit.i64(0), emit.i64(panels)
        grain = decided("grain_kmacs") * emit.i64(1024)
        useful = te.indexdiv(m * emit.i64(layout.k * layout.columns), grain)
        workers = emit.kept(te.min(emit.i64(threads), useful))
        tasks_of_rows = emit.kept(te.min(workers, te.indexdiv(m, height)))

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
            # As many whole panels each; of those left over each takes some of the rows.
            whole = te.indexdiv(every, tasks)
            sharers = te.max(te.min(tasks, te.indexdiv(m, height)), emit.i64(1))
            with T.parallel(0, emit.i32(tasks)) as i:
                task = emit.i64(i)
                blocks(zero, m, task * whole, (task + emit.i64(1)) * whole)

                def shared() -> None:
                    begin, end = emit.task_bounds(task, sharers, m)
                    blocks(begin, end - begin, whole * tasks, every)

                emit.when(tirx.all(whole * tasks < every, task < sharers), shared)
            if row_softmax is None:
                return

            def normalise_shared() -> None:
                with T.parallel(0, emit.i32(tasks_of_rows)) as i:
                    begin, end = emit.task_bounds(i, tasks_of_rows, m)
                    normalise(begin, end - begin)

            emit.chain(
                [
                    (tasks_of_rows <= emit.i64(1), lambda: normalise(zero, m)),
                    (None, normalise_shared),
                ]
            )

        shares_panels = emit.by_bound(m, _flags(spec.regimes, "split", BY_PANELS))
        # With more threads than panels it is the rows that keep them all at work.
        enough = te.min(workers, every) >= tasks_of_rows
        emit.chain(
            [
                (m == zero, lambda: None),
                (workers <= emit.i64(1), serial),
                *([(tirx.all(shares_panels > zero, enough), by_panels)] if panels > 1 else []),
                (tasks_of_rows <= emit.i64(1), serial),
                (None, by_rows),
            ]
        )

    return emit.private(body)


def _flags(regimes: Sequence[Regime], name: str, value: object) -> list[tuple[int | None, int]]:
    return [(most, int(chosen == value)) for most, chosen in by_choice(regimes, name)]
