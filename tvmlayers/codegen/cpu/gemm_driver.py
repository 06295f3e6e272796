"""How the rows or panels of a dense layer are shared out among threads, and blocked."""

from collections.abc import Callable

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.gemm import row_blocks, rows_function, rows_of_blocks
from tvmlayers.codegen.cpu.gemm_tile import GemmSpec, row_block_of
from tvmlayers.codegen.cpu.kernel import Functions
from tvmlayers.codegen.parallel import MOST_TASKS, each_task
from tvmlayers.codegen.work_stealing import go_over, taken_pieces, with_stealing
from tvmlayers.spaces.gemm import BY_PANELS, Tile


def gemm_functions(
    name: str, spec: GemmSpec, row_softmax: GlobalVar | None
) -> tuple[GlobalVar, Functions]:
    """The driver of a dense layer, `f(x, w, [scales], [b], out, m, threads)`, and what it calls."""
    functions: Functions = {}
    rows = rows_function(name, spec, functions)
    share, driver = GlobalVar(f"{name}_share"), GlobalVar(name)
    functions[share] = _row_share(spec, rows, row_softmax)
    functions[driver] = _driver(spec, rows, share, row_softmax)
    return driver, functions


def _row_share(spec: GemmSpec, rows: GlobalVar, row_softmax: GlobalVar | None) -> PrimFunc:
    """`f(x, w, [scales], [b], out, taken, m, row_block, height, variant, i, tasks)`: what task i
    of `tasks` does where they share m rows out, block by block."""
    layout = spec.layout
    panels = layout.full_panels + (1 if layout.tail else 0)

    def body() -> None:
        x, w, by_column, out = spec.arguments()
        taken = emit.argument("taken", "*int64")
        names = ("m", "row_block", "height", "variant", "i", "tasks")
        m, row_block, height, variant, i, tasks = (emit.argument(n, "int64") for n in names)

        def share(task: Expr) -> tuple[Expr, Callable[[Expr], None]]:
            begin, end = map(emit.kept, emit.task_bounds(task, tasks, m))
            pieces = emit.kept(row_blocks(end - begin, row_block, height))

            def block(piece: Expr) -> None:
                following = piece + emit.i64(1)
                first, more = (
                    emit.kept(rows_of_blocks(spec, count, pieces, end - begin, row_block, variant))
                    for count in (piece, following)
                )
                last = emit.either(following < pieces, more, end - begin)
                place = emit.offset(out, (begin + first) * emit.i64(layout.n))
                emit.call(
                    rows,
                    emit.offset(x, (begin + first) * emit.i64(layout.k)),
                    w,
                    *by_column,
                    place,
                    last - first,
                    *(emit.i64(0), emit.i64(panels)),
                    *(row_block, height, variant),
                )
                if row_softmax is not None:
                    emit.call(row_softmax, place, place, last - first)

            return pieces, block

        go_over(i, tasks, taken, share)

    return with_stealing(emit.private(body))


def _driver(
    spec: GemmSpec, rows: GlobalVar, row_share: GlobalVar, row_softmax: GlobalVar | None
) -> PrimFunc:
    """Shares m rows by all panels out, by rows or by panels, as the decisions for m say.

    Each task goes over its rows in blocks that stay in the second-level cache. Every task and every
    block has the fewest rows of a tile at least.
    """
    layout = spec.layout
    panels = layout.full_panels + (1 if layout.tail else 0)

    def body() -> None:
        x, w, by_column, out = spec.arguments()
        m = emit.argument("m", "int64")
        threads = emit.argument("threads", "int32")
        weights = [w, *by_column]

        variant, row_block, height, grain, shares_panels = emit.by_bounds(m, _decided(spec))

        def blocks(row: Expr, count: Expr, first: Expr, last: Expr) -> None:
            emit.call(
                rows,
                emit.offset(x, row * emit.i64(layout.k)),
                *weights,
                emit.offset(out, row * emit.i64(layout.n)),
                count,
                first,
                last,
                row_block,
                height,
                variant,
            )

        def normalise(row: Expr, count: Expr) -> None:
            if row_softmax is not None:
                place = emit.offset(out, row * emit.i64(layout.n))
                emit.call(row_softmax, place, place, count)

        zero, every = emit.i64(0), emit.i64(panels)
        one, most = emit.i64(1), emit.i64(threads)
        # A division takes as long as a small layer's own work for one row: only where it is needed.
        useful = emit.quotient(m * emit.i64(layout.k * layout.columns), grain)
        workers = emit.either(most > one, te.min(te.min(most, useful), emit.i64(MOST_TASKS)), one)
        whole_tiles = emit.either(workers > one, emit.quotient(m, height), one)
        tasks_of_rows = emit.kept(te.min(workers, whole_tiles))

        def serial() -> None:
            blocks(zero, m, zero, every)
            normalise(zero, m)

        def by_rows() -> None:
            taken = taken_pieces(tasks_of_rows)
            with each_task(tasks_of_rows) as i:
                decided = (row_block, height, variant)
                task = emit.i64(i)
                emit.call(row_share, x, *weights, out, taken, m, *decided, task, tasks_of_rows)

        def by_panels() -> None:
            tasks = te.min(workers, every)
            # As many whole panels each; of those left over each takes some of the rows.
            whole = emit.quotient(every, tasks)
            sharers = te.max(te.min(tasks, whole_tiles), one)
            with each_task(tasks) as i:
                task = emit.i64(i)
                blocks(zero, m, task * whole, (task + emit.i64(1)) * whole)

                def shared() -> None:
                    begin, end = emit.task_bounds(task, sharers, m)
                    blocks(begin, end - begin, whole * tasks, every)

                emit.when(tirx.all(whole * tasks < every, task < sharers), shared)
            if row_softmax is None:
                return

            def normalise_shared() -> None:
                with each_task(tasks_of_rows) as i:
                    begin, end = emit.task_bounds(i, tasks_of_rows, m)
                    normalise(begin, end - begin)

            emit.chain(
                [
                    (tasks_of_rows <= one, lambda: normalise(zero, m)),
                    (None, normalise_shared),
                ]
            )

        # With more threads than panels it is the rows that keep them all at work.
        enough = te.min(workers, every) >= tasks_of_rows
        several = tirx.all(workers > one, shares_panels > zero, enough)
        emit.chain(
            [
                (m == zero, lambda: None),
                *([(several, by_panels)] if panels > 1 else []),
                (tasks_of_rows > one, by_rows),
                (None, serial),
            ]
        )

    return emit.private(body)


def _decided(spec: GemmSpec) -> list[tuple[int | None, tuple[int, ...]]]:
    """[(most rows, (variant, rows of a block, fewest rows of a tile, multiplications worth a
    thread's while, whether panels are shared out)), ...]."""
    return [
        (
            most,
            (
                variant,
                row_block_of(regime.decisions),
                Tile.of(regime.decisions).least,
                int(regime.decisions["grain_kmacs"]) * 1024,
                int(regime.decisions["split"] == BY_PANELS),
            ),
        )
        for regime, (most, variant) in zip(spec.regimes, spec.variant_by_rows(), strict=True)
    ]
