"""GlobalAveragePooling1D."""

from tvm.ir import GlobalVar

from tvmlayers import schedule
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import Functions, Kernel, Lowered, Use, axis, core
from tvmlayers.codegen.cpu.rows import UNTUNED_GRAIN, Pointer, call_core, fixed, row_driver
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.expr.pooling import mean_over_time
from tvmlayers.schedule import Selector
from tvmlayers.spaces import rows as row_spaces


def lower_pooling(use: Use, name: str, selector: Selector, _arena: ArenaPlan) -> Lowered:
    dtype, width = use.dtype(0), use.fixed(-1)
    mask = use.inputs[0].mask_of
    expression = mean_over_time(width, mask_dtype=use.index_dtype if mask else None, dtype=dtype)
    functions: Functions = {}
    made, function = core(
        f"{name}_rows",
        expression,
        lambda sch: row_spaces.pooled_rows(sch, lanes=selector.target.lanes(dtype), width=width),
    )
    functions[made] = function
    pointers = [Pointer("x", dtype, lambda s: s["time"] * emit.i64(width))]
    if mask is not None:
        pointers.append(Pointer("ids", use.index_dtype, lambda s: s["time"]))
    pointers.append(Pointer("out", dtype, fixed(width)))
    driver = GlobalVar(name)
    functions[driver] = row_driver(
        pointers,
        ["count", "time"],
        lambda s: s["count"] * s["time"] * emit.i64(width * 4),
        UNTUNED_GRAIN,
        call_core(made, pointers, ["time"]),
    )
    report = {
        "kind": "pooling",
        "layer": use.layer.name,
        "dtype": dtype,
        "schedule": schedule.ANALYTIC,
    }
    kernel = Kernel(
        name,
        driver,
        functions,
        lambda shapes: [axis(shapes[0][0]), axis(shapes[0][1])],
        report=report,
    )
    return Lowered(kernel, (), takes_masks=mask is not None)
