"""GEMM on a weight in fewer bits, for many rows: panels are brought into float32, each once a call.

The register tile widens what it reads for each tile of rows again; from some rows on that takes
longer than to widen a panel once, into memory that stays in the nearest caches.
"""

from collections.abc import Callable
from dataclasses import replace

from tvm import s_tir, te
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.gemm_tile import GemmSpec, Part, parts_of, scratch_elements
from tvmlayers.codegen.cpu.kernel import Functions, at_column, core
from tvmlayers.codegen.cpu.memory import with_memory
from tvmlayers.expr.dense import UNPACKED_STEPS, unpacked
from tvmlayers.expr.stored import KernelAs
from tvmlayers.spaces.choices import Decisions

_FLOAT_BYTES = 4
# `unpack(w, by_column, out, begin, count)`: count steps of a panel, from step `begin` on, which is
# a multiple of 32; by_column: [scales] and [b] of the panel.
Unpack = Callable[[Expr, list[Expr], Expr, Expr, Expr], None]


def unpack_panel(name: str, kept: KernelAs, width: int, lanes: int, functions: Functions) -> Unpack:
    """What brings panels of so many columns into float32, (count, width)."""

    def schedule(sch: s_tir.Schedule) -> None:
        *_, column = sch.get_loops(sch.get_sblock("out"))
        _, lane = sch.split(column, [None, min(lanes, width)])
        sch.vectorize(lane)
        row, step, vector, lane = sch.get_loops(sch.get_sblock("out"))
        # An element is read once for all of its steps.
        sch.reorder(row, vector, step, lane)
        sch.unroll(step)

    function, functions_body = core(name, unpacked(kept, width), schedule)
    functions[function] = functions_body

    def call(w: Expr, by_column: list[Expr], out: Expr, begin: Expr, count: Expr) -> None:
        start = te.indexdiv(begin, emit.i64(UNPACKED_STEPS))
        scales = by_column[: kept.groups > 0]
        emit.call(function, w, *scales, out, start, emit.ceil_div(count, kept.depth))

    return call


def unpacked_rows(
    name: str, spec: GemmSpec, decisions: Decisions, functions: Functions
) -> GlobalVar:
    """`f(x, w, [scales], [b], out, m, first, last, status)`: m rows by panels first..last-1, on one
    thread.

    It and all that it calls are added to `functions`. The status is 0 where all is computed, and
    not where there was no memory for a panel.
    """
    layout, kept = spec.layout, spec.kept
    usual: Decisions = {"streams": 1, "next_lines": 0, **decisions}
    usual = {**usual, "tile": str(decisions["tile"]).partition(":")[2]}
    in_floats = replace(spec, kept=kept.unpacked())
    parts = parts_of(name, in_floats, [usual], functions)
    unpack = {
        width: unpack_panel(f"{name}_{width}", kept, width, spec.lanes, functions)
        for width in {part.width for part in parts}
    }
    rows = layout.rows * kept.depth  # of zeros too, in an element that has fewer steps
    panel_bytes = _FLOAT_BYTES * rows * max(part.width for part in parts)

    def body() -> None:
        x, w, by_column, out = spec.arguments()
        m, first, last = (emit.argument(name, "int64") for name in ("m", "first", "last"))
        status = emit.argument("status", "*int32")
        elements = scratch_elements(spec, [decisions])
        sums = emit.on_stack(elements, spec.dtype) if elements else None

        def one(part: Part, panel: Expr, memory: Var) -> None:
            (made,) = part.cores
            columns = emit.bound(panel * emit.i64(layout.width))
            place = emit.bound(emit.offset(w, columns * emit.i64(layout.rows)))
            given = at_column(by_column, columns, kept)
            unpack[part.width](place, given, memory, emit.i64(0), emit.i64(layout.k))
            pointers = [x, memory, *(given[1:] if kept.groups else given)]
            pointers += [sums] if made.scratch else []
            tiles = emit.ceil_div(m, made.rows)
            sizes = [m, tiles] if layout.is_vector else [m, tiles, emit.i64(1)]
            emit.call(made.function, *pointers, emit.offset(out, columns), *sizes)

        def use(memory: Var) -> None:
            for part in parts:
                begin, end = emit.i64(part.first), emit.i64(part.first + part.panels)
                with T.serial(te.max(first, begin), te.min(last, end)) as panel:
                    one(part, panel, memory)
            emit.store(status, 0)

        emit.store(status, 1)
        with_memory(panel_bytes, use)

    made = GlobalVar(name)
    functions[made] = emit.noinline(emit.private(body))
    return made
