"""GlobalAveragePooling1D and GlobalMaxPooling1D."""

from tvm.ir import GlobalVar

from tvmlayers import schedule
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import (
    Functions,
    Kernel,
    Lowered,
    Use,
    axis,
    core,
    elements,
    in_halves,
)
from tvmlayers.codegen.cpu.rows import UNTUNED_GRAIN, Pointer, call_core, fixed, row_driver
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.dtypes import wide
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.pooling import max_over_time, mean_over_time
from tvmlayers.expr.stored import read_as
from tvmlayers.schedule import Selector
from tvmlayers.spaces import rows as row_spaces


def lower_pooling(use: Use, name: str, selector: Selector, _arena: ArenaPlan) -> Lowered:
    """The mean over time, of the steps that a mask leaves where there is one."""
    dtype, width = wide(use.dtype(0)), use.fixed(-1)
    mask_dtype = use.index_dtype if use.inputs[0].mask_of else None
    expression = mean_over_time(width, mask_dtype=mask_dtype, dtype=dtype)
    return _over_time(use, name, selector, expression, mask_dtype, is_sum=True)


def lower_max_pooling(use: Use, name: str, selector: Selector, _arena: ArenaPlan) -> Lowered:
    """The maximum over time."""
    expression = max_over_time(use.fixed(-1), dtype=wide(use.dtype(0)))
    return _over_time(use, name, selector, expression, None, is_sum=False)


def _over_time(
    use: Use,
    name: str,
    selector: Selector,
    expression: Expression,
    mask_dtype: str | None,
    *,
    is_sum: bool,
) -> Lowered:
    dtype, width = use.dtype(0), use.fixed(-1)
    lanes, element = selector.target.lanes(wide(dtype)), read_as(dtype)
    functions: Functions = {}
    made, function = core(
        f"{name}_rows",
        expression,
        lambda sch: row_spaces.pooled_rows(sch, lanes=lanes, width=width, is_sum=is_sum),
        kept=in_halves(expression, dtype),
    )
    functions[made] = function
    pointers = [Pointer("x", element, lambda s: s["time"] * emit.i64(width))]
    if mask_dtype is not None:
        pointers.append(Pointer("ids", mask_dtype, lambda s: s["time"]))
    pointers.append(Pointer("out", element, fixed(width)))
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
        moved=lambda shapes: elements(shapes[0]) * emit.i64(4),
    )
    return Lowered(kernel, (), takes_masks=mask_dtype is not None)
